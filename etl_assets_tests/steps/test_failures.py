"""B9, B10: what failed stops what needs it and nothing else, is told at the end with its cause, and what is missing is told
before anything runs."""

from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pandas as pd
import pyarrow as pa
import pytest

from etl_assets.project import (
    CsvFile,
    Listing,
    Message,
    Parameter,
    SqlExecute,
    SqlQuery,
    SqlWrite,
    Steps,
    Upload,
    step,
)
from etl_assets.steps.contract import Made
from etl_assets_tests.automation.test_alerting import Mail, body, free_port, serve
from etl_assets_tests.steps.playing import play
from etl_assets_tests.steps.test_sql import execute

__all__ = ["free_port", "serve"]
SECRET_ROW = "Mrs Smith of 12 High Street"


@step()
def numbers() -> pa.Table:
    """One row is a number."""
    return pa.table({"n": [1, 2, 3]})


@step()
def broken(numbers: pd.DataFrame) -> pd.DataFrame:
    """Fails, with a person's data in what Python says."""
    raise ValueError(f"can't do {SECRET_ROW}")


@step()
def doubled(numbers: pd.DataFrame) -> pd.DataFrame:
    """One row is twice a number."""
    return numbers.assign(n=numbers["n"] * 2)


@step()
def after_broken(broken: pd.DataFrame) -> pd.DataFrame:
    """Needs what fails."""
    return broken


TOLD = Message("told", "Tells the team.", subject="The lot of {day}", text="It ran.", always=True)
LOT = Steps(
    "lot", "A failure in the middle.",
    [
        numbers,
        broken,
        after_broken,
        Upload("sent", "What fails, as a file.", of="after_broken", to="lake://sent.csv"),
        doubled,
        SqlQuery("nowhere", "A table that is not there.", sql="SELECT * FROM nowhere", database="shop"),
        TOLD,
    ],
    [Parameter("day", "text", default="today")],
)  # fmt: skip


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETL_DATABASE_SHOP", f"sqlite:///{tmp_path / 'shop.sqlite'}")


@pytest.fixture
def mail(serve: Callable[..., Mail]) -> Mail:
    return serve()


@pytest.mark.usefixtures("shop")
def test_b9_what_needs_a_failed_step_is_left_out_the_rest_goes_on_and_every_failure_is_told_with_its_cause(
    tmp_path: Path,
) -> None:
    ran = play(LOT, tmp_path / "data")
    assert not ran.success
    assert ran.made == ["numbers", "doubled", "told"]
    for told in (
        "broken (steps/test_failures.py:",
        "ValueError at test_failures.py:",
        "nowhere (steps/test_failures.py:",
        "no such table: nowhere",
        "after_broken was left out: it needs broken",
        "sent was left out: it needs after_broken",
    ):
        assert told in ran.failure, told
    assert "\n" not in ran.failure
    assert "in broken" in ran.shown["stacks"]
    assert "| nowhere |" in ran.shown["failures"]
    everything = "".join(map(dg.serialize_value, ran.result.all_events))
    assert SECRET_ROW not in everything


def test_a_frame_whose_index_would_be_lost_is_refused(tmp_path: Path) -> None:
    """What pandas groups by is an index, and no column of what it gives; rows that were chosen keep numbers that mean nothing."""

    @step()
    def sums() -> pd.DataFrame:
        """One row is a region."""
        frame = pd.DataFrame({"region": ["n", "s", "n"], "amount": [1, 2, 3]})
        return frame.groupby("region").sum()

    @step()
    def chosen() -> pd.DataFrame:
        """One row is a number."""
        frame = pd.DataFrame({"amount": [1, 2, 3]})
        return frame[frame["amount"] > 1]

    ran = play(Steps("lot", "Frames.", [sums, chosen]), tmp_path / "data")
    assert ran.made == ["chosen"]
    assert "its frame has an index (region), which would be lost" in ran.failure


@pytest.mark.usefixtures("shop")
def test_b9_the_notification_is_sent_whatever_failed_and_says_what(
    tmp_path: Path, mail: Mail, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETL_ALERTS_URL", mail.url)
    ran = play(LOT, tmp_path / "data", settings={"ETL_ALERTS_URL": mail.url})
    assert not ran.success
    (message,) = mail.messages
    assert message["Subject"] == "The lot of today"
    lines = body(message).splitlines()
    assert lines[0] == "It ran."
    assert lines[1].startswith("broken (steps/test_failures.py:")
    assert "nowhere" in body(message)
    assert f"/runs/{ran.result.run_id}" in body(message)


@pytest.mark.usefixtures("shop")
def test_b9_a_message_that_is_not_told_to_is_not_sent_after_a_failure(
    tmp_path: Path, mail: Mail, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETL_ALERTS_URL", mail.url)
    quiet = Message("quiet", "Tells that all is well.", subject="Well", text="All is well.")
    group = Steps("lot", "A failure.", [numbers, broken, quiet])
    assert not play(group, tmp_path / "data", settings={"ETL_ALERTS_URL": mail.url}).success
    assert mail.messages == []
    well = Steps("lot", "No failure.", [numbers, quiet])
    assert play(well, tmp_path / "data", settings={"ETL_ALERTS_URL": mail.url}).success
    assert [message["Subject"] for message in mail.messages] == ["Well"]


@pytest.mark.usefixtures("shop")
def test_b9_a_write_does_not_follow_a_statement_that_failed(tmp_path: Path) -> None:
    """Rows that could not be deleted are not joined by new ones: the second is left out though it names nothing of the first."""
    group = Steps(
        "lot", "Delete, then append.",
        [
            numbers,
            SqlExecute("emptied", "Deletes.", sql="DELETE FROM nowhere", database="shop"),
            SqlWrite("filled", "Appends.", of="numbers", table="filled", if_exists="append", database="shop"),
        ],
    )  # fmt: skip
    ran = play(group, tmp_path / "data")
    assert ran.made == ["numbers"]
    assert "filled was left out: it needs emptied" in ran.failure


@pytest.mark.usefixtures("shop")
def test_b9_what_an_earlier_run_made_is_not_taken_for_what_this_one_failed_to_make(
    tmp_path: Path, mail: Mail, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETL_CHANNEL_TEAM", mail.url)
    fails: list[bool] = []

    @step()
    def first() -> pa.Table:
        """Fails the second time."""
        if fails:
            raise ValueError
        return pa.table({"n": [1]})

    @step(always=True)
    def looked(first: pa.Table | None) -> str:
        """Gets nothing for what was not made."""
        return "nothing" if first is None else f"{first.num_rows} row"

    group = Steps(
        "lot", "Whatever fails.",
        [
            first,
            Upload("sent", "A file.", of="first", to="lake://{run}.csv", always=True),
            CsvFile("file", "A file.", of="first", path="{run}.csv", always=True),
            SqlWrite("out", "A table.", of="first", table="t", if_exists="append", database="shop", always=True),
            looked,
            Message("told", "Tells.", subject="S", of="looked", to="team", always=True),
        ],
        [Parameter("run", "int")],
    )  # fmt: skip
    data = tmp_path / "data"
    assert play(group, data, config={"run": 1}).success
    fails.append(True)
    ran = play(group, data, config={"run": 2})
    assert ran.made == ["looked", "told"]
    for name in ("sent", "file", "out"):
        assert f"{name} was left out: it needs first" in ran.failure
    assert sorted(found.name for found in data.rglob("*.csv")) == ["1.csv", "1.csv"]
    assert execute(f"sqlite:///{tmp_path / 'shop.sqlite'}", "SELECT count(*) FROM t") == [(1,)]
    assert [body(one).splitlines()[0] for one in mail.messages] == ["1 row", "nothing"]


def test_b10_all_that_is_missing_is_told_in_one_error_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = ("ETL_DATABASE_SHOP", "ETL_DATABASE_STORE", "ETL_CHANNEL_TEAM", "CRM_TOKEN")
    clouds = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "STORAGE_EMULATOR_HOST", "GOOGLE_APPLICATION_CREDENTIALS")
    for name in (*named, *clouds):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "CLOUDSDK_CONFIG", "BOTO_CONFIG"):
        monkeypatch.setenv(name, str(tmp_path / "nothing"))
    for name in ("AWS_EC2_METADATA_DISABLED", "NO_GCE_CHECK"):
        monkeypatch.setenv(name, "true")
    touched: list[str] = []

    @step()
    def first() -> None:
        """Would be the first to do something."""
        touched.append("first")

    @step(settings=["CRM_TOKEN"])
    def asked() -> None:
        """Would ask somebody."""
        touched.append("asked")

    group = Steps(
        "lot", "Much is missing.",
        [
            first,
            asked,
            Listing("aws", "One row is a file.", prefix="s3://bucket/"),
            Listing("google", "One row is a file.", prefix="gs://bucket/"),
            SqlQuery("one", "One.", sql="SELECT 1 AS n", database="shop"),
            SqlQuery("two", "Two.", sql="SELECT 1 AS n", database="store"),
            Message("told", "Told.", subject="S", text="T", to="team", always=True),
        ],
        [Parameter("day", "date"), Parameter("n", "int", default=1)],
    )  # fmt: skip
    ran = play(group, tmp_path / "data", config={"day": "yesterday", "n": 2**31})
    assert ran.made == []
    assert touched == []
    for name in (*named, "AWS credentials", "Google credentials", "parameter day: ", "parameter n: "):
        assert name in ran.failure
    fine = play(group, tmp_path / "data", select=["first"], config={"day": "2026-01-31"})
    assert fine.success, "what is selected needs none of it"
    monkeypatch.setenv("ETL_CHANNEL_TEAM", "sns:arn:aws:sns:eu-west-1:123456789012:team")
    sent = play(group, tmp_path / "data", select=["told"], config={"day": "2026-01-31"})
    assert "AWS credentials" in sent.failure


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("postgresql://reader:s3cr3t@127.0.0.1:1/none", "connection to server"),
        ("mysql+pymysql://reader:s3cr3t@127.0.0.1:1/none", "2003"),
        ("nonsense+driver://reader:s3cr3t@host/none", "ETL_DATABASE_SHOP"),
        ("reader:s3cr3t", "ETL_DATABASE_SHOP"),
        ("mssql+pyodbc://reader:s3cr3t@host/none", "pip install"),
    ],
)
def test_b10_a_database_that_cant_be_reached_is_told_in_a_line_without_its_password(
    url: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETL_DATABASE_SHOP", url)
    ran = play(
        Steps("lot", "One.", [SqlQuery("one", "One.", sql="SELECT 1 AS n", database="shop")]),
        tmp_path / "data",
    )
    assert told in ran.failure
    assert "s3cr3t" not in "".join(map(repr, ran.result.all_events))


@pytest.mark.fault("F39")
@pytest.mark.usefixtures("shop")
def test_the_session_is_closed_when_the_run_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from etl_assets.steps import sql_session

    closed: list[str] = []
    close = sql_session.SqlSession.close

    def noted(self: sql_session.SqlSession) -> None:
        closed.append(self.database)
        close(self)

    monkeypatch.setattr(sql_session.SqlSession, "close", noted)

    class Interrupting(SqlQuery):
        def make(self, work: object) -> Made:
            super().make(work)  # type: ignore[arg-type]
            raise KeyboardInterrupt

    group = Steps("lot", "Interrupted.", [Interrupting("one", "One.", sql="SELECT 1 AS n", database="shop")])
    with pytest.raises(BaseException):  # noqa: B017  Dagster's own, or ours
        assert play(group, tmp_path / "data").success
    assert closed == ["shop"]
