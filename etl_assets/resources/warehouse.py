"""The warehouse: DuckDB. Analysts query it, so it is only ever changed in one transaction over all tables.

star.<table>          as declared
star.<fact>_current   the latest version of each row that still exists
star.loads            which version of what was loaded when, by which run, with how many rows
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pandas as pd
import pyarrow as pa
from pydantic import Field

from etl_assets.engine.duck import configure, identifier, listing, literal, one
from etl_assets.engine.schema import Fact, StarTable
from etl_assets.errors import EtlError
from etl_assets.lake.star import StarFile, StarFiles

SCHEMA = "star"
_LOADS = """
    CREATE TABLE IF NOT EXISTS star.loads (
        table_name VARCHAR NOT NULL,
        batch VARCHAR NOT NULL,
        version VARCHAR NOT NULL,
        rows BIGINT NOT NULL,
        loaded_at TIMESTAMP NOT NULL,
        run_id VARCHAR NOT NULL
    );
    COMMENT ON TABLE star.loads IS
        'One row is a file of the lake that was loaded: of a dimension the latest, of a fact one per batch.';
"""


class WarehouseError(EtlError):
    """The warehouse can't be opened, or what is to be loaded does not hold together."""


@dataclass(frozen=True)
class Loaded:
    """What a load did to one table."""

    rows: int
    rows_loaded: int
    batches: tuple[str, ...]
    dangling: Mapping[str, int]


@dataclass(frozen=True)
class _Plan:
    """Files to load into a table; `anew` empties it first."""

    table: StarTable
    files: Sequence[tuple[str, StarFile]]
    anew: bool


class DuckDBWarehouse(dg.ConfigurableResource):
    """A DuckDB file."""

    path: str = Field(description="The database file.")
    scratch: str = Field(description="Folder for what does not fit into memory.")
    wait_seconds: float = Field(
        default=30, ge=0, description="How long to wait for another process to let go."
    )

    @contextmanager
    def connect(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection that may write. One process at a time can hold one."""
        Path(self.path).parent.mkdir(parents=True, exist_ok=True)
        Path(self.scratch).mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + self.wait_seconds
        while True:
            try:
                connection = duckdb.connect(self.path)
                break
            except duckdb.IOException as error:
                reason = " ".join(str(error).split())
                if "lock" not in reason.lower() or time.monotonic() >= deadline:
                    raise WarehouseError(
                        f"can't open the warehouse {self.path}: {reason}; close what holds it, or set ETL_WAREHOUSE_URL"
                    ) from None
                time.sleep(0.2)
        try:
            configure(connection, Path(self.scratch))
            yield connection
        finally:
            connection.close()

    def query(self, sql: str, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """The rows of a query, with Arrow types: decimals stay exact. `$name` in the query takes params['name']."""
        with self.connect() as connection:
            found: pa.Table = connection.sql(sql, params=dict(params or {})).to_arrow_table()
        frame: pd.DataFrame = found.to_pandas(types_mapper=pd.ArrowDtype)
        return frame

    def load(
        self, star: StarFiles, tables: Sequence[StarTable], versions: Mapping[str, str], run_id: str
    ) -> dict[str, Loaded]:
        """Bring tables up to what the lake's star holds, all in one transaction.

        `versions` are those that each table must have; a star that is behind is refused. References that lead
        nowhere are reported in `Loaded.dangling`, and then nothing is changed.
        """
        with self.connect() as connection:
            connection.execute("BEGIN")
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
            connection.execute(_LOADS)
            plans = [_plan(connection, star, table, versions[table.name]) for table in tables]
            for plan in plans:
                _load(connection, star, plan, run_id)
            by_name = {table.name: table for table in tables}
            loaded = {plan.table.name: _loaded(connection, plan, by_name) for plan in plans}
            if any(sum(outcome.dangling.values()) for outcome in loaded.values()):
                connection.execute("ROLLBACK")
            else:
                connection.execute("COMMIT")
        return loaded


def _plan(connection: duckdb.DuckDBPyConnection, star: StarFiles, table: StarTable, version: str) -> _Plan:
    """Which files a table lacks."""
    behind = WarehouseError(f"the lake's {table.name} is not up to date: materialize star/{table.name} first")
    known = dict(
        connection.execute(
            "SELECT batch, version FROM star.loads WHERE table_name = $name", {"name": table.name}
        ).fetchall()
    )
    anew = _declare(connection, table) or not known
    if not isinstance(table, Fact):
        file = star.dimension(table.name)
        if file is None or file.version != version:
            raise behind
        current = not anew and known == {file.batch: version}
        return _Plan(table, [] if current else [(file.batch, file)], anew=True)
    batches = star.fact_batches(table.name)
    newest = star.fact(table.name, batches[-1]) if batches else None
    if newest is None or newest.version != version:
        raise behind
    if not anew:
        # As in the lake, the newest batch that both hold vouches for those before it.
        last = max(known)
        held = star.fact(table.name, last) if last in batches else None
        anew = held is None or held.version != known[last]
    missing = [batch for batch in batches if anew or batch > max(known)]
    files = [(batch, file) for batch in missing if (file := star.fact(table.name, batch))]
    if len(files) != len(missing):
        raise behind
    return _Plan(table, files, anew)


def _declare(connection: duckdb.DuckDBPyConnection, table: StarTable) -> bool:
    """Create a table as declared; True if it is new, or is made anew because the declaration changed."""
    name = f"{SCHEMA}.{identifier(table.name)}"
    declared = {c.name: (c.type.duckdb, c.type.nullable) for c in table.columns}
    have = {
        column: (kind.replace("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ"), nullable == "YES")
        for column, kind, nullable in connection.execute(
            "SELECT column_name, data_type, is_nullable FROM information_schema.columns "
            "WHERE table_schema = $schema AND table_name = $name ORDER BY ordinal_position",
            {"schema": SCHEMA, "name": table.name},
        ).fetchall()
    }
    if have == declared and list(have) == list(declared):
        return False
    columns = ", ".join(
        f"{identifier(column)} {kind}{'' if nullable else ' NOT NULL'}"
        for column, (kind, nullable) in declared.items()
    )
    connection.execute(f"CREATE OR REPLACE TABLE {name} ({columns})")
    connection.execute(f"COMMENT ON TABLE {name} IS {literal(table.description)}")
    for column in table.columns:
        if column.description:
            connection.execute(
                f"COMMENT ON COLUMN {name}.{identifier(column.name)} IS {literal(column.description)}"
            )
    if isinstance(table, Fact):
        connection.execute(
            f"CREATE OR REPLACE VIEW {SCHEMA}.{identifier(table.name + '_current')} AS "
            f"SELECT {listing([c.name for c in table.columns])} FROM (SELECT *, row_number() OVER "
            f"(PARTITION BY {identifier(table.key)} ORDER BY {identifier(table.record)} DESC) AS version_rank "
            f"FROM {name}) WHERE version_rank = 1 AND NOT deleted"
        )
    return True


def _load(connection: duckdb.DuckDBPyConnection, star: StarFiles, plan: _Plan, run_id: str) -> None:
    if not plan.files:
        return
    table = plan.table
    name = f"{SCHEMA}.{identifier(table.name)}"
    if plan.anew:
        connection.execute(f"DELETE FROM {name}")
        connection.execute("DELETE FROM star.loads WHERE table_name = $name", {"name": table.name})
    paths = [str(star.files.local(file.path)) for _, file in plan.files]
    connection.execute(
        f"INSERT INTO {name} BY NAME SELECT {listing([c.name for c in table.columns])} FROM read_parquet($paths)",
        {"paths": paths},
    )
    connection.executemany(
        "INSERT INTO star.loads VALUES ($1, $2, $3, $4, now()::TIMESTAMP, $5)",
        [(table.name, batch, file.version, file.rows, run_id) for batch, file in plan.files],
    )


def _loaded(connection: duckdb.DuckDBPyConnection, plan: _Plan, tables: Mapping[str, StarTable]) -> Loaded:
    """What a load did, and which references of the rows it brought lead nowhere. Dimensions never lose members,
    so rows that were loaded before need no second look."""
    table = plan.table
    name = f"{SCHEMA}.{identifier(table.name)}"
    (size,) = one(connection, f"SELECT count(*) FROM {name}")
    batches = tuple(batch for batch, _ in plan.files)
    dangling = {}
    if batches and isinstance(table, Fact):
        for column, dimension in table.references.items():
            key = identifier(tables[dimension].key)
            (dangling[column],) = one(
                connection,
                f"SELECT count(*) FROM {name} f ANTI JOIN {SCHEMA}.{identifier(dimension)} d "
                f"ON f.{identifier(column)} = d.{key} WHERE f.{identifier(column)} IS NOT NULL AND f.batch >= $first",
                {"first": batches[0]},
            )
    return Loaded(size, sum(file.rows for _, file in plan.files), batches, dangling)
