"""A history in a real PostgreSQL, captured by the platform itself; some of it in transactions that commit late."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from etl_assets.star.definition import Inputs
from etl_assets_tests.capture.comparing import connect, execute
from etl_assets_tests.direct import Direct
from etl_assets_tests.law.definitions import table
from etl_assets_tests.law.histories import Content, Found
from etl_assets_tests.law.models import Model, Row, TableSpec


@dataclass
class Server:
    """The source at `url`, brought from batch to batch."""

    url: str
    data: Path
    model: Model
    history: Sequence[Found]
    rng: Random
    held: dict[str, Content] = field(default_factory=dict)
    late: Connection | None = None

    def begin(self) -> None:
        execute(self.url, *(spec.ddl for spec in self.model.tables.values()))
        self.held = {name: {} for name in self.model.tables}

    def capture(self, place: int, found: Found) -> int | None:
        """Let happen what the history says, and take a batch; its number, or None if there was nothing new."""
        self._commit()
        with closing(connect(self.url)) as connection, connection.cursor() as cursor:
            for name, rows in found.source.items():
                self._change(cursor, name, rows)
        if place + 1 < len(self.history) and self.rng.random() < 0.6:
            self._begin_late(self.history[place + 1])
        tables = {name: table(self.model.tables[name]) for name in found.tables}
        flow = Direct(self.url, self.data, Inputs(tables, {}, {}))
        manifest = flow.capture(whole=self.rng.random() < 0.15)
        return manifest.batch if manifest else None

    def _begin_late(self, after: Found) -> None:
        """Write to a table what the next batch will find, and do not commit it yet."""
        self.late = connect(self.url)
        with self.late.cursor() as cursor:
            cursor.execute("BEGIN")
            name = self.rng.choice(list(self.model.tables))
            self._change(cursor, name, after.source[name])

    def _commit(self) -> None:
        if self.late:
            with closing(self.late), self.late.cursor() as cursor:
                cursor.execute("COMMIT")
            self.late = None

    def _change(self, cursor: Any, name: str, rows: Content) -> None:
        """Bring a table to a content. Where another column than the key is unique too, rows are written anew, since they
        may have exchanged it."""
        spec, held = self.model.tables[name], self.held[name]
        changed = {key for key in held.keys() & rows.keys() if held[key] != rows[key]}
        anew = changed if spec.unique else set()
        for key in sorted((held.keys() - rows.keys()) | anew):
            cursor.execute(_delete(spec), key)
        for key in sorted(changed - anew):
            cursor.execute(_update(spec), [*_values(spec, rows[key]), *key])
        for key in sorted((rows.keys() - held.keys()) | anew):
            cursor.execute(_insert(spec), _values(spec, rows[key]))
        self.held[name] = rows


def _values(spec: TableSpec, row: Row) -> list[str | None]:
    return [row[column.name] for column in spec.columns]


def _where(spec: TableSpec) -> sql.Composable:
    return sql.SQL(" AND ").join(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in spec.key)


def _delete(spec: TableSpec) -> sql.Composed:
    return sql.SQL("DELETE FROM {} WHERE {}").format(sql.Identifier(spec.name), _where(spec))


def _update(spec: TableSpec) -> sql.Composed:
    assigned = sql.SQL(", ").join(sql.SQL("{} = %s").format(sql.Identifier(c.name)) for c in spec.columns)
    return sql.SQL("UPDATE {} SET {} WHERE {}").format(sql.Identifier(spec.name), assigned, _where(spec))


def _insert(spec: TableSpec) -> sql.Composed:
    marks = sql.SQL(", ").join([sql.Placeholder()] * len(spec.columns))
    return sql.SQL("INSERT INTO {} VALUES ({})").format(sql.Identifier(spec.name), marks)
