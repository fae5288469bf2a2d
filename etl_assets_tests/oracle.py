"""What the star must hold, computed by PostgreSQL itself from the source as it is at this moment.

Independent on purpose: plain SQL written from what a project is to give, and nothing of `etl_assets`.
"""

import datetime as dt
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass

import psycopg2
from psycopg2.extensions import cursor as Cursor

_CALENDAR = """
    SELECT day::date AS date_id, extract(year FROM day)::int AS year, extract(month FROM day)::int AS month,
        extract(day FROM day)::int AS day, extract(isodow FROM day)::int AS day_of_week,
        extract(quarter FROM day)::int AS quarter, trim(to_char(day, 'Day')) AS day_name,
        trim(to_char(day, 'Month')) AS month_name
    FROM generate_series(%s::timestamp, %s::timestamp, '1 day') AS day"""
# A field of CSV as PostgreSQL and DuckDB write it: NULL is an empty field without quotes.
_FIELD = re.compile(r'(?:"((?:[^"]|"")*)"|([^,\n]*))(,|\n)')

Row = Mapping[str, str | None]
Content = Mapping[str, Mapping[int, Row]]
"""Table -> key -> column -> PostgreSQL's own text."""


@dataclass(frozen=True)
class Rows:
    """A table's rows in the order of its key, which is the first column."""

    columns: tuple[str, ...]
    rows: list[tuple[object, ...]]


@dataclass(frozen=True)
class Moment:
    """The source at one instant: as it is, and as the star must show it."""

    content: Content
    star: Mapping[str, Rows]
    used_dates: frozenset[dt.date]


@dataclass(frozen=True)
class Model:
    """A project by other means. `project`: where it lies, as ETL_PROJECT names it; `tables`: those that are read, each with
    the key <table>_id; `facts`: the source table that each is made of, and its surrogate key; `star`: the query that gives
    the present content of each table but the calendar, its key first; `used_dates`: the query for the days that facts refer
    to."""

    project: str
    tables: Sequence[str]
    facts: Mapping[str, tuple[str, str]]
    star: Mapping[str, str]
    used_dates: str

    @property
    def dimensions(self) -> Sequence[str]:
        return sorted({"dim_date", *self.star} - self.facts.keys())

    def moment(self, url: str) -> Moment:
        with _cursor(url) as cursor:
            star = {name: _rows(cursor, f"{query} ORDER BY 1") for name, query in self.star.items()}
            cursor.execute(self.used_dates)
            used = frozenset(date for (date,) in cursor.fetchall())
            return Moment({table: _content(cursor, table) for table in self.tables}, star, used)

    def content(self, url: str) -> Content:
        with _cursor(url) as cursor:
            return {table: _content(cursor, table) for table in self.tables}


def calendar(url: str, dates: frozenset[dt.date]) -> Rows:
    """dim_date for facts that use these dates."""
    with _cursor(url) as cursor:
        return _rows(cursor, _CALENDAR, (min(dates), max(dates)))


def parse_csv(text: str) -> Iterator[Row]:
    """The rows of a CSV file with a header; unlike the csv module it tells NULL from the empty string."""
    records: list[list[str | None]] = [[]]
    for field in _FIELD.finditer(text):
        quoted, plain, end = field.groups()
        records[-1].append(plain or None if quoted is None else quoted.replace('""', '"'))
        if end == "\n":
            records.append([])
    header, *rows = records[:-1]
    return (dict(zip(map(str, header), row, strict=True)) for row in rows)


def _content(cursor: Cursor, table: str) -> Mapping[int, Row]:
    stream = io.StringIO()
    cursor.copy_expert(f'COPY "{table}" TO STDOUT (FORMAT csv, HEADER)', stream)
    return {int(str(row[f"{table}_id"])): row for row in parse_csv(stream.getvalue())}


def _rows(cursor: Cursor, query: str, values: tuple[object, ...] | None = None) -> Rows:
    cursor.execute(query, values)
    return Rows(tuple(column.name for column in cursor.description or ()), cursor.fetchall())


@contextmanager
def _cursor(url: str) -> Iterator[Cursor]:
    with closing(psycopg2.connect(url)) as connection:
        connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
        with connection.cursor() as cursor:
            yield cursor
