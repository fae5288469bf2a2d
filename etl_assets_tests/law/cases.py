"""A source made by SQL and its star, for claims about one kind of model: what the source says, and what is shown."""

from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg2

from etl_assets.star.schema import Column, Fact
from etl_assets_tests.direct import Direct
from etl_assets_tests.flow import execute

Rows = list[tuple[Any, ...]]
Make = Callable[..., Direct]


def changed(flow: Direct, statement: str) -> None:
    """Change the source, and take a batch."""
    execute(flow.url, statement)
    flow.run()


def asked(flow: Direct, query: str) -> Rows:
    """What the source says."""
    with closing(psycopg2.connect(flow.url)) as connection, connection.cursor() as cursor:
        cursor.execute(query)
        return sorted(cursor.fetchall(), key=repr)


def shown(flow: Direct, name: str, columns: str = "*") -> Rows:
    """The rows of a star table that exist, in the warehouse."""
    is_fact = isinstance(flow.inputs.star[name].schema, Fact)
    rows = f"star.{name}_current" if is_fact else f"star.{name} WHERE NOT deleted"
    with flow.reading() as connection:
        return sorted(connection.execute(f"SELECT {columns} FROM {rows}").fetchall(), key=repr)


def versions(flow: Direct, name: str, columns: str) -> Rows:
    with flow.reading() as connection:
        return connection.execute(f"SELECT {columns} FROM star.{name} ORDER BY 1").fetchall()


def is_proven(flow: Direct) -> bool:
    assert [f for f in (*flow.verified(thorough=True), *flow.rebuilt()) if not f.equal] == []
    return True


def described(**columns: str) -> list[Column]:
    return [Column(name, declared) for name, declared in columns.items()]
