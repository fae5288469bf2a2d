"""BigQuery as a resource: ask it, and put tables into it, whole or not at all.

It is dagster-gcp's resource, and finds credentials as all of Google's clients do: GOOGLE_APPLICATION_CREDENTIALS, or
who is logged in. No warehouse here: that is `bigquery_warehouse`.
"""

import hashlib
import io
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import pandas as pd
import pyarrow as pa
from dagster_gcp import BigQueryResource
from google.api_core.exceptions import NotFound, PreconditionFailed
from google.cloud import bigquery
from google.cloud.bigquery.enums import DecimalTargetType
from pydantic import Field

from etl_assets.clients.bigquery_jobs import (
    ONCE,
    REFUSALS,
    BigQueryError,
    CompletedJob,
    Job,
    RetryPolicy,
    carry_out,
    explained,
    explaining,
    look,
    message_of,
    wait,
)
from etl_assets.clients.bigquery_values import arrow_schema, fields_for, parameter, parquet

IfExists = Literal["fail", "replace", "append"]
_MODIFIES = ("INSERT", "UPDATE", "DELETE", "MERGE", "TRUNCATE_TABLE", "CREATE_TABLE_AS_SELECT")


@dataclass(frozen=True)
class Exported:
    """What an export did. `already`: the same export was done before, and was not done again."""

    table: str
    rows: int
    bytes: int
    job_id: str
    already: bool = False


class BigQuery(BigQueryResource):
    """A project in BigQuery.

    Requests are tried again after errors that pass (5xx, rate limits, cut connections), never after a used-up quota, a
    refused permission or a wrong query. A job has an id that says what it does: trying again does nothing twice.
    """

    attempts: int = Field(default=6, ge=1, description="How often a request or a job is tried.")
    pause_seconds: float = Field(
        default=1, ge=0, description="First pause between tries; then up to 30 seconds."
    )
    request_seconds: float = Field(default=120, gt=0, description="How long a request may take.")
    job_seconds: float = Field(default=3600, gt=0, description="How long a job is waited for.")
    modifications_per_day: int | None = Field(
        default=1400,
        description="A table that was changed so often within 24 hours is not exported to: BigQuery allows 1,500 a day. "
        "Empty: never asked.",
    )

    @property
    def patience(self) -> RetryPolicy:
        return RetryPolicy(self.attempts, self.pause_seconds, self.request_seconds, self.job_seconds)

    @contextmanager
    def client(self) -> Iterator[bigquery.Client]:
        """Google's own client. Raises `BigQueryError` if there are no credentials, or no project."""
        with ExitStack() as stack:
            try:
                client = stack.enter_context(self.get_client())
            except (*REFUSALS, OSError) as error:  # OSError: no project is known
                raise explained("BigQuery", error) from None
            stack.callback(client.close)
            yield client

    # -- asking --------------------------------------------------------------------------------------------------

    def query(self, sql: str, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """The rows of a query, with Arrow types: decimals stay exact. `@name` in the query takes params['name']."""
        with self.client() as client:
            frame: pd.DataFrame = self.ask(client, sql, params).to_pandas(types_mapper=pd.ArrowDtype)
            return frame

    def ask(self, client: bigquery.Client, sql: str, params: Mapping[str, Any] | None = None) -> pa.Table:
        """As `query`, as an Arrow table."""
        with explaining("the query"):
            return self.pages(client, sql, params).read_all()

    def pages(
        self, client: bigquery.Client, sql: str, params: Mapping[str, Any] | None = None
    ) -> pa.RecordBatchReader:
        """As `query`, page by page. Raises what the client raises."""
        given = [parameter(name, value) for name, value in (params or {}).items()]
        # Asking twice harms nobody, so that every try is a job of its own.
        job: Any = self.patience.retrying(
            lambda: client.query(
                sql,
                bigquery.QueryJobConfig(query_parameters=given),
                job_id=f"query_{uuid.uuid4().hex}",
                retry=ONCE,
                job_retry=None,
                timeout=self.request_seconds,
            )
        )
        done: Any = wait(client, job, self.patience)
        rows = done.result(retry=self.patience.paging(), job_retry=None)
        schema = arrow_schema(rows.schema)
        found = (page.cast(schema) for page in rows.to_arrow_iterable(bqstorage_client=None))
        return pa.RecordBatchReader.from_batches(schema, found)

    # -- exporting -----------------------------------------------------------------------------------------------

    def export(
        self,
        frame: pd.DataFrame,
        table: str,
        if_exists: IfExists = "fail",
        location: str | None = None,
        batch: str | None = None,
        description: str | None = None,
    ) -> Exported:
        """Put a frame, without its index, into `dataset.table` in one load job: readers see the table before it or after.

        `batch` names the occasion (a run, a partition): the same frame exported to the same table in the same way on the
        same occasion is exported once, however often this is called. Without it every call is an occasion of its own,
        within which a retry does nothing twice. A dataset that is missing is created if a location is given, here or for
        the resource.

        Raises `BigQueryError`, before anything is written, if there is no permission, the dataset lies elsewhere, or the
        table was changed too often today.
        """
        if if_exists not in get_args(IfExists):
            raise BigQueryError(f"if_exists is {if_exists!r}: use one of {', '.join(get_args(IfExists))}")
        if table.count(".") != 1:
            raise BigQueryError(f"{table!r} names no table to export to: write dataset.table")
        rows = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
        fields = fields_for(table, rows.schema)
        content = parquet(table, rows)
        identity = [table, if_exists, batch or uuid.uuid4().hex, hashlib.sha256(content).hexdigest()]
        name = f"export_{hashlib.sha256(repr(identity).encode()).hexdigest()[:32]}"
        with self.client() as client, explaining(table, [field.name for field in fields]):
            dataset, _, _ = table.partition(".")
            place = self.dataset(client, dataset, location)
            held = self.held(client, table)
            if if_exists == "fail" and held is not None:
                if batch and (job_id := self._succeeded(client, name, place)):
                    return Exported(table, rows.num_rows, len(content), job_id, already=True)
                raise BigQueryError(f"{table} exists already; say if_exists='replace' or 'append'")
            if held is not None:
                self.check_budget(client, table)
                if if_exists == "append":
                    # Numbers in the frame may have fewer digits than the table's; what does not fit is refused.
                    known = {field.name: field for field in held.schema}
                    fields = [known.get(field.name, field) for field in fields]
            dispositions = {"fail": "WRITE_EMPTY", "replace": "WRITE_TRUNCATE", "append": "WRITE_APPEND"}
            done = self.load(client, table, fields, io.BytesIO(content), name, place, dispositions[if_exists])
            if description is not None:
                self.amend(client, table, lambda held: _described(held, description))
        return Exported(table, rows.num_rows, len(content), str(done.job.job_id), done.already)

    def load(
        self,
        client: bigquery.Client,
        table: str,
        fields: Sequence[bigquery.SchemaField],
        source: BinaryIO | Path | Sequence[str],
        name: str,
        location: str,
        disposition: str = "WRITE_TRUNCATE",
    ) -> CompletedJob:
        """Load Parquet into `dataset.table`: an open or a local file, or gs:// URIs. The same `name` is the same job."""
        config = bigquery.LoadJobConfig(
            source_format=bigquery.SourceFormat.PARQUET,
            schema=list(fields),
            write_disposition=disposition,
            decimal_target_types=[DecimalTargetType.NUMERIC, DecimalTargetType.BIGNUMERIC],
        )
        target = bigquery.TableReference.from_string(table, client.project)
        seconds = self.request_seconds

        def submit(job_id: str) -> Job:
            if isinstance(source, Path):
                with source.open("rb") as stream:
                    return upload(stream, job_id)
            if isinstance(source, Sequence):
                return client.load_table_from_uri(
                    source, target, job_id, location=location, job_config=config, retry=ONCE, timeout=seconds
                )
            return upload(source, job_id)

        def upload(stream: BinaryIO, job_id: str) -> Job:
            size = stream.seek(0, io.SEEK_END)
            return client.load_table_from_file(
                stream,
                target,
                rewind=True,
                size=size,
                num_retries=0,
                job_id=job_id,
                location=location,
                job_config=config,
                timeout=seconds,
            )

        return carry_out(client, name, location, self.patience, submit)

    def run(
        self, client: bigquery.Client, sql: str, name: str, location: str, into: str | None = None
    ) -> CompletedJob:
        """Run a query or a script in one job, its answer into the table `into`. The same `name` is the same job."""
        config = bigquery.QueryJobConfig()
        if into:
            config.destination = bigquery.TableReference.from_string(into, client.project)
            config.write_disposition = "WRITE_TRUNCATE"

        def submit(job_id: str) -> Job:
            return client.query(
                sql,
                config,
                job_id,
                location=location,
                retry=ONCE,
                job_retry=None,
                timeout=self.request_seconds,
            )

        return carry_out(client, name, location, self.patience, submit)

    # -- what is there -------------------------------------------------------------------------------------------

    def dataset(self, client: bigquery.Client, name: str, location: str | None = None) -> str:
        """Where a dataset lies. It is created if it is missing and a location is given.

        Raises `BigQueryError` if it lies elsewhere than was said.
        """
        wanted = location or self.location
        seconds, called = self.request_seconds, f"{client.project}.{name}"
        try:
            found = self.patience.retrying(lambda: client.get_dataset(called, retry=ONCE, timeout=seconds))
        except NotFound as error:
            if "dataset" not in message_of(error).lower():
                raise
            if not wanted:
                raise BigQueryError(
                    f"there is no dataset {called}: create it, or say in which location it shall be created"
                ) from None
            made = bigquery.Dataset(called)
            made.location = wanted
            found = self.patience.retrying(
                lambda: client.create_dataset(made, exists_ok=True, retry=ONCE, timeout=seconds)
            )
        if wanted and found.location.upper() != wanted.upper():
            raise BigQueryError(
                f"the dataset {called} lies in {found.location}, not in {wanted}: mend the location"
            )
        return str(found.location)

    def check_budget(self, client: bigquery.Client, table: str) -> None:
        """Raise `BigQueryError` if `dataset.table` was changed so often that BigQuery may soon refuse."""
        if self.modifications_per_day is None:
            return
        used = self.modifications(client, table)
        if used >= self.modifications_per_day:
            raise BigQueryError(
                f"{table} was changed {used:,} times in the last 24 hours, and BigQuery allows 1,500 a day: export it less "
                "often, or raise modifications_per_day"
            )

    def modifications(self, client: bigquery.Client, table: str) -> int:
        """How often jobs of this account changed `dataset.table` in the last 24 hours, failed loads included."""
        dataset, _, name = table.partition(".")
        region = self.dataset(client, dataset).lower()
        found = self.ask(
            client,
            f"SELECT COUNT(*) AS n FROM `region-{region}`.INFORMATION_SCHEMA.JOBS_BY_USER "
            "WHERE creation_time > TIMESTAMP_SUB(CURRENT_TIMESTAMP(), INTERVAL 24 HOUR) "
            "AND destination_table.dataset_id = @dataset AND destination_table.table_id = @name "
            "AND (job_type IN ('LOAD', 'COPY') OR statement_type IN UNNEST(@kinds))",
            {"dataset": dataset, "name": name, "kinds": list(_MODIFIES)},
        )
        return int(found["n"][0].as_py())

    def held(self, client: bigquery.Client, table: str) -> bigquery.Table | None:
        """What is there under `dataset.table`; None if nothing is."""
        try:
            return self.patience.retrying(
                lambda: client.get_table(
                    f"{client.project}.{table}", retry=ONCE, timeout=self.request_seconds
                )
            )
        except NotFound:
            return None

    def content(self, client: bigquery.Client, table: bigquery.Table) -> pa.Table:
        """All rows of a table, read without a query, which costs nothing."""
        rows = client.list_rows(table, retry=self.patience.paging(), timeout=self.request_seconds)
        found: pa.Table = rows.to_arrow(create_bqstorage_client=False)
        return found.cast(arrow_schema(table.schema))

    def _succeeded(self, client: bigquery.Client, name: str, location: str) -> str | None:
        """The id of the job of this name that succeeded; None if none did."""
        for number in count(1):
            try:
                job = look(client, f"{name}_{number}", location, self.patience)
            except NotFound:
                break
            if wait(client, job, self.patience).error_result is None:
                return str(job.job_id)
        return None

    def amend(
        self, client: bigquery.Client, table: str, change: Callable[[bigquery.Table], Sequence[str]]
    ) -> None:
        """Change what is said of `dataset.table`: `change` is given it, changes it, and names the properties changed."""

        def attempt() -> None:
            # Read each time: when the answer to a change was lost, the second reading finds it made.
            held = client.get_table(f"{client.project}.{table}", retry=ONCE, timeout=self.request_seconds)
            if changes := change(held):
                client.update_table(held, changes, retry=ONCE, timeout=self.request_seconds)

        self.patience.retrying(attempt, (PreconditionFailed,))


def _described(table: bigquery.Table, description: str) -> list[str]:
    if (table.description or "") == description:
        return []
    table.description = description
    return ["description"]
