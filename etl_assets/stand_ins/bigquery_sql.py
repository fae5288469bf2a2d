"""BigQuery's SQL on DuckDB: statements and scripts of the stand-in, translated by sqlglot.

Of scripting there is what a transaction needs: BEGIN, COMMIT and ROLLBACK TRANSACTION, and ASSERT. As in the service a
script that ends inside a transaction is rolled back, and only temporary tables can be made or dropped in one.
"""

import datetime as dt
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb
import sqlglot
from sqlglot import TokenType, exp
from sqlglot.errors import SqlglotError

from etl_assets.stand_ins.bigquery_tables import TEXT, ErrorResponse, Json, Tables
from etl_assets.stand_ins.bigquery_types import Field, duckdb_type, fields_of, parameter

_DML: dict[type[exp.Expr], str] = {
    exp.Insert: "INSERT",
    exp.Update: "UPDATE",
    exp.Delete: "DELETE",
    exp.Merge: "MERGE",
}
_JOBS = re.compile(r"INFORMATION_SCHEMA\.(JOBS(?:_BY_USER|_BY_PROJECT)?)", re.IGNORECASE)


@dataclass
class StatementResult:
    """What a statement did. `target`: the table that it changed; `affected`: how many of its rows."""

    kind: str
    fields: list[Field] = field(default_factory=list)
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    target: Json | None = None
    affected: int | None = None


class Script:
    """One query job: a statement, or several."""

    def __init__(self, tables: Tables, configuration: Json, jobs: Callable[[], list[Json]]) -> None:
        self.tables = tables
        self.database = tables.database
        self.jobs = jobs
        self.default = configuration.get("defaultDataset", {}).get("datasetId")
        self.sql: str = configuration["query"]
        given = configuration.get("queryParameters", [])
        self.named = {item["name"]: item for item in given if item.get("name")}
        self.positional = iter(item for item in given if not item.get("name"))
        self.temporary: set[str] = set()
        self.open = False
        self.touched: set[tuple[str, str]] = set()

    def run(self, before: Callable[[int], None] = lambda number: None) -> Iterator[StatementResult]:
        """The answers, statement by statement; `before` is called with the number of each."""
        try:
            for number, text in enumerate(_statements(self.sql), start=1):
                before(number)
                try:
                    yield self._statement(text)
                except SqlglotError as error:
                    raise ErrorResponse(
                        400, "invalidQuery", f"Syntax error: {str(error).splitlines()[0]}"
                    ) from None
                except duckdb.Error as error:
                    raise ErrorResponse(400, "invalidQuery", " ".join(str(error).split())) from None
        finally:
            if self.open:
                self.database.rollback()
            for name in self.temporary:
                self.database.execute(f'DROP TABLE IF EXISTS temp."{name}"')

    def explain(self) -> None:
        """A dry run: everything is looked up, nothing is done."""
        for text in _statements(self.sql):
            tree = self._bound(_parsed(text))
            if isinstance(tree, exp.Query):
                self.database.sql(f"{tree.sql('duckdb')} LIMIT 0")

    def view(self) -> str:
        """The query of a view, in DuckDB's SQL."""
        (text,) = _statements(self.sql)
        return self._bound(_parsed(text)).sql("duckdb")

    def _statement(self, text: str) -> StatementResult:
        words = text.upper().split(None, 2)
        match words[0].rstrip("("):
            case "BEGIN":
                self.database.begin()
                self.open = True
                return StatementResult("BEGIN_TRANSACTION")
            case "COMMIT":
                self.database.commit()
                self.open = False
                for dataset, name in self.touched:
                    self.tables.note(dataset, name, {})
                return StatementResult("COMMIT_TRANSACTION")
            case "ROLLBACK":
                self.database.rollback()
                self.open = False
                return StatementResult("ROLLBACK_TRANSACTION")
            case "ASSERT":
                (checked,) = self._select(_parsed(f"SELECT {text[len('ASSERT') :]}")).rows
                if checked[0] is not True:
                    message = re.search(r"\bAS\s+(['\"])(.*)\1\s*$", text, re.DOTALL | re.IGNORECASE)
                    raise ErrorResponse(400, "invalidQuery", message[2] if message else "Assertion failed")
                return StatementResult("ASSERT")
        # sqlglot does not know options behind COPY.
        if copied := re.fullmatch(
            r"(CREATE .* COPY .*?)\s*OPTIONS\s*\(expiration_timestamp = NULL\)", text, re.DOTALL
        ):
            return self._copy(_parsed(copied[1]), expires=False)
        return self._run(_parsed(text))

    def _run(self, tree: exp.Expr) -> StatementResult:
        if isinstance(tree, exp.Query):
            return self._select(tree)
        if isinstance(tree, exp.Create):
            return self._create(tree)
        if isinstance(tree, exp.Drop):
            return self._drop(tree)
        if isinstance(tree, exp.TruncateTable):
            target = self._target(tree.expressions[0])
            kind, sql = "TRUNCATE_TABLE", f"DELETE FROM {self._bound(tree).expressions[0].sql('duckdb')}"
        elif type(tree) in _DML:
            target = self._target(tree)
            kind, sql = _DML[type(tree)], self._bound(tree).sql("duckdb")
        else:
            raise ErrorResponse(
                400, "invalidQuery", f"the stand-in does not know this statement: {tree.sql('bigquery')[:60]}"
            )
        ((affected,),) = self.tables.rows(sql)
        self._changed(target)
        return StatementResult(kind, target=target, affected=affected)

    def _select(self, tree: exp.Expr) -> StatementResult:
        found = self.database.sql(self._bound(tree).sql("duckdb"))
        return StatementResult("SELECT", fields_of(found), found.fetchall())

    def _create(self, tree: exp.Create) -> StatementResult:
        """CREATE [OR REPLACE] [TEMP] TABLE ... AS SELECT, CREATE SCHEMA IF NOT EXISTS."""
        if tree.kind == "SCHEMA":
            name = tree.this.db or tree.this.name
            if name not in self.tables.datasets:
                self.tables.create_dataset({"datasetReference": {"datasetId": name}})
            return StatementResult("CREATE_SCHEMA")
        if tree.kind == "TABLE" and tree.args.get("clone"):
            return self._copy(tree)
        if tree.kind != "TABLE" or not isinstance(tree.expression, exp.Query):
            raise ErrorResponse(
                400, "invalidQuery", "the stand-in creates tables by query, or by the REST API"
            )
        temporary = bool(tree.find(exp.TemporaryProperty))
        found = self.database.sql(self._bound(tree.expression).sql("duckdb"))
        name = tree.this.name
        if temporary:
            columns = ", ".join(f'"{f["name"]}" {duckdb_type(f)}' for f in fields_of(found))
            rows = found.to_arrow_table()
            self.database.execute(f'CREATE OR REPLACE TEMP TABLE "{name}" ({columns})')
            self.database.register("unwritten", rows)
            self.database.execute(f'INSERT INTO temp."{name}" FROM unwritten')
            self.database.unregister("unwritten")
            self.temporary.add(name)
            return StatementResult("CREATE_TABLE_AS_SELECT")
        self._refuse_in_transaction()
        target = self._target(tree)
        if tree.args.get("exists") and (target["datasetId"], target["tableId"]) in self.tables.tables:
            return StatementResult("CREATE_TABLE_AS_SELECT")
        disposition = "WRITE_TRUNCATE" if tree.args.get("replace") else "WRITE_EMPTY"
        self.tables.write(target, found, fields_of(found), {"writeDisposition": disposition})
        return StatementResult("CREATE_TABLE_AS_SELECT", target=target)

    def _copy(self, tree: exp.Expr, *, expires: bool = True) -> StatementResult:
        """CREATE OR REPLACE TABLE ... COPY ..."""
        self._refuse_in_transaction()
        target, source = self._target(tree.this), self._target(tree.args["clone"].this)
        held = self.tables.held(source["datasetId"], source["tableId"])
        rows = self.database.sql(f'FROM "{source["datasetId"]}"."{source["tableId"]}"')
        place = (target["datasetId"], target["tableId"])
        self.tables.tables.pop(place, None)
        self.tables.write(
            target, rows, held["schema"]["fields"], {"writeDisposition": "WRITE_TRUNCATE", **held}
        )
        self.tables.note(*place, {"description": held.get("description")})
        if expires:
            self.tables.note(*place, {"expirationTime": held.get("expirationTime")})
        return StatementResult("CREATE_TABLE", target=target)

    def _drop(self, tree: exp.Drop) -> StatementResult:
        table = tree.find(exp.Table)
        if table is None or tree.kind not in {"TABLE", "VIEW"}:
            raise ErrorResponse(
                400, "invalidQuery", "the stand-in drops tables and views by query, or by the REST API"
            )
        if not table.db and table.name in self.temporary:
            self.database.execute(f'DROP TABLE temp."{table.name}"')
            self.temporary.discard(table.name)
            return StatementResult("DROP_TABLE")
        self._refuse_in_transaction()
        target = self._target(table)
        place = (target["datasetId"], target["tableId"])
        if not tree.args.get("exists") or place in self.tables.tables:
            if ("view" in self.tables.held(*place)) != (tree.kind == "VIEW"):
                raise ErrorResponse(400, "invalidQuery", f"{'.'.join(place)} is not a {tree.kind.lower()}")
            self.tables.delete(*place)
        return StatementResult(f"DROP_{tree.kind}", target=target)

    def _refuse_in_transaction(self) -> None:
        if self.open:
            raise ErrorResponse(
                400, "invalidQuery", "Only temporary tables can be created or dropped inside a transaction"
            )

    def _target(self, tree: exp.Expr) -> Json:
        table = tree if isinstance(tree, exp.Table) else tree.find(exp.Table)
        if table is None:
            raise ErrorResponse(400, "invalidQuery", f"no table in {tree.sql('bigquery')[:60]}")
        return {
            "projectId": table.catalog or self.tables.project,
            "datasetId": table.db or self.default,
            "tableId": table.name,
        }

    def _changed(self, target: Json) -> None:
        place = (target["datasetId"], target["tableId"])
        if self.open:
            self.touched.add(place)
        elif place in self.tables.tables:
            self.tables.note(*place, {})

    # -- translation ---------------------------------------------------------------------------------------------

    def _bound(self, tree: exp.Expr) -> exp.Expr:
        """A statement that DuckDB can run: parameters filled in, tables looked up, numbers as wide as they are."""
        bound = tree.transform(self._fill)
        for cast in list(bound.find_all(exp.Cast)):
            if type(cast) is exp.Cast and cast.to.this == exp.DataType.Type.TEXT:
                cast.replace(exp.Anonymous(this=TEXT, expressions=[cast.this]))
        named = {cte.alias for cte in bound.find_all(exp.CTE)}
        for table in list(bound.find_all(exp.Table)):
            if _JOBS.search(".".join(part.name for part in table.parts)):
                self._show_jobs()
                table.replace(exp.alias_(exp.to_table("information_schema_jobs"), table.alias or "jobs"))
            elif table.db or table.name not in named | self.temporary:
                self._find(table)
        return bound

    def _fill(self, node: exp.Expr) -> exp.Expr:
        if isinstance(node, exp.Parameter):
            if node.name not in self.named:
                raise ErrorResponse(400, "invalidQuery", f"Query parameter '{node.name}' not found")
            given = self.named[node.name]
            return parameter(given["parameterType"], given["parameterValue"])
        if isinstance(node, exp.Placeholder):
            given = next(self.positional)
            return parameter(given["parameterType"], given["parameterValue"])
        if isinstance(node, exp.DataType) and not node.expressions:
            if node.this == exp.DataType.Type.DECIMAL:
                return exp.DataType.build("DECIMAL(38, 9)")
            if node.this == exp.DataType.Type.BIGDECIMAL:
                return exp.DataType.build("DECIMAL(38, 18)")
        return node

    def _find(self, table: exp.Table) -> None:
        """Make a reference one that DuckDB follows. Raises `ErrorResponse` if there is no such table."""
        if isinstance(table.this, exp.Func):  # UNNEST and the like
            return
        if table.catalog and table.catalog != self.tables.project:
            raise ErrorResponse(404, "notFound", f"Not found: Project {table.catalog}")
        dataset = table.db or self.default
        if not dataset:
            raise ErrorResponse(
                400,
                "invalidQuery",
                f'Table "{table.name}" must be qualified with a dataset (e.g. dataset.table).',
            )
        self.tables.held(dataset, table.name)
        table.set("catalog", None)
        table.set("db", exp.to_identifier(dataset, quoted=True))

    def _show_jobs(self) -> None:
        """INFORMATION_SCHEMA.JOBS, of which this much is shown."""
        self.database.execute(
            "CREATE OR REPLACE TEMP TABLE information_schema_jobs (job_id VARCHAR, parent_job_id VARCHAR, "
            "creation_time TIMESTAMPTZ, job_type VARCHAR, statement_type VARCHAR, state VARCHAR, "
            "destination_table STRUCT(project_id VARCHAR, dataset_id VARCHAR, table_id VARCHAR))"
        )
        for job in self.jobs():
            kind = next(name for name in ("load", "copy", "query") if name in job["configuration"])
            target = job["configuration"][kind].get("destinationTable", {})
            shown = {
                "project_id": target.get("projectId"),
                "dataset_id": target.get("datasetId"),
                "table_id": target.get("tableId"),
            }
            created = dt.datetime.fromtimestamp(int(job["statistics"]["creationTime"]) / 1000, dt.UTC)
            self.database.execute(
                "INSERT INTO information_schema_jobs VALUES ($1, $2, $3, $4, $5, $6, $7)",
                [
                    job["jobReference"]["jobId"],
                    job["statistics"].get("parentJobId"),
                    created,
                    kind.upper(),
                    job["statistics"].get("query", {}).get("statementType"),
                    job["status"]["state"],
                    shown if target else None,
                ],
            )


def _statements(sql: str) -> Sequence[str]:
    """The statements of a script, as they are written."""
    try:
        tokens = sqlglot.tokenize(sql, read="bigquery")
    except SqlglotError as error:
        raise ErrorResponse(400, "invalidQuery", f"Syntax error: {str(error).splitlines()[0]}") from None
    written: list[str] = []
    begun = None
    for token in tokens:
        if token.token_type != TokenType.SEMICOLON:
            begun = token.start if begun is None else begun
            end = token.end + 1
        if begun is not None and (token.token_type == TokenType.SEMICOLON or token is tokens[-1]):
            written.append(sql[begun:end])
            begun = None
    return written


def _parsed(text: str) -> exp.Expr:
    return sqlglot.parse_one(text, read="bigquery")
