"""Datasets and tables of the BigQuery stand-in: their resources as the REST API shows them, their rows in DuckDB."""

import io
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from etl_assets.engine.duck import identifier
from etl_assets.stand_ins.bigquery_types import (
    Field,
    arrow_type,
    duckdb_type,
    fields_of,
    legacy_name,
    row,
)

Json = dict[str, Any]

TEXT = "bigquery_text"
# The text of a number ends with its last digit that counts, however many its type has.
_TEXT = f"""CREATE MACRO {TEXT}(x) AS CASE
    WHEN starts_with(typeof(x), 'DECIMAL') AND contains(CAST(x AS VARCHAR), '.')
    THEN rtrim(rtrim(CAST(x AS VARCHAR), '0'), '.') ELSE CAST(x AS VARCHAR) END"""
_KEYS = {"BIGNUMERIC", "BOOLEAN", "DATE", "DATETIME", "INTEGER", "NUMERIC", "STRING", "TIMESTAMP"}


class ErrorResponse(Exception):
    """What the service answers instead of doing it: an HTTP status, a reason, a message."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message


class Tables:
    """All datasets of one project. Not safe for threads: the server holds a lock around it."""

    def __init__(self, project: str) -> None:
        self.project = project
        self.database = duckdb.connect()
        self.database.execute("SET TimeZone = 'UTC'")
        self.database.execute("SET python_enable_replacements = false")
        self.database.execute(_TEXT)
        self.datasets: dict[str, Json] = {}
        self.tables: dict[tuple[str, str], Json] = {}
        self._seen: set[tuple[str, str, str]] = set()

    def rows(self, sql: str, params: Any = None) -> list[tuple[Any, ...]]:
        """The rows of a table."""
        return self.database.execute(sql, params).fetchall()

    # -- datasets ------------------------------------------------------------------------------------------------

    def create_dataset(self, body: Json) -> Json:
        """Make an empty dataset."""
        name = body["datasetReference"]["datasetId"]
        if name in self.datasets:
            raise ErrorResponse(409, "duplicate", f"Already Exists: Dataset {self.project}:{name}")
        self.database.execute(f"CREATE SCHEMA {identifier(name)}")
        reference = {"projectId": self.project, "datasetId": name}
        self.datasets[name] = {
            "kind": "bigquery#dataset",
            "id": f"{self.project}:{name}",
            "location": "US",
            **body,
            "datasetReference": reference,
        }
        return self.datasets[name]

    def dataset(self, name: str) -> Json:
        """A dataset, or the answer that there is none."""
        if name not in self.datasets:
            raise ErrorResponse(404, "notFound", f"Not found: Dataset {self.project}:{name}")
        return self.datasets[name]

    def delete_dataset(self, name: str, *, contents: bool) -> None:
        """Remove a dataset, with its tables if that is said."""
        self.dataset(name)
        held = [key for key in self.tables if key[0] == name]
        if held and not contents:
            raise ErrorResponse(400, "resourceInUse", f"Dataset {self.project}:{name} is still in use")
        self.database.execute(f"DROP SCHEMA {identifier(name)} CASCADE")
        for key in held:
            del self.tables[key]
        del self.datasets[name]

    # -- tables --------------------------------------------------------------------------------------------------

    def create(self, dataset: str, body: Json, view_sql: str | None = None) -> Json:
        """A new empty table, or a view if its query is given in DuckDB's SQL."""
        self.dataset(dataset)
        name = body["tableReference"]["tableId"]
        if (dataset, name) in self.tables:
            raise ErrorResponse(409, "duplicate", f"Already Exists: Table {self.project}:{dataset}.{name}")
        place = _place(dataset, name)
        _check_layout(body, body)
        if view_sql:
            self.database.execute(f"CREATE VIEW {place} AS {view_sql}")
        else:
            columns = ", ".join(_column(field) for field in body["schema"]["fields"])
            self.database.execute(f"CREATE TABLE {place} ({columns})")
        self.note(dataset, name, body)
        return self.resource(dataset, name)

    def note(self, dataset: str, name: str, body: Json) -> None:
        """Keep what is said about a table, beside what it was."""
        now = str(int(time.time() * 1000))
        known = self.tables.get((dataset, name))
        if known is None:
            known = {"creationTime": now}
            if lasts := self.datasets[dataset].get("defaultTableExpirationMs"):
                known["expirationTime"] = str(int(now) + int(lasts))
        body = {k: v for k, v in body.items() if k != "tableReference"}
        if "schema" in body:
            shown = [_shown(field) for field in body["schema"]["fields"]]
            body["schema"] = {"fields": shown}
        elif "schema" not in known:
            shown = fields_of(self.database.sql(f"FROM {_place(dataset, name)} LIMIT 0"))
            body["schema"] = {"fields": shown}
        self.tables[dataset, name] = {
            **known,
            **{k: v for k, v in body.items() if v is not None},
            "etag": uuid.uuid4().hex,
            "lastModifiedTime": now,
        }

    def held(self, dataset: str, name: str) -> Json:
        """What was noted of a table."""
        self.dataset(dataset)
        if (dataset, name) not in self.tables:
            raise ErrorResponse(404, "notFound", f"Not found: Table {self.project}:{dataset}.{name}")
        return self.tables[dataset, name]

    def resource(self, dataset: str, name: str) -> Json:
        """A table as the API tells it."""
        held = self.held(dataset, name)
        count = 0  # a view is not looked into: it may be of what is there no longer
        if "view" not in held:
            ((count,),) = self.rows(f"SELECT count(*) FROM {_place(dataset, name)}")
        return {
            "kind": "bigquery#table",
            "id": f"{self.project}:{dataset}.{name}",
            "tableReference": {"projectId": self.project, "datasetId": dataset, "tableId": name},
            "type": "VIEW" if "view" in held else "TABLE",
            "location": self.datasets[dataset]["location"],
            "numRows": str(count),
            "numBytes": str(count * 8 * len(held["schema"]["fields"])),
            **held,
        }

    def patch(
        self, dataset: str, name: str, body: Json, etag: str | None, view_sql: str | None = None
    ) -> Json:
        """Change what a table says of itself."""
        held = self.held(dataset, name)
        if etag and etag != held["etag"]:
            raise ErrorResponse(412, "conditionNotMet", "Precondition check failed.")
        place = _place(dataset, name)
        _check_layout(body, held)
        if view_sql:
            self.database.execute(f"CREATE OR REPLACE VIEW {place} AS {view_sql}")
            body = {**body, "schema": {"fields": fields_of(self.database.sql(f"FROM {place} LIMIT 0"))}}
        elif "schema" in body:
            known = {field["name"]: field for field in held["schema"]["fields"]}
            wanted = {field["name"]: field for field in body["schema"]["fields"]}
            for field in known.values():
                if field["name"] not in wanted or duckdb_type(field) != duckdb_type(wanted[field["name"]]):
                    raise ErrorResponse(
                        400,
                        "invalid",
                        f"Provided Schema does not match Table {self.project}:{dataset}.{name}. "
                        f"Field {field['name']} is missing or has changed type",
                    )
            for field in wanted.values():
                if field["name"] not in known:
                    if field.get("mode") == "REQUIRED":
                        raise ErrorResponse(
                            400,
                            "invalid",
                            f"Cannot add required fields to an existing schema: {field['name']}",
                        )
                    self.database.execute(f"ALTER TABLE {place} ADD COLUMN {_column(field)}")
        self.note(dataset, name, body)
        return self.resource(dataset, name)

    def delete(self, dataset: str, name: str) -> None:
        """Remove a table."""
        held = self.held(dataset, name)
        self.database.execute(f"DROP {'VIEW' if 'view' in held else 'TABLE'} {_place(dataset, name)}")
        del self.tables[dataset, name]

    # -- rows ----------------------------------------------------------------------------------------------------

    def page(self, dataset: str, name: str, start: int, size: int, *, int64_timestamps: bool) -> Json:
        """tabledata.list"""
        held = self.held(dataset, name)
        if "view" in held:
            raise ErrorResponse(400, "invalid", f"Cannot list a table of type VIEW: {dataset}.{name}")
        fields = held["schema"]["fields"]
        ((count,),) = self.rows(f"SELECT count(*) FROM {_place(dataset, name)}")
        found = self.rows(f"FROM {_place(dataset, name)} LIMIT {size} OFFSET {start}")
        return {
            "kind": "bigquery#tableDataList",
            "totalRows": str(count),
            "rows": [row(values, fields, int64_timestamps=int64_timestamps) for values in found],
            **({"pageToken": str(start + size)} if start + size < count else {}),
        }

    def write(
        self, destination: Json, rows: duckdb.DuckDBPyRelation, fields: Sequence[Field], wanted: Json
    ) -> int:
        """Put rows into a table as a job's dispositions say, all or none; how many they are."""
        dataset, name = destination["datasetId"], destination["tableId"]
        self.dataset(dataset)
        place, called = _place(dataset, name), f"{self.project}:{dataset}.{name}"
        layout: Json = {key: wanted[key] for key in ("timePartitioning", "clustering") if key in wanted}
        exists = (dataset, name) in self.tables
        if not exists and wanted.get("createDisposition") == "CREATE_NEVER":
            raise ErrorResponse(404, "notFound", f"Not found: Table {called}")
        if exists:
            held = self.tables[dataset, name]
            if wanted["writeDisposition"] == "WRITE_EMPTY" and self.rows(f"FROM {place} LIMIT 1"):
                raise ErrorResponse(409, "duplicate", f"Already Exists: Table {called}")
            if held.get("timePartitioning") != layout.get("timePartitioning", held.get("timePartitioning")):
                raise ErrorResponse(
                    400, "invalid", f"Incompatible table partitioning specification for {called}"
                )
            if wanted["writeDisposition"] != "WRITE_TRUNCATE":
                known = {field["name"]: duckdb_type(field) for field in held["schema"]["fields"]}
                for field in fields:
                    if known.get(field["name"]) != duckdb_type(field):
                        raise ErrorResponse(
                            400,
                            "invalid",
                            f"Provided Schema does not match Table {called}. Field {field['name']} has changed type",
                        )
        found: pa.Table = rows.to_arrow_table()
        if exists and wanted["writeDisposition"] != "WRITE_TRUNCATE":
            self._insert(place, found)
            self.note(dataset, name, {})
            return int(found.num_rows)
        columns = ", ".join(_column(field) for field in fields)
        self.database.execute(f"CREATE OR REPLACE TABLE {place} ({columns})")
        self._insert(place, found)
        self.note(dataset, name, {**layout, "schema": {"fields": list(fields)}})
        return int(found.num_rows)

    def load(self, wanted: Json, files: Iterable[bytes]) -> Json:
        """The rows of Parquet files, with the job's schema or else that of the files, into a table."""
        if wanted.get("sourceFormat") != "PARQUET":
            raise ErrorResponse(400, "invalid", "the stand-in loads Parquet only")
        target = wanted["destinationTable"]
        contents = list(files)
        try:
            found = pa.concat_tables(
                [pq.read_table(io.BytesIO(c)) for c in contents], promote_options="default"
            )
        except pa.ArrowInvalid as error:
            raise ErrorResponse(400, "invalid", f"Error while reading data, error message: {error}") from None
        given = wanted.get("schema", {}).get("fields")
        if given is None:
            held = self.tables.get((target["datasetId"], target["tableId"]))
            append = held and wanted.get("writeDisposition") != "WRITE_TRUNCATE"
            given = held["schema"]["fields"] if held and append else None
        if given is None:
            self.database.register("unloaded", found)
            given = fields_of(self.database.sql("FROM unloaded LIMIT 0"))
            self.database.unregister("unloaded")
        fields = [_shown(field) for field in given]
        exact = pa.table({f["name"]: _fitted(found, f) for f in fields})
        self.database.begin()
        try:
            self.database.register("unloaded", exact)
            count = self.write(
                target,
                self.database.sql("FROM unloaded"),
                fields,
                {"writeDisposition": "WRITE_APPEND", **wanted},
            )
            self.database.commit()
        except BaseException:
            self.database.rollback()
            raise
        finally:
            self.database.unregister("unloaded")
        return {
            "outputRows": str(count),
            "inputFiles": str(len(contents)),
            "inputFileBytes": str(sum(map(len, contents))),
            "outputBytes": str(exact.nbytes),
            "badRecords": "0",
        }

    def insert_all(self, dataset: str, name: str, body: Json) -> Json:
        """Streamed rows; one with an insertId that was seen is taken and not kept."""
        fields = {field["name"]: field for field in self.held(dataset, name)["schema"]["fields"]}
        errors = {
            index: problems
            for index, item in enumerate(body["rows"])
            if (problems := _problems(self.database, item["json"], fields))
        }
        if errors and not body.get("skipInvalidRows"):
            stopped = [{"reason": "stopped", "location": "", "debugInfo": "", "message": ""}]
            errors = {index: errors.get(index, stopped) for index in range(len(body["rows"]))}
        for index, item in enumerate(body["rows"]):
            seen = (dataset, name, item.get("insertId", ""))
            if index in errors or (item.get("insertId") and seen in self._seen):
                continue
            self._seen.add(seen)
            values = [item["json"].get(column) for column in fields]
            marks = ", ".join(
                f"CAST(${n} AS {duckdb_type(f)})" for n, f in enumerate(fields.values(), start=1)
            )
            self.database.execute(f"INSERT INTO {_place(dataset, name)} VALUES ({marks})", values)
        answer: Json = {"kind": "bigquery#tableDataInsertAllResponse"}
        if errors:
            answer["insertErrors"] = [{"index": index, "errors": found} for index, found in errors.items()]
        return answer

    def _insert(self, place: str, rows: pa.Table) -> None:
        self.database.register("unwritten", rows)
        try:
            self.database.execute(f"INSERT INTO {place} BY NAME FROM unwritten")
        except duckdb.ConstraintException as error:
            raise ErrorResponse(400, "invalid", f"Required column has null values: {error}") from None
        finally:
            self.database.unregister("unwritten")


def _check_layout(body: Json, held: Json) -> None:
    """Refuse clustering and keys by columns that a table (`held`) does not have, or of types that can't be."""
    kinds = {field["name"]: legacy_name(field["type"]) for field in held.get("schema", {}).get("fields", [])}
    clustering = (body.get("clustering") or {}).get("fields", [])
    constraints = body.get("tableConstraints") or {}
    foreign = [part for key in constraints.get("foreignKeys", []) for part in key["columnReferences"]]
    keys = [
        *constraints.get("primaryKey", {}).get("columns", []),
        *(part["referencingColumn"] for part in foreign),
    ]
    if len(clustering) > 4:
        raise ErrorResponse(400, "invalid", "Too many clustering columns: 4 at the most")
    for column in [*clustering, *keys]:
        if kinds.get(column) not in _KEYS:
            raise ErrorResponse(
                400, "invalid", f"{column} can be in no key and in no clustering: {kinds.get(column)}"
            )


def _place(dataset: str, name: str) -> str:
    return f"{identifier(dataset)}.{identifier(name)}"


def _column(field: Field) -> str:
    try:
        stored = duckdb_type(field)
    except KeyError:
        raise ErrorResponse(400, "invalid", f"Invalid field type {field['type']}") from None
    return f"{identifier(field['name'])} {stored}{' NOT NULL' if field.get('mode') == 'REQUIRED' else ''}"


def _shown(field: Field) -> Field:
    """A field as the service shows it, whatever name of its type it was given."""
    shown = {"mode": "NULLABLE", **{k: v for k, v in field.items() if v is not None}}
    shown["type"] = legacy_name(field["type"])
    shown |= {key: str(field[key]) for key in ("precision", "scale") if field.get(key) is not None}
    if "fields" in field:
        shown["fields"] = [_shown(part) for part in field["fields"]]
    return shown


def _fitted(found: pa.Table, field: Field) -> pa.ChunkedArray | pa.Array:
    """A column of a file as a field holds it: exactly, or not at all."""
    name, wanted = field["name"], arrow_type(field)
    if name not in found.column_names:
        if field["mode"] == "REQUIRED":
            raise ErrorResponse(400, "invalid", f"Missing required field: {name}")
        return pa.nulls(found.num_rows, wanted)
    held = found.column(name)
    if field["mode"] == "REQUIRED" and held.null_count:
        raise ErrorResponse(400, "invalid", f"Required field {name} has null values")
    zoned = [getattr(kind, "tz", None) is not None for kind in (held.type, wanted)]
    same_kind = pa.types.is_timestamp(held.type) == pa.types.is_timestamp(wanted) and zoned[0] == zoned[1]
    text = pa.types.is_string(wanted) != (
        pa.types.is_string(held.type) or pa.types.is_large_string(held.type)
    )
    if not pa.types.is_null(held.type) and (not same_kind or text):
        raise ErrorResponse(
            400, "invalid", f"Provided Schema does not match the file. Field {name} has type {held.type}"
        )
    try:
        return held.cast(wanted)
    except pa.ArrowException as error:
        raise ErrorResponse(
            400, "invalid", f"Error while reading data, error message: {name}: {error}"
        ) from None


def _problems(
    database: duckdb.DuckDBPyConnection, values: Mapping[str, Any], fields: Mapping[str, Field]
) -> list[Json]:
    """What is wrong with a streamed row."""
    found = {name: "no such field" for name in values if name not in fields}
    for name, field in fields.items():
        value = values.get(name)
        if value is None and field["mode"] == "REQUIRED":
            found[name] = "Missing required field"
        elif value is not None:
            try:
                database.execute(f"SELECT CAST($1 AS {duckdb_type(field)})", [value]).fetchall()
            except duckdb.Error:
                found[name] = f"Cannot convert value to {field['type']}"
    return [
        {"reason": "invalid", "location": name, "debugInfo": "", "message": f"{problem}: {name}."}
        for name, problem in found.items()
    ]
