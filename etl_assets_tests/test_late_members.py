"""A fact may come before its dimension's member: it is shown, a stand-in takes the place, and the member fills it in."""

from collections.abc import Callable
from pathlib import Path

import dagster as dg
import narwhals as nw
import pytest

from etl_assets.source.table import Table
from etl_assets.star.definition import Inputs
from etl_assets.star.function import star_table
from etl_assets.star.schema import Column, Dimension
from etl_assets.warehouse.assets import warehouse_assets
from etl_assets_tests.direct import Direct
from etl_assets_tests.flow import Flow, execute
from etl_assets_tests.shop import INPUTS, SALE, SOURCE, TEAM, fact_sale

_BIKE = "SELECT model, colour, station, deleted FROM star.dim_bike WHERE bike_id = {}"
_INFERRED = "SELECT table_name, member_key FROM star.inferred_members ORDER BY ALL"


@pytest.mark.places
@pytest.mark.fault("F23")
def test_the_whole_flow_waits_for_nobody_and_forgets_nobody(bicycles: str, tmp_path: Path) -> None:
    execute(
        bicycles,
        """CREATE TABLE aside AS SELECT * FROM bike WHERE bike_id = 1;
        DELETE FROM bike WHERE bike_id = 1;
        UPDATE hire SET bike_id = 1 WHERE hire_id = 4;
        UPDATE hire SET bike_id = 999 WHERE hire_id = 5""",
    )
    flow = Flow(bicycles, tmp_path)
    run = flow.run()
    assert run.success, run.error_lines
    assert flow.query(_INFERRED) == [("dim_bike", "1"), ("dim_bike", "999")]
    assert flow.query(_BIKE.format(999)) == [("unknown", "unknown", None, False)]
    assert flow.query(
        "SELECT model FROM star.fact_hire_current JOIN star.dim_bike USING (bike_id) WHERE hire_id IN (4, 5)"
    ) == [("unknown",), ("unknown",)]
    metadata = run.materializations["warehouse/dim_bike"].metadata
    assert metadata["inferred members"].value == 2
    checks = [e for e in run.result.get_asset_check_evaluations() if e.check_name == "references_resolve"]
    assert [check.passed for check in checks] == [True, True]
    direct = Direct(flow.url, flow.data, flow.inputs)
    assert [finding for finding in direct.verified(thorough=True) if not finding.equal] == []

    execute(bicycles, "INSERT INTO bike SELECT * FROM aside")
    again = flow.run()
    assert again.success, again.error_lines
    assert flow.query(_INFERRED) == [("dim_bike", "999")]
    ((model, colour, _, deleted),) = flow.query(_BIKE.format(1))
    assert "unknown" not in (model, colour)
    assert not deleted
    assert again.materializations["warehouse/dim_bike"].metadata["inferred members"].value == 1
    assert [f for f in (*direct.verified(thorough=True), *direct.rebuilt()) if not f.equal] == []


@pytest.fixture
def shop(database: Callable[[], str], tmp_path: Path) -> Direct:
    flow = Direct(database(), tmp_path, INPUTS)
    execute(flow.url, SOURCE)
    flow.run()
    return flow


def inferred(flow: Direct) -> list[tuple[str]]:
    with flow.reading() as connection:
        return connection.execute("SELECT member_key FROM star.inferred_members ORDER BY ALL").fetchall()


def worker(flow: Direct, number: int) -> list[tuple[str, str | None, bool]]:
    with flow.reading() as connection:
        return connection.execute(
            "SELECT name, team, deleted FROM star.dim_worker WHERE worker_id = $number", {"number": number}
        ).fetchall()


def is_proven(flow: Direct) -> bool:
    assert [f for f in (*flow.verified(thorough=True), *flow.rebuilt()) if not f.equal] == []
    return True


@pytest.mark.fault("F23")
def test_a_stand_in_stays_as_long_as_the_member_is_missing(shop: Direct) -> None:
    assert inferred(shop) == [("0",)]
    execute(shop.url, "UPDATE worker SET name = 'other' WHERE id = 1")
    shop.run()
    assert inferred(shop) == [("0",)]
    assert worker(shop, 0) == [("unknown", None, False)]
    execute(shop.url, "UPDATE sale SET worker_id = 1 WHERE worker_id = 0")
    shop.run()
    assert inferred(shop) == [("0",)], "history still refers to it"
    assert is_proven(shop)


def test_a_member_that_came_and_went_again_is_no_stand_in(shop: Direct) -> None:
    execute(shop.url, "INSERT INTO worker VALUES (0, 'late', 1)")
    shop.run()
    assert (worker(shop, 0), inferred(shop)) == ([("late", "team 1", False)], [])
    execute(shop.url, "DELETE FROM worker WHERE id = 0")
    shop.run()
    assert (worker(shop, 0), inferred(shop)) == ([("late", "team 1", True)], [])
    assert is_proven(shop)


def test_a_member_that_is_quarantined_stays_as_it_was_and_is_flagged(shop: Direct) -> None:
    execute(shop.url, "UPDATE worker SET name = NULL WHERE id IN (0, 3)")
    shop.run()
    assert (worker(shop, 3), inferred(shop)) == ([("worker 3", "team 3", True)], [("0",)])
    assert is_proven(shop)
    execute(shop.url, "UPDATE worker SET name = 'mended' WHERE id = 3")
    shop.run()
    assert (worker(shop, 3), inferred(shop)) == ([("mended", "team 3", False)], [("0",)])
    assert is_proven(shop)


def test_a_member_that_is_quarantined_and_that_nobody_refers_to_is_not_listed(shop: Direct) -> None:
    execute(shop.url, "INSERT INTO worker VALUES (500, 'idle', 1)")
    shop.run()
    execute(shop.url, "UPDATE worker SET name = NULL WHERE id = 500")
    shop.run()
    assert (worker(shop, 500), inferred(shop)) == ([("idle", "team 1", True)], [("0",)])
    assert is_proven(shop)


@star_table(
    Dimension("dim_worker", "", "worker_id", [Column("worker_id", "int"), Column("born", "date")]),
)
def dim_worker(worker: nw.LazyFrame) -> nw.LazyFrame:
    return worker.select(nw.col("id").alias("worker_id"), "born")


@star_table(Dimension("dim_team", "", "team_id", [Column("team_id", "int"), Column("name", "text")]))
def dim_team(team: nw.LazyFrame) -> nw.LazyFrame:
    return team.select(nw.col("id").alias("team_id"), "name")


def test_a_step_loads_what_it_can_and_says_what_waits(database: Callable[[], str], tmp_path: Path) -> None:
    inputs = Inputs(
        {"worker": Table("worker", "", {"id": "int", "born": "date"}), "team": TEAM, "sale": SALE},
        {"dim_worker": dim_worker, "dim_team": dim_team, "fact_sale": fact_sale},
        {},
    )
    flow = Direct(database(), tmp_path, inputs)
    execute(
        flow.url,
        """CREATE TABLE worker (id int PRIMARY KEY, born date);
        CREATE TABLE team (id int PRIMARY KEY, name text);
        CREATE TABLE sale (id int PRIMARY KEY, worker_id int, amount numeric(10,2), due date);
        INSERT INTO worker VALUES (1, '1999-01-01'); INSERT INTO team VALUES (1, 'red');
        INSERT INTO sale VALUES (1, 1, 5, '2024-01-01')""",
    )
    flow.run()
    execute(flow.url, "INSERT INTO sale VALUES (2, 7, 5, '2024-01-01'); UPDATE team SET name = 'blue'")
    flow.capture()
    with flow.lake.open(inputs) as bench:
        bench.publish(list(bench.builder.derive(bench.manifest)))
    done = dg.materialize(
        [warehouse_assets(inputs, "late")],
        resources={"lake": flow.lake, "warehouse": flow.warehouse},
        raise_on_error=False,
    )
    assert not done.success
    made = [e.asset_key.path[-1] for e in done.get_asset_materialization_events() if e.asset_key]
    assert {"dim_team", "dim_worker"} <= set(made)
    (check,) = done.get_asset_check_evaluations()
    assert (check.asset_key.path[-1], check.passed) == ("fact_sale", False)
    assert check.metadata["members missing for worker_id"].value == 1
    (failure,) = [e.event_specific_data for e in done.all_events if e.is_step_failure]
    assert (
        "fact_sale stays as it was in the warehouse: 1 values of worker_id in fact_sale are no member of dim_worker; "
        "give dim_worker a row for them or declare its born nullable"
    ) in str(failure)
    assert flow.dump()["dim_team"] == [(1, "blue", False)]
    assert [row[1] for row in flow.dump()["fact_sale"]] == [1]
