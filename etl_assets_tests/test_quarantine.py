"""A row that the star can't hold is landed, named and left out; mended, it comes with the next batch. None is lost."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import narwhals as nw
import pytest

from etl_assets.lake.files import LakeError
from etl_assets.source.table import Table
from etl_assets.star.definition import Inputs
from etl_assets.star.function import StarFunction
from etl_assets.star.schema import Column, Fact
from etl_assets_tests.direct import Direct
from etl_assets_tests.flow import Flow, Run, execute
from etl_assets_tests.hiring import HIRES
from etl_assets_tests.oracle import Row


def current(flow: Flow, *ids: int) -> Mapping[int, Any]:
    """Hire -> the day of its return, as analysts see it."""
    listed = ", ".join(map(str, ids))
    return dict(
        flow.query(
            f"SELECT hire_id, returned_on::VARCHAR FROM star.fact_hire_current WHERE hire_id IN ({listed}) ORDER BY 1"
        )
    )


@dataclass(frozen=True)
class Step:
    """A run, and what it left."""

    run: Run
    manifest: Mapping[str, Any]
    current: Mapping[int, Any]
    history: Sequence[tuple[Any, ...]]
    certificate: Mapping[str, Any]


@pytest.fixture(scope="module")
def story(
    module_database: Callable[..., str],
    template: Callable[..., str],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Flow, list[Step]]:
    """Misfits from the start; then one more in a row that was good, while another is mended; then all are mended."""
    flow = Flow(module_database(template("bicycles")), tmp_path_factory.mktemp("quarantine"))
    days = [
        """UPDATE hire SET returned_on = '2024-02-30' WHERE hire_id = 1;
        UPDATE payment SET amount = 3.145 WHERE payment_id IN (2, 3);
        UPDATE payment SET due = 'soon' WHERE payment_id = 3""",
        """UPDATE hire SET returned_on = '2024-03-01' WHERE hire_id = 1;
        UPDATE hire SET returned_on = 'soon' WHERE hire_id = 3""",
        """UPDATE hire SET returned_on = '2024-03-02' WHERE hire_id = 3;
        UPDATE payment SET amount = 3.14, due = '2024-03-02' WHERE payment_id IN (2, 3)""",
    ]
    steps = []
    for day in days:
        execute(flow.url, day)
        run = flow.run()
        assert run.success, run.error_lines
        history = flow.query(
            "SELECT hire_id, batch, deleted FROM star.fact_hire WHERE hire_id IN (1, 3) ORDER BY hire_record_id"
        )
        manifest = flow.manifests()[-1]
        path = flow.lake / f"raw/batches/{manifest['batch']:06d}.certificate.json"
        certificate = json.loads(path.read_text())
        steps.append(Step(run, manifest, current(flow, 1, 3), history, certificate))
    return flow, steps


def named(flow: Flow, manifest: Mapping[str, Any], table: str) -> list[Row]:
    """What the quarantine report of a batch says, without what is the same on every line."""
    changes = flow.changes(manifest)[table]
    rows = flow.landed(changes["quarantined"])
    assert all((row["table"], row["batch"]) == (table, f"{manifest['batch']:06d}") for row in rows)
    assert len({row["key"] for row in rows}) == changes["quarantined_rows"]
    assert changes["quarantined"]["path"].startswith(f"raw/quarantine/{table}/{manifest['batch']:06d}-")
    return [{name: row[name] for name in ("key", "column", "value", "reason")} for row in rows]


@pytest.mark.fault("F22")
def test_every_value_that_does_not_fit_is_named_with_its_key_and_reason(
    story: tuple[Flow, list[Step]],
) -> None:
    flow, (first, second, third) = story
    assert named(flow, first.manifest, "hire") == [
        {"key": "1", "column": "returned_on", "value": "2024-02-30", "reason": "is no date"}
    ]
    assert named(flow, first.manifest, "payment") == [
        {"key": "2", "column": "amount", "value": "3.1450", "reason": "is no numeric(10,2)"},
        {"key": "3", "column": "amount", "value": "3.1450", "reason": "is no numeric(10,2)"},
        {"key": "3", "column": "due", "value": "soon", "reason": "is no date"},
    ]
    assert named(flow, second.manifest, "hire") == [
        {"key": "3", "column": "returned_on", "value": "soon", "reason": "is no date"}
    ]
    assert {name: c["quarantined"] for name, c in flow.changes(third.manifest).items()} == {
        "hire": None,
        "payment": None,
    }


def test_the_row_is_landed_as_it_is(story: tuple[Flow, list[Step]]) -> None:
    flow, (first, *_) = story
    landed = {row["hire_id"]: row for row in flow.landed(flow.changes(first.manifest)["hire"]["rows"])}
    assert landed["1"]["returned_on"] == "2024-02-30"


def test_no_stale_version_is_shown_of_a_row_whose_newest_does_not_fit(story: tuple[Flow, list[Step]]) -> None:
    _, (first, second, third) = story
    assert 1 not in first.current
    assert 3 in first.current
    assert second.current == {1: "2024-03-01"}
    assert third.current == {1: "2024-03-01", 3: "2024-03-02"}


def test_the_history_shows_when_a_row_was_out_of_sight(story: tuple[Flow, list[Step]]) -> None:
    _, (*_, last) = story
    assert last.history == [
        (3, 1, False), (1, 2, False), (3, 2, True), (3, 3, False),
    ]  # fmt: skip


@pytest.mark.fault("F22")
def test_rows_in_are_rows_out_and_quarantined_rows(story: tuple[Flow, list[Step]]) -> None:
    flow, (first, *_) = story
    for table, fact in (("hire", "fact_hire"), ("payment", "fact_payment")):
        ((loaded,),) = flow.query(f"SELECT count(*) FROM star.{fact} WHERE batch = 1")
        changes = flow.changes(first.manifest)[table]
        assert changes["new"] == changes["rows"]["rows"] == loaded + changes["quarantined_rows"]


def test_the_certificate_is_equal_and_says_how_many_are_left_out(story: tuple[Flow, list[Step]]) -> None:
    _, steps = story
    assert [step.certificate["equal"] for step in steps] == [True, True, True]
    counts = [
        {n: t["quarantined_rows"] for n, t in step.certificate["tables"].items() if t["quarantined_rows"]}
        for step in steps
    ]
    # In the second batch payment has no change: it stands as the first left it.
    assert counts == [
        {"fact_hire": 1, "fact_payment": 2},
        {"fact_hire": 1, "fact_payment": 2},
        {},
    ]
    evaluations = {
        e.asset_key.to_user_string(): e
        for e in steps[0].run.result.get_asset_check_evaluations()
        if e.check_name == "equals_the_source"
    }
    payment = evaluations["warehouse/fact_payment"]
    assert payment.passed
    assert payment.metadata["quarantined rows"].value == 2


def test_verification_and_rebuild_are_equal(story: tuple[Flow, list[Step]]) -> None:
    flow, _ = story
    direct = Direct(flow.url, flow.data, flow.inputs)
    assert [finding for finding in direct.verified(thorough=True) if not finding.equal] == []
    assert [finding for finding in direct.rebuilt() if not finding.equal] == []


@pytest.mark.fault("F22")
def test_more_misfits_than_are_plausible_stop_the_run_before_anything_is_committed(
    bicycles: str, tmp_path: Path
) -> None:
    flow = Flow(bicycles, tmp_path)
    many = HIRES // 20 + 1
    execute(bicycles, f"UPDATE hire SET returned_on = 'soon' WHERE hire_id <= {many}")
    run = flow.run("raw")
    assert not run.success
    assert f"{many} rows of hire hold values that don't fit their declared types" in run.error
    assert "(the returned_on of 1 is no date), more than 5% of it: mend them in the source" in run.error
    assert "\n" not in run.error
    assert flow.manifests() == []
    execute(bicycles, "UPDATE hire SET returned_on = '2024-01-05' WHERE hire_id = 1")
    assert flow.run("raw").success


# -- misfits among the keys --------------------------------------------------------------------------------------------


def keyed(url: str, folder: Path, columns: Mapping[str, str], key: str) -> Direct:
    """A fact of a table `t`, under what `key` names."""

    def fact_t(t: nw.LazyFrame) -> nw.LazyFrame:
        parts = [nw.col(name).cast(nw.String) for name in key.split()]
        shown = nw.concat_str(parts, separator="|") if len(parts) > 1 else nw.col(key)
        return t.select(shown.alias("t_id"), "v")

    type_ = "text" if " " in key else columns[key]
    schema = Fact(
        "fact_t", "", "t_id", [Column("t_id", type_), Column("v", columns["v"])], record="record_id"
    )
    return Direct(
        url, folder, Inputs({"t": Table("t", "", columns)}, {"fact_t": StarFunction(schema, fact_t)}, {})
    )


def shown(flow: Direct) -> list[tuple[Any, ...]]:
    with flow.reading() as connection:
        return connection.execute("SELECT t_id, v FROM star.fact_t_current ORDER BY ALL").fetchall()


def test_a_key_that_does_not_fit_hides_no_other_row(database: Callable[[], str], tmp_path: Path) -> None:
    flow = keyed(database(), tmp_path, {"id": "int", "v": "int"}, "id")
    execute(
        flow.url,
        "CREATE TABLE t (id text PRIMARY KEY, v text); INSERT INTO t VALUES ('5', '1'), (' 5 ', '2'), ('x', '3')",
    )
    flow.run()
    assert shown(flow) == [(5, 1)]
    execute(flow.url, "UPDATE t SET v = '7' WHERE id <> '5'")
    flow.run()
    assert shown(flow) == [(5, 1)]
    execute(flow.url, "DELETE FROM t WHERE id <> '5'")
    flow.run()
    assert shown(flow) == [(5, 1)]
    assert [finding for finding in flow.verified(thorough=True) if not finding.equal] == []


def test_misfits_under_keys_of_several_columns_are_counted_apart(
    database: Callable[[], str], tmp_path: Path
) -> None:
    flow = keyed(database(), tmp_path, {"a": "text", "b": "text", "v": "int"}, "a b")
    execute(
        flow.url,
        "CREATE TABLE t (a text, b text, v text, PRIMARY KEY (a, b)); "
        "INSERT INTO t VALUES ('x,y', 'z', 'no'), ('x', 'y,z', 'no'), ('x', 'z', '1')",
    )
    manifest = flow.run()
    assert manifest is not None
    assert manifest.changed["t"].quarantined_rows == 2
    assert shown(flow) == [("x|z", 1)]
    assert [finding for finding in flow.verified(thorough=True) if not finding.equal] == []


def test_a_wider_declaration_brings_back_what_did_not_fit(
    database: Callable[[], str], tmp_path: Path
) -> None:
    url = database()
    narrow = keyed(url, tmp_path, {"id": "int", "v": "numeric(10,2)"}, "id")
    execute(url, "CREATE TABLE t (id int PRIMARY KEY, v numeric); INSERT INTO t VALUES (1, 1.25), (2, 3.145)")
    narrow.run()
    assert len(shown(narrow)) == 1
    wide = keyed(url, tmp_path, {"id": "int", "v": "numeric(10,3)"}, "id")
    wide.run()
    assert [str(v) for _, v in shown(wide)] == ["1.250", "3.145"]
    assert [finding for finding in wide.verified(thorough=True) if not finding.equal] == []


# -- other columns than before -----------------------------------------------------------------------------------------


@pytest.mark.many
@pytest.mark.fault("F20")
@pytest.mark.parametrize(
    ("declared", "was", "value", "becomes", "shows"),
    [
        ("int", "text", "007", "int USING v::int", 7),
        ("text", "text", "007", "int USING v::int", "7"),
        ("text?", "text", "none", "int USING nullif(v, 'none')::int", None),
        ("int", "numeric", "1.6", "int USING round(v)::int", 2),
        ("double", "numeric", "8", "double precision", 8.0),
        ("double", "double precision", "8", "numeric", "quarantined"),
        ("date", "date", "2024-01-05", "int USING 7", "quarantined"),
        ("text", "int", "7", "text USING 'soon'", "soon"),
        ("int", "int", "7", "text USING 'soon'", "quarantined"),
    ],
)
def test_a_column_of_another_type_is_shown_as_the_source_now_has_it(
    database: Callable[[], str],
    tmp_path: Path,
    declared: str,
    was: str,
    value: str,
    becomes: str,
    shows: object,
) -> None:
    flow = keyed(database(), tmp_path, {"id": "int", "v": declared}, "id")
    execute(flow.url, f"CREATE TABLE t (id int PRIMARY KEY, v {was}); INSERT INTO t VALUES (1, '{value}')")
    flow.run()
    execute(flow.url, f"ALTER TABLE t ALTER v TYPE {becomes}")
    flow.run()
    assert shown(flow) == ([] if shows == "quarantined" else [(1, shows)])
    assert [finding for finding in flow.verified(thorough=True) if not finding.equal] == []


def test_a_column_that_the_source_did_not_always_have_can_be_declared(
    database: Callable[[], str], tmp_path: Path
) -> None:
    url = database()
    execute(url, "CREATE TABLE t (id int PRIMARY KEY, w int); INSERT INTO t VALUES (1, 1), (2, 2)")
    flow = keyed(url, tmp_path, {"id": "int", "w": "int", "v": "int?"}, "id")
    old = Direct(url, tmp_path, Inputs({"t": Table("t", "", {"id": "int", "w": "int"})}, {}, {}))
    old.capture()
    execute(url, "ALTER TABLE t ADD v int")
    with pytest.raises(LakeError, match="materialize raw/t first"):
        flow.derive()
    flow.run()
    assert shown(flow) == [(1, None), (2, None)]
    execute(url, "INSERT INTO t VALUES (3, 3, 3)")
    flow.run()
    assert shown(flow) == [(1, None), (2, None), (3, 3)]
    assert [f for f in [*flow.verified(thorough=True), *flow.rebuilt()] if not f.equal] == []
