"""B4, B5: files in S3 and the lake, any number of them listed, encrypted there; CSV files here. Nothing is overwritten unless
that is said."""

import importlib.util
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import boto3
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from etl_assets.engine.scratch import sweep
from etl_assets.lake.folder import LocalFiles
from etl_assets.project import CsvFile, Download, Listing, Parameter, Steps, Upload, step
from etl_assets.stand_ins import gcs
from etl_assets.stand_ins.s3 import serve_s3
from etl_assets.steps.keeping import Keeping
from etl_assets_tests.steps.playing import kept, play

BUCKET = "parcels"


@pytest.fixture(scope="module")
def s3_environment() -> Iterator[dict[str, str]]:
    with serve_s3(BUCKET) as environment:
        yield dict(environment)


@pytest.fixture
def s3(s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    for name, value in s3_environment.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    yield client
    for found in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=found["Key"])


@step()
def frame() -> pa.Table:
    """One row is anything."""
    return pa.table(
        {"n": [1, 2, None], "text": ["a,b", "", None], "price": [Decimal("1.10"), None, Decimal("-2.00")]}
    )


@step()
def letter() -> str:
    """A text."""
    return "Grüße"


@step()
def blob() -> bytes:
    """Some bytes."""
    return b"\x00\xff"


@step()
def facts() -> dict[str, int]:
    """What JSON can say."""
    return {"n": 1}


CSV = '"n","text","price"\n1,"a,b",1.10\n2,"",\n,,-2.00\n'


def to(place: str, *, overwrite: bool = False) -> Steps:
    return Steps(
        "lot", "Four files.",
        [
            frame, letter, blob, facts,
            Upload("csv", "A frame.", of="frame", to=f"{place}/{{day}}/frame.csv", overwrite=overwrite),
            Upload("parquet", "A frame.", of="frame", to=f"{place}/{{day}}/frame.parquet", overwrite=overwrite),
            Upload("text", "A text.", of="letter", to=f"{place}/{{day}}/letter.txt", overwrite=overwrite),
            Upload("bytes_", "Bytes.", of="blob", to=f"{place}/{{day}}/blob.bin", overwrite=overwrite),
            Upload("json_", "JSON.", of="facts", to=f"{place}/{{day}}/facts.json", overwrite=overwrite),
        ],
        [Parameter("day", "date", default="2026-01-31")],
    )  # fmt: skip


def test_b4_frames_texts_bytes_and_json_are_put_into_s3_encrypted_and_not_overwritten(
    s3: Any, tmp_path: Path
) -> None:
    ran = play(to(f"s3://{BUCKET}/out"), tmp_path / "data")
    assert ran.success, ran.failure
    assert ran.told("csv")["path"] == f"s3://{BUCKET}/out/2026-01-31/frame.csv"

    def get(name: str) -> Any:
        return s3.get_object(Bucket=BUCKET, Key=f"out/2026-01-31/{name}")

    assert get("frame.csv")["Body"].read().decode() == CSV
    assert get("letter.txt")["Body"].read().decode() == "Grüße"
    assert get("blob.bin")["Body"].read() == b"\x00\xff"
    assert get("facts.json")["Body"].read().decode() == '{\n "n": 1\n}'
    assert {get(name)["ServerSideEncryption"] for name in ("frame.csv", "blob.bin", "frame.parquet")} == {
        "AES256"
    }
    again = play(to(f"s3://{BUCKET}/out"), tmp_path / "data")
    assert again.failure.count("exists already: write overwrite=True if it may be replaced") == 5
    assert play(to(f"s3://{BUCKET}/out", overwrite=True), tmp_path / "data").success
    assert get("frame.csv")["ServerSideEncryption"] == "AES256"


def test_b4_the_same_in_the_lake(tmp_path: Path) -> None:
    assert play(to("lake://out"), tmp_path / "data").success
    folder = tmp_path / "data/lake/files/out/2026-01-31"
    assert (folder / "frame.csv").read_text() == CSV
    assert pq.read_table(folder / "frame.parquet").num_rows == 3
    assert play(to("lake://out"), tmp_path / "data").failure.count("exists already") == 5
    assert play(to("lake://out", overwrite=True), tmp_path / "data").success


@pytest.fixture
def gs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with gcs.serve(BUCKET) as service:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", service.url)
        yield


@pytest.mark.parametrize("where", ["s3", "gs", "lake"])
def test_b4_what_was_put_somewhere_is_taken_from_there(
    where: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    place = "lake://out"
    if where != "lake":
        request.getfixturevalue(where)
        place = f"{where}://{BUCKET}/out"
    assert play(to(place), tmp_path / "data").success
    assert play(to(place), tmp_path / "data").failure.count("exists already: write overwrite=True") == 5
    listing = Listing("found", "One row is a file.", prefix=f"{place}/", suffix=".csv")
    assert (
        play(Steps("there", "There.", [listing]), tmp_path / "data").told("found")["dagster/row_count"] == 1
    )
    seen: dict[str, object] = {}

    @step()
    def looks(table: pd.DataFrame, words: str, raw: bytes) -> None:
        """Looks at what came."""
        seen.update(table=table.to_dict("list"), words=words, raw=raw)

    taken = Steps(
        "taken", "Three files.",
        [
            Download("table", "A frame.", source=f"{place}/2026-01-31/frame.csv", as_="csv"),
            Download("words", "A text.", source=f"{place}/2026-01-31/letter.txt"),
            Download("raw", "Bytes.", source=f"{place}/2026-01-31/blob.bin", as_="bytes"),
            Download("gone", "None.", source=f"{place}/nothing.txt"),
            Download("no_text", "None.", source=f"{place}/2026-01-31/blob.bin"),
            looks,
        ],
    )  # fmt: skip
    ran = play(taken, tmp_path / "data")
    assert ran.made == ["table", "words", "raw", "looks"]
    assert "gone" in ran.failure
    assert 'is no text in UTF-8: take it as_="bytes"' in ran.failure
    table = {name: [None if pd.isna(v) else v for v in values] for name, values in seen["table"].items()}  # type: ignore[attr-defined]
    assert table == {"n": ["1", "2", None], "text": ["a,b", "", None], "price": ["1.10", None, "-2.00"]}
    assert (seen["words"], seen["raw"]) == ("Grüße", b"\x00\xff")


def test_b4_any_number_of_objects_is_listed_by_prefix_and_suffix(
    s3: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than one page has, at any depth. Amazon's pages have 1,000."""
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "10")
    for n in range(45):
        s3.put_object(Bucket=BUCKET, Key=f"in/2026/{n % 7}/{n:05}.csv", Body=b"x" * (n % 3))  # type: ignore[attr-defined]
    for name in ("in/2026/readme.md", "in/2025/0/00000.csv", "index.csv"):
        s3.put_object(Bucket=BUCKET, Key=name, Body=b"-")  # type: ignore[attr-defined]
    group = Steps(
        "lot", "What is there.",
        [Listing("found", "One row is a file.", prefix=f"s3://{BUCKET}/in/{{year}}", suffix=".csv")],
        [Parameter("year", "int", default=2026)],
    )  # fmt: skip
    ran = play(group, tmp_path / "data")
    assert ran.success, ran.failure
    table = pq.read_table(kept(tmp_path / "data", "lot", "found"))
    assert table.num_rows == 45
    assert table["path"].to_pylist() == sorted(f"s3://{BUCKET}/in/2026/{n % 7}/{n:05}.csv" for n in range(45))
    assert sum(table["bytes"].to_pylist()) == sum(n % 3 for n in range(45))


def test_b4_the_files_of_the_lake_are_listed_and_what_the_platform_keeps_there_is_not(tmp_path: Path) -> None:
    lake = tmp_path / "data/lake"
    for name in (
        "files/a/1.csv",
        "files/a/b/2.csv",
        "files/a.csv",
        "files/ab/3.csv",
        "files/a/4.txt",
        "raw/5.csv",
    ):
        (lake / name).parent.mkdir(parents=True, exist_ok=True)
        (lake / name).write_text("x")
    group = Steps("lot", "There.", [Listing("found", "One row is a file.", prefix="lake://a", suffix=".csv")])
    assert play(group, tmp_path / "data").success
    paths = pq.read_table(kept(tmp_path / "data", "lot", "found"))["path"].to_pylist()
    assert paths == ["lake://a.csv", "lake://a/1.csv", "lake://a/b/2.csv", "lake://ab/3.csv"]
    whole = Steps("lot", "There.", [Listing("found", "One row is a file.", prefix="lake://")])
    assert play(whole, tmp_path / "data").success
    assert pq.read_table(kept(tmp_path / "data", "lot", "found"))["path"].to_pylist() == sorted(
        [*paths, "lake://a/4.txt"]
    )
    with pytest.raises(ValueError, match="no place"):
        Listing("found", "One row is a file.", prefix="s3://")


@pytest.mark.parametrize(
    "place",
    [
        "lake://../raw/x.csv",
        "lake://",
        "lake://a//b",
        "lake:///etc/x",
        "s3://bucket",
        "http://host/x",
        "x.csv",
        "lake://a/./b",
    ],
)
def test_b4_a_place_that_is_none_is_refused(place: str) -> None:
    with pytest.raises(ValueError, match=r"no place|no key|an empty part"):
        Upload("sent", "A file.", of="frame", to=place)


def test_b4_a_bucket_that_is_not_there_is_told_in_a_line(s3: object, tmp_path: Path) -> None:
    ran = play(
        Steps(
            "lot", "Nowhere.", [frame, Upload("sent", "A file.", of="frame", to="s3://nowhere-at-all/x.csv")]
        ),
        tmp_path / "data",
    )
    assert "there is no bucket nowhere-at-all" in ran.failure


def test_b5_a_frame_becomes_a_csv_file_that_is_not_overwritten(tmp_path: Path) -> None:
    def group(*, overwrite: bool) -> Steps:
        file = CsvFile("file", "A file.", of="frame", path="out/{day}.csv", overwrite=overwrite)
        return Steps("lot", "A file.", [frame, file], [Parameter("day", "date", default="2026-01-31")])

    ran = play(group(overwrite=False), tmp_path / "data")
    assert ran.success, ran.failure
    path = tmp_path / "data/files/out/2026-01-31.csv"
    assert ran.told("file")["path"] == str(path)
    assert path.read_text() == CSV
    path.write_text("mine")
    assert "exists already: write overwrite=True" in play(group(overwrite=False), tmp_path / "data").failure
    assert path.read_text() == "mine"
    assert play(group(overwrite=True), tmp_path / "data").success
    assert path.read_text() == CSV


def test_a_run_that_sweeps_meanwhile_takes_nothing_from_a_frame_that_is_kept(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"

    def pieces() -> Iterator[pa.Table]:
        yield pa.table({"n": [1]})
        sweep(scratch)
        yield pa.table({"n": [2.5]})

    kept = Keeping(LocalFiles(tmp_path / "lake"), "lot", "", scratch).put_frame("all", pieces())
    assert kept.rows == 2


LATER = """
from __future__ import annotations
from typing import TYPE_CHECKING
from etl_assets.project import StepResult, step
if TYPE_CHECKING:
    import pandas as pd
    import pyarrow

@step()
def doubled(frame: pyarrow.Table) -> StepResult[pd.DataFrame]:
    \"\"\"All of it twice.\"\"\"
    import pandas as pd
    both = frame.to_pandas()
    return StepResult(pd.concat([both, both]), {"was": type(frame).__name__})

@step()
def counted(doubled: pd.DataFrame | None) -> str:
    \"\"\"How many rows there are.\"\"\"
    return f"{type(doubled).__name__} {len(doubled)}"
"""


def test_a_library_of_frames_may_be_imported_for_type_checkers_alone(tmp_path: Path) -> None:
    """Most commands make no frame, and need not wait for it."""
    (tmp_path / "later_steps.py").write_text(LATER)
    spec = importlib.util.spec_from_file_location("later_steps", tmp_path / "later_steps.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    ran = play(Steps("later", "Later.", [frame, module.doubled, module.counted]), tmp_path / "data")
    assert ran.told("doubled")["was"] == "Table"
    (text,) = (tmp_path / "data/lake/steps/later").glob("counted.*")
    assert text.read_text() == "DataFrame 6"
