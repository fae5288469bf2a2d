"""The warehouse: DuckDB. Analysts query it, so it is only ever changed in one transaction over all tables.

star.<table>          as declared
star.<fact>_current   the latest version of each row that still exists
star.loads            which version of what was loaded when, by which run, with how many rows
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pandas as pd
import pyarrow as pa
from pydantic import Field

from etl_assets.engine.duck import configure
from etl_assets.engine.schema import StarTable
from etl_assets.failpoints import reached
from etl_assets.lake.star import StarFiles
from etl_assets.resources.warehouse_load import ChangedMembers, Load, Loaded, WarehouseError


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
        self,
        star: StarFiles,
        tables: Sequence[StarTable],
        versions: Mapping[str, str],
        run_id: str,
        changed: ChangedMembers = lambda table, held: None,
    ) -> dict[str, Loaded]:
        """Bring tables up to what the lake's star holds, all in one transaction.

        `versions` are those that each table must have; a star that is behind is refused. A member that a fact refers
        to and that no dimension has is inferred; where that can't be, it is reported in `Loaded.dangling`, and then
        nothing is changed. `changed` spares comparing whole dimensions.
        """
        with self.connect() as connection:
            connection.execute("BEGIN")
            loaded = Load(connection, star, {table.name: table for table in tables}, run_id, changed).load(
                versions
            )
            if any(sum(outcome.dangling.values()) for outcome in loaded.values()):
                connection.execute("ROLLBACK")
            else:
                connection.execute("COMMIT")
                reached("warehouse committed")
        return loaded
