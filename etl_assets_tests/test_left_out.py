"""A run in which a table can't be read at all: it says so, and everything that does not need the table goes on."""

from pathlib import Path

from etl_assets_tests.flow import Flow, execute


def test_a_table_without_a_key_is_told_of_and_the_rest_is_brought_up_to_date(
    bicycles: str, tmp_path: Path
) -> None:
    execute(bicycles, "ALTER TABLE payment DROP CONSTRAINT payment_pkey")
    flow = Flow(bicycles, tmp_path)
    run = flow.run()
    assert not run.success
    lacks = "fact_payment can't be made: the lake holds nothing of payment, which was left out"
    assert any(lacks in line for line in run.error_lines), run.error_lines
    told = run.materializations["raw/payment"].metadata["left out"].value
    assert str(told).startswith(
        "table payment has no primary key: name its key columns in its declaration (key=)"
    )
    assert "raw/hire" in run.materializations
    assert "star/fact_hire" in run.materializations
    assert run.versions["star/fact_payment"] == "none:stays"
    execute(bicycles, "ALTER TABLE payment ADD PRIMARY KEY (payment_id)")
    again = flow.run()
    assert again.success, again.error_lines
    assert flow.query("SELECT count(*) > 0 FROM star.fact_payment") == [(True,)]
