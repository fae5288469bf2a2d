"""The flow with its lake in a folder, on S3 and on Google Cloud Storage: the content is the same everywhere."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import pytest

from etl_assets.lake.names import FileNames
from etl_assets_tests.direct import Direct
from etl_assets_tests.flow import Flow, execute, same
from etl_assets_tests.hiring import play_day
from etl_assets_tests.object_stores import Store, google, moto, on_google, on_s3
from etl_assets_tests.shop import DAY, INPUTS, SOURCE

Kind = Literal["s3", "gs"]


@contextmanager
def kept_in(kind: Kind, copies: Path) -> Iterator[Store]:
    """An empty bucket that the environment knows how to reach."""
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        if kind == "s3":
            store = on_s3(stack.enter_context(moto()), copies)
        else:
            store = on_google(*stack.enter_context(google()), copies)
        for name, value in store.environment.items():
            patch.setenv(name, value)
        yield store


@pytest.fixture(params=get_args(Kind))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with kept_in(request.param, tmp_path / "copies") as store:
        yield store


def plain(path: str) -> str:
    """A path without what a run puts into it so that no other one can write it."""
    return re.sub(r"(?<=/[0-9]{6})-[0-9a-f]{12}(?=[.])", "", path)


def landed(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files that are the same in every lake of a source, byte for byte; manifests name their run."""
    return {plain(path): content for path, content in files.items() if path.endswith(".csv")}


def test_a_lake_in_a_bucket_ends_like_one_in_a_folder(
    database: Callable[..., str], tmp_path: Path, store: Store
) -> None:
    url = database()
    execute(url, SOURCE)
    folder = Direct(url, tmp_path / "folder", INPUTS)
    bucket = Direct(url, tmp_path / "bucket", INPUTS, lake_url=store.url)
    elsewhere = replace(
        bucket, data=tmp_path / "elsewhere"
    )  # another machine, which takes turns with the first
    for day in ("", DAY, "DELETE FROM worker WHERE id IN (3, 0); DELETE FROM sale WHERE mod(id, 7) = 0"):
        if day:
            execute(url, day)
        folder.run()
        bucket.run()
    execute(url, "UPDATE sale SET amount = 1 WHERE id < 20")
    folder.run()
    elsewhere.run()
    assert [finding for finding in elsewhere.verified(thorough=True) if not finding.equal] == []
    assert [finding for finding in elsewhere.rebuilt() if not finding.equal] == []
    bucket.derive()
    local = Store("folder", str(folder.data / "lake"), tmp_path)
    assert landed(store.everything()) == landed(local.everything())
    assert sorted(map(plain, store.everything())) == sorted(map(plain, local.everything()))
    assert not [path for path in store.everything() if path.endswith(".open")]
    assert folder.dump() == bucket.dump() == elsewhere.dump()
    assert len(folder.dump()["fact_sale"]) > 400
    assert store.unfinished() == 0
    assert not (bucket.data / "lake").exists()
    # The copies are for speed only.
    shutil.rmtree(bucket.data / "cache")
    assert [finding for finding in bucket.verified() if not finding.equal] == []


def landed_by(store: Store, table: str, batch: int) -> list[str]:
    """The files that a batch landed for a table."""
    return [path for path in store.everything() if path.startswith(f"raw/{table}/{batch:06d}-")]


def whole_flow(url: str, flow: Flow, days: int) -> None:
    """First load and increments of the real definitions, and what the warehouse shows after them."""
    for day in range(days):
        if day:
            play_day(url, seed=day, hires=8)
        run = flow.run()
        assert run.success, run.error_lines
    for name, rows in flow.moment.star.items():
        assert same(rows, flow.warehouse_rows(name, rows.columns)), name


def test_the_whole_flow_runs_with_its_lake_in_a_bucket(bicycles: str, tmp_path: Path) -> None:
    with kept_in("gs", tmp_path / "copies") as store:
        flow = Flow(bicycles, tmp_path, {"ETL_LAKE_URL": store.url})
        whole_flow(bicycles, flow, days=2)
        assert not flow.lake.exists()
        assert any(path.startswith("star/fact_payment/") for path in store.everything())


@pytest.mark.slow
def test_the_whole_flow_is_the_same_wherever_its_lake_is(bicycles: str, tmp_path: Path, store: Store) -> None:
    folder = Flow(bicycles, tmp_path / "folder")
    bucket = Flow(bicycles, tmp_path / "bucket", {"ETL_LAKE_URL": store.url})
    for day in range(4):
        if day:
            play_day(bicycles, seed=day, hires=8)
        for flow in (folder, bucket):
            run = flow.run()
            assert run.success, run.error_lines
    assert bucket.dump() == folder.dump()
    local = Store("folder", str(folder.lake), tmp_path)
    assert landed(store.everything()) == landed(local.everything())


def test_what_was_changed_in_the_bucket_is_found_although_a_copy_is_whole(
    database: Callable[..., str], tmp_path: Path, store: Store
) -> None:
    url = database()
    execute(url, SOURCE)
    flow = Direct(url, tmp_path, INPUTS, lake_url=store.url)
    flow.run()
    (path,) = landed_by(store, "sale", 1)
    with flow.lake.files().writing("raw/sale/other.csv") as stream:
        stream.write(store.everything()[path].replace(b"7.25", b"8.25"))
    damaged = store.everything()["raw/sale/other.csv"]
    store.overwrite(path, damaged)
    (wrong,) = [
        finding for finding in flow.verified(source=False) if finding.hop == "files" and not finding.equal
    ]
    assert f"{store.url}/{path} is not the file its manifest lists" in wrong.difference


def test_a_copy_of_what_a_killed_run_had_landed_is_not_taken_for_what_was_committed(
    database: Callable[..., str], tmp_path: Path, store: Store
) -> None:
    url = database()
    execute(url, SOURCE)
    here = Direct(url, tmp_path / "here", INPUTS, lake_url=store.url)
    there = replace(here, data=tmp_path / "there")
    # Here a run lands the first file, reads it, and is killed; there another one takes its number.
    files, killed = here.lake.files(), FileNames.of_a_run(1)
    files.create(killed.marker, b'{"tables": ["team"]}')
    with files.writing(killed.rows("team")) as stream:
        stream.write(b"id,name\n1,never committed\n")
    assert b"never" in files.local(killed.rows("team")).read_bytes()
    there.run()
    assert len(landed_by(store, "team", 1)) == 2
    here.derive()
    assert here.dump() == there.dump()
    # What it left is removed by the next one.
    execute(url, "UPDATE sale SET amount = 1 WHERE id < 20")
    there.run()
    assert killed.rows("team") not in store.everything()
    assert killed.marker not in store.everything()


def test_a_copy_that_is_not_what_was_committed_is_fetched_again(
    database: Callable[..., str], tmp_path: Path, store: Store
) -> None:
    """As it may be under a name that two runs could write, as in lakes of format 1."""
    url = database()
    execute(url, SOURCE)
    here = Direct(url, tmp_path / "here", INPUTS, lake_url=store.url)
    there = replace(here, data=tmp_path / "there")
    there.run()
    (path,) = landed_by(store, "team", 1)
    copy = here.lake.files().local(path)
    copy.write_bytes(b"id,name\n1,never committed\n")
    assert b"never" in here.lake.files().local(path).read_bytes()
    here.derive()
    assert here.dump() == there.dump()


_RUN = """
import sys
from pathlib import Path
from etl_assets_tests.direct import Direct
from etl_assets_tests.shop import INPUTS

Direct(sys.argv[1], Path(sys.argv[2]), INPUTS, lake_url=sys.argv[3]).run()
"""


def run_and_die(flow: Direct, place: str) -> None:
    """A run in a process of its own that is killed at a place."""
    command = [sys.executable, "-W", "ignore", "-c", _RUN, flow.url, str(flow.data), str(flow.lake_url)]
    environment = {**os.environ, "ETL_FAIL_AT": place}
    root = Path(__file__).parents[1]
    killed = subprocess.run(command, env=environment, cwd=root, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()


def survives(flow: Direct, places: Sequence[str], store: Store) -> None:
    """Whatever a killed run left, the next one ends equal to the source and to a rebuild."""
    for number, place in enumerate(places):
        execute(flow.url, "UPDATE sale SET amount = amount + 1 WHERE mod(id, 5) = %s", number % 5)
        execute(flow.url, "DELETE FROM sale WHERE id = %s", 100 + number)
        run_and_die(flow, place)
        flow.run()
        assert [finding for finding in flow.verified(thorough=True) if not finding.equal] == [], place
    assert [finding for finding in flow.rebuilt() if not finding.equal] == []
    if store.kind == "s3":
        flow.lake.files().sweep(
            "raw/sale", "raw/batches", "star/batches", "star/fact_sale", "star/dim_worker", "current/sale"
        )
        assert store.unfinished() == 0


@pytest.mark.fault("F1")
@pytest.mark.slow
def test_a_run_that_is_killed_anywhere_does_a_lake_in_a_bucket_no_harm(
    database: Callable[..., str], tmp_path: Path, store: Store
) -> None:
    url = database()
    execute(url, SOURCE)
    flow = Direct(url, tmp_path, INPUTS, lake_url=store.url)
    run_and_die(flow, "block copied:2")
    run_and_die(flow, "file published:3")
    run_and_die(flow, "manifest written")
    flow.run()
    names = (
        "file written",
        "file published",
        "manifest written",
        "manifest committed",
        "star staged",
        "star published",
        "star switched",
    )
    survives(flow, [*names, *(f"*:{n}" for n in (3, 6, 9, 12))], store)


def test_a_killed_run_does_a_lake_in_a_bucket_no_harm(database: Callable[..., str], tmp_path: Path) -> None:
    with kept_in("s3", tmp_path / "copies") as store:
        url = database()
        execute(url, SOURCE)
        flow = Direct(url, tmp_path, INPUTS, lake_url=store.url)
        run_and_die(flow, "file published:3")
        survives(flow, ["manifest written"], store)


def test_a_bucket_that_is_not_there_ends_a_command_with_one_line(tmp_path: Path, store: Store) -> None:
    url = f"{store.kind}://nowhere/lake"
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "etl_assets.cli", "status"],
        env={
            **os.environ,
            "ETL_LAKE_URL": url,
            "ETL_DATA": str(tmp_path),
            "ETL_SOURCE_URL": "postgresql://nowhere",
        },
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode != 0
    assert ended.stdout == ""
    assert ended.stderr.splitlines()[-1].endswith(
        f"can't list {url}/raw/batches: there is no bucket nowhere; create it, or correct ETL_LAKE_URL"
    )
    assert "Traceback" not in ended.stderr
