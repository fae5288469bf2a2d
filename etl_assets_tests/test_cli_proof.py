"""`etl verify`, `explain`, `history` and `quarantine`: without these, a copy that was tampered with may pass as equal,
and what is told of a row may be true of another.
"""

import csv
import hashlib
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import psycopg2
import pytest

from etl_assets.proof.explain import line_of
from etl_assets.proof.history import facts_then
from etl_assets_tests.commands import etl, use
from etl_assets_tests.flow import Flow, exact, execute
from etl_assets_tests.hiring import play_day
from etl_assets_tests.lake_layout import landed, star_files
from etl_assets_tests.test_verify import rewritten

HOPS = {"manifests", "files", "raw", "star", "warehouse", "exports", "source"}
CHANGED, DELETED, AFTER_NEWLINES = 7, 9, 905


def told(*arguments: str) -> Any:
    """What a command that ends well says in JSON."""
    done = etl(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@dataclass(frozen=True)
class Kept:
    """A flow of three batches, and the star as analysts saw it after the first."""

    flow: Flow
    first: Mapping[str, list[tuple[Any, ...]]]


def seen(flow: Flow) -> Mapping[str, list[tuple[Any, ...]]]:
    """What there is now: of facts the current versions, of dimensions all members."""
    facts = flow.model.facts
    tables = {name: f"star.{name}_current" if name in facts else f"star.{name}" for name in flow.tables}
    return {
        name: flow.query(f"FROM {table} ORDER BY {'2' if 'fact' in name else '1'}")
        for name, table in tables.items()
    }


@pytest.fixture(scope="module")
def kept(
    module_database: Callable[..., str],
    template: Callable[..., str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Kept]:
    flow = Flow(module_database(template("bicycles")), tmp_path_factory.mktemp("proof") / "data")
    execute(
        flow.url,
        """insert into station values (904, E'two\nlines', E'"\n\r', '', now()), (905, 'five, "905"', null, '', now())""",
    )
    with pytest.MonkeyPatch.context() as patch:
        use(patch, flow.data, **flow.environment)
        assert flow.run().success
        first = seen(flow)
        play_day(flow.url, seed=4, hires=10)
        execute(flow.url, "update hire set minutes = 12345 where hire_id = %s", CHANGED)
        execute(flow.url, "update station set city = 'Leeds' where station_id = 1")
        execute(flow.url, "delete from hire where hire_id = %s", DELETED)
        assert flow.run().success
        execute(flow.url, "update hire set minutes = 54321 where hire_id = %s", CHANGED)
        assert etl("run", "--whole").exit_code == 0
        yield Kept(flow, first)


@pytest.fixture
def flow(kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flow:
    """A copy of what is kept, to be spoilt."""
    copied = Flow(kept.flow.url, tmp_path / "data")
    shutil.copytree(kept.flow.data, copied.data, ignore=shutil.ignore_patterns("dagster"))
    use(monkeypatch, copied.data, **copied.environment)
    return copied


# -- run -------------------------------------------------------------------------------------------------------------


@pytest.mark.places
def test_whole_reads_every_table_whole(kept: Kept) -> None:
    batches = kept.flow.manifests()
    assert {state["read"] for state in batches[1]["tables"].values()} == {"horizon"}
    assert {(s["read"], s["why"]) for s in batches[2]["tables"].values()} == {("whole", "asked for")}
    assert list(kept.flow.changes(batches[2])) == ["hire"]


def test_whole_needs_something_to_compare(flow: Flow) -> None:
    done = etl("run", "--whole", "--select", "exports/takings")
    assert done.exit_code == 2
    assert "raw, star or warehouse" in done.stderr


# -- verify ----------------------------------------------------------------------------------------------------------


def without_notes(files: Mapping[str, Any]) -> dict[str, Any]:
    return {name: at for name, at in files.items() if not name.endswith("verified.json")}


def test_an_undisturbed_flow_is_equal_at_every_hop_and_after_a_rebuild(flow: Flow) -> None:
    before = flow.files()
    found = told("verify", "--thorough", "--rebuild")
    assert found["equal"]
    assert (found["batch"], found["not_compared"]) == ("000003", [])
    by_hop: dict[str, set[str]] = {}
    for one in found["comparisons"]:
        assert one["equal"], one
        by_hop.setdefault(one["hop"], set()).add(one["table"])
    assert set(by_hop) == HOPS | {"rebuilt star", "rebuilt warehouse"}
    everything = {*flow.tables}
    assert by_hop["star"] == by_hop["warehouse"] - {"all tables"} == by_hop["rebuilt warehouse"] == everything
    assert by_hop["source"] == by_hop["raw"] == by_hop["files"] == set(flow.manifests()[0]["tables"])
    # Nothing changed but that it is noted which tables are verified as of which batch.
    assert without_notes(flow.files()) == without_notes(before)
    noted = json.loads((flow.lake / "raw/batches/000003.verified.json").read_text())
    assert noted["tables"].keys() == everything


def test_a_hash_that_was_kept_elsewhere_says_whether_a_manifest_is_still_the_same(flow: Flow) -> None:
    digest = hashlib.sha256((flow.lake / "raw/batches/000003.json").read_bytes()).hexdigest()
    found = told("verify", "--offline", "--expect", digest[:12])
    assert (found["manifest"], found["equal"]) == (digest, True)
    done = etl("verify", "2", "--expect", digest)
    assert done.exit_code == 1
    assert f"and was expected to be {digest}" in done.stdout
    assert etl("verify", "--expect", "latest").exit_code == 2


def test_of_an_older_batch_is_compared_what_is_kept_and_the_rest_is_named(flow: Flow) -> None:
    for thorough in ([], ["--thorough"]):
        found = told("verify", "1", *thorough)
        assert (found["batch"], found["equal"]) == ("000001", True)
        assert {one["table"] for one in found["comparisons"] if one["hop"] == "star"} == set(flow.model.facts)
        assert {one["hop"] for one in found["comparisons"]} == {"manifests", "files", "raw", "star"}
        (skipped,) = found["not_compared"]
        assert "dimensions, warehouse, source and exports" in skipped


def test_a_batch_that_is_not_there_is_one_line(flow: Flow) -> None:
    done = etl("verify", "000004")
    assert (done.exit_code, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert "no batch 000004; there are 000001 to 000003" in done.stderr
    assert etl("verify", "last").exit_code == etl("verify", "1", "--rebuild").exit_code == 2


def spoil_parquet(flow: Flow) -> None:
    query = "SELECT * REPLACE (minutes + (hire_id IN (11, 13))::INT AS minutes) FROM file ORDER BY 1"
    rewritten(flow.lake, "fact_hire", query)


def spoil_csv(flow: Flow) -> None:
    path = landed(flow.lake, "payment", 1)
    path.write_text(path.read_text("utf-8").replace(".", "7", 1), "utf-8")


def in_warehouse(statement: str) -> Callable[[Flow], None]:
    def change(flow: Flow) -> None:
        with duckdb.connect(str(flow.data / "warehouse.duckdb")) as connection:
            connection.execute(statement)

    return change


def forge(flow: Flow, table: str, key: int, change: Callable[[str], str | None]) -> None:
    """Change or drop a line of the first batch, and have all manifests vouch for the result."""
    path = landed(flow.lake, table, 1)
    lines = path.read_text("utf-8").splitlines()
    kept = [change(line) if line.startswith(f"{key},") else line for line in lines]
    path.write_text("".join(f"{line}\n" for line in kept if line), "utf-8")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for manifest in (flow.lake / "raw/batches").glob("??????.json"):
        content = json.loads(manifest.read_text())
        content["tables"][table]["rows"] -= kept.count(None)
        changes = content["tables"][table]["changes"]
        if changes and changes["rows"]["path"].endswith(path.name):
            changes["rows"]["sha256"] = digest
        manifest.write_text(json.dumps(content))


def forge_name(flow: Flow) -> None:
    forge(flow, "bike", 3, lambda line: line.replace(",", ",Forged ", 1))


def lose_a_row(flow: Flow) -> None:
    forge(flow, "payment", 17, lambda line: None)


@pytest.mark.parametrize(
    ("spoil", "options", "hop", "table", "says"),
    [
        (spoil_parquet, ["--offline"], "star", "fact_hire", "2 keys differ: hire_id 11: minutes is "),
        (spoil_csv, ["--offline"], "files", "payment", ".csv is not the file its manifest lists"),
        (
            in_warehouse("UPDATE star.fact_payment SET amount = 0 WHERE payment_id IN (4, 5)"),
            ["--offline"], "warehouse", "fact_payment", "2 keys differ: payment_record_id 4: amount is 0.00 and should be ",
        ),
        (in_warehouse("DROP TABLE star.dim_station"), ["--offline"], "warehouse", "dim_station", "does not have it"),
        (
            in_warehouse("UPDATE reporting.takings SET hires = hires + 1 WHERE station = 'Station 4' AND colour = 'red'"),
            ["--offline"], "exports", "takings", "1 key differs: station Station 4, colour red: hires is ",
        ),
        (forge_name, ["--thorough"], "source", "bike", "1 rows differ unexplained, key 3 to 3"),
        (lose_a_row, [], "source", "payment", "among key 17 to 17"),
        (
            lambda flow: star_files(flow.lake, "dim_station")[0].write_bytes(b"PAR1"),
            ["--offline"], "star", "dim_station", "bytes and should have",
        ),
        (
            lambda flow: (flow.data / "warehouse.duckdb").unlink(),
            ["--offline"], "warehouse", "fact_payment", "there is no warehouse",
        ),
    ],
)  # fmt: skip
def test_what_was_tampered_with_is_named(
    flow: Flow, spoil: Callable[[Flow], object], options: list[str], hop: str, table: str, says: str
) -> None:
    spoil(flow)
    done = etl("verify", *options)
    assert done.exit_code == 1
    (line,) = [line for line in done.stdout.splitlines() if line.startswith(f"{hop}, {table}: ")]
    assert says in line
    assert "\x1b" not in done.output
    assert " differ" in done.stdout.splitlines()[-1]
    if spoil is spoil_parquet:  # the hop after it differs from it, those before do not
        assert {line.split()[0] for line in done.stdout.splitlines() if line.endswith(" DIFFERENT")} == {
            "star",
            "warehouse",
        }
    assert (flow.data / "warehouse.duckdb").exists() or "no warehouse" in says


def test_a_source_that_is_away_does_not_hide_what_was_compared(
    flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETL_SOURCE_URL", "postgresql://reader:s3cret@localhost:1/shop")
    done = etl("verify")
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1].startswith(
        "etl: can't connect to postgresql://reader@localhost:1/shop"
    )
    assert "fact_payment" in done.stdout
    assert "s3cret" not in done.output


# -- explain ---------------------------------------------------------------------------------------------------------


def record_at(flow: Flow, arrival: Mapping[str, Any]) -> list[str]:
    """The record that begins at the line that is told, read by line feeds alone."""
    rest = (flow.lake / arrival["file"]).read_bytes().decode().split("\n")[arrival["line"] - 1 :]
    return next(csv.reader(io.StringIO("\n".join(rest), newline="")))


def test_a_row_is_followed_from_its_lines_to_its_versions(flow: Flow) -> None:
    story = told("explain", "hire", str(CHANGED))
    with closing(psycopg2.connect(flow.url)) as connection, connection.cursor() as cursor:
        cursor.execute("select to_jsonb(h) from hire h where hire_id = %s", (CHANGED,))
        (row,) = cursor.fetchone() or ()
    assert story["source"]["minutes"] == str(row["minutes"]) == "54321"
    assert list(story["source"]) == list(story["arrivals"][0]["values"])
    arrivals = story["arrivals"]
    assert [a["batch"] for a in arrivals] == ["000001", "000002", "000003"]
    assert [a["values"]["minutes"] for a in arrivals][1:] == ["12345", "54321"]
    for arrival in arrivals:
        assert record_at(flow, arrival) == [value or "" for value in arrival["values"].values()]
    versions = flow.query(
        f"SELECT hire_record_id, batch, minutes FROM star.fact_hire WHERE hire_id = {CHANGED} ORDER BY 1"
    )
    for where in ("star", "warehouse"):
        assert [(v["record"], int(v["batch"]), v["values"]["minutes"]) for v in story[where]] == versions
        assert [v["current"] for v in story[where]] == [False, False, True]
    assert [v["file"] for v in story["star"]] == [
        str(path.relative_to(flow.lake)) for path in star_files(flow.lake, "fact_hire")
    ]
    assert story["exports"] == ["takings"]

    shown = etl("explain", "hire", str(CHANGED))
    assert shown.exit_code == 0
    newest = landed(flow.lake, "hire", 3)
    assert f"{newest}:{arrivals[2]['line']}" in shown.stdout
    assert "changed: minutes 12345 > 54321" in shown.stdout
    assert "has it, as it was landed last" in shown.stdout


@pytest.mark.fault("F28")
def test_a_deleted_row_is_followed_to_its_end(flow: Flow) -> None:
    story = told("explain", "fact_hire", str(DELETED))
    assert (story["table"], story["source"]) == ("hire", None)
    assert [(a["batch"], a["deleted"]) for a in story["arrivals"]] == [("000001", False), ("000002", True)]
    gone = landed(flow.lake, "hire", 2, "deletions")
    assert story["arrivals"][1]["file"] == str(gone.relative_to(flow.lake))
    assert record_at(flow, story["arrivals"][1]) == [str(DELETED)]
    assert [(v["batch"], v["deleted"]) for v in story["warehouse"]] == [("000001", False), ("000002", True)]
    assert not any(v["current"] for v in story["star"])


@pytest.mark.parametrize("key", ["904", str(AFTER_NEWLINES)])
def test_lines_are_right_where_records_have_several(flow: Flow, key: str) -> None:
    story = told("explain", "dim_station", key, "--offline")
    (arrival,) = story["arrivals"]
    assert record_at(flow, arrival) == [value or "" for value in arrival["values"].values()]
    assert (arrival["values"]["phone"], story["asked_source"]) == ("", False)
    assert arrival["values"]["city"] == ('"\n\r' if key == "904" else None)


def test_a_composite_key_is_found_by_all_its_parts(tmp_path: Path) -> None:
    path = tmp_path / "000001.csv"
    path.write_bytes(b'a,note,b\n1,"x\n1,2,3\n",2\n1,,3\n"q""\n",y,3\n')
    assert [line_of(path, ["a", "b"], key) for key in (["1", "2"], ["1", "3"], ['q"\n', "3"])] == [2, 5, 6]


def test_what_a_row_is_looked_up_by_is_told(flow: Flow) -> None:
    story = told("explain", "station", "1")
    assert [a["values"]["city"] for a in story["arrivals"]][1] == "Leeds"
    assert (story["context_of"], story["exports"]) == (["dim_bike"], ["takings"])
    assert told("explain", "dim_date", "2024-03-05")["table"] is None


def test_the_source_being_ahead_is_said(flow: Flow) -> None:
    execute(flow.url, "update station set phone = phone || 'x' where station_id = 2")
    assert "since the newest batch, phone changed" in etl("explain", "station", "2").stdout
    execute(flow.url, "insert into station values (77, 'Later', null, 'x', now())")
    assert "no batch has it yet" in etl("explain", "station", "77").stdout
    assert told("verify")["equal"]


@pytest.mark.parametrize("key", ["999999", "7.0", "abc", "7' OR '1' = '1", "", "99999999999999999999"])
def test_a_key_that_never_was_is_exit_code_1(flow: Flow, key: str) -> None:
    done = etl("explain", "hire", key)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == f"etl: hire {key} was never seen\n"


def test_an_unknown_table_is_wrong_usage_that_lists_those_there_are(flow: Flow) -> None:
    for arguments in (
        ["explain", "moon", "1"],
        ["history", "moon", "--batch", "1"],
        ["quarantine", "--table", "x"],
    ):
        done = etl(*arguments)
        assert done.exit_code == 2
        assert "dim_bike" in done.stderr or "hire" in done.stderr


# -- history ---------------------------------------------------------------------------------------------------------


def told_then(flow: Flow, table: str, *when: str) -> list[str]:
    done = etl("history", table, *when, "--csv")
    assert done.exit_code == 0, done.output
    return done.stdout.splitlines()


def test_history_at_a_batch_is_what_was_seen_then(kept: Kept, flow: Flow) -> None:
    changed, now = 0, seen(flow)
    for name, rows in kept.first.items():
        story = told("history", name, "--batch", "1")
        columns = list(story["rows"][0])
        expected = json.loads(json.dumps([dict(zip(columns, row, strict=True)) for row in rows], default=str))
        assert story["rows"] == expected, name
        changed += rows != now[name]
    assert changed >= 4
    for name in ("dim_bike", "fact_payment"):
        shown = json.loads(json.dumps([list(row) for row in now[name]], default=str))
        assert [list(row.values()) for row in told("history", name, "--batch", "3")["rows"]] == shown


def test_history_at_a_time_is_that_of_the_newest_batch_until_then(flow: Flow) -> None:
    times = [manifest["sources"]["source"]["server_time"] for manifest in flow.manifests()]
    for name in ("fact_hire", "dim_date"):
        assert told_then(flow, name, "--at", times[1]) == told_then(flow, name, "--batch", "2")
    assert told_then(flow, "dim_bike", "--at", times[1]) != told_then(flow, "dim_bike", "--batch", "1")
    early = etl("history", "dim_bike", "--at", "2001-01-01")
    assert early.exit_code == 1
    assert "no batch as old as 2001-01-01 00:00:00 UTC; the first shows" in early.stderr
    assert etl("history", "dim_bike", "--at", "noon").exit_code == etl("history", "dim_bike").exit_code == 2


def test_the_warehouse_gives_the_same_history_of_facts(flow: Flow) -> None:
    from etl_assets.star.schema import Fact

    for name in flow.model.facts:
        schema = flow.inputs.star[name].schema
        assert isinstance(schema, Fact)
        with duckdb.connect(str(flow.data / "warehouse.duckdb"), read_only=True) as connection:
            rows = connection.execute(facts_then(schema), {"batch": 2}).fetchall()
        lines = told_then(flow, name, "--batch", "2")
        keys = [line.split(",")[:2] for line in lines[1:]]
        assert keys == [[str(value) for value in row[:2]] for row in rows]
        assert exact(rows) != exact(flow.query(f"FROM star.{name} ORDER BY 2"))


def test_history_can_be_cut_short_and_says_so(flow: Flow) -> None:
    done = etl("history", "dim_bike", "--batch", "1", "--limit", "2")
    assert "2 of 40 rows of dim_bike after batch 000001" in done.stdout
    assert len(told_then(flow, "dim_bike", "--batch", "1", "--limit", "2")) == 3


# -- quarantine ------------------------------------------------------------------------------------------------------


def test_nothing_quarantined_is_said(flow: Flow) -> None:
    done = etl("quarantine")
    assert (done.exit_code, done.stdout) == (0, "nothing is quarantined\n")


def test_what_does_not_fit_is_listed_and_explained(
    bicycles: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, tmp_path / "data", **Flow(bicycles, tmp_path / "data").environment)
    misread = "raw/payment or raw/hire or star/fact_hire"
    execute(bicycles, "update payment set due = E'so\non' where payment_id = 3")
    assert etl("run", "--select", misread).exit_code == 0
    execute(bicycles, "update hire set price = 'NaN' where hire_id = 5")
    done = etl("run", "--select", misread)
    assert done.exit_code == 0
    assert "raw/hire: 1 rows do not fit their declared types" in done.stdout
    assert re.search(r"fact_hire: of 1 rows that left, .*hire_id 5 \(price\)", done.stdout)
    listed = told("quarantine")["quarantined"]
    assert [(m["table"], m["batch"], m["key"], m["column"], m["value"]) for m in listed] == [
        ("hire", "000002", "5", "price", "NaN"),
        ("payment", "000001", "3", "due", "so\non"),
    ]
    assert "is no date" in listed[1]["reason"]
    assert told("quarantine", "--table", "payment")["quarantined"] == listed[1:]
    assert "price" in etl("quarantine").stdout

    (misfit,) = told("explain", "hire", "5")["misfits"]
    report = landed(tmp_path / "data/lake", "hire", 2, "quarantined")
    assert (misfit["file"], misfit["line"]) == (str(report.relative_to(tmp_path / "data/lake")), 2)
    assert [version["deleted"] for version in told("explain", "hire", "5")["star"]] == [False, True]


# -- files -------------------------------------------------------------------------------------------------------------


def test_the_files_that_the_star_consists_of_are_listed(flow: Flow) -> None:
    for name in ("dim_bike", "star/fact_payment"):
        listed = etl("files", name).stdout.splitlines()
        assert listed == [str(path) for path in star_files(flow.lake, name.removeprefix("star/"))]
    assert told("files")["tables"].keys() == {*flow.tables}
    assert "fact_payment" in etl("files").stdout
    assert (etl("files", "moon").exit_code, "dim_bike" in etl("files", "moon").stderr) == (2, True)
