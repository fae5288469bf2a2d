"""A load of the warehouse in BigQuery: staged by load jobs, changed by one script in one transaction.

The script's job has an id that follows from what the warehouse held and what it will hold: asked for again, it is found,
not done twice. `star.last_change` is what loads take turns by: each compares it with what it was when the load began, in
the transaction that sets it anew, so that of two loads at once one is refused.

In a transaction BigQuery makes no tables. One that is missing is made before it, empty; one that is declared otherwise is
filled aside, and takes the old one's place after the commit, in one step. If that step is lost, the next load finds the
table still declared otherwise and does it all again.
"""

import hashlib
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
from google.cloud import bigquery
from google.cloud.bigquery.table import (
    ColumnReference,
    ForeignKey,
    PrimaryKey,
    TableConstraints,
    TableReference,
)

from etl_assets.clients import bigquery_values
from etl_assets.clients.bigquery import BigQuery
from etl_assets.clients.bigquery_jobs import ONCE, REFUSALS, explaining
from etl_assets.engine.duck import connect, identifier
from etl_assets.engine.scratch import own_folder
from etl_assets.failpoints import reached
from etl_assets.star.schema import Column, Fact, StarTable
from etl_assets.warehouse.bigquery_places import (
    DIALECT,
    Datasets,
    columns,
    kind,
    last_change,
    tuples,
)
from etl_assets.warehouse.contract import Kind, LoadSession, RowsToLoad
from etl_assets.warehouse.dialect import (
    BOOKS,
    LAST_CHANGE,
    LOADS,
    SCHEMA,
    ControlTable,
    carried_on,
    current,
    is_outdated,
)

_URIS_PER_JOB = 10_000
_STAGED_MILLISECONDS = 24 * 3600 * 1000
# Types by which a table can be clustered, and of which a column of a key can be that BigQuery takes note of.
_CLUSTERING = {
    "BIGNUMERIC",
    "BOOL",
    "BOOLEAN",
    "DATE",
    "DATETIME",
    "INT64",
    "INTEGER",
    "NUMERIC",
    "STRING",
    "TIMESTAMP",
}
_CLUSTERING_COLUMNS = 4
_KEY_COLUMNS = 16
_CHANGED = "another load changed the warehouse meanwhile: run again"


@contextmanager
def open_session(resource: BigQuery, datasets: Datasets, scratch: str) -> Iterator["BigQueryLoadSession"]:
    """A load. Datasets and books are there when it begins; what it staged is removed when it ends well, else it expires
    within a day, since a script that is still running may need it."""
    with resource.client() as client, explaining(datasets.dataset(SCHEMA)):
        location = resource.dataset(client, datasets.dataset(SCHEMA))
        _staging(resource, client, datasets, location)
        session = BigQueryLoadSession(resource, client, datasets, location, Path(scratch))
        session.prepare()
        yield session
        session.sweep()


def _staging(resource: BigQuery, client: bigquery.Client, datasets: Datasets, location: str) -> None:
    dataset = bigquery.Dataset(f"{client.project}.{datasets.staging}")
    dataset.location = location
    dataset.default_table_expiration_ms = _STAGED_MILLISECONDS
    dataset.description = "What loads stage. Tables go when a load ends, or after a day."
    resource.patience.retrying(
        lambda: client.create_dataset(dataset, exists_ok=True, retry=ONCE, timeout=resource.request_seconds)
    )


class BigQueryLoadSession(LoadSession):
    """One load, by jobs of a client."""

    dialect = DIALECT

    def __init__(
        self, resource: BigQuery, client: bigquery.Client, datasets: Datasets, location: str, scratch: Path
    ) -> None:
        self.resource = resource
        self.client = client
        self.datasets = datasets
        self.location = location
        self.scratch = scratch
        self._id = uuid.uuid4().hex[:16]
        self._staged: list[str] = []
        self._held: dict[str, bigquery.Table | None] = {}
        self._made: dict[str, StarTable] = {}
        self._retired: Sequence[str] = ()
        self._all: Mapping[str, StarTable] = {}
        self._before = ""

    def prepare(self) -> None:
        """Make what is missing of the books, and note whose turn it is."""
        for book in BOOKS:
            if self._table(book.name) is None:
                self._create(book)
        known = last_change(self.resource, self.client, self.datasets)
        if known is None:
            place = self.datasets.rewritten(f"SELECT * FROM {SCHEMA}.{LAST_CHANGE}").removeprefix(
                "SELECT * FROM "
            )
            self._run(
                f"CREATE TABLE IF NOT EXISTS {place} AS SELECT '{uuid.uuid4().hex}' AS name",
                f"turn_{self._id}",
            )
            known = last_change(self.resource, self.client, self.datasets)
        self._before = known or ""
        for book in BOOKS:
            if is_outdated(book, self.columns(book.name), self.dialect):
                self._carry_on(book)

    def _carry_on(self, book: ControlTable) -> None:
        """Write a book of an older version anew. Whose load began before loses its turn: it knows the old one."""
        aside, change = self._stageable(f"{book.name}_anew"), uuid.uuid4().hex
        self._create(book, aside)
        names = DIALECT.listing([column.name for column in book.columns])
        query = self.datasets.rewritten(carried_on(book, self.columns(book.name), DIALECT))
        script = [
            f"INSERT INTO {self._quoted(aside)} ({names}) {query}",
            *self._in_our_turn([], change),
            self._moved(book.name, aside),
        ]
        self._run(";\n".join(script), f"carry_on_{book.name}_{self._id}")
        self._before = change
        self._held.pop(book.name)

    def sweep(self) -> None:
        """Remove what was staged; what can't be removed expires."""
        for place in self._staged:
            with suppress(*REFUSALS):
                self.client.delete_table(
                    f"{self.client.project}.{place}",
                    not_found_ok=True,
                    retry=ONCE,
                    timeout=self.resource.request_seconds,
                )

    # -- reading and staging -------------------------------------------------------------------------------------

    def rows(self, sql: str) -> list[tuple[object, ...]]:
        return tuples(self.resource.ask(self.client, self.datasets.rewritten(sql)))

    def columns(self, table: str) -> Mapping[str, tuple[str, bool]]:
        return columns(self._table(table))

    def kind(self, name: str) -> Kind | None:
        return kind(self._table(name))

    def stage(self, name: str, rows: RowsToLoad) -> str:
        place = self._stageable(name)
        fields = [_field(column) for column in rows.table.columns]
        if rows.lake.url.startswith("gs://") and not _rewrites(rows.table):
            # Rows that are not among those asked for do no harm; leaving them out would mean carrying the others here.
            uris = [f"{rows.lake.url}/{path}" for path in rows.paths]
            for first in range(0, len(uris), _URIS_PER_JOB):
                self._load(
                    place, fields, uris[first : first + _URIS_PER_JOB], f"{name}_{first}", append=first > 0
                )
        else:
            with self._folder() as folder:
                self._load(place, fields, _file(rows, folder), name)
        return f"`{place}`"

    def stage_values(self, name: str, columns: Sequence[Column], values: pa.Table) -> str:
        place = self._stageable(name)
        with self._folder() as folder:
            path = folder / "values.parquet"
            path.write_bytes(bigquery_values.parquet(name, values))
            self._load(place, [_field(column) for column in columns], path, name)
        return f"`{place}`"

    def keep(self, name: str, sql: str) -> str:
        place = self._stageable(name)
        reached("warehouse loading")
        self._run(self.datasets.rewritten(sql), f"keep_{name}_{self._id}", into=place)
        return f"`{place}`"

    # -- changing ------------------------------------------------------------------------------------------------

    def create(self, table: StarTable) -> Sequence[str]:
        self._made[table.name] = table
        return []

    def retire(self, names: Sequence[str]) -> Sequence[str]:
        self._retired = names
        return []

    def settle(self, tables: Mapping[str, StarTable], created: set[str], emptied: set[str]) -> Sequence[str]:
        self._all = tables
        return []

    def commit(self, statements: Iterable[str], name: str) -> None:
        moved, views = {}, []
        for table in self._made.values():
            if self._table(table.name) is None:
                self._create(table)
            else:
                moved[table.name] = self._stageable(f"{table.name}_anew")
                self._create(table, moved[table.name])
                views += [] if isinstance(table, Fact) else self.without_view(table.name)
        change = hashlib.sha256(f"{name} {self._before}".encode()).hexdigest()[:32]
        gone = super().retire(self._retired)
        self._forget(self._retired)
        script = [
            # No table is dropped in a transaction. The books are changed last: what they name is dropped again.
            *([self._our_turn(), *map(self.datasets.rewritten, gone)] if gone else []),
            *self._in_our_turn(
                [self.datasets.rewritten(statement, moved=moved) for statement in statements], change
            ),
            *map(self.datasets.rewritten, views),
            *(self._moved(table, aside) for table, aside in moved.items()),
        ]
        reached("warehouse loading")
        self._run(";\n".join(script), f"load_{change}")
        reached("warehouse committed")
        for table in sorted(self._all.values(), key=lambda t: (isinstance(t, Fact), bool(t.links))):
            if self._is_declared(table):
                self._furnish(table)

    def _our_turn(self) -> str:
        """The statement that ends a script if another load was committed since this one began."""
        held = self.datasets.rewritten(f"SELECT name FROM {SCHEMA}.{LAST_CHANGE}")
        return f"ASSERT ({held}) = {DIALECT.literal(self._before)} AS {DIALECT.literal(_CHANGED)}"

    def _in_our_turn(self, statements: Sequence[str], change: str) -> list[str]:
        """The transaction of some statements, after which it is another one's turn."""
        turn = f"UPDATE {SCHEMA}.{LAST_CHANGE} SET name = {DIALECT.literal(change)} WHERE true"
        return [
            "BEGIN TRANSACTION",
            self._our_turn(),
            *statements,
            self.datasets.rewritten(turn),
            "COMMIT TRANSACTION",
        ]

    def _moved(self, table: str, aside: str) -> str:
        """The statement that puts what was staged in a table's place."""
        # What is staged expires; that must not be taken along.
        return (
            f"CREATE OR REPLACE TABLE {self._quoted(self.datasets.table(SCHEMA, table))} "
            f"COPY {self._quoted(aside)} OPTIONS (expiration_timestamp = NULL)"
        )

    def _forget(self, names: Sequence[str]) -> None:
        """Take back what is said of references to tables that go."""

        def change(held: bigquery.Table) -> list[str]:
            keys = held.table_constraints
            told = (keys.foreign_keys if keys else None) or []
            kept = [key for key in told if key.referenced_table.table_id not in names]
            if keys is None or len(kept) == len(told):
                return []
            held.table_constraints = TableConstraints(keys.primary_key, kept)
            return ["table_constraints"]

        known = self.rows(f"SELECT DISTINCT table_name FROM {SCHEMA}.{LOADS.name}") if names else []
        for (name,) in known:
            if name not in names and self.kind(str(name)) == "table":
                self.resource.amend(self.client, self.datasets.table(SCHEMA, str(name)), change)

    def _create(self, table: StarTable | ControlTable, place: str | None = None) -> None:
        """Make a table as declared, empty; with a fact that was not there its view."""
        made = bigquery.Table(
            f"{self.client.project}.{place or self.datasets.table(SCHEMA, table.name)}",
            [_field(column) for column in table.columns],
        )
        made.description = table.description
        made.clustering_fields = _clustering(table)
        if isinstance(table, Fact) and table.date_columns:
            # By month: one job may change 4,000 partitions, and a first load brings many years.
            made.time_partitioning = bigquery.TimePartitioning("MONTH", table.date_columns[0])
        self._make(made)
        if isinstance(table, Fact) and place is None:
            self._furnish_view(table)

    def _furnish(self, table: StarTable) -> None:
        """Say what a table means and how tables hang together, where that is not said yet."""
        fields, keys = [_field(column) for column in table.columns], self._keys(table)

        def change(held: bigquery.Table) -> list[str]:
            changes = []
            if (held.description or "") != table.description:
                held.description = table.description
                changes.append("description")
            if [f.description for f in held.schema] != [f.description for f in fields]:
                held.schema = fields
                changes.append("schema")
            if _said(held.table_constraints) != _said(keys):
                held.table_constraints = keys
                changes.append("table_constraints")
            return changes

        self.resource.amend(self.client, self.datasets.table(SCHEMA, table.name), change)
        if isinstance(table, Fact):
            self._furnish_view(table)

    def _furnish_view(self, fact: Fact) -> None:
        """The view of what is current."""
        place = self.datasets.table(SCHEMA, current(fact.name))
        query = self.datasets.rewritten(DIALECT.current_view(fact))
        made = bigquery.Table(f"{self.client.project}.{place}")
        made.view_query = query
        made.description = f"{fact.description} Only the latest version of what still exists.".strip()

        def change(held: bigquery.Table) -> list[str]:
            if held.view_query == query:
                return []
            held.view_query = query
            return ["view_query"]

        if self._table(current(fact.name)) is None:
            self._make(made)
        self.resource.amend(self.client, place, change)

    def _keys(self, table: StarTable) -> TableConstraints:
        """Keys, which BigQuery takes note of and does not enforce. The load sees to it that they hold."""
        return TableConstraints(
            PrimaryKey(list(table.primary_key)) if _is_noted(table) else None,
            [
                ForeignKey(
                    "_".join([table.name, *columns]),
                    TableReference.from_string(self.datasets.table(SCHEMA, name), self.client.project),
                    [
                        ColumnReference(column, key)
                        for column, key in zip(columns, self._all[name].key_columns, strict=True)
                    ],
                )
                for columns, name in table.links.items()
                if name != table.name and _is_noted(self._all[name]) and self._is_declared(self._all[name])
            ],
        )

    # -- jobs ----------------------------------------------------------------------------------------------------

    def _load(
        self,
        place: str,
        fields: Sequence[bigquery.SchemaField],
        source: Path | Sequence[str],
        name: str,
        append: bool = False,
    ) -> None:
        disposition = "WRITE_APPEND" if append else "WRITE_TRUNCATE"
        reached("warehouse loading")
        with explaining(place):
            self.resource.load(
                self.client, place, fields, source, f"stage_{name}_{self._id}", self.location, disposition
            )

    def _run(self, sql: str, name: str, into: str | None = None) -> None:
        self.resource.run(self.client, sql, name, self.location, into)

    def _make(self, table: bigquery.Table) -> None:
        """Make a table or view, unless an answer was lost that it is made."""
        self.resource.patience.retrying(
            lambda: self.client.create_table(
                table, exists_ok=True, retry=ONCE, timeout=self.resource.request_seconds
            )
        )

    def _is_declared(self, table: StarTable) -> bool:
        """Whether a table is there as declared: one that was not loaded may be declared otherwise meanwhile."""
        held = list(self.columns(table.name).items())
        return table.name in self._made or held == DIALECT.declared(table)

    def _table(self, name: str) -> bigquery.Table | None:
        """A table of `star` as it was when it was first asked for."""
        if name not in self._held:
            self._held[name] = self.resource.held(self.client, self.datasets.table(SCHEMA, name))
        return self._held[name]

    def _stageable(self, name: str) -> str:
        place = f"{self.datasets.staging}.{name}_{self._id}"
        self._staged.append(place)
        return place

    def _quoted(self, place: str) -> str:
        return f"`{self.client.project}`." + ".".join(f"`{part}`" for part in place.split("."))

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        with own_folder(self.scratch, "warehouse-") as folder:
            yield folder


def _field(column: Column) -> bigquery.SchemaField:
    """A column as declared."""
    declared = pa.schema([pa.field(column.name, column.type.arrow, nullable=column.type.nullable)])
    (field,) = bigquery_values.fields_for(column.name, declared)
    if column.description:
        return bigquery.SchemaField.from_api_repr({**field.to_api_repr(), "description": column.description})
    return field


def _rewrites(table: StarTable) -> bool:
    """Whether the lake's files hold a column otherwise than BigQuery would: identifiers as 16 bytes."""
    return any(column.type.name == "uuid" for column in table.columns)


def _file(rows: RowsToLoad, folder: Path) -> Path:
    """The rows as one file, to be uploaded."""
    if len(rows.paths) == 1 and rows.among is None and not _rewrites(rows.table):
        return rows.lake.local(rows.paths[0])
    path = folder / "rows.parquet"
    chosen = ", ".join(
        f"CAST({identifier(c.name)} AS VARCHAR) AS {identifier(c.name)}"
        if c.type.name == "uuid"
        else identifier(c.name)
        for c in rows.table.columns
    )
    with connect(folder) as connection:
        connection.sql(f"SELECT {chosen} FROM {rows.source(connection)}").write_parquet(
            str(path), compression="zstd"
        )
    return path


def _said(keys: TableConstraints | None) -> object:
    """Keys in a form that can be compared."""
    primary = keys.primary_key.columns if keys and keys.primary_key else []
    foreign = {
        (
            f.referenced_table.table_id,
            *((c.referencing_column, c.referenced_column) for c in f.column_references),
        )
        for f in (keys.foreign_keys if keys else None) or []
    }
    return primary, foreign


def _clustering(table: StarTable | ControlTable) -> list[str] | None:
    """The columns that rows lie ordered by: those of the key, as far as BigQuery can."""
    key = table.key_columns if isinstance(table, StarTable) else table.key
    kinds = {column.name: _field(column).field_type for column in table.columns}
    return [name for name in key if kinds[name] in _CLUSTERING][:_CLUSTERING_COLUMNS] or None


def _is_noted(table: StarTable) -> bool:
    """Whether BigQuery can take note of a table's key."""
    kinds = {_field(table.by_name[name]).field_type for name in table.primary_key}
    return kinds <= _CLUSTERING and len(table.primary_key) <= _KEY_COLUMNS
