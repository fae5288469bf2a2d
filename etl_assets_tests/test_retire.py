"""`etl retire` and what `etl status` says of the star: without these, a table that is no longer declared may stay
for good, or one that is may go with it; and a star table may be behind without anybody seeing it.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import duckdb
import pytest
from click.testing import Result

from etl_assets.lake.batches import Batches
from etl_assets.lake.files import LakeError
from etl_assets.lake.folder import LocalFiles
from etl_assets.project import load
from etl_assets.stand_ins.bigquery import BigQueryStandIn
from etl_assets.stand_ins.bigquery_tables import ErrorResponse
from etl_assets.star import retired
from etl_assets.star.definition import Inputs
from etl_assets.star.files import StarFiles
from etl_assets.star.frames import Frames
from etl_assets.star.schema import Column, Dimension, Fact, StarTable
from etl_assets.warehouse import bigquery_load
from etl_assets.warehouse import duckdb as duckdb_warehouse
from etl_assets.warehouse import postgres as postgres_warehouse
from etl_assets.warehouse.contract import WarehouseError
from etl_assets.warehouse.retire import InWarehouse, in_warehouse, retire
from etl_assets_tests.commands import etl, use
from etl_assets_tests.direct import Direct
from etl_assets_tests.flow import Flow, execute
from etl_assets_tests.hiring import BICYCLES
from etl_assets_tests.lake_layout import star_files
from etl_assets_tests.shelf import Shelf
from etl_assets_tests.test_lakes import kept_in

INPUTS = load(BICYCLES.project).inputs
MODULES = {"duckdb": duckdb_warehouse, "postgres": postgres_warehouse, "bigquery": bigquery_load}


class Stopped(BaseException):
    """What a run can't catch."""


# -- the warehouse, in every engine ----------------------------------------------------------------------------------

TEAM = Dimension("dim_team", "", "team", [Column("team", "text"), Column("city", "text?")])
DAY = Dimension("dim_day", "", "day", [Column("day", "int"), Column("year", "int?")])
GAME = Fact(
    "fact_game",
    "",
    "game",
    [
        Column("game", "int"),
        Column("team", "text", references="dim_team"),
        Column("day", "int", references="dim_day"),
    ],
    record="game_record_id",
)
KEPT = Fact("fact_kept", "", "game", GAME.declared, record="kept_record_id")
ALONE = Fact("fact_kept", "", "game", [*GAME.declared[:1], *GAME.declared[2:]], record="kept_record_id")


@pytest.fixture(params=["duckdb", "postgres", "bigquery"])
def engine(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def shelf(
    engine: str, database: Callable[..., str], stand_in: BigQueryStandIn, tmp_path: Path
) -> Callable[..., Shelf]:
    """An empty lake and an empty warehouse, for some tables."""

    def made(*tables: StarTable) -> Shelf:
        places: dict[str, Callable[[], str | None]] = {
            "duckdb": lambda: None,
            "postgres": database,
            "bigquery": lambda: f"bigquery://{stand_in.project}/retire?location=EU",
        }
        warehouse = Direct("", tmp_path, Inputs({}, {}, {}), places[engine]()).warehouse
        return Shelf(tmp_path, warehouse, {table.name: table for table in tables})

    return made


@pytest.fixture
def season(shelf: Callable[..., Shelf]) -> Shelf:
    """Two facts that refer to two dimensions; of each fact a superseded version, of one dimension a stand-in."""
    here = shelf(TEAM, DAY, GAME, KEPT)
    here.put("dim_team", ("blue", "Ulm"), ("red", None))
    here.put("dim_day", (1, 2024), (2, 2024))
    for name in ("fact_game", "fact_kept"):
        here.put(name, (1, 7, "blue", 1), (2, 8, "unheard of", 2))
    here.load()
    for name in ("fact_game", "fact_kept"):
        here.put(name, (3, 7, "red", 2), batch=2)
    here.load()
    return here


def there(here: Shelf, *names: str) -> dict[str, str | None]:
    """What there is in the warehouse under names."""
    with here.warehouse.reading() as reader:
        return {name: reader.kind("star", name) for name in names}


def state(here: Shelf) -> tuple[Any, ...]:
    names = [name for table in here.tables for name in (table, f"{table}_current")]
    return here.everything(), there(here, *names)


GONE = ["dim_team", "fact_game"]
OTHERS = ["dim_day", "fact_kept"]


def test_a_table_goes_with_its_view_and_with_what_the_books_say_of_it(season: Shelf) -> None:
    before = state(season)
    assert in_warehouse(season.warehouse, OTHERS) == {
        "dim_team": InWarehouse(["dim_team"], {"loads": 1, "inferred_members": 1}),
        "fact_game": InWarehouse(["fact_game", "fact_game_current"], {"loads": 2, "superseded": 1}),
    }
    assert in_warehouse(season.warehouse, season.tables) == {}
    assert state(season) == before
    retire(season.warehouse, GONE, season.lake_id, "")
    assert there(season, "dim_team", "fact_game", "fact_game_current") == dict.fromkeys(
        ("dim_team", "fact_game", "fact_game_current")
    )
    assert there(season, "dim_day", "fact_kept", "fact_kept_current") == {
        "dim_day": "table", "fact_kept": "table", "fact_kept_current": "view",
    }  # fmt: skip
    (rows, books), _ = before
    assert {name: season.rows(name) for name in OTHERS} == {name: rows[name] for name in OTHERS}
    assert season.books() == {
        book: [row for row in noted if row[0] in OTHERS] for book, noted in books.items()
    }
    assert in_warehouse(season.warehouse, OTHERS) == {}


def test_after_it_loads_go_on_and_what_is_declared_again_comes_again(season: Shelf) -> None:
    before = state(season)
    retire(season.warehouse, GONE, season.lake_id, "")
    without = Shelf(
        season.folder, season.warehouse, {"dim_day": DAY, "fact_kept": ALONE}, dict(season.versions)
    )
    without.put("fact_kept", (1, 7, 1), (2, 8, 2))
    without.put("fact_kept", (3, 7, 2), batch=2)
    assert not any(loaded.waits for loaded in without.load(*OTHERS).values())
    assert [row[0] for row in without.rows("fact_kept")] == [2, 3]
    season.put("fact_kept", (1, 7, "blue", 1), (2, 8, "unheard of", 2))
    season.put("fact_kept", (3, 7, "red", 2), batch=2)
    season.load()
    (rows, books), places = state(season)
    assert (rows, places) == (before[0][0], before[1])
    assert {book: noted for book, noted in books.items() if book != "loads"} == {
        book: noted for book, noted in before[0][1].items() if book != "loads"
    }


@pytest.mark.parametrize("engine", ["postgres", "bigquery"])
def test_no_key_leads_to_a_table_that_is_gone(season: Shelf, engine: str, stand_in: BigQueryStandIn) -> None:
    def led() -> set[str]:
        """The dimensions that the fact that stays refers to, as the engine knows it."""
        if engine == "bigquery":
            told = stand_in.tables.resource("retire_star", "fact_kept")["tableConstraints"]
            assert told["primaryKey"] == {"columns": ["kept_record_id"]}
            return {key["referencedTable"]["tableId"] for key in told["foreignKeys"]}
        with season.warehouse.reading() as reader:
            found = reader.rows(
                "SELECT c.confrelid::regclass::text FROM pg_constraint AS c WHERE c.contype = 'f' "
                "AND c.conrelid = 'star.fact_kept'::regclass"
            )
        return {place.removeprefix("star.") for (place,) in found}

    assert led() == {"dim_team", "dim_day"}
    retire(season.warehouse, GONE, season.lake_id, "")
    assert led() == {"dim_day"}


def test_what_ends_anywhere_leaves_all_or_nothing_and_is_finished_by_the_next_one(
    season: Shelf, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, outcomes = state(season), []
    for number in count(1):
        places = count(1)

        def stop(place: str, number: int = number, places: Iterator[int] = places) -> None:
            if next(places) == number:
                raise Stopped

        with monkeypatch.context() as patch:
            patch.setattr(MODULES[engine], "reached", stop)
            try:
                retire(season.warehouse, GONE, season.lake_id, "")
            except Stopped:
                outcomes.append(state(season) == before)
            else:
                break
    assert len(outcomes) >= (2 if engine == "bigquery" else 6)
    assert all(outcomes[:-1]), "nothing before the commit can be seen"
    assert not outcomes[-1], "the last place is behind the commit"
    assert in_warehouse(season.warehouse, OTHERS) == {}


@pytest.mark.parametrize("engine", ["bigquery"])
def test_of_a_script_that_ends_midway_the_books_still_name_what_is_to_be_removed(
    season: Shelf, stand_in: BigQueryStandIn
) -> None:
    (rows, books), _ = state(season)
    ends = 0

    def fault(job: Any, number: int) -> ErrorResponse | None:
        dropping = "DROP TABLE" in job["configuration"].get("query", {}).get("query", "")
        return ErrorResponse(400, "stopped", "no") if dropping and number == 4 else None

    stand_in.jobs.fault = fault
    # It ends before the second table is dropped, and then before the books are changed.
    while set(there(season, *GONE).values()) != {None}:
        with pytest.raises(WarehouseError, match="no"):
            retire(season.warehouse, GONE, season.lake_id, "")
        ends += 1
        assert season.books() == books
        assert set(in_warehouse(season.warehouse, OTHERS)) == set(GONE)
        assert season.rows("fact_kept") == rows["fact_kept"]
    assert ends == 2
    retire(season.warehouse, GONE, season.lake_id, "")
    assert in_warehouse(season.warehouse, OTHERS) == {}
    assert there(season, "fact_game_current") == {"fact_game_current": None}


@pytest.mark.parametrize("engine", ["bigquery"])
def test_while_another_load_comes_first_nothing_is_dropped(season: Shelf) -> None:
    def overtaken() -> None:
        with season.warehouse.session() as session:
            statements = session.retire(GONE)
            season.put("dim_day", (1, 2024), (2, 2024), (3, 2024))
            season.load()
            session.commit(statements, "a test")

    with pytest.raises(WarehouseError, match="another load changed the warehouse meanwhile: run again"):
        overtaken()
    assert there(season, *GONE, "fact_game_current") == {
        "dim_team": "table", "fact_game": "table", "fact_game_current": "view",
    }  # fmt: skip


def test_a_table_that_is_called_like_the_view_of_another_one_stays(shelf: Callable[..., Shelf]) -> None:
    namesake = Dimension("dim_team_current", "", "id", [Column("id", "int")])
    here = shelf(TEAM, namesake)
    here.put("dim_team", ("blue", None))
    here.put("dim_team_current", (1,))
    here.load()
    found = in_warehouse(here.warehouse, {"dim_team_current"})
    assert found == {"dim_team": InWarehouse(["dim_team"], {"loads": 1})}
    retire(here.warehouse, ["dim_team"], here.lake_id, "")
    assert there(here, "dim_team", "dim_team_current") == {"dim_team": None, "dim_team_current": "table"}
    assert here.rows("dim_team_current") == [(1, False)]


@pytest.mark.parametrize("engine", ["duckdb"])
def test_a_table_of_somebody_else_is_not_ours_to_retire(season: Shelf) -> None:
    with duckdb.connect(str(season.folder / "warehouse.duckdb")) as connection:
        connection.execute("CREATE TABLE star.of_somebody AS SELECT 1 AS one")
    assert in_warehouse(season.warehouse, season.tables) == {}
    retire(season.warehouse, GONE, season.lake_id, "")
    assert there(season, "of_somebody") == {"of_somebody": "table"}


@pytest.mark.parametrize("engine", ["postgres"])  # the others let a view lead nowhere
def test_a_view_of_an_analyst_on_it_is_named_and_nothing_is_removed(
    season: Shelf,
) -> None:
    url: str = season.warehouse.url  # type: ignore[attr-defined]
    execute(url, "CREATE VIEW public.cities AS SELECT city FROM star.dim_team")
    before = state(season)
    with pytest.raises(
        WarehouseError, match=r"view cities depends on table .*drop what depends on it"
    ) as caught:
        retire(season.warehouse, GONE, season.lake_id, "")
    assert "\n" not in str(caught.value)
    assert state(season) == before


def shows(star: StarFiles, table: StarTable, other: StarTable) -> None:
    """Whether the lake holds a table as one thing, and as nothing else that it may be declared as."""
    shown = star.shown(table)
    assert shown
    assert [shown.path] == star.paths(table) == star.paths_of_any(table.name)
    assert (star.shown(other), star.paths(other)) == (None, [])


def test_what_was_a_fact_can_be_a_dimension_and_a_fact_again(shelf: Callable[..., Shelf]) -> None:
    fact = Fact("thing", "", "id", [Column("id", "int"), Column("name", "text")], record="thing_record_id")
    dimension = Dimension("thing", "", "id", [Column("id", "int"), Column("name", "text")])
    here = shelf(fact)
    here.put("thing", (1, 7, "a"))
    here.load()
    assert there(here, "thing", "thing_current") == {"thing": "table", "thing_current": "view"}
    now = here.declared(dimension)
    shows(now.star, fact, dimension)
    with pytest.raises(WarehouseError, match="the lake's thing is not up to date"):
        now.load()
    now.put("thing", (7, "b"))
    now.load()
    assert there(here, "thing", "thing_current") == {"thing": "table", "thing_current": None}
    assert now.rows("thing") == [(7, "b", False)]
    shows(now.star, dimension, fact)
    assert retired.in_lake(now.star, now.tables) == {}
    # It is declared as a fact again: what it was can be retired before it is made.
    assert [held.now for held in retired.in_lake(now.star, here.tables).values()] == ["fact"]
    retired.remove(now.star, retired.in_lake(now.star, here.tables))
    assert now.star.paths_of_any("thing") == []
    # Whatever is left of it goes with a later batch.
    here.put("thing", (1, 7, "c"), batch=2)
    shows(here.star, fact, dimension)
    assert len(here.lake.names("star/thing")) == 1
    here.load()
    assert there(here, "thing", "thing_current") == {"thing": "table", "thing_current": "view"}
    assert here.rows("thing") == [(1, 7, "c", 2, False)]


def test_the_books_say_what_is_held_and_where_stand_ins_are(season: Shelf) -> None:
    noted = season.warehouse.noted()
    assert {name: (held.rows, held.batch, held.version) for name, held in noted.tables.items()} == {
        "dim_day": (2, 1, season.versions["dim_day"]),
        "dim_team": (2, 1, season.versions["dim_team"]),
        "fact_game": (3, 2, season.versions["fact_game"]),
        "fact_kept": (3, 2, season.versions["fact_kept"]),
    }
    assert {held.run_id for held in noted.tables.values()} == {"a test"}
    assert noted.stand_ins == {"dim_team": 1}
    assert season.warehouse.held() == noted.tables


# -- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def original(
    module_database: Callable[..., str],
    template: Callable[..., str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Flow:
    """Lake and warehouse after the first batch."""
    flow = Flow(module_database(template("bicycles")), tmp_path_factory.mktemp("retire") / "data")
    assert flow.run().success
    return flow


@pytest.fixture
def flow(original: Flow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flow:
    """A copy of it, to be changed."""
    copied = Flow(original.url, tmp_path / "data")
    shutil.copytree(original.data, copied.data)
    use(monkeypatch, copied.data, **copied.environment)
    return copied


def star_of(flow: Flow) -> StarFiles:
    files = LocalFiles(flow.lake)
    return StarFiles(files, Batches(files))


@pytest.fixture
def left(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> Flow:
    """A dimension is declared no longer, and a fact that was never loaded; another table was a fact once."""
    (paid,) = star_files(flow.lake, "fact_payment")
    star = star_of(flow)
    as_payment = star.table("fact_payment")
    assert as_payment
    for name in ("fact_gone", "dim_bike"):
        place = f"star/{name}/000001-0a0b0c0d0e0f.parquet"
        (flow.lake / place).parent.mkdir(exist_ok=True)
        shutil.copy(paid, flow.lake / place)
        file = as_payment.files[0].model_copy(update={"path": place})
        star.publish({name: as_payment.model_copy(update={"files": (file,)})}, 1)
    (flow.lake / "star/baselines").mkdir()
    (flow.lake / "star/baselines/fact_gone.json").write_text('{"batch": "000001"}')
    (flow.lake / "current/trials").mkdir(parents=True, exist_ok=True)
    (flow.lake / "current/trials/dim_station.json").write_text("{}")
    monkeypatch.delitem(INPUTS.star, "dim_station")
    return flow


def told(done: Result) -> Any:
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def contents(flow: Flow) -> tuple[Any, ...]:
    return flow.files(), flow.dump(), flow.query("FROM star.loads ORDER BY ALL")


def of(files: Mapping[str, Any], *starts: str) -> set[str]:
    return {path for path in files if path.startswith(starts)}


def without(files: Mapping[str, Any], goes: set[str], now: Mapping[str, Any]) -> bool:
    """Whether of some files these are gone and all others are as they were; but for a manifest of the star that came."""
    (come,) = now.keys() - files.keys()
    assert re.fullmatch(r"star/batches/[0-9]{6}-[0-9]+\.json", come)
    assert {path: at for path, at in files.items() if path not in goes} == {
        path: at for path, at in now.items() if path != come
    }
    return True


GOES = ("star/dim_station/", "star/fact_gone/", "star/dim_bike/000001-0a0b", "star/baselines/")


def test_it_is_said_what_would_be_removed_and_nothing_is_changed(left: Flow) -> None:
    before = contents(left)
    size, paid = (star_files(left.lake, name)[0].stat().st_size for name in ("dim_station", "fact_payment"))
    found = told(etl("retire", "--json"))
    assert found == {
        "removed": False,
        "tables": {
            "dim_station": {
                "lake": {
                    "files": 1,
                    "bytes": size,
                    "notes": ["current/trials/dim_station.json"],
                    "declared_as": None,
                },
                "warehouse": {"places": ["dim_station"], "rows": {"loads": 1}},
            },
            "dim_bike": {
                "lake": {"files": 1, "bytes": paid, "notes": [], "declared_as": "dimension"},
                "warehouse": None,
            },
            "fact_gone": {
                "lake": {
                    "files": 1,
                    "bytes": paid,
                    "notes": ["star/baselines/fact_gone.json"],
                    "declared_as": None,
                },
                "warehouse": None,
            },
        },
    }
    done = etl("retire")
    assert done.exit_code == 0
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines[0] == "table in would be removed"
    assert "dim_station warehouse star.dim_station; 1 row of star.loads" in lines
    assert any(
        re.fullmatch(rf"dim_station lake 1 file, {size} B; current/trials/dim_station.json", line)
        for line in lines
    )
    assert any(
        re.fullmatch(r"dim_bike lake 1 file, .*; it is a dimension now, which the next run makes", line)
        for line in lines
    )
    assert lines[-1] == "nothing was changed; --yes removes it"
    assert contents(left) == before


def test_what_is_no_longer_declared_goes_and_all_else_stays(
    left: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, rows, loads = contents(left)
    found = told(etl("retire", "--yes", "--json"))
    assert (found["removed"], list(found["tables"])) == (True, ["dim_bike", "dim_station", "fact_gone"])
    goes = of(files, *GOES) | {"current/trials/dim_station.json"}
    assert len(goes) == 5
    assert without(files, goes, left.files())
    listed = star_of(left).manifest
    assert listed
    assert set(listed.tables) == {*INPUTS.star} - {"dim_bike"}
    assert not (left.lake / "star/fact_gone").exists()
    assert left.query("FROM star.loads ORDER BY ALL") == [row for row in loads if row[0] != "dim_station"]
    with pytest.raises(duckdb.CatalogException, match="dim_station"):
        left.dump()
    done = etl("retire", "--yes")
    assert (done.exit_code, done.stdout) == (
        0,
        "nothing to retire: all star tables in lake and warehouse are declared\n",
    )
    assert told(etl("retire", "--json")) == {"removed": False, "tables": {}}
    # What is declared again is made again.
    monkeypatch.undo()
    assert left.run().success
    assert left.dump() == rows


def test_only_what_is_named_goes_and_what_can_not_is_refused_before_anything_is_removed(left: Flow) -> None:
    before = contents(left)
    for names, line in (
        (["dim_station", "dim_date"], "dim_date is still declared: take its declaration away first"),
        (["fact_gone", "moon"], "there is no moon in lake or warehouse"),
        (
            ["moon", "dim_date"],
            "dim_date is still declared: take its declaration away first; there is no moon",
        ),
    ):
        done = etl("retire", "--yes", *names)
        assert (done.exit_code, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
        assert done.stderr.startswith(f"etl: {line}")
    assert contents(left) == before
    assert list(told(etl("retire", "--yes", "--json", "dim_bike", "fact_gone"))["tables"]) == [
        "dim_bike",
        "fact_gone",
    ]
    assert without(before[0], of(before[0], *GOES[1:]), left.files())
    assert left.dump() == before[1]
    assert list(told(etl("retire", "--json"))["tables"]) == ["dim_station"]


@pytest.mark.parametrize("command", [("retire", "--yes"), ("repair",)])
def test_what_is_another_project_s_is_left_alone(
    flow: Flow, command: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of its tables is declared in this one; and none of its rows would be found in the source."""
    damaged = next((flow.lake / "raw/bike").glob("*.csv"))
    damaged.write_bytes(damaged.read_bytes()[:-9])
    before = contents(flow)
    monkeypatch.delenv("ETL_PROJECT")
    done = etl(*command)
    assert (done.exit_code, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert "is that of the project bicycles, and this is totesys" in done.stderr
    assert contents(flow) == before


def test_interrupted_between_warehouse_and_lake_it_is_finished_by_the_next_one(left: Flow) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    files = left.files()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retired, "remove", interrupted)
        done = etl("retire", "--yes")
    assert (done.exit_code, done.stderr.startswith("etl: interrupted")) == (130, True)
    assert left.files() == files
    found = told(etl("retire", "--yes", "--json"))["tables"]
    assert found["dim_station"]["warehouse"] is None
    assert found["dim_station"]["lake"]["files"] == 1
    assert told(etl("retire", "--json"))["tables"] == {}


def test_while_somebody_has_the_warehouse_open_nothing_is_removed(left: Flow) -> None:
    files = left.files()
    script = (
        "import duckdb, sys; c = duckdb.connect('data/warehouse.duckdb'); print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout
        writer.stdout.readline()
        done = etl("retire", "--yes")
        status = told(etl("status", "--json"))
        writer.communicate()
    assert (done.exit_code, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert "can't open the warehouse" in done.stderr
    assert left.files() == files
    # The status says what it can see.
    assert status["warehouse"]["in_use"]
    assert status["star"]["tables"]["dim_date"] == {
        "lake": "000001",
        "warehouse": None,
        "newest": True,
        "why": None,
    }
    assert status["star"]["no_longer_declared"]["dim_station"] == ["lake"]


def test_where_there_is_nothing_nothing_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, tmp_path / "data")
    for arguments in (["retire"], ["retire", "--yes"]):
        done = etl(*arguments)
        assert (done.exit_code, len(done.stdout.splitlines())) == (0, 1)
    assert told(etl("status", "--json"))["star"] == {"tables": {}, "no_longer_declared": {}}
    assert list(tmp_path.iterdir()) == []


# -- status ----------------------------------------------------------------------------------------------------------


def test_status_names_what_is_to_be_retired(left: Flow) -> None:
    before = contents(left)
    found = told(etl("status", "--json"))["star"]
    assert found["no_longer_declared"] == {
        "dim_station": ["lake", "warehouse"],
        "dim_bike": ["lake"],
        "fact_gone": ["lake"],
    }
    done = etl("status")
    assert (
        "no longer declared: star/dim_bike as what it was before in the lake; "
        "star/dim_station in the lake, in the warehouse; star/fact_gone in the lake: etl retire removes them\n"
    ) in done.stdout
    assert contents(left) == before
    assert etl("retire", "--yes").exit_code == 0
    assert "no longer declared" not in etl("status").stdout
    assert told(etl("status", "--json"))["star"]["no_longer_declared"] == {}


def behind(star: Mapping[str, Any]) -> dict[str, tuple[str | None, str | None, str | None]]:
    return {
        name: (one["lake"], one["warehouse"], one["why"])
        for name, one in star["tables"].items()
        if not one["newest"]
    }


def test_status_names_star_tables_that_do_not_show_the_newest_batch(bicycles: str, tmp_path: Path) -> None:
    flow = Flow(bicycles, tmp_path / "data")
    older = "the lake shows an older batch of it, or what other code made"
    unloaded = "the warehouse does not show what the lake does"
    with pytest.MonkeyPatch.context() as patch:
        use(patch, flow.data, **flow.environment)
        assert flow.run("raw").success
        found = told(etl("status", "--json"))["star"]
        assert set(behind(found)) == set(INPUTS.star)
        assert behind(found)["dim_bike"] == (None, None, "the lake has no file of it that can be read")
        assert flow.run().success
        assert behind(told(etl("status", "--json"))["star"]) == {}
        assert "at the newest batch: 5 of 5 star tables\n" in etl("status").stdout

        execute(flow.url, "UPDATE bike SET model = 'other'")
        assert flow.run("raw").success
        found = told(etl("status", "--json"))["star"]
        assert behind(found) == {"dim_bike": ("000001", "000001", older)}
        assert found["tables"]["dim_station"] == {
            "lake": "000001",
            "warehouse": "000001",
            "newest": True,
            "why": None,
        }
        shown = etl("status").stdout
        assert "at the newest batch: 4 of 5 star tables\n" in shown
        assert re.search(rf"^dim_bike +000001 +000001 +{older}$", shown, re.MULTILINE)

        assert flow.run("star").success
        assert behind(told(etl("status", "--json"))["star"]) == {"dim_bike": ("000002", "000001", unloaded)}
        assert flow.run().success
        assert behind(told(etl("status", "--json"))["star"]) == {}
        # Damaged, and by the hand of somebody.
        star_files(flow.lake, "dim_bike")[0].write_bytes(b"PAR1")
        flow_query = "UPDATE star.loads SET version = 'other' WHERE table_name = 'fact_payment'"
        with duckdb.connect(str(flow.data / "warehouse.duckdb")) as connection:
            connection.execute(flow_query)
        assert behind(told(etl("status", "--json"))["star"]) == {
            "dim_bike": (None, "000002", "the lake has no file of it that can be read"),
            "fact_payment": ("000001", "000001", unloaded),
        }


def test_status_counts_stand_ins_by_dimension(flow: Flow) -> None:
    assert told(etl("status", "--json"))["warehouse"]["stand_ins"] == {}
    with duckdb.connect(str(flow.data / "warehouse.duckdb")) as connection:
        connection.execute("INSERT INTO star.inferred_members VALUES ('dim_bike', '98'), ('dim_bike', '99')")
    assert told(etl("status", "--json"))["warehouse"]["stand_ins"] == {"dim_bike": 2}
    shown = etl("status").stdout
    assert re.search(r"^table +rows +batch +loaded at \(UTC\) +stand-ins$", shown, re.MULTILINE)
    assert re.search(r"^dim_bike +40 +000001 +\S+ \S+ +2$", shown, re.MULTILINE)
    assert re.search(r"^dim_station +8 +000001 +\S+ \S+ +-$", shown, re.MULTILINE)


def test_status_does_without_what_can_not_be_told(flow: Flow) -> None:
    """A source table is declared that no batch has read yet."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Frames, "version", refused)
        found = told(etl("status", "--json"))["star"]["tables"]
    assert {one["newest"] for one in found.values()} == {False}
    assert {one["lake"] for one in found.values()} == {"000001"}


def refused(*_: object) -> str:
    raise LakeError("the lake holds nothing of the source's table moon")


def test_it_is_the_same_with_the_lake_in_a_bucket_and_the_warehouse_in_postgresql(
    bicycles: str, database: Callable[..., str], tmp_path: Path
) -> None:
    with kept_in("gs", tmp_path / "copies") as store, pytest.MonkeyPatch.context() as patch:
        elsewhere = {"ETL_LAKE_URL": store.url, "ETL_WAREHOUSE_URL": database()}
        flow = Flow(bicycles, tmp_path / "data", elsewhere)
        assert flow.run().success
        use(patch, flow.data, **flow.environment)
        store.fill(["star/fact_gone/000001-0a0b0c0d0e0f.parquet", "star/baselines/fact_gone.json"])
        patch.delitem(INPUTS.star, "dim_station")
        before = store.everything()
        known = told(etl("status", "--json"))["star"]
        assert known["no_longer_declared"] == {
            "dim_station": ["lake", "warehouse"],
            "fact_gone": ["lake"],
        }
        assert behind(known) == {}
        assert list(told(etl("retire", "--json"))["tables"]) == ["dim_station", "fact_gone"]
        assert store.everything() == before
        assert etl("retire", "--yes").exit_code == 0
        goes = of(before, *GOES) | of(before, "current/trials/dim_station.json")
        assert without(before, goes, store.everything())
        assert told(etl("retire", "--yes", "--json"))["tables"] == {}
        assert told(etl("status", "--json"))["star"]["no_longer_declared"] == {}
