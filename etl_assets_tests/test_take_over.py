"""Taking over what an older pipeline kept. Without these, a migration begins with a copy that is quietly wrong, loses
the history of what was deleted since, or damages what it came from.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg2
import pytest
from click.testing import CliRunner, Result

from etl_assets.cli import etl
from etl_assets.lake.manifest import Manifest
from etl_assets.project import load
from etl_assets.raw.request import CaptureRequest
from etl_assets.raw.take_over import INPUT, PROCESSED, TakeOverError, find, take_over
from etl_assets_tests import shop
from etl_assets_tests.direct import Direct
from etl_assets_tests.flow import execute
from etl_assets_tests.hiring import BICYCLES, play_day
from etl_assets_tests.object_stores import moto, on_s3

INPUTS = load(BICYCLES.project).inputs
Table = tuple[list[str], list[tuple[Any, ...]]]
KEPT_IN_PROCESSED = {"station"}


def content(url: str, tables: Sequence[str]) -> Mapping[str, Table]:
    """Header and rows of tables, as a Python program gets them."""
    found = {}
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        for table in tables:
            cursor.execute(f'SELECT * FROM "{table}"')
            found[table] = ([column.name for column in cursor.description or ()], cursor.fetchall())
    return found


def exported(url: str, folder: Path, tables: Sequence[str] = tuple(INPUTS.tables), run: int = 41) -> Path:
    """What the older pipeline leaves of a source: some tables moved on, others just exported."""
    for name, (header, rows) in content(url, tables).items():
        path = folder / (PROCESSED if name in KEPT_IN_PROCESSED else INPUT) / f"{name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows])
    (folder / INPUT).mkdir(exist_ok=True)
    (folder / INPUT / "csv_export.txt").write_text(f"Run {run}")
    return folder


def taken_over(url: str, old: str, data: Path, *arguments: str, lake: str = "") -> Result:
    """The command, as somebody calls it."""
    environment = {
        "ETL_PROJECT": BICYCLES.project,
        "ETL_SOURCE_URL": url,
        "ETL_DATA": str(data),
        "ETL_LAKE_URL": lake,
        "DAGSTER_HOME": "",
    }
    return CliRunner().invoke(etl, ["take-over", old, *arguments], env=environment)


def files(folder: Path) -> Mapping[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def nullable(url: str) -> set[tuple[str, str]]:
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT table_name, column_name FROM information_schema.columns WHERE is_nullable = 'YES'"
        )
        return set(cursor.fetchall())


def differences(
    url: str, was: Mapping[str, Table], now: Mapping[str, Table]
) -> Mapping[str, tuple[int, int, int]]:
    """How many rows are new, changed and gone; a CSV file of Python's does not tell the empty text from NULL."""
    unsaid = nullable(url)

    def by_key(table: str, source: Table, *, from_file: bool) -> dict[Any, tuple[Any, ...]]:
        header, rows = source
        place = header.index(f"{table}_id")
        return {
            row[place]: tuple(
                None if from_file and value == "" and (table, name) in unsaid else value
                for name, value in zip(header, row, strict=True)
            )
            for row in rows
        }

    found = {}
    for table in was:
        before = by_key(table, was[table], from_file=True)
        after = by_key(table, now[table], from_file=False)
        changed = sum(before[key] != after[key] for key in before.keys() & after.keys())
        found[table] = (len(after.keys() - before.keys()), changed, len(before.keys() - after.keys()))
    return {table: counts for table, counts in found.items() if any(counts)}


def brought(manifest: Manifest | None) -> Mapping[str, tuple[int, int, int]]:
    assert manifest
    return {name: (c.new, c.changed, c.deleted) for name, c in manifest.changed.items()}


def assert_equal(flow: Direct) -> None:
    assert [finding for finding in flow.verified(thorough=True) if not finding.equal] == []
    assert [finding for finding in flow.rebuilt() if not finding.equal] == []


@pytest.mark.fault("F41")
def test_the_next_run_lands_what_changed_since_and_nothing_else(bicycles: str, tmp_path: Path) -> None:
    was = content(bicycles, list(INPUTS.tables))
    old = exported(bicycles, tmp_path / "old")
    kept = files(old)
    play_day(bicycles, seed=1, hires=10)
    result = taken_over(bicycles, str(old), tmp_path)
    assert result.exit_code == 0, result.output
    assert files(old) == kept
    flow = Direct(bicycles, tmp_path, INPUTS)
    first = flow.lake.batches().latest()
    assert first
    assert {name: state.rows for name, state in first.tables.items()} == {
        n: len(r) for n, (_, r) in was.items()
    }
    second = flow.run()
    assert second
    assert brought(second) == differences(bicycles, was, content(bicycles, list(INPUTS.tables)))
    assert second.tables["bike"].read == "whole"
    assert second.tables["bike"].why == (
        f"what the lake holds was taken over from {old}/input_csv_key/bike.csv (run 41)"
    )
    assert_equal(flow)
    # From here on it is a lake like any other.
    play_day(bicycles, seed=2, hires=5)
    third = flow.run()
    assert third
    assert third.tables["bike"].read == "horizon"
    assert_equal(flow)


def test_files_that_pandas_wrote_are_understood(bicycles: str, tmp_path: Path) -> None:
    was = content(bicycles, list(INPUTS.tables))
    old = exported(bicycles, tmp_path / "old")
    for path in old.rglob("*.csv"):
        # With an index that has no name, a column of pandas' own, and integers beside NULL as 3.0.
        frame = pd.read_csv(path, keep_default_na=False, na_values=[""], dtype={"phone": "str"})
        frame.assign(exported_at="2024-01-01").to_csv(path)
    result = taken_over(bicycles, str(old), tmp_path)
    assert result.exit_code == 0, result.output
    assert "not in the source: (without a name), exported_at" in result.output
    flow = Direct(bicycles, tmp_path, INPUTS)
    assert brought(flow.run()) == differences(bicycles, was, was)
    assert_equal(flow)


def test_a_lake_in_a_bucket_is_begun_with_what_another_bucket_holds(bicycles: str, tmp_path: Path) -> None:
    old = exported(bicycles, tmp_path / "old")
    play_day(bicycles, seed=3, hires=5)
    with moto() as proxy, pytest.MonkeyPatch.context() as patch:
        store = on_s3(proxy, tmp_path / "copies")
        for name, value in store.environment.items():
            patch.setenv(name, value)
        url = f"{store.url}/new"
        older = Direct(bicycles, tmp_path, INPUTS, lake_url=f"{store.url}/old").lake.files()
        for name, content in files(old).items():
            with older.writing(name) as stream:
                stream.write(content)
        kept = dict(store.everything())
        result = taken_over(bicycles, f"{store.url}/old", tmp_path, lake=url)
        assert result.exit_code == 0, result.output
        assert kept == {path: store.everything()[path] for path in kept}
        flow = Direct(bicycles, tmp_path, INPUTS, lake_url=url)
        flow.run()
        assert [finding for finding in flow.verified() if not finding.equal] == []
        result = taken_over(bicycles, "s3://nowhere/old", tmp_path, lake=f"{store.url}/other")
        assert result.exit_code == 1
        assert "there is no bucket nowhere; create it, or correct the URL" in result.output


def test_what_is_not_there_is_read_by_the_next_run(bicycles: str, tmp_path: Path) -> None:
    old = exported(bicycles, tmp_path / "old")
    (old / INPUT / "bike.csv").unlink()
    (old / INPUT / "_prisma_migrations.csv").write_text("id\n1\n")
    (old / INPUT / "payment.csv").write_text("payment_id\n")
    result = taken_over(bicycles, str(old), tmp_path, "--without", "payment")
    assert result.exit_code == 0, result.output
    assert "read from the source by the next run: payment, bike" in result.output
    assert "not of a declared table: input_csv_key/_prisma_migrations.csv" in result.output
    flow = Direct(bicycles, tmp_path, INPUTS)
    second = flow.run()
    assert second
    assert second.tables["bike"].why == "the lake holds nothing of it yet"
    assert_equal(flow)


# -- what the files are, and what can't be told ----------------------------------------------------------------------


@pytest.fixture
def source(database: Callable[..., str]) -> str:
    url = database()
    execute(url, shop.SOURCE)
    return url


def begun(url: str, old: Path, data: Path) -> None:
    tables = list(shop.INPUTS.tables.values())
    (data / "scratch").mkdir(parents=True, exist_ok=True)
    request = CaptureRequest(url, tables, "a test")
    flow = Direct(url, data, shop.INPUTS)
    take_over(find(str(old), tables, data / "cache"), request, flow.lake.batches(), data / "scratch")


def test_texts_are_carried_with_commas_quotes_and_line_breaks(source: str, tmp_path: Path) -> None:
    for place, text in enumerate(('a "b", c', "a\nb", "a\r\n\r\nb", " a ", "NULL", "nan", "007")):
        execute(source, "INSERT INTO team VALUES (%s, %s)", 100 + place, text)
    begun(source, exported(source, tmp_path / "old", tuple(shop.INPUTS.tables)), tmp_path)
    flow = Direct(source, tmp_path, shop.INPUTS)
    assert brought(flow.run()) == {}
    assert_equal(flow)


def test_what_was_deleted_since_stays_in_the_history(source: str, tmp_path: Path) -> None:
    old = exported(source, tmp_path / "old", tuple(shop.INPUTS.tables))
    execute(source, "DELETE FROM sale WHERE id = 7")
    begun(source, old, tmp_path)
    flow = Direct(source, tmp_path, shop.INPUTS)
    flow.run()
    with flow.reading() as warehouse:
        versions = warehouse.execute(
            "SELECT batch, deleted FROM star.fact_sale WHERE sale_id = 7 ORDER BY sale_record_id"
        ).fetchall()
    assert versions == [(1, False), (2, True)]
    assert_equal(flow)


def append(path: str, text: str | bytes) -> Callable[[Path], None]:
    def change(old: Path) -> None:
        with (old / path).open("ab") as file:
            file.write(text if isinstance(text, bytes) else text.encode())

    return change


def write(path: str, text: str) -> Callable[[Path], None]:
    def change(old: Path) -> None:
        (old / path).parent.mkdir(exist_ok=True)
        (old / path).write_text(text)

    return change


def both(*changes: Callable[[Path], None]) -> Callable[[Path], None]:
    def change(old: Path) -> None:
        for one in changes:
            one(old)

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (append(f"{INPUT}/team.csv", "3,again\r\n"), r"1 rows whose key \(id\) is missing or occurs before"),
        (append(f"{INPUT}/team.csv", ",nobody\r\n"), r"1 rows whose key \(id\) is missing or occurs before"),
        (append(f"{INPUT}/team.csv", "x,nobody\r\n"), "1 rows in which id is no integer"),
        (append(f"{INPUT}/team.csv", "3.5,half\r\n01,one\r\n"), "2 rows in which id is no integer"),
        (append(f"{INPUT}/team.csv", "9,cut short,by\r\n"), r"team.csv can't be read as CSV in UTF-8 \(line 7\)"),
        (append(f"{INPUT}/team.csv", b"9,\xff\xfe\r\n"), "team.csv can't be read as CSV in UTF-8"),
        (write(f"{INPUT}/team.csv", ""), "team.csv is empty"),
        (write(f"{INPUT}/team.csv", "id,id,name\n1,1,a\n"), "several columns called id"),
        (write(f"{INPUT}/team.csv", "id\n1\n"), "has no column name.*--without team"),
        (write(f"{INPUT}/team_2.csv", "id,name\n"), "looks like one of several files of team"),
        (write(f"{INPUT}/team (1).csv", "id,name\n"), "looks like one of several files of team"),
        (
            both(write(f"{PROCESSED}/team.csv", "id,name\n"), write(f"{PROCESSED}/csv_processed.txt", "Run 42")),
            r"team.csv lies in input_csv_key \(run 41\) and in processed_csv_key \(run 42\)",
        ),
    ],
)  # fmt: skip
def test_what_is_ambiguous_or_damaged_is_refused(
    source: str, tmp_path: Path, change: Callable[[Path], None], told: str
) -> None:
    old = exported(source, tmp_path / "old", tuple(shop.INPUTS.tables))
    change(old)
    kept = files(old)
    with pytest.raises(TakeOverError, match=told) as error:
        begun(source, old, tmp_path)
    assert "\n" not in str(error.value)
    assert Direct(source, tmp_path, shop.INPUTS).lake.batches().latest() is None
    assert files(old) == kept


def test_a_place_without_the_old_layout_is_refused(source: str, tmp_path: Path) -> None:
    with pytest.raises(TakeOverError, match="holds no file of a declared table"):
        begun(source, tmp_path / "elsewhere", tmp_path)


def test_a_lake_that_has_begun_is_refused(source: str, tmp_path: Path) -> None:
    Direct(source, tmp_path, shop.INPUTS).capture()
    old = exported(source, tmp_path / "old", tuple(shop.INPUTS.tables))
    with pytest.raises(TakeOverError, match=r"has begun already \(batch 000001\)"):
        begun(source, old, tmp_path)


def test_of_a_table_in_both_folders_the_one_not_yet_processed_is_the_latest(
    source: str, tmp_path: Path
) -> None:
    old = exported(source, tmp_path / "old", tuple(shop.INPUTS.tables))
    write(f"{PROCESSED}/team.csv", "id,name\n1,of the run before\n")(old)
    write(f"{PROCESSED}/csv_processed.txt", "Run 40")(old)
    begun(source, old, tmp_path)
    flow = Direct(source, tmp_path, shop.INPUTS)
    second = flow.run()
    assert brought(second) == {}
    assert_equal(flow)


def test_an_empty_table_and_what_does_not_fit_its_type_are_carried_along(source: str, tmp_path: Path) -> None:
    old = exported(source, tmp_path / "old", tuple(shop.INPUTS.tables))
    write(f"{INPUT}/team.csv", "id,name\n")(old)
    begun(source, old, tmp_path)
    flow = Direct(source, tmp_path, shop.INPUTS)
    first = flow.lake.batches().get(1)
    assert first.tables["team"].rows == 0
    assert first.changed["sale"].quarantined_rows == 6  # due "soon"
    assert brought(flow.run()) == {"team": (5, 0, 0)}
    assert_equal(flow)
