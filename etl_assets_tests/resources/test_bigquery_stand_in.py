"""What the stand-in has of BigQuery, so that tests against it mean something: asked by the real client."""

import base64
import datetime as dt
import io
import random
import urllib.error
import urllib.request
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.api_core.exceptions import (
    BadRequest,
    Conflict,
    Forbidden,
    GoogleAPICallError,
    NotFound,
    PreconditionFailed,
)
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery, storage
from google.cloud.bigquery import SchemaField

from etl_assets.clients.bigquery import BigQuery
from etl_assets.stand_ins import gcs
from etl_assets.stand_ins.bigquery import BigQueryStandIn, objects_at
from etl_assets.stand_ins.bigquery_tables import ErrorResponse
from etl_assets_tests.resources.conftest import PROJECT

ROWS = pa.table({"id": [1, 2, 3], "name": ["a", "b", None]})
SCHEMA = [SchemaField("id", "INT64", "REQUIRED"), SchemaField("name", "STRING")]


@pytest.fixture
def client(resource: BigQuery) -> Iterator[bigquery.Client]:
    with resource.client() as opened:
        opened.create_dataset("sales")
        yield opened


def parquet(rows: pa.Table) -> io.BytesIO:
    stream = io.BytesIO()
    pq.write_table(rows, stream)
    return stream


def load(
    client: bigquery.Client,
    rows: pa.Table,
    table: str = "sales.orders",
    job: str | None = None,
    **config: Any,
) -> bigquery.LoadJob:
    given = {"source_format": "PARQUET", "schema": SCHEMA, **config}
    return client.load_table_from_file(
        parquet(rows), table, rewind=True, job_id=job, job_config=bigquery.LoadJobConfig(**given)
    )


def ids(client: bigquery.Client, table: str = "sales.orders") -> list[int]:
    return sorted(row["id"] for row in client.list_rows(table))


# -- jobs ------------------------------------------------------------------------------------------------------------


def test_the_id_of_a_job_is_taken_once(client: bigquery.Client) -> None:
    load(client, ROWS, job="once").result()
    with pytest.raises(Conflict, match="Already Exists: Job"):
        load(client, ROWS, job="once")
    with pytest.raises(Conflict):
        client.query("SELECT 1", job_id="once", job_retry=None)
    assert ids(client) == [1, 2, 3]


def test_a_job_is_pending_then_running_then_done_and_only_then_seen(
    client: bigquery.Client, stand_in: BigQueryStandIn
) -> None:
    stand_in.jobs.seconds = 0.4
    job: Any = load(client, ROWS)
    states = [job.state]
    while job.state != "DONE":
        there = {table.table_id for table in client.list_tables("sales")}
        job = client.get_job(job.job_id, location="EU")
        assert job.state == "DONE" or not there
        states.append(job.state)
    assert list(dict.fromkeys(states)) == ["PENDING", "RUNNING", "DONE"]
    assert ids(client) == [1, 2, 3]


def test_a_job_is_found_in_its_location_only(client: bigquery.Client) -> None:
    client.create_dataset(far_away(client))
    job = client.query("SELECT 1", location="europe-west2")
    assert client.get_job(job.job_id, location="europe-west2").state == "DONE"
    with pytest.raises(NotFound):
        client.get_job(job.job_id, location="EU")


def far_away(client: bigquery.Client) -> bigquery.Dataset:
    dataset = bigquery.Dataset(f"{client.project}.far")
    dataset.location = "europe-west2"
    return dataset


def test_a_job_in_another_location_than_its_table_fails(client: bigquery.Client) -> None:
    client.create_dataset(far_away(client))
    config = bigquery.LoadJobConfig(source_format="PARQUET", schema=SCHEMA)
    job = client.load_table_from_file(
        parquet(ROWS), "far.orders", rewind=True, location="EU", job_config=config
    )
    with pytest.raises(NotFound, match="was not found in location EU"):
        job.result()


def test_results_and_tables_come_in_pages(client: bigquery.Client, stand_in: BigQueryStandIn) -> None:
    load(client, ROWS).result()
    stand_in.jobs.page_rows = 2
    before = len(stand_in.requests)
    assert [row["id"] for row in client.query("SELECT id FROM sales.orders ORDER BY id").result()] == [
        1,
        2,
        3,
    ]
    assert ids(client) == [1, 2, 3]
    assert len(stand_in.requests) - before == 7  # the job, its schema, two pages; the table, two pages


def test_a_dry_run_looks_everything_up_and_does_nothing(client: bigquery.Client) -> None:
    load(client, ROWS).result()
    dry = bigquery.QueryJobConfig(dry_run=True)
    client.query("DELETE FROM sales.orders WHERE true", dry)
    assert ids(client) == [1, 2, 3]
    with pytest.raises(NotFound):
        client.query("SELECT * FROM sales.nothing", dry)


# -- loads -----------------------------------------------------------------------------------------------------------


def test_large_files_arrive_in_pieces(
    client: bigquery.Client, stand_in: BigQueryStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("google.cloud.bigquery.client._DEFAULT_CHUNKSIZE", 1 << 20)
    noise = base64.b85encode(random.Random(1).randbytes(2 << 20)).decode()
    content = parquet(pa.table({"id": [1], "name": [noise]}))
    config = bigquery.LoadJobConfig(source_format="PARQUET", schema=SCHEMA)
    client.load_table_from_file(content, "sales.orders", rewind=True, job_config=config).result()
    uploads = [r.method for r in stand_in.requests if r.path.startswith("/upload")]
    assert uploads[0] == "POST"
    assert uploads[1:] == ["PUT"] * 3
    assert ids(client) == [1]


def test_dispositions(client: bigquery.Client) -> None:
    load(client, ROWS, write_disposition="WRITE_EMPTY").result()
    with pytest.raises(Conflict, match="Already Exists: Table"):
        load(client, ROWS, write_disposition="WRITE_EMPTY").result()
    load(client, ROWS.slice(0, 1), write_disposition="WRITE_APPEND").result()
    assert ids(client) == [1, 1, 2, 3]
    load(client, ROWS.slice(1), write_disposition="WRITE_TRUNCATE").result()
    assert ids(client) == [2, 3]


@pytest.mark.parametrize(
    ("rows", "schema"),
    [
        (pa.table({"id": [None, 1]}), None),
        (pa.table({"other": [1]}), None),
        (pa.table({"id": ["x"]}), None),
        (pa.table({"id": [Decimal("1.1234567891")]}), [SchemaField("id", "NUMERIC")]),
        (pa.table({"id": pa.array([0], pa.timestamp("us", "UTC"))}), [SchemaField("id", "DATETIME")]),
    ],
    ids=["null where one is required", "column missing", "text for a number", "digits too many", "zone"],
)
def test_a_load_that_does_not_fit_changes_nothing(
    client: bigquery.Client, rows: pa.Table, schema: list[SchemaField] | None
) -> None:
    load(client, ROWS).result()
    job = load(client, rows, schema=schema or SCHEMA, write_disposition="WRITE_TRUNCATE")
    with pytest.raises(BadRequest):
        job.result()
    assert ids(client) == [1, 2, 3]
    assert [field.name for field in client.get_table("sales.orders").schema] == ["id", "name"]


def test_rows_are_appended_only_to_columns_of_the_same_type(client: bigquery.Client) -> None:
    load(client, ROWS).result()
    job = load(client, pa.table({"id": ["1"]}), schema=[SchemaField("id", "STRING")])
    with pytest.raises(BadRequest, match="Provided Schema does not match"):
        job.result()


def test_files_are_loaded_from_cloud_storage(client: bigquery.Client, tmp_path: Path) -> None:
    folder = tmp_path / "objects" / "bucket" / "a b"
    folder.mkdir(parents=True)
    pq.write_table(ROWS.slice(0, 2), folder / "1.parquet")
    pq.write_table(ROWS.slice(2), folder / "2.parquet")
    config = bigquery.LoadJobConfig(source_format="PARQUET", schema=SCHEMA)
    uris = [f"gs://bucket/a b/{n}.parquet" for n in (1, 2)]
    client.load_table_from_uri(uris, "sales.orders", job_config=config).result()
    assert ids(client) == [1, 2, 3]
    with pytest.raises(NotFound, match="Not found: URI"):
        client.load_table_from_uri("gs://bucket/none", "sales.orders", job_config=config).result()


def test_objects_are_read_from_a_stand_in_of_cloud_storage() -> None:
    with gcs.serve("bucket") as service:
        client = storage.Client(
            PROJECT,
            credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
            client_options={"api_endpoint": service.url},
        )
        client.bucket("bucket").blob("a b/c").upload_from_string(b"content")
        client.close()
        read = objects_at(service.url)
        assert read("gs://bucket/a b/c") == b"content"
        with pytest.raises(FileNotFoundError):
            read("gs://bucket/none")


# -- values ----------------------------------------------------------------------------------------------------------

VALUES: dict[str, Any] = {
    "INT64": -(2**63),
    "FLOAT64": 0.1,
    "NUMERIC": Decimal("-12345678901234567890123456789.123456789"),
    "BIGNUMERIC": Decimal("12345678901234567890.123456789012345678"),
    "BOOL": False,
    "STRING": "it's\n\"`\\ \0é",
    "BYTES": b"\x00\xff",
    "DATE": dt.date(1, 1, 1),
    "TIME": dt.time(23, 59, 59, 999999),
    "DATETIME": dt.datetime(9999, 12, 31, 23, 59, 59, 999999),  # noqa: DTZ001
    "TIMESTAMP": dt.datetime(2024, 6, 30, 12, 0, 0, 1, tzinfo=dt.UTC),
}


@pytest.mark.parametrize("kind", VALUES)
def test_values_are_exact_as_parameters_in_tables_and_in_results(client: bigquery.Client, kind: str) -> None:
    value = VALUES[kind]
    given = bigquery.ScalarQueryParameter("v", kind, value)
    config = bigquery.QueryJobConfig(query_parameters=[given], destination=f"{PROJECT}.sales.kept")
    ((found,),) = client.query("SELECT @v AS v", config).result()
    ((kept,),) = client.list_rows(f"{PROJECT}.sales.kept")
    assert (found, kept) == (value, value)
    assert client.get_table("sales.kept").schema[0].field_type in {
        kind,
        {"INT64": "INTEGER", "FLOAT64": "FLOAT", "BOOL": "BOOLEAN"}.get(kind),
    }


# -- SQL -------------------------------------------------------------------------------------------------------------


def test_a_transaction_is_whole_or_not_at_all(client: bigquery.Client) -> None:
    load(client, ROWS).result()
    script = """
        BEGIN TRANSACTION;
        DELETE FROM sales.orders WHERE id < 3; -- a comment; with a semicolon
        INSERT INTO sales.orders (id) VALUES (4);
        {};
        COMMIT TRANSACTION
    """
    with pytest.raises(BadRequest, match="it is not so; sorry"):
        client.query(
            script.format("ASSERT (SELECT COUNT(*) FROM sales.orders) = 3 AS 'it is not so; sorry'")
        ).result()
    assert ids(client) == [1, 2, 3]
    client.query(script.format("ASSERT (SELECT COUNT(*) FROM sales.orders) = 2 AS 'it is not so'")).result()
    assert ids(client) == [3, 4]


def test_a_script_that_ends_inside_a_transaction_is_rolled_back(client: bigquery.Client) -> None:
    load(client, ROWS).result()
    client.query("BEGIN TRANSACTION; DELETE FROM sales.orders WHERE true").result()
    assert ids(client) == [1, 2, 3]


def test_without_a_transaction_what_came_before_an_error_stays(client: bigquery.Client) -> None:
    load(client, ROWS).result()
    with pytest.raises(NotFound):
        client.query("DELETE FROM sales.orders WHERE id = 1; DELETE FROM sales.none WHERE true").result()
    assert ids(client) == [2, 3]


def test_a_transaction_makes_and_drops_temporary_tables_only(client: bigquery.Client) -> None:
    load(client, ROWS).result()
    for statement in ("CREATE TABLE sales.made AS SELECT 1 AS a", "DROP TABLE sales.orders"):
        with pytest.raises(BadRequest, match="Only temporary tables"):
            client.query(f"BEGIN TRANSACTION; {statement}; COMMIT TRANSACTION").result()
    client.query(
        "BEGIN TRANSACTION; CREATE TEMP TABLE some AS SELECT id FROM sales.orders WHERE id > 1; "
        "DELETE FROM sales.orders WHERE id NOT IN (SELECT id FROM some); COMMIT TRANSACTION"
    ).result()
    assert ids(client) == [2, 3]


def test_statements_say_how_many_rows_they_changed(client: bigquery.Client) -> None:
    load(client, ROWS).result()
    for statement, affected in {
        "UPDATE sales.orders SET name = 'x' WHERE id > 1": 2,
        "MERGE sales.orders AS t USING (SELECT 3 AS id UNION ALL SELECT 4) AS s ON t.id = s.id WHEN MATCHED THEN "
        "DELETE WHEN NOT MATCHED THEN INSERT (id) VALUES (s.id)": 2,
        "TRUNCATE TABLE sales.orders": 3,
    }.items():
        job = client.query(statement)
        job.result()
        assert job.num_dml_affected_rows == affected


def test_a_copy_takes_rows_types_and_descriptions_along(client: bigquery.Client) -> None:
    table = bigquery.Table(
        f"{PROJECT}.sales.prices", [SchemaField("p", "NUMERIC", "REQUIRED", precision=10, scale=2)]
    )
    table.description = "Prices."
    table.clustering_fields = ["p"]
    client.create_table(table)
    client.query("INSERT INTO sales.prices (p) VALUES (1.25)").result()
    client.query("CREATE OR REPLACE TABLE sales.copied COPY sales.prices").result()
    copied = client.get_table("sales.copied")
    assert (copied.schema, copied.description, copied.clustering_fields) == (table.schema, "Prices.", ["p"])
    assert [row[0] for row in client.list_rows(copied)] == [Decimal("1.25")]


def test_tables_of_a_dataset_whose_tables_expire_do_so_and_so_do_their_copies(
    client: bigquery.Client,
) -> None:
    brief = bigquery.Dataset(f"{PROJECT}.brief")
    brief.default_table_expiration_ms = 3_600_000
    client.create_dataset(brief)
    load(client, ROWS, "brief.orders").result()
    for copied, options, expires in (("a", "", True), ("b", " OPTIONS (expiration_timestamp = NULL)", False)):
        client.query(f"CREATE OR REPLACE TABLE sales.{copied} COPY brief.orders{options}").result()
        assert (client.get_table(f"sales.{copied}").expires is not None) == expires


def test_views_follow_their_tables(client: bigquery.Client) -> None:
    load(client, ROWS).result()
    view = bigquery.Table(f"{PROJECT}.sales.named")
    view.view_query = f"SELECT id FROM `{PROJECT}`.`sales`.`orders` WHERE name IS NOT NULL"
    client.create_table(view)
    client.query("DELETE FROM sales.orders WHERE id = 1").result()
    assert [row[0] for row in client.query("SELECT * FROM sales.named").result()] == [2]
    assert client.get_table("sales.named").table_type == "VIEW"


def test_the_history_of_jobs_can_be_asked_statements_of_scripts_included(client: bigquery.Client) -> None:
    load(client, ROWS).result()
    client.query("BEGIN TRANSACTION; DELETE FROM sales.orders WHERE id = 1; COMMIT TRANSACTION").result()
    client.query("UPDATE sales.orders SET name = 'x' WHERE true").result()
    found = client.query(
        "SELECT job_type, statement_type, destination_table.table_id AS t FROM `region-eu`.INFORMATION_SCHEMA.JOBS_BY_USER "
        "WHERE destination_table.table_id IS NOT NULL ORDER BY job_type, statement_type"
    ).result()
    assert [tuple(row) for row in found] == [
        ("LOAD", None, "orders"),
        ("QUERY", "DELETE", "orders"),
        ("QUERY", "UPDATE", "orders"),
    ]
    assert (
        len(list(client.list_jobs(parent_job=next(j.job_id for j in client.list_jobs() if j.num_child_jobs))))
        == 3
    )


# -- tables ----------------------------------------------------------------------------------------------------------


def test_what_is_said_of_a_table_is_kept(client: bigquery.Client) -> None:
    table = bigquery.Table(
        f"{PROJECT}.sales.orders", [SchemaField("id", "INT64", description="Which."), SCHEMA[1]]
    )
    table.description = "Orders."
    table.time_partitioning = bigquery.TimePartitioning("MONTH", "day")
    table.clustering_fields = ["id"]
    client.create_table(table)
    held = client.get_table("sales.orders")
    assert (held.description, held.schema[0].description) == ("Orders.", "Which.")
    assert (held.time_partitioning, held.clustering_fields) == (table.time_partitioning, ["id"])
    with pytest.raises(BadRequest, match="Incompatible table partitioning"):
        load(client, ROWS, time_partitioning=bigquery.TimePartitioning("DAY")).result()


def test_a_change_of_a_table_that_somebody_else_changed_is_refused(client: bigquery.Client) -> None:
    load(client, ROWS).result()
    mine, theirs = client.get_table("sales.orders"), client.get_table("sales.orders")
    theirs.description = "theirs"
    client.update_table(theirs, ["description"])
    mine.description = "mine"
    with pytest.raises(PreconditionFailed):
        client.update_table(mine, ["description"])
    assert client.get_table("sales.orders").description == "theirs"


def test_columns_can_be_added_and_nothing_else(client: bigquery.Client) -> None:
    load(client, ROWS).result()
    held = client.get_table("sales.orders")
    held.schema = [*held.schema, SchemaField("more", "DATE")]
    held = client.update_table(held, ["schema"])
    assert [row["more"] for row in client.list_rows(held)] == [None] * 3
    held.schema = held.schema[1:]
    with pytest.raises(BadRequest, match="missing or has changed type"):
        client.update_table(held, ["schema"])


def test_streamed_rows_with_an_id_that_was_seen_are_kept_once(client: bigquery.Client) -> None:
    load(client, ROWS.slice(0, 0)).result()
    for _ in range(2):
        assert client.insert_rows_json("sales.orders", [{"id": 1}, {"id": 2}], row_ids=["a", "b"]) == []
    assert ids(client) == [1, 2]
    errors = client.insert_rows_json("sales.orders", [{"id": 3}, {"id": "x"}, {"name": "y"}])
    assert {e["index"]: e["errors"][0]["reason"] for e in errors} == {
        0: "stopped",
        1: "invalid",
        2: "invalid",
    }
    assert ids(client) == [1, 2]


# -- errors ----------------------------------------------------------------------------------------------------------


def test_errors_look_like_those_of_the_service(client: bigquery.Client, stand_in: BigQueryStandIn) -> None:
    for ask, kind, reason in (
        (lambda: client.get_table("sales.none"), NotFound, "notFound"),
        (lambda: client.get_dataset("none"), NotFound, "notFound"),
        (lambda: client.create_dataset("sales"), Conflict, "duplicate"),
        (lambda: client.query("SELEC 1").result(), BadRequest, "invalidQuery"),
        (
            lambda: client.query("SELECT nothing FROM (SELECT 1 AS a) AS t").result(),
            BadRequest,
            "invalidQuery",
        ),
        (lambda: client.query("SELECT @missing").result(), BadRequest, "invalidQuery"),
    ):
        with pytest.raises(kind) as caught:
            ask()
        error = caught.value
        assert isinstance(error, GoogleAPICallError)
        assert error.errors[0]["reason"] == reason
    stand_in.jobs.fault = lambda job, statement: ErrorResponse(403, "quotaExceeded", "Quota exceeded")
    with pytest.raises(Forbidden):
        load(client, ROWS).result()


def test_who_brings_no_token_is_turned_away(stand_in: BigQueryStandIn) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{stand_in.url}/bigquery/v2/projects/{PROJECT}/datasets")  # noqa: S310
    with caught.value as error:
        assert error.code == 401
