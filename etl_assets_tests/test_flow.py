"""From source to warehouse: what arrives is the source, exactly, batch after batch, and nothing is ever lost."""

import datetime as dt
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import duckdb
import psycopg2
import pytest

from etl_assets.lake import current
from etl_assets.lake.opening import open_files
from etl_assets_tests.flow import Flow, Run, assert_calendar, assert_equal_to, execute
from etl_assets_tests.hiring import BICYCLES, play_day
from etl_assets_tests.oracle import Moment

UNREFERRED = 9001
_DAYS = (3, 11)  # seeds


@dataclass(frozen=True)
class Step:
    """A run, the source that it saw, and all files of the lake after it: path -> size, time, SHA-256."""

    run: Run
    source: Moment
    files: Mapping[str, tuple[int, int, str]]


@dataclass(frozen=True)
class History:
    flow: Flow
    steps: Sequence[Step]

    @property
    def changing(self) -> list[tuple[Moment, Moment, int]]:
        """The source before and after, and the batch that must have brought the difference."""
        return [
            (before.source, after.source, number)
            for number, (before, after) in enumerate(zip(self.steps[:-2], self.steps[1:-1], strict=True), 2)
        ]


@pytest.fixture(scope="module", autouse=True)
def eager_compaction() -> Iterator[None]:
    """Let a lake of this size keep bases, as one of millions of rows does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(current, "_COMPACT_ROWS", 1)
        yield


@pytest.fixture(scope="module")
def history(
    module_database: Callable[..., str],
    template: Callable[..., str],
    tmp_path_factory: pytest.TempPathFactory,
) -> History:
    """A first run, days of business with a run after each, and a run without any change."""
    flow = Flow(module_database(template("bicycles")), tmp_path_factory.mktemp("history"))
    execute(flow.url, "insert into station values (%s, '', null, '01138', now())", UNREFERRED)
    steps = [take(flow)]
    for number, seed in enumerate(_DAYS, 2):
        if number == 3:
            execute(flow.url, "delete from station where station_id = %s", UNREFERRED)
            leave_strays(flow.lake)
        play_day(flow.url, seed=seed)
        steps.append(take(flow))
    steps.append(take(flow))
    return History(flow, steps)


def take(flow: Flow) -> Step:
    source = flow.moment
    run = flow.run()
    assert run.success, run.error_lines
    return Step(run, source, flow.files())


def leave_strays(lake: Path) -> None:
    """What a killed run or a careless hand leaves behind."""
    for stray in ("raw/bike/000099.csv", "raw/bike/000003.csv", "raw/station/000002.deleted.csv"):
        (lake / stray).write_text("bike_id,model\n1,Nobody's\n")
    for stray in ("star/.unfinished-abcdim_bike.parquet", "star/fact_payment/.unfinished-abc000003.parquet"):
        (lake / stray).write_bytes(b"PAR1 half a file")


# -- equality with the source ----------------------------------------------------------------------------------------


def test_after_days_of_business_the_star_equals_what_postgresql_computes(history: History) -> None:
    assert_equal_to(history.steps[-1].source, history.flow)


def test_the_raw_batches_tell_every_state_that_the_source_was_captured_in(history: History) -> None:
    assert list(history.flow.folds()) == [step.source.content for step in history.steps[:-1]]


def test_dim_date_has_every_day_of_the_whole_history(history: History) -> None:
    used = frozenset().union(*(step.source.used_dates for step in history.steps))
    assert_calendar(used, history.flow)
    days = [day for (day,) in history.flow.query("SELECT date_id FROM star.dim_date ORDER BY 1")]
    assert days == [min(used) + dt.timedelta(days=n) for n in range((max(used) - min(used)).days + 1)]


def test_day_of_week_is_iso(history: History) -> None:
    found = history.flow.query("SELECT date_id, day_of_week, day_name FROM star.dim_date")
    assert {(day.isoweekday(), day.strftime("%A")) for day, _, _ in found} == {
        (n, name) for _, n, name in found
    }
    assert all(number == day.isoweekday() for day, number, _ in found)


@pytest.mark.parametrize(
    ("fact", "column", "table"),
    [
        ("fact_payment", "amount", "payment"),
        ("fact_hire", "price", "hire"),
        ("fact_hire", "minutes * price", "hire"),
    ],
)
def test_amounts_add_up_to_the_cent(history: History, fact: str, column: str, table: str) -> None:
    with closing(psycopg2.connect(history.flow.url)) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT sum({column}) FROM {table}")
        (expected,) = cursor.fetchone() or (None,)
    ((found,),) = history.flow.query(f"SELECT sum({column}) FROM star.{fact}_current")
    assert isinstance(found, Decimal)
    assert found == expected


# -- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.fault("F24")
def test_a_run_without_change_takes_no_batch_and_writes_nothing(history: History) -> None:
    before, after = history.steps[-2:]
    assert after.files == before.files
    assert len(history.flow.manifests()) == 1 + len(_DAYS)


def test_a_run_without_change_materializes_every_asset_as_unchanged(history: History) -> None:
    before, after = history.steps[-2:]
    main = {f"raw/{table}" for table in BICYCLES.tables} | {
        f"{stage}/{name}" for stage in ("star", "warehouse") for name in history.flow.tables
    }
    assert set(after.run.materializations) == main
    unchanged = {key: made.metadata["unchanged"].value for key, made in after.run.materializations.items()}
    assert unchanged == dict.fromkeys(main, True)
    assert after.run.versions == before.run.versions


def test_a_changed_table_gets_a_new_data_version_and_an_unchanged_one_keeps_it(history: History) -> None:
    for (before, after, _), earlier, later in zip(
        history.changing, history.steps[:-2], history.steps[1:-1], strict=True
    ):
        for table in BICYCLES.tables:
            same_version = earlier.run.versions[f"raw/{table}"] == later.run.versions[f"raw/{table}"]
            assert same_version == (before.content[table] == after.content[table]), table


def test_a_batch_brings_exactly_what_changed(history: History) -> None:
    seen: Counter[str] = Counter()
    for before, after, batch in history.changing:
        (manifest,) = [m for m in history.flow.manifests() if m["batch"] == batch]
        brought = history.flow.changes(manifest)
        for table in BICYCLES.tables:
            old, new = before.content[table], after.content[table]
            changed = {key for key, row in new.items() if old.get(key) != row}
            changes = brought.get(
                table, {"rows": None, "deletions": None, "new": 0, "changed": 0, "deleted": 0}
            )
            landed = [int(str(row[f"{table}_id"])) for row in history.flow.landed(changes["rows"])]
            gone = [int(str(row[f"{table}_id"])) for row in history.flow.landed(changes["deletions"])]
            assert sorted(landed) == sorted(changed), (batch, table)
            assert sorted(gone) == sorted(old.keys() - new.keys()), (batch, table)
            counts = (changes["new"], changes["changed"], changes["deleted"])
            assert counts == (len(new.keys() - old.keys()), len(changed & old.keys()), len(gone))
            silent = [k for k in changed & old.keys() if old[k]["last_updated"] == new[k]["last_updated"]]
            seen.update(new=counts[0], changed=counts[1], deleted=counts[2], silent=len(silent))
    assert min(seen.values()) > 3, seen  # otherwise nothing was tested


@pytest.mark.fault("F28")
def test_a_fact_holds_old_and_new_version_of_what_changed_and_records_deletions(history: History) -> None:
    for fact, (table, record) in BICYCLES.facts.items():
        key = f"{table}_id"
        columns = history.steps[0].source.star[fact].columns
        versions: list[tuple[object, ...]] = []
        states = [step.source for step in history.steps[:-1]]
        for number, state in enumerate(states, 1):
            now = {row[0]: row for row in state.star[fact].rows}
            old = states[number - 2].content[table] if number > 1 else {}
            last = {row[0]: row for row in states[number - 2].star[fact].rows} if number > 1 else {}
            new = state.content[table]
            arrived = [(*now[k], False) for k in new if old.get(k) != new[k]]
            gone = [(*last[k], True) for k in old if k not in new]
            brought = sorted([*arrived, *gone], key=lambda row: row[0])  # type: ignore[arg-type,return-value]
            versions += [(len(versions) + n, number, *row) for n, row in enumerate(brought, 1)]
        found = history.flow.query(
            f"SELECT {record}, batch, {', '.join(columns)}, deleted FROM star.{fact} ORDER BY {record}"
        )
        assert found == versions, fact
        counts = Counter(row[2] for row in found)
        assert any(count > 1 for count in counts.values()), f"no {key} ever changed"


def test_a_dimension_member_that_is_gone_stays_with_its_last_values_flagged(history: History) -> None:
    assert history.flow.query("SELECT station_id, name, city, phone FROM star.dim_station WHERE deleted") == [
        (UNREFERRED, "", None, "01138")
    ]
    states = [step.source.content["bike"] for step in history.steps]
    sold = set().union(*states) - set(states[-1])
    gone = history.flow.query(
        "SELECT DISTINCT bike_id FROM star.dim_bike JOIN star.fact_hire USING (bike_id) WHERE dim_bike.deleted"
    )
    assert {key for (key,) in gone} == sold, "hires refer to them all"
    assert sold


def test_committed_files_never_change_and_are_what_their_manifests_list(history: History) -> None:
    final = history.steps[-1].files
    listed = {}
    for manifest in history.flow.manifests():
        for changes in history.flow.changes(manifest).values():
            for file in filter(None, (changes["rows"], changes["deletions"])):
                listed[file["path"]] = file
                assert file["rows"] == len(history.flow.landed(file))
    assert {path: (f["bytes"], f["sha256"]) for path, f in listed.items()} == {
        path: (final[path][0], final[path][2]) for path in listed
    }
    for step in history.steps:
        known = {
            path: file
            for path, file in step.files.items()
            if path in listed or path.removeprefix("raw/batches/").removesuffix(".json").isdigit()
        }
        assert known == {path: final[path] for path in known}


def test_what_no_manifest_lists_is_ignored(history: History) -> None:
    left = ("raw/bike/000099.csv", "raw/bike/000003.csv", "raw/station/000002.deleted.csv")
    assert all(path in history.steps[-1].files for path in left)
    assert_equal_to(history.steps[-1].source, history.flow)
    assert history.flow.query("SELECT * FROM star.dim_bike WHERE model = 'Nobody''s'") == []


def test_a_file_in_the_making_is_not_met_by_those_who_read_all_parquet_files(tmp_path: Path) -> None:
    staged = open_files(str(tmp_path), tmp_path).staging("star/fact_payment/000001.parquet")
    staged.local.write_bytes(b"half")
    assert duckdb.execute("FROM glob(?)", [f"{tmp_path}/star/*/*.parquet"]).fetchall() == []
    staged.publish()
    assert len(duckdb.execute("FROM glob(?)", [f"{tmp_path}/star/*/*.parquet"]).fetchall()) == 1


# -- rebuilding (the last test, because it starts the star anew) ---------------------------------------------------


@pytest.mark.fault("F17")
def test_a_rebuild_from_all_batches_gives_what_the_increments_gave_surrogate_keys_included(
    history: History,
) -> None:
    flow = history.flow
    warehouse, lake = flow.dump(), flow.lake_dump()
    raw = {path: digest for path, (_, _, digest) in flow.files("raw").items()}
    for folder in ("star", "current"):
        shutil.rmtree(flow.lake / folder)
    (flow.data / "warehouse.duckdb").unlink()
    assert not flow.files("current")
    run = flow.run()
    assert run.success, run.error_lines
    assert flow.dump() == warehouse
    assert flow.lake_dump() == lake
    assert {path: digest for path, (_, _, digest) in flow.files("raw").items()} == raw
