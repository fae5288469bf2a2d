"""A run that would find nothing does nothing; and whatever is not as the last run left it, is found.

One flow is run until there is nothing to do. Each test gets a copy of all that was kept, changes one thing, and asks.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest

from etl_assets.automation import settled
from etl_assets.automation.history import UNCHANGED_SINCE
from etl_assets.automation.runs import last_successes
from etl_assets.automation.staleness import standings
from etl_assets.cli import environment
from etl_assets.cli.unchanged import looking
from etl_assets.definitions import definitions
from etl_assets_tests.automation.items import PROJECT, lay_out
from etl_assets_tests.commands import etl, use
from etl_assets_tests.flow import execute


@dataclass(frozen=True)
class Shop:
    """A source, and the folder of all that is kept."""

    url: str
    data: Path

    @property
    def lake(self) -> Path:
        return self.data / "lake"

    def warehouse(self, statement: str) -> None:
        with closing(duckdb.connect(str(self.data / "warehouse.duckdb"))) as connection:
            connection.execute(statement)

    def is_settled(self) -> bool:
        """Whether a run would find nothing."""
        settings = environment.settings()
        environment.arrange_dagster_home(settings)
        with environment.open_instance() as instance, looking(settings, instance, True) as look:
            return look.nothing_to_do() is not None

    def history_bytes(self) -> int:
        files = (self.data / "dagster").rglob("*.db*")
        return sum(path.stat().st_size for path in files if path.is_file())


def run(*options: str) -> dict[str, object]:
    ran = etl("run", "--json", *options)
    assert ran.exit_code == 0, ran.stderr
    told: dict[str, object] = json.loads(ran.stdout)
    return told


@pytest.fixture(scope="module")
def kept(module_database: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A flow that ran until there was nothing to do; `kept` beside its folder is a copy of that."""
    url, folder = module_database(), tmp_path_factory.mktemp("settled") / "shop"
    lay_out(url, folder)
    with pytest.MonkeyPatch.context() as patch:
        use(patch, folder / "data", ETL_SOURCE_URL=url)
        told = run()
        assert (told["batch"], "unchanged_since" in told) == ("000001", False)
        assert re.fullmatch(
            r"batch 000001 as of [0-9: -]+ UTC: item \+20; equal in source, raw, star, warehouse",
            str(told["said"]),
        )
    shutil.copytree(folder, folder.parent / "kept", symlinks=True)
    return Shop(url, folder / "data")


@pytest.fixture
def shop(kept: Shop, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """The flow as it was kept, in the same place: elsewhere it would be another one."""
    folder = kept.data.parent
    monkeypatch.chdir(folder.parent)
    shutil.rmtree(folder)
    shutil.copytree(folder.parent / "kept", folder, symlinks=True)
    use(monkeypatch, kept.data, ETL_SOURCE_URL=kept.url)
    environment.arrange_dagster_home(environment.settings())
    return kept


# -- what is not done ------------------------------------------------------------------------------------------------


def test_a_run_that_finds_nothing_makes_nothing_and_is_in_the_history(shop: Shop) -> None:
    run()  # in this copy: files of the history are as large as they get
    files = {path: path.stat().st_mtime_ns for path in shop.data.rglob("*") if path.suffix != ".db"}
    before = shop.history_bytes()
    first, second = run(), run()
    assert shop.history_bytes() - before <= 2 * 50_000
    assert {path: path.stat().st_mtime_ns for path in files if "dagster" not in path.parts} == {
        path: moment for path, moment in files.items() if "dagster" not in path.parts
    }
    for told in (first, second):
        assert (told["success"], told["unchanged"], told["batch"], told["assets"]) == (True, True, None, {})
    assert first["unchanged_since"] == second["unchanged_since"]
    with environment.open_instance() as instance:
        newest = last_successes(instance, 1)[0]
        made = instance.get_run_by_id(str(first["unchanged_since"]))
        assert made
        assert newest.id == second["run_id"]
        assert newest.duration_seconds is not None
        assert {"raw/item", "exports/prices"} <= newest.made.keys()
    status = json.loads(etl("status", "--json").stdout)
    assert status["runs"]["last"]["id"] == second["run_id"]
    assert {one["status"] for one in status["assets"]} == {"fresh"}
    changes = json.loads(etl("changes", "--json").stdout)
    assert {kind: any(changes[kind].values()) for kind in ("code", "files", "data")} == dict.fromkeys(
        ("code", "files", "data"), False
    )
    assert "nothing changed: no batch was taken" in etl("run").stdout


def test_freshness_counts_from_when_the_source_was_last_asked(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = shop.history_bytes()
    monkeypatch.setattr(settled, "_TOLD_AGAIN_SECONDS", 0.0)
    asked = time.time()
    assert "unchanged_since" in run()
    assert shop.history_bytes() - before <= 150_000  # once in an hour: also the first of a file of its own
    with environment.open_instance() as instance:
        for key in (dg.AssetKey(["raw", "item"]), dg.AssetKey(["warehouse", "fact_price"])):
            told = instance.get_latest_materialization_event(key)
            assert told
            assert told.asset_materialization
            assert told.timestamp >= asked
            assert told.asset_materialization.metadata["dagster/row_count"].value == 20
        graph = definitions(environment.settings()).resolve_asset_graph()
        assert {one.status for one in standings(instance, graph).values()} == {"fresh"}
    assert shop.is_settled()


# -- what is found ---------------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def star_file(shop: Shop) -> Path:
    return next((shop.lake / "star" / "fact_price").glob("*.parquet"))


def certificate(shop: Shop) -> Path:
    return shop.lake / "raw" / "batches" / "000001.certificate.json"


def project(shop: Shop) -> Path:
    return shop.data.parent / "etl_project"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def wipe(shop: Shop) -> None:
    with environment.open_instance() as instance:
        instance.wipe_assets([dg.AssetKey(["star", "dim_item"])])


def lose_history(shop: Shop) -> None:
    shutil.rmtree(shop.data / "dagster")
    os.environ["DAGSTER_HOME"] = ""


def started(shop: Shop) -> None:
    with environment.open_instance() as instance:
        instance.run_storage.add_run(dg.DagsterRun("etl", status=dg.DagsterRunStatus.STARTED))


FOUND: dict[str, Callable[[Shop], object]] = {
    "a damaged file of the star": lambda s: flip(star_file(s)),
    "a lost file of the star": lambda s: star_file(s).unlink(),
    "a lost manifest of the star": lambda s: shutil.rmtree(s.lake / "star" / "batches"),
    "a decision to begin later": lambda s: write(s.lake / "star" / "baselines" / "dim_item.json", "{}"),
    "a lost certificate": lambda s: certificate(s).unlink(),
    "a damaged certificate": lambda s: flip(certificate(s)),
    "a lake that was set back": lambda s: (s.lake / "raw" / "batches" / "000001.json").unlink(),
    "a lost warehouse": lambda s: (s.data / "warehouse.duckdb").unlink(),
    "a damaged warehouse": lambda s: (s.data / "warehouse.duckdb").write_bytes(b"no database"),
    "a dropped table": lambda s: s.warehouse("DROP TABLE star.fact_price CASCADE"),
    "a dropped view": lambda s: s.warehouse("DROP VIEW star.fact_price_current"),
    "a deleted row": lambda s: s.warehouse("DELETE FROM star.fact_price WHERE item_id = 1"),
    "a load that is not certified": lambda s: s.warehouse("UPDATE star.batches SET certified = NULL"),
    "a load that was forgotten": lambda s: s.warehouse(
        "DELETE FROM star.loads WHERE table_name = 'dim_item'"
    ),
    "a dropped report": lambda s: s.warehouse("DROP TABLE reporting.prices"),
    "an altered report": lambda s: s.warehouse("UPDATE reporting.prices SET price = 0 WHERE item_id = 1"),
    "a report described otherwise": lambda s: s.warehouse("COMMENT ON TABLE reporting.prices IS 'x'"),
    "a lost workbook": lambda s: (s.data / "reports.xlsx").unlink(),
    "a damaged workbook": lambda s: flip(s.data / "reports.xlsx"),
    "other code": lambda s: write(
        project(s) / "__init__.py", PROJECT.replace("One row is a price", "A price")
    ),
    "another file of code": lambda s: write(project(s) / "rules" / "x.py", "A = 1"),
    "another reference file": lambda s: write(project(s) / "rates.csv", "code,rate\nGBP,2\n"),
    "another setting": lambda s: os.environ.update(ETL_REPLAY_BATCHES="17"),
    "a history that was wiped": wipe,
    "a lost history": lose_history,
    "a run that goes on": started,
}


@pytest.mark.many
@pytest.mark.parametrize("what", FOUND)
def test_what_is_not_as_it_was_left_is_found(shop: Shop, what: str) -> None:
    assert shop.is_settled()
    FOUND[what](shop)
    assert not shop.is_settled()


def test_a_dropped_report_and_a_damaged_star_are_made_again(shop: Shop) -> None:
    shop.warehouse("DROP TABLE reporting.prices")
    flip(star_file(shop))
    (shop.data / "reports.xlsx").unlink()
    told = run()
    assert "unchanged_since" not in told
    with closing(duckdb.connect(str(shop.data / "warehouse.duckdb"), read_only=True)) as connection:
        assert connection.execute("SELECT count(*) FROM reporting.prices").fetchall() == [(20,)]
    assert (shop.data / "reports.xlsx").exists()
    assert json.loads(etl("verify", "--json").stdout)["equal"]
    assert (
        "unchanged_since" not in run()
    )  # what the one before had to tell of is not over before it is seen to be
    assert "unchanged_since" in run()


def test_a_source_that_is_away_is_told_of_and_recorded_as_ever(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETL_SOURCE_URL", "postgresql://reader@127.0.0.1:1/shop")
    ran = etl("run")
    assert (ran.exit_code, len(ran.stderr.splitlines()[-1:])) == (1, 1)
    assert not [line for line in ran.stdout.splitlines() if "nothing changed" in line]
    with environment.open_instance() as instance:
        (newest,) = instance.get_runs(limit=1)
        assert newest.status == dg.DagsterRunStatus.FAILURE
        assert UNCHANGED_SINCE not in newest.tags


def test_what_is_asked_for_is_done(shop: Shop) -> None:
    told = run("--rebuild", "star/dim_item")
    assert "unchanged_since" not in told
    assert re.fullmatch(
        r"nothing came since batch 000001 as of .* UTC; equal in source, raw, star, warehouse",
        str(told["said"]),
    )
    assert "unchanged_since" not in run("--select", "star/*")


# -- what is committed in the source can't be taken back: these come last --------------------------------------------


def test_a_run_succeeds_beside_one_that_has_the_warehouse(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How it is left can't be told then; and whether there is anything to do, neither."""
    note = settled.note
    holding: list[subprocess.Popen[str]] = []

    def held(*arguments: Any) -> None:
        holding.append(holder(shop.data / "warehouse.duckdb"))
        note(*arguments)

    execute(shop.url, "UPDATE item SET price = price + 1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settled, "note", held)
        try:
            run()
            assert not shop.is_settled()
        finally:
            for process in holding:
                process.communicate("")
    assert holding
    run()
    assert shop.is_settled()


def holder(path: Path) -> "subprocess.Popen[str]":
    """A process that has a DuckDB file, until it is spoken to."""
    held = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import duckdb; c = duckdb.connect({str(path)!r}); print('held', flush=True); input()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert held.stdout
    assert held.stdout.readline() == "held\n"
    return held


@pytest.mark.parametrize(
    ("change", "is_ours"),
    [
        ("UPDATE item SET price = price + 1 WHERE item_id = 1", True),
        ("DELETE FROM item WHERE item_id = 2", True),
        ("INSERT INTO diary VALUES ('beside the tables')", False),
    ],
)
def test_whatever_is_committed_in_the_source_is_looked_at(shop: Shop, change: str, is_ours: bool) -> None:
    run()
    assert shop.is_settled()
    execute(shop.url, change)
    told = run()
    assert "unchanged_since" not in told
    assert (told["batch"] is not None) is is_ours
    assert "unchanged_since" in run()


def test_a_table_that_is_not_logged_is_always_read(shop: Shop) -> None:
    """After a crash of its server it is empty, though nothing was committed."""
    execute(shop.url, "ALTER TABLE item SET UNLOGGED")
    run()
    assert not shop.is_settled()
