"""A star table that can't be shown stays as it was and keeps nothing else from being shown; when the source is mended, it
goes on by itself."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import narwhals as nw
import pytest

from etl_assets.automation.in_process import EXECUTOR, execute
from etl_assets.lake.files import LakeError
from etl_assets.proof.checks import certificate_checks
from etl_assets.proof.hops.star import differing
from etl_assets.raw.assets import raw_assets
from etl_assets.source.assets import source_assets
from etl_assets.source.resource import PostgresSource
from etl_assets.source.table import Table
from etl_assets.star import build
from etl_assets.star.assets import star_assets
from etl_assets.star.definition import Inputs
from etl_assets.star.files import StarFile, StarFiles
from etl_assets.star.function import StarFunction, star_table
from etl_assets.star.resource import StarIOManager
from etl_assets.star.schema import Column, Dimension, Fact
from etl_assets.warehouse.assets import warehouse_assets
from etl_assets_tests.direct import Direct
from etl_assets_tests.flow import execute as in_source

SOURCE = """
    CREATE TABLE item (id int PRIMARY KEY, name text NOT NULL);
    CREATE TABLE label (id int PRIMARY KEY, text text NOT NULL);
    CREATE TABLE item_label (item_id int, label_id int, PRIMARY KEY (item_id, label_id));
    CREATE TABLE sale (id int PRIMARY KEY, item_id int, amount numeric(10,2) NOT NULL);
    CREATE TABLE visit (id int PRIMARY KEY, guests int NOT NULL);
    INSERT INTO item VALUES (1, 'bag'), (2, 'hat'), (3, 'tie');
    INSERT INTO label VALUES (1, 'red'), (2, 'blue');
    INSERT INTO item_label VALUES (1, 1), (2, 2);
    INSERT INTO sale VALUES (1, 1, 10.00), (2, 2, 20.00);
    INSERT INTO visit VALUES (1, 4);
"""


@star_table(
    Dimension(
        "dim_item",
        "",
        "item_id",
        [Column("item_id", "int"), Column("name", "text"), Column("label", "text?")],
    )
)
def dim_item(item: nw.LazyFrame, item_label: nw.LazyFrame, label: nw.LazyFrame) -> nw.LazyFrame:
    labels = item_label.join(label, left_on="label_id", right_on="id", how="left").select(
        "item_id", nw.col("text").alias("label")
    )
    return item.join(labels, left_on="id", right_on="item_id", how="left").select(
        nw.col("id").alias("item_id"), "name", "label"
    )


@star_table(
    Dimension("dim_label", "", "label", [Column("label", "text"), Column("items", "bigint")], rows="any")
)
def dim_label(dim_item: nw.LazyFrame) -> nw.LazyFrame:
    known = dim_item.filter(~nw.col("label").is_null())
    return known.group_by("label").agg(nw.len().alias("items"))


@star_table(
    Fact(
        "fact_sale",
        "",
        "sale_id",
        [
            Column("sale_id", "int"),
            Column("item_id", "int?", references="dim_item"),
            Column("amount", "numeric(10,2)"),
        ],
        record="sale_record_id",
    )
)
def fact_sale(sale: nw.LazyFrame) -> nw.LazyFrame:
    return sale.select(nw.col("id").alias("sale_id"), "item_id", "amount")


@star_table(
    Fact(
        "fact_visit",
        "",
        "visit_id",
        [Column("visit_id", "int"), Column("guests", "int")],
        record="visit_record_id",
    )
)
def fact_visit(visit: nw.LazyFrame) -> nw.LazyFrame:
    return visit.select(nw.col("id").alias("visit_id"), "guests")


TABLES = (
    Table("item", "", {"id": "int", "name": "text"}),
    Table("label", "", {"id": "int", "text": "text"}),
    Table("item_label", "", {"item_id": "int", "label_id": "int"}),
    Table("sale", "", {"id": "int", "item_id": "int?", "amount": "numeric(10,2)"}),
    Table("visit", "", {"id": "int", "guests": "int"}),
)
INPUTS = Inputs(
    {table.name: table for table in TABLES},
    {made.name: made for made in (dim_item, dim_label, fact_sale, fact_visit)},
    {},
)


@pytest.fixture
def flow(database: Callable[[], str], tmp_path: Path) -> Direct:
    made = Direct(database(), tmp_path, INPUTS)
    in_source(made.url, SOURCE)
    return made


class Job:
    """The stages that hang together, as a deployment runs them."""

    def __init__(self, flow: Direct, instance: dg.DagsterInstance, inputs: Inputs = INPUTS) -> None:
        lake, warehouse = flow.lake, flow.warehouse
        (flow.data / "scratch").mkdir(exist_ok=True)
        self.instance = instance
        self.definitions = dg.Definitions(
            assets=[
                *source_assets(TABLES),
                raw_assets(TABLES, "stuck"),
                star_assets(inputs, differing),
                warehouse_assets(inputs, "stuck"),
            ],
            asset_checks=[certificate_checks(inputs)],
            jobs=[dg.define_asset_job("etl", selection=dg.AssetSelection.groups("raw", "star", "warehouse"))],
            resources={
                "source": PostgresSource(
                    url=flow.url, scratch=str(flow.data / "scratch"), deletion_brake=1, quarantine_limit=1
                ),
                "lake": lake,
                "warehouse": warehouse,
                "star_io": StarIOManager(lake=lake),
            },
            executor=EXECUTOR,
        )

    def run(self, config: Mapping[str, Any] | None = None) -> dg.ExecuteInProcessResult:
        return execute(self.definitions.resolve_job_def("etl"), self.instance, run_config=config)


def failures(result: dg.ExecuteInProcessResult) -> dict[str, str]:
    """What went wrong, by step."""
    found = {}
    for event in result.all_events:
        if event.is_step_failure and event.step_failure_data.error:
            error = event.step_failure_data.error
            while error.cause and "Failure" not in error.message:
                error = error.cause
            found[str(event.step_key)] = " ".join(error.message.split())
    return found


def shown(flow: Direct, name: str, columns: str) -> list[tuple[Any, ...]]:
    with flow.reading() as connection:
        return connection.execute(f"SELECT {columns} FROM star.{name} ORDER BY ALL").fetchall()


def loaded(flow: Direct) -> dict[str, int]:
    with flow.reading() as connection:
        return dict(
            connection.execute("SELECT table_name, max(batch) FROM star.loads GROUP BY ALL").fetchall()
        )


def test_a_table_that_cannot_be_shown_stays_and_the_rest_is_loaded_and_it_heals(flow: Direct) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        job = Job(flow, instance)
        assert job.run().success
        # One more label for a bag: two rows with its key. A sale and a visit come with the same batch.
        in_source(
            flow.url,
            "INSERT INTO item_label VALUES (1, 2); INSERT INTO sale VALUES (3, 3, 5); INSERT INTO visit VALUES (2, 7)",
        )
        result = job.run()
        assert not result.success
        told = failures(result)
        # The step that makes the star is red, and says what, why and what to do; the load is not, nor is it left out.
        assert "dim_item can't show batch 000002: keys_are_unique: 1 (1)" in told["derive_star"]
        assert "item_label (item_id, label_id: 1, 2, …)" in told["derive_star"]
        assert "it stays at batch 000001" in told["derive_star"]
        assert "dim_label is made from dim_item" in told["derive_star"]
        assert "fact_sale refers to dim_item, which stays at batch 000001" in told["derive_star"]
        assert "load" not in told
        assert loaded(flow) == {
            "dim_item": 1,
            "dim_label": 1,
            "fact_sale": 1,
            "fact_visit": 2,
        }
        assert shown(flow, "fact_visit_current", "visit_id, guests") == [(1, 4), (2, 7)]
        assert shown(flow, "dim_item", "item_id, label, deleted") == [
            (1, "red", False),
            (2, "blue", False),
            (3, None, False),
        ]
        assert [row[0] for row in shown(flow, "fact_sale_current", "sale_id")] == [1, 2]
        checks = {
            event.asset_key.path[-1]: event.passed
            for event in result.get_asset_check_evaluations()
            if event.check_name == "equals_the_source"
        }
        assert checks == {"dim_item": False, "dim_label": False, "fact_sale": False, "fact_visit": True}
        # Running again changes nothing as long as the source is as it is.
        assert not job.run().success
        # The change is taken back in the source: the next run heals all of it.
        in_source(flow.url, "DELETE FROM item_label WHERE item_id = 1 AND label_id = 2")
        result = job.run()
        assert result.success, failures(result)
        assert [row[0] for row in shown(flow, "fact_sale_current", "sale_id")] == [1, 2, 3]
        assert shown(flow, "dim_label", "label, items, deleted") == [("blue", 1, False), ("red", 1, False)]
    assert [finding for finding in [*flow.verified(), *flow.rebuilt()] if not finding.equal] == []


@star_table(fact_visit.schema)
def fact_visit_of_nobody(visit: nw.LazyFrame) -> nw.LazyFrame:
    """The guests that every visit must have are lacking, as of all batches."""
    return visit.select(nw.col("id").alias("visit_id"), nw.lit(None).cast(nw.Int32).alias("guests"))


def with_visits(*made: StarFunction) -> Inputs:
    star = [*(one for name, one in INPUTS.star.items() if name != "fact_visit"), *made]
    return Inputs(INPUTS.tables, {one.name: one for one in star}, {})


@pytest.mark.parametrize("before", [INPUTS, with_visits()], ids=["made by other code", "never made"])
def test_a_table_that_new_code_cannot_make_does_not_keep_the_others_from_being_loaded(
    before: Inputs, flow: Direct
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert Job(flow, instance, before).run().success
        in_source(
            flow.url,
            "INSERT INTO sale VALUES (3, 3, 5); INSERT INTO visit VALUES (2, 7); UPDATE item SET name = 'cap' WHERE id = 2",
        )
        result = Job(flow, instance, with_visits(fact_visit_of_nobody)).run()
        assert not result.success
        told = failures(result)
        assert "fact_visit can't show batch" in told["derive_star"]
        assert "load" not in told
        held = loaded(flow)
        assert (held["dim_item"], held["fact_sale"]) == (2, 2)
        assert held.get("fact_visit") == (1 if before is INPUTS else None)
        assert [row[0] for row in shown(flow, "fact_sale_current", "sale_id")] == [1, 2, 3]
        assert ("cap",) in shown(flow, "dim_item", "name")
        assert Job(flow, instance).run().success
        assert shown(flow, "fact_visit_current", "visit_id, guests") == [(1, 4), (2, 7)]
    assert [finding for finding in [*flow.verified(), *flow.rebuilt()] if not finding.equal] == []


def test_other_rows_go_on_once_the_source_says_one_label(flow: Direct) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        job = Job(flow, instance)
        assert job.run().success
        in_source(flow.url, "INSERT INTO item_label VALUES (1, 2)")
        assert not job.run().success
        in_source(
            flow.url,
            "DELETE FROM item_label WHERE item_id = 1 AND label_id = 1; DELETE FROM item WHERE id = 2",
        )
        assert job.run().success
    assert shown(flow, "dim_item", "item_id, label, deleted") == [
        (1, "blue", False),
        (2, "blue", True),
        (3, None, False),
    ]
    assert [finding for finding in [*flow.verified(), *flow.rebuilt()] if not finding.equal] == []


def test_a_run_that_two_others_overtook_says_so_and_is_right_when_run_again(
    flow: Direct, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a machine was suspended amid its work: the files that it was at are of a version before the last two."""
    other = Direct(flow.url, tmp_path_factory.mktemp("other"), INPUTS, lake_url=flow.lake.url)
    flow.run()
    in_source(flow.url, "UPDATE item SET name = name || '1'")
    flow.capture()
    overtaken = "while this one was at it, and removed files that it read: run it again"
    believed, suspended = StarFiles._believed, [True]

    def others_run(star: StarFiles, name: str, file: StarFile) -> bool:
        there = believed(star, name, file)
        if suspended and name == "dim_item":
            suspended.clear()
            for number in (2, 3):
                in_source(flow.url, f"UPDATE item SET name = name || '{number}'")
                other.run()
        return there

    monkeypatch.setattr(StarFiles, "_believed", others_run)
    with pytest.raises(LakeError, match=overtaken):
        flow.derive()

    def read_late() -> None:
        """As a load does, or a certificate."""
        with flow.lake.open(INPUTS) as bench:
            held = bench.star.dimension("dim_item")
            assert held
            for number in (4, 5):
                in_source(flow.url, f"UPDATE item SET name = name || '{number}'")
                other.run()
            flow.lake.files().read(held.path)

    with pytest.raises(LakeError, match=overtaken):
        read_late()
    flow.run()
    assert shown(flow, "dim_item", "name")[0] == ("bag12345",)
    assert [finding for finding in flow.verified() if not finding.equal] == []


def test_what_the_memory_is_too_small_for_is_told_as_such(
    flow: Direct, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No row is behind it, so nothing is to be mended in the source."""
    step = build._Derivation._step

    def short_of_memory(self: build._Derivation, definition: Any, *arguments: Any) -> str | None:
        if definition.name == "dim_item":
            with duckdb.connect(
                config={"memory_limit": "8MB", "max_temp_directory_size": "0B"}
            ) as connection:
                connection.execute("SELECT list(range) FROM range(5000000)")
        return step(self, definition, *arguments)

    monkeypatch.setattr(build._Derivation, "_step", short_of_memory)
    with dg.DagsterInstance.ephemeral() as instance:
        told = failures(Job(flow, instance).run())["derive_star"]
    assert "dim_item can't show batch 000001: its function fails: Out of Memory Error: " in told
    assert (
        "; its rows are not behind that, but how much memory there is: give the process more, or let" in told
    )
    assert "mend them in the source" not in told
    assert "Possible solutions" not in told


@pytest.mark.fault("F25")
def test_what_a_run_has_made_is_not_removed_by_one_that_publishes_an_earlier_batch(
    flow: Direct, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a machine was suspended after it had written its files and before it showed them: what others then see can be
    read."""
    other = Direct(flow.url, tmp_path_factory.mktemp("other"), INPUTS, lake_url=flow.lake.url)
    flow.run()
    sale = (
        "INSERT INTO sale SELECT max(id) + 1, 1, 5 FROM sale; UPDATE item SET name = name || '+' WHERE id = 1"
    )
    for _ in range(2):
        in_source(flow.url, sale)
        flow.capture()
    publish = StarFiles.publish
    with other.lake.open(INPUTS) as slow:
        late = list(slow.builder.derive(slow.manifest))
        in_source(flow.url, sale)
        flow.capture()
        with flow.lake.open(INPUTS) as bench:

            def suspended(star: StarFiles, *arguments: Any) -> None:
                if star is bench.star:
                    slow.publish(late)
                publish(star, *arguments)

            monkeypatch.setattr(StarFiles, "publish", suspended)
            bench.publish(list(bench.builder.derive(bench.manifest)))
    star = flow.lake.star()
    assert star.manifest
    assert star.manifest.batch == 4
    listed = [file.path for table in star.manifest.tables.values() for file in table.files]
    assert [path for path in listed if not star.files.exists(path)] == []
