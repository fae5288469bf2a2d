"""Loading the star into DuckDB: what is missing of each table, inside a transaction that somebody else commits."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import duckdb
import pyarrow as pa

from etl_assets.engine.duck import identifier, listing, literal, one, parquet
from etl_assets.engine.schema import Fact, StarTable
from etl_assets.errors import EtlError
from etl_assets.failpoints import reached
from etl_assets.lake.current import materialized
from etl_assets.lake.star import StarFile, StarFiles

SCHEMA = "star"
UNKNOWN = "unknown"
_BOOKS = """
    CREATE SCHEMA IF NOT EXISTS star;
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
    CREATE TABLE IF NOT EXISTS star.superseded (table_name VARCHAR NOT NULL, record_id BIGINT NOT NULL);
    COMMENT ON TABLE star.superseded IS
        'One row is a version of a fact that a later one took the place of; what the views of the current state leave out.';
    CREATE TABLE IF NOT EXISTS star.inferred_members (table_name VARCHAR NOT NULL, member_key VARCHAR NOT NULL);
    COMMENT ON TABLE star.inferred_members IS
        'One row is a member that a fact refers to before its dimension has it; the dimension shows a stand-in.';
"""


ChangedMembers = Callable[[StarTable, StarFile], pa.Table | None]
"""Gives the keys of a dimension's members that changed since a file of it was made; None if nobody knows."""


class WarehouseError(EtlError):
    """The warehouse can't be opened, or what is to be loaded does not hold together."""


def loaded_rows(table: StarTable) -> str:
    """A FROM clause with the rows of a table that come from the star, without inferred members."""
    name = f"{SCHEMA}.{identifier(table.name)}"
    if isinstance(table, Fact):
        return name
    key_type = table.by_name[table.key].type.duckdb
    inferred = f"SELECT CAST(member_key AS {key_type}) FROM star.inferred_members WHERE table_name = {literal(table.name)}"
    return f"(FROM {name} WHERE {identifier(table.key)} NOT IN ({inferred}))"


@dataclass(frozen=True)
class Loaded:
    """What a load did to one table. `dangling`: by column, rows whose reference leads nowhere and can't be inferred;
    `inferred`: members that stand in until the dimension has them."""

    rows: int
    rows_loaded: int
    batches: tuple[str, ...]
    dangling: Mapping[str, int] = field(default_factory=dict)
    inferred: int = 0


@dataclass(frozen=True)
class _Plan:
    """Files to load into a table; `anew` empties it first. `held`: the file of a dimension that is loaded."""

    table: StarTable
    files: Sequence[tuple[str, StarFile]]
    anew: bool
    held: StarFile | None = None


class Load:
    """One load of all tables."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        star: StarFiles,
        tables: Mapping[str, StarTable],
        run_id: str,
        changed: ChangedMembers,
    ) -> None:
        self.changed = changed
        self.connection = connection
        self.star = star
        self.tables = tables
        self.run_id = run_id

    def load(self, versions: Mapping[str, str]) -> dict[str, Loaded]:
        self.connection.execute(_BOOKS)
        plans = [self._plan(table, versions[name]) for name, table in self.tables.items()]
        for plan in plans:
            self._load(plan)
            reached("warehouse loading")
        dangling = {plan.table.name: self._infer(plan) for plan in plans if isinstance(plan.table, Fact)}
        return {plan.table.name: self._loaded(plan, dangling.get(plan.table.name, {})) for plan in plans}

    # -- what is missing -----------------------------------------------------------------------------------------

    def _plan(self, table: StarTable, version: str) -> _Plan:
        """Which files a table lacks."""
        star = self.star
        behind = WarehouseError(
            f"the lake's {table.name} is not up to date: materialize star/{table.name} first"
        )
        loads = "SELECT batch, version FROM star.loads WHERE table_name = $name"
        known = dict(self.connection.execute(loads, {"name": table.name}).fetchall())
        anew = self._declare(table) or not known
        if not isinstance(table, Fact):
            file = star.dimension(table.name)
            if file is None or file.version != version:
                raise behind
            current = not anew and version in known.values()
            held = next((StarFile("", v, b, 0, 0) for b, v in known.items()), None)
            return _Plan(table, [] if current else [(file.batch, file)], anew, held)
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

    def _declare(self, table: StarTable) -> bool:
        """Create a table as declared; True if it is new, or is made anew because the declaration changed."""
        name = f"{SCHEMA}.{identifier(table.name)}"
        declared = {c.name: (c.type.duckdb, c.type.nullable) for c in table.columns}
        have = {
            column: (kind.replace("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ"), nullable == "YES")
            for column, kind, nullable in self.connection.execute(
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
        self.connection.execute(f"CREATE OR REPLACE TABLE {name} ({columns})")
        self.connection.execute(f"COMMENT ON TABLE {name} IS {literal(table.description)}")
        for column in table.columns:
            if column.description:
                self.connection.execute(
                    f"COMMENT ON COLUMN {name}.{identifier(column.name)} IS {literal(column.description)}"
                )
        if isinstance(table, Fact):
            self.connection.execute(
                f"CREATE OR REPLACE VIEW {SCHEMA}.{identifier(table.name + '_current')} AS "
                f"SELECT {listing([c.name for c in table.columns])} FROM {name} f WHERE NOT deleted AND NOT EXISTS "
                f"(SELECT 1 FROM star.superseded s WHERE s.table_name = {literal(table.name)} "
                f"AND s.record_id = f.{identifier(table.record)})"
            )
        return True

    # -- loading -------------------------------------------------------------------------------------------------

    def _load(self, plan: _Plan) -> None:
        if not plan.files:
            return
        table = plan.table
        name = f"{SCHEMA}.{identifier(table.name)}"
        columns = listing([c.name for c in table.columns])
        source = parquet([self.star.files.local(file.path) for _, file in plan.files])
        if plan.anew:
            self.connection.execute(f"DELETE FROM {name}")
        elif not isinstance(table, Fact):
            source = self._difference(table, source, plan.held)
        if plan.anew or not isinstance(table, Fact):
            self.connection.execute("DELETE FROM star.loads WHERE table_name = $name", {"name": table.name})
        self.connection.execute(f"INSERT INTO {name} BY NAME SELECT {columns} FROM {source}")
        if isinstance(table, Fact):
            self._supersede(table, plan)
        self.connection.executemany(
            "INSERT INTO star.loads VALUES ($1, $2, $3, $4, now()::TIMESTAMP, $5)",
            [(table.name, batch, file.version, file.rows, self.run_id) for batch, file in plan.files],
        )

    def _supersede(self, table: Fact, plan: _Plan) -> None:
        """Note which versions the loaded ones take the place of, so that the current state is a quick question."""
        name, key, record = (
            f"{SCHEMA}.{identifier(table.name)}",
            identifier(table.key),
            identifier(table.record),
        )
        mine = f"table_name = {literal(table.name)}"
        rows = name
        if plan.anew:
            self.connection.execute(f"DELETE FROM star.superseded WHERE {mine}")
            if len(plan.files) == 1:
                return  # a batch has one version of a key
        else:
            first = {"first": plan.files[0][0]}
            self.connection.execute(
                f"CREATE OR REPLACE TEMP TABLE loaded_keys AS SELECT DISTINCT {key} FROM {name} WHERE batch >= $first",
                first,
            )
            rows = (
                f"(SELECT {key}, {record} FROM {name} SEMI JOIN loaded_keys USING ({key}) WHERE {record} NOT IN "
                f"(SELECT record_id FROM star.superseded WHERE {mine}))"
            )
        self.connection.execute(
            f"INSERT INTO star.superseded SELECT {literal(table.name)}, {record} FROM {rows} "
            f"QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY {record} DESC) > 1"
        )

    def _difference(self, table: StarTable, source: str, held: StarFile | None) -> str:
        """Take out of a dimension what is not in its new file; returns the rows that it lacks then. What is the same
        stays untouched: the warehouse's file grows with the change, not with the table."""
        name, key = f"{SCHEMA}.{identifier(table.name)}", identifier(table.key)
        changed = self.changed(table, held) if held else None
        if changed is not None:
            self.connection.register("changed_members", changed)
            keys = materialized(self.connection, "FROM changed_members")
            self.connection.unregister("changed_members")
            self._lost(table, f"SELECT {key} FROM {keys} WHERE {key} NOT IN (SELECT {key} FROM {source})")
            self.connection.execute(f"DELETE FROM {name} WHERE {key} IN (SELECT {key} FROM {keys})")
            return materialized(self.connection, f"SELECT * FROM {source} SEMI JOIN {keys} USING ({key})")
        differs = " OR ".join(
            f"t.{identifier(c.name)} IS DISTINCT FROM s.{identifier(c.name)}" for c in table.columns
        )
        lacking = materialized(
            self.connection,
            f"SELECT s.* FROM {source} s LEFT JOIN {name} t ON t.{key} = s.{key} WHERE t.{key} IS NULL OR {differs}",
        )
        self.connection.execute(f"DELETE FROM {name} WHERE {key} IN (SELECT {key} FROM {lacking})")
        self._lost(table, f"SELECT {key} FROM {name} WHERE {key} NOT IN (SELECT {key} FROM {source})")
        self.connection.execute(f"DELETE FROM {name} WHERE {key} NOT IN (SELECT {key} FROM {source})")
        return lacking

    def _lost(self, table: StarTable, keys: str) -> None:
        """Note members that a dimension no longer has (they don't fit their types any more): facts may refer to them."""
        mine = f"table_name = {literal(table.name)}"
        self.connection.execute(
            f"INSERT INTO star.inferred_members SELECT {literal(table.name)}, {identifier(table.key)}::VARCHAR AS lost "
            f"FROM ({keys}) WHERE lost NOT IN (SELECT member_key FROM star.inferred_members WHERE {mine})"
        )

    # -- references ----------------------------------------------------------------------------------------------

    def _infer(self, plan: _Plan) -> dict[str, int]:
        """Let each reference of a fact lead somewhere; returns those rows, by column, for which that can't be.

        Of rows that were loaded before, only references to members that were inferred or lost need a second look.
        """
        dangling = {}
        for column, dimension in plan.table.references.items():
            missing = self._missing(plan, column, dimension)
            (members,) = one(self.connection, f"SELECT count(*) FROM {missing}")
            if members:
                stand_in = self._stand_in(self.tables[dimension])
                if stand_in is None:
                    dangling[column] = members
                    continue
                target = f"{SCHEMA}.{identifier(dimension)}"
                mine = f"table_name = {literal(dimension)} AND member_key IN (SELECT member::VARCHAR FROM {missing})"
                self.connection.execute(f"DELETE FROM star.inferred_members WHERE {mine}")
                self.connection.execute(f"INSERT INTO {target} BY NAME SELECT {stand_in} FROM {missing}")
                self.connection.execute(
                    f"INSERT INTO star.inferred_members SELECT {literal(dimension)}, member::VARCHAR FROM {missing}"
                )
        return dangling

    def _missing(self, plan: _Plan, column: str, dimension: str) -> str:
        """The members that a column of a fact refers to and that its dimension does not have."""
        fact, target = f"{SCHEMA}.{identifier(plan.table.name)}", f"{SCHEMA}.{identifier(dimension)}"
        key = identifier(self.tables[dimension].key)
        first = plan.files[0][0] if plan.files else "~"  # behind every batch
        known = f"SELECT member_key FROM star.inferred_members WHERE table_name = {literal(dimension)}"
        members = materialized(
            self.connection,
            f"SELECT DISTINCT {identifier(column)} AS member FROM {fact} f WHERE {identifier(column)} IS NOT NULL "
            f"AND (batch >= {literal(first)} OR {identifier(column)}::VARCHAR IN ({known}))",
        )
        # The few members are looked up in the dimension, not the dimension in them.
        found = f"SELECT {key} FROM {target} SEMI JOIN {members} ON {key} = member"
        return materialized(self.connection, f"FROM {members} WHERE member NOT IN ({found})")

    def _stand_in(self, table: StarTable) -> str | None:
        """The columns of an inferred member, given its key; None where a required value can't be left open."""
        chosen = []
        for column in table.columns:
            if column.name == table.key:
                value = "member"
            elif column.name == "deleted":
                value = "false"
            elif column.type.nullable:
                value = "NULL"
            elif column.type.name == "text":
                value = literal(UNKNOWN)
            else:
                return None
            chosen.append(f"{value} AS {identifier(column.name)}")
        return ", ".join(chosen)

    def _loaded(self, plan: _Plan, dangling: Mapping[str, int]) -> Loaded:
        table = plan.table
        (size,) = one(self.connection, f"SELECT count(*) FROM {SCHEMA}.{identifier(table.name)}")
        inferred = 0
        if not isinstance(table, Fact):
            inferred = self._filled_in(table)
        batches = tuple(batch for batch, _ in plan.files)
        return Loaded(size, sum(file.rows for _, file in plan.files), batches, dangling, inferred)

    def _filled_in(self, table: StarTable) -> int:
        """Strike off the inferred members that the dimension's file has by now; how many are left."""
        mine = f"table_name = {literal(table.name)}"
        (waiting,) = one(self.connection, f"SELECT count(*) FROM star.inferred_members WHERE {mine}")
        if waiting:
            # Lost members that no fact refers to have no stand-in.
            members = f"SELECT {identifier(table.key)}::VARCHAR FROM {SCHEMA}.{identifier(table.name)}"
            self.connection.execute(
                f"DELETE FROM star.inferred_members WHERE {mine} AND member_key NOT IN ({members})"
            )
            path = self.star.dimension(table.name)
            rows = parquet([self.star.files.local(path.path)]) if path else None
            if rows:
                self.connection.execute(
                    f"DELETE FROM star.inferred_members WHERE {mine} AND member_key IN "
                    f"(SELECT {identifier(table.key)}::VARCHAR FROM {rows})"
                )
            (waiting,) = one(self.connection, f"SELECT count(*) FROM star.inferred_members WHERE {mine}")
        return int(waiting)
