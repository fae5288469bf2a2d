"""The BigQuery resource: exact answers, whole tables, nothing done twice, whatever goes wrong on the way."""

import datetime as dt
import itertools
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from etl_assets.clients.bigquery import BigQuery, IfExists
from etl_assets.clients.bigquery_jobs import BigQueryError
from etl_assets.stand_ins.bigquery import BigQueryStandIn, InjectedFault, ReceivedRequest
from etl_assets.stand_ins.bigquery_tables import ErrorResponse
from etl_assets_tests.resources.conftest import PROJECT

CUT = InjectedFault(None)
LOST = InjectedFault(None, after=True)
PASSING = {
    "cut": CUT,
    "cut after it was done": LOST,
    "500": InjectedFault(500, "internalError"),
    "502": InjectedFault(502, "badGateway"),
    "503": InjectedFault(503),
    "503 after it was done": InjectedFault(503, after=True),
    "rate limit": InjectedFault(403, "rateLimitExceeded"),
    "429": InjectedFault(429, "rateLimitExceeded"),
}


def frame(*ids: int) -> pd.DataFrame:
    prices = pa.array([Decimal(f"{n}.25") for n in ids], pa.decimal128(10, 2))
    rows = pa.table({"id": pa.array(ids, pa.int64()), "price": prices})
    made: pd.DataFrame = rows.to_pandas(types_mapper=pd.ArrowDtype)
    return made


def held(stand_in: BigQueryStandIn, table: str = "orders") -> list[int] | None:
    """The ids that a table holds, asked behind the service's back."""
    if ("sales", table) not in stand_in.tables.tables:
        return None
    with stand_in.jobs.lock:
        return [n for (n,) in stand_in.tables.rows(f"SELECT id FROM sales.{table} ORDER BY id")]


def jobs(stand_in: BigQueryStandIn) -> list[str]:
    """The requests that would start a job."""
    return [
        request.path
        for request in stand_in.requests
        if request.path.endswith("/jobs") and request.method == "POST"
    ]


Faults = Callable[[ReceivedRequest], InjectedFault | None]


def every(nth: int, fault: InjectedFault) -> Faults:
    """Every n-th request goes wrong. Not those for tokens, which are Google's own client's to ask again."""
    numbers = itertools.count(1)
    return lambda request: fault if request.path != "/token" and next(numbers) % nth == 0 else None


def only(nth: int, fault: InjectedFault) -> Faults:
    numbers = itertools.count(1)
    return lambda request: fault if request.path != "/token" and next(numbers) == nth else None


def since(nth: int, fault: InjectedFault) -> Faults:
    """All requests go wrong from the n-th on."""
    numbers = itertools.count(1)
    return lambda request: fault if request.path != "/token" and next(numbers) >= nth else None


# -- asking ----------------------------------------------------------------------------------------------------------

VALUES: dict[str, Any] = {
    "whole": 9223372036854775807,
    "real": 0.1,
    "amount": Decimal("12345678901234567890123456789.123456789"),
    "long": Decimal("12345678901234567890.123456789012345678"),
    "yes": True,
    "text": "it's '; DROP TABLE x; -- \n\\ @text",
    "raw": b"\x00\xff",
    "day": dt.date(2024, 2, 29),
    "clock": dt.time(23, 59, 59, 999999),
    "moment": dt.datetime(2024, 2, 29, 12, 0, 0, 1),  # noqa: DTZ001
    "instant": dt.datetime(2024, 2, 29, 12, 0, 0, 1, tzinfo=dt.UTC),
    "nothing": None,
    "some": [1, 2],
    "none": [],
}


def test_parameters_and_answers_are_exact(resource: BigQuery) -> None:
    names = ", ".join(f"@{name} AS {name}" for name in VALUES)
    answer = resource.query(f"SELECT {names}", VALUES)
    found = pa.Table.from_pandas(answer, preserve_index=False).to_pylist()[0]
    assert found == VALUES
    assert all(isinstance(kind, pd.ArrowDtype) for kind in answer.dtypes)


def test_a_parameter_that_bigquery_has_no_type_for_is_named(resource: BigQuery) -> None:
    with pytest.raises(BigQueryError, match="the parameter x is a object"):
        resource.query("SELECT @x", {"x": object()})


@pytest.mark.many
@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
@pytest.mark.parametrize("nth", [2, 3])
def test_a_query_is_answered_although_requests_go_wrong(
    resource: BigQuery, stand_in: BigQueryStandIn, fault: InjectedFault, nth: int
) -> None:
    stand_in.jobs.page_rows = 2
    stand_in.fault = every(nth, fault)
    answer = resource.query("SELECT n FROM UNNEST([1, 2, 3, 4, 5]) AS n ORDER BY n")
    assert answer["n"].to_list() == [1, 2, 3, 4, 5]


def test_a_query_that_takes_its_time_is_waited_for(resource: BigQuery, stand_in: BigQueryStandIn) -> None:
    stand_in.jobs.seconds = 0.3
    assert resource.query("SELECT 1 AS n")["n"].to_list() == [1]


# -- exporting -------------------------------------------------------------------------------------------------------


def test_every_type_arrives_as_it_was(resource: BigQuery) -> None:
    kept = {name: value for name, value in VALUES.items() if name not in {"nothing", "none"}}
    rows = pa.Table.from_pylist([kept, dict.fromkeys(kept, None) | {"some": []}])
    rows = rows.append_column("money", pa.array([Decimal("0.10"), None], pa.decimal128(38, 2)))
    rows = rows.append_column("small", pa.array([1, None], pa.int16()))
    sent = rows.to_pandas(types_mapper=pd.ArrowDtype)
    resource.export(sent, "sales.kept")
    answer = pa.Table.from_pandas(resource.query("SELECT * FROM sales.kept"), preserve_index=False)
    by_day = sorted(answer.to_pylist(), key=lambda row: row["day"] is None)
    assert by_day == rows.to_pylist()


def test_an_ordinary_frame_is_taken_too(resource: BigQuery) -> None:
    resource.export(
        pd.DataFrame({"n": [1, 2], "when": pd.to_datetime(["2024-01-01", "2024-01-02"])}), "sales.plain"
    )
    assert sorted(resource.query("SELECT n FROM sales.plain")["n"]) == [1, 2]


def test_fail_replace_append(resource: BigQuery, stand_in: BigQueryStandIn) -> None:
    resource.export(frame(1, 2), "sales.orders")
    with pytest.raises(
        BigQueryError, match=r"sales\.orders exists already; say if_exists='replace' or 'append'"
    ):
        resource.export(frame(3), "sales.orders")
    assert held(stand_in) == [1, 2]
    resource.export(frame(3), "sales.orders", "append")
    assert held(stand_in) == [1, 2, 3]
    resource.export(frame(4), "sales.orders", "replace")
    assert held(stand_in) == [4]
    with pytest.raises(BigQueryError, match="if_exists is 'upsert': use one of fail, replace, append"):
        resource.export(frame(4), "sales.orders", "upsert")  # type: ignore[arg-type]


@pytest.mark.fault("F24")
def test_an_export_of_an_occasion_is_done_once(resource: BigQuery, stand_in: BigQueryStandIn) -> None:
    first = resource.export(frame(1), "sales.orders", "append", batch="monday")
    again = resource.export(frame(1), "sales.orders", "append", batch="monday")
    assert (first.already, again.already, again.job_id) == (False, True, first.job_id)
    assert held(stand_in) == [1]
    resource.export(frame(1), "sales.orders", "append", batch="tuesday")
    resource.export(frame(1), "sales.orders", "append")
    assert held(stand_in) == [1, 1, 1]
    new = resource.export(frame(1), "sales.new", "fail", batch="monday")
    assert resource.export(frame(1), "sales.new", "fail", batch="monday").already
    assert not new.already
    failing = iter([True, False, False])
    stand_in.jobs.fault = lambda job, statement: (
        ErrorResponse(500, "backendError", "no") if next(failing) else None
    )
    assert resource.export(frame(2), "sales.newer", "fail", batch="monday").job_id.endswith("_2")
    assert resource.export(frame(2), "sales.newer", "fail", batch="monday").job_id.endswith("_2")
    with pytest.raises(BigQueryError, match="'orders' names no table to export to"):
        resource.export(frame(1), "orders")


def test_content_that_was_there_before_can_come_back(resource: BigQuery, stand_in: BigQueryStandIn) -> None:
    for batch, content in enumerate((frame(1), frame(2), frame(1))):
        resource.export(content, "sales.orders", "replace", batch=str(batch))
    assert held(stand_in) == [1]


@pytest.mark.fault("F30")
def test_what_is_appended_takes_the_types_of_the_table_or_is_refused(
    resource: BigQuery, stand_in: BigQueryStandIn
) -> None:
    resource.export(frame(1), "sales.orders")
    resource.export(pd.DataFrame({"id": [2], "price": [Decimal("2.5")]}), "sales.orders", "append")
    for price in (Decimal("2.555"), "much"):
        with pytest.raises(BigQueryError, match=r"sales\.orders: .* price"):
            resource.export(pd.DataFrame({"id": [3], "price": [price]}), "sales.orders", "append")
    assert held(stand_in) == [1, 2]


def test_a_description_is_kept_and_changed(resource: BigQuery, stand_in: BigQueryStandIn) -> None:
    for said in ("one", "two"):
        resource.export(frame(1), "sales.orders", "replace", description=said)
        assert stand_in.tables.resource("sales", "orders")["description"] == said


def test_a_type_that_bigquery_does_not_hold_is_refused_before_anything_is_asked(
    resource: BigQuery, stand_in: BigQueryStandIn
) -> None:
    for rows in (
        pa.table({"x": pa.array([1], pa.uint64())}),
        pa.table({"x": pa.array([1], pa.duration("s"))}),
        pa.table({"x": pa.array([1], pa.timestamp("ns"))}),
    ):
        with pytest.raises(BigQueryError, match=r"sales\.orders: "):
            resource.export(rows.to_pandas(types_mapper=pd.ArrowDtype), "sales.orders")
    assert stand_in.requests == []


@pytest.mark.fault("F29")
@pytest.mark.many
@pytest.mark.parametrize("name", ["cut", "cut after it was done", "503 after it was done", "rate limit"])
def test_an_append_is_done_once_whichever_of_its_requests_goes_wrong(
    resource: BigQuery, stand_in: BigQueryStandIn, name: str
) -> None:
    resource.export(frame(0), "sales.orders")
    for nth in range(1, 14):
        stand_in.fault = only(nth, PASSING[name])
        resource.export(frame(nth), "sales.orders", "append", description=f"{nth}")
        assert held(stand_in) == [*range(nth + 1)]
    stand_in.fault = lambda request: None
    before = len(stand_in.requests)
    resource.export(frame(14), "sales.orders", "append", description="14")
    assert len(stand_in.requests) - before < 14  # each of them went wrong once


@pytest.mark.many
@pytest.mark.parametrize("mode", ["replace", "append"])
@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_an_export_is_done_once_although_every_third_request_goes_wrong(
    resource: BigQuery, stand_in: BigQueryStandIn, fault: InjectedFault, mode: IfExists
) -> None:
    stand_in.fault = every(3, fault)
    resource.export(frame(1, 2), "sales.orders", mode, description="x")
    resource.export(frame(3), "sales.orders", mode, description="y")
    assert held(stand_in) == ([3] if mode == "replace" else [1, 2, 3])


@pytest.mark.many
@pytest.mark.parametrize(
    "fault", [CUT, LOST, InjectedFault(503), InjectedFault(403, "rateLimitExceeded")], ids=str
)
def test_if_it_stays_wrong_the_error_is_one_line_and_the_old_table_or_the_new_one_is_whole(
    resource: BigQuery, stand_in: BigQueryStandIn, fault: InjectedFault
) -> None:
    resource.export(frame(1, 2), "sales.orders")
    seen, said = [], []
    for nth in range(1, 30):
        stand_in.fault = lambda request: None
        resource.export(frame(1, 2), "sales.orders", "replace")
        stand_in.fault = since(nth, fault)
        hasty = BigQuery(project=PROJECT, location="EU", pause_seconds=0, attempts=2)
        try:
            hasty.export(frame(3), "sales.orders", "replace", batch=str(nth))
            break
        except BigQueryError as error:
            said.append(str(error))
        seen.append(held(stand_in))
        stand_in.fault = lambda request: None
        # What was not done is done when it is asked for again; what was done is not done twice.
        resource.export(frame(3), "sales.orders", "replace", batch=str(nth))
        assert held(stand_in) == [3]
    assert not any("\n" in line for line in said)
    assert len(seen) > 6
    assert all(content in ([1, 2], [3]) for content in seen)
    assert seen[0] == [1, 2]
    assert (fault == LOST) == ([3] in seen)  # where the answer was lost, what was asked may be done


@pytest.mark.fault("F29")
def test_an_append_whose_answer_was_lost_for_good_is_not_done_twice_by_the_next_run(
    resource: BigQuery, stand_in: BigQueryStandIn
) -> None:
    resource.export(frame(1), "sales.orders")
    hasty = BigQuery(project=PROJECT, location="EU", pause_seconds=0, attempts=2, modifications_per_day=None)
    stand_in.fault = lambda request: LOST if "/upload" in request.path or "/jobs/" in request.path else None
    with pytest.raises(BigQueryError, match=r"sales\.orders: BigQuery can't be reached"):
        hasty.export(frame(2), "sales.orders", "append", batch="run 7")
    stand_in.fault = lambda request: None
    assert resource.export(frame(2), "sales.orders", "append", batch="run 7").already
    assert held(stand_in) == [1, 2]


@pytest.mark.fault("F29")
def test_a_job_that_was_still_running_when_its_answer_was_lost_is_waited_for(
    resource: BigQuery, stand_in: BigQueryStandIn
) -> None:
    resource.export(frame(1), "sales.orders")
    patient = resource.model_copy(update={"modifications_per_day": None})
    stand_in.jobs.seconds = 0.4
    uploads = itertools.count(1)
    stand_in.fault = lambda request: LOST if "/upload" in request.path and next(uploads) == 1 else None
    before = len(jobs(stand_in))
    patient.export(frame(2), "sales.orders", "append")
    assert len(jobs(stand_in)) == before + 2
    assert held(stand_in) == [1, 2]


def test_a_job_that_takes_too_long_is_named_and_found_by_the_next_run(
    resource: BigQuery, stand_in: BigQueryStandIn
) -> None:
    stand_in.jobs.seconds = 0.5
    hasty = resource.model_copy(update={"job_seconds": 0.1})
    with pytest.raises(
        BigQueryError, match=r"the job export_\w+_1 is still (pending|running) after 0 seconds; run again"
    ):
        hasty.export(frame(1), "sales.orders", "append", batch="a")
    assert resource.export(frame(1), "sales.orders", "append", batch="a").already
    assert held(stand_in) == [1]


# -- jobs that fail --------------------------------------------------------------------------------------------------


@pytest.mark.fault("F29")
@pytest.mark.parametrize("reason", ["backendError", "internalError", "rateLimitExceeded", "jobBackendError"])
def test_a_job_that_fails_for_a_reason_that_passes_is_submitted_again(
    resource: BigQuery, stand_in: BigQueryStandIn, reason: str
) -> None:
    failing = iter([True, True, False])
    stand_in.jobs.fault = lambda job, statement: (
        ErrorResponse(500, reason, "try again") if next(failing) else None
    )
    done = resource.export(frame(1), "sales.orders")
    assert done.job_id.endswith("_3")
    assert held(stand_in) == [1]


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("quotaExceeded", "a quota of BigQuery is used up, trying again does not help today: too much"),
        ("accessDenied", "not allowed: too much; docs/bigquery.md lists the roles"),
        ("invalid", "sales.orders: too much"),
    ],
)
def test_a_job_that_fails_for_another_reason_is_not(
    resource: BigQuery, stand_in: BigQueryStandIn, reason: str, words: str
) -> None:
    stand_in.jobs.fault = lambda job, statement: ErrorResponse(403, reason, "too much")
    with pytest.raises(BigQueryError) as caught:
        resource.export(frame(1), "sales.orders", batch="a")
    assert words in str(caught.value)
    assert len(jobs(stand_in)) == 1
    assert held(stand_in) is None
    stand_in.jobs.fault = lambda job, statement: None
    resource.export(
        frame(1), "sales.orders", batch="a"
    )  # the failure of an earlier run is no reason to give up
    assert held(stand_in) == [1]


def test_jobs_that_keep_failing_are_given_up(resource: BigQuery, stand_in: BigQueryStandIn) -> None:
    resource.export(frame(1), "sales.orders")
    stand_in.jobs.fault = lambda job, statement: (
        None if "query" in job["configuration"] else ErrorResponse(500, "backendError", "no")
    )
    before = len(jobs(stand_in))
    with pytest.raises(BigQueryError, match=r"sales\.orders: no"):
        resource.export(frame(2), "sales.orders", "replace")
    assert len(jobs(stand_in)) == before + 1 + resource.attempts
    assert held(stand_in) == [1]


@pytest.mark.fault("F29")
def test_a_used_up_quota_is_not_asked_again(resource: BigQuery, stand_in: BigQueryStandIn) -> None:
    stand_in.fault = lambda request: (
        InjectedFault(403, "quotaExceeded", "Quota exceeded: imports per table")
        if "upload" in request.path
        else None
    )
    with pytest.raises(BigQueryError, match=r"sales\.orders: a quota of BigQuery is used up"):
        resource.export(frame(1), "sales.orders")
    assert len(jobs(stand_in)) == 1


# -- files and scripts -----------------------------------------------------------------------------------------------


def test_files_are_loaded_once_by_upload_and_from_cloud_storage(
    resource: BigQuery, stand_in: BigQueryStandIn, tmp_path: Path
) -> None:
    bucket = tmp_path / "objects" / "bucket"
    bucket.mkdir(parents=True)
    paths = [bucket / f"{n}.parquet" for n in range(2)]
    for n, path in enumerate(paths):
        pq.write_table(pa.table({"id": pa.array([n], pa.int64())}), path)
    from google.cloud.bigquery import SchemaField

    fields = [SchemaField("id", "INT64", "REQUIRED")]
    with resource.client() as client:
        place = resource.dataset(client, "sales")
        for _ in range(2):
            stand_in.fault = every(2, LOST)
            resource.load(client, "sales.orders", fields, paths[0], "a", place, "WRITE_APPEND")
            uris = [f"gs://bucket/{path.name}" for path in paths]
            resource.load(client, "sales.orders", fields, uris, "b", place, "WRITE_APPEND")
    assert held(stand_in) == [0, 0, 1]
    assert stand_in.tables.resource("sales", "orders")["schema"]["fields"][0]["mode"] == "REQUIRED"


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_a_script_is_run_once(resource: BigQuery, stand_in: BigQueryStandIn, fault: InjectedFault) -> None:
    resource.export(frame(1), "sales.orders")
    script = "BEGIN TRANSACTION; INSERT INTO sales.orders (id) VALUES (2); COMMIT TRANSACTION"
    with resource.client() as client:
        for _ in range(2):
            stand_in.fault = every(2, fault)
            resource.run(client, script, "once", "EU")
    assert held(stand_in) == [1, 2]


# -- before anything is written --------------------------------------------------------------------------------------


@pytest.mark.fault("F30")
def test_a_dataset_elsewhere_is_an_error_before_anything_is_written(
    resource: BigQuery, stand_in: BigQueryStandIn
) -> None:
    resource.export(frame(1), "sales.orders")
    before = len(jobs(stand_in))
    with pytest.raises(
        BigQueryError, match=r"the dataset demo-project\.sales lies in EU, not in europe-west2"
    ):
        resource.export(frame(2), "sales.orders", "replace", location="europe-west2")
    assert len(jobs(stand_in)) == before
    anywhere = BigQuery(project=PROJECT, pause_seconds=0.01)
    anywhere.export(frame(2), "sales.orders", "replace")  # it is asked where the dataset lies
    assert held(stand_in) == [2]


def test_a_missing_dataset_is_made_where_it_is_said_and_nowhere_else(stand_in: BigQueryStandIn) -> None:
    anywhere = BigQuery(project=PROJECT, pause_seconds=0.01)
    with pytest.raises(
        BigQueryError, match=r"there is no dataset demo-project\.sales: create it, or say in which location"
    ):
        anywhere.export(frame(1), "sales.orders")
    assert stand_in.tables.datasets == {}
    anywhere.export(frame(1), "sales.orders", location="EU")
    assert stand_in.tables.datasets["sales"]["location"] == "EU"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (
            InjectedFault(403, "accessDenied", "Access Denied: Dataset x"),
            "not allowed: Access Denied: Dataset x; docs/bigquery.md",
        ),
        (InjectedFault(404, "notFound", "Not found: Project other"), "Not found: Project other"),
        (InjectedFault(401, "authError", "Invalid Credentials"), "Google does not accept the credentials"),
        (InjectedFault(400, "invalid", "several\n  lines"), "sales.orders: several lines"),
    ],
)
def test_what_is_refused_is_said_in_one_line_and_asked_once(
    resource: BigQuery, stand_in: BigQueryStandIn, fault: InjectedFault, words: str
) -> None:
    stand_in.fault = lambda request: fault if request.path != "/token" else None
    with pytest.raises(BigQueryError) as caught:
        resource.export(frame(1), "sales.orders")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    asked = [request for request in stand_in.requests if request.path != "/token"]
    assert len(asked) == (3 if fault.status == 401 else 1)  # Google's client fetches a new token, twice


@pytest.mark.fault("F30")
def test_expired_credentials_are_said_and_never_shown(resource: BigQuery, stand_in: BigQueryStandIn) -> None:
    stand_in.fault = lambda request: (
        InjectedFault(400, "invalid_grant", "secret-assertion") if request.path == "/token" else None
    )
    with pytest.raises(BigQueryError, match="the query: Google does not accept the credentials") as caught:
        resource.query("SELECT 1")
    assert "secret-assertion" not in str(caught.value)


def test_without_credentials_it_is_said_what_to_do(
    resource: BigQuery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "")
    monkeypatch.setenv("CLOUDSDK_CONFIG", "/nonexistent")
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    with pytest.raises(
        BigQueryError, match="there are no Google credentials; set GOOGLE_APPLICATION_CREDENTIALS"
    ):
        resource.query("SELECT 1")


def test_a_wrong_query_is_asked_once(resource: BigQuery, stand_in: BigQueryStandIn) -> None:
    for sql, words in {"SELEC 1": "Syntax error", "SELECT * FROM sales.none": "Not found: Dataset"}.items():
        with pytest.raises(BigQueryError, match=words):
            resource.query(sql)
    assert len(jobs(stand_in)) == 2


# -- budget ----------------------------------------------------------------------------------------------------------


@pytest.mark.fault("F29")
def test_a_table_that_was_changed_too_often_today_is_not_exported_to(
    resource: BigQuery, stand_in: BigQueryStandIn
) -> None:
    saving = resource.model_copy(update={"modifications_per_day": 4})
    resource.export(frame(1), "sales.orders")
    resource.export(frame(1), "sales.others")
    with resource.client() as client:
        resource.run(client, "UPDATE sales.orders SET price = 1 WHERE true", "a", "EU")
        resource.run(
            client, "BEGIN TRANSACTION; DELETE FROM sales.orders WHERE id = 9; COMMIT TRANSACTION", "b", "EU"
        )
        resource.query("SELECT * FROM sales.orders")
        assert resource.modifications(client, "sales.orders") == 3
    saving.export(frame(2), "sales.orders", "replace")
    with pytest.raises(BigQueryError, match=r"sales\.orders was changed 4 times in the last 24 hours"):
        saving.export(frame(3), "sales.orders", "replace")
    assert held(stand_in) == [2]
    saving.export(frame(3), "sales.others", "replace")
