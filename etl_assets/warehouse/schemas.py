"""Which schemas of a warehouse are a project's own. SQL calls them `star` and `reporting`, whatever they are called there."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import sqlglot
from sqlglot import exp

STAR = "star"
REPORTING = "reporting"


@dataclass(frozen=True)
class Schemas:
    """The schemas (BigQuery: datasets) of a project: `star`, and what follows from its name.

    `star` and `reporting` as long as it is alone; else `shop`, `shop_reporting`, so that several projects share a warehouse.
    """

    star: str = STAR

    @property
    def reporting(self) -> str:
        """Where the reports are."""
        return REPORTING if self.star == STAR else f"{self.star}_{REPORTING}"

    @property
    def staging(self) -> str:
        """Where an engine that can't keep it to itself puts what it stages."""
        return f"{self.star}_staging"

    def called(self, schema: str) -> str:
        """What a schema that SQL calls `star` or `reporting` is called in the warehouse; others are as they are."""
        return {STAR: self.star, REPORTING: self.reporting}.get(schema, schema)

    def rewritten(self, sql: str, dialect: str) -> str:
        """SQL in which the schemas are called as they are in the warehouse. All else in it stays as it was written."""
        return sql if self.star == STAR else _rewritten(self, sql, dialect)


@cache
def _rewritten(schemas: Schemas, sql: str, dialect: str) -> str:
    for start, end, name in sorted(_places(sql, dialect), reverse=True):
        sql = f'{sql[:start]}"{schemas.called(name)}"{sql[end:]}'
    return sql


def _places(sql: str, dialect: str) -> Iterator[tuple[int, int, str]]:
    """Where a query names one of the schemas: from, to, and which."""
    for node in sqlglot.parse_one(sql, dialect=dialect).find_all(exp.Table, exp.Column):
        schema = node.args.get("db")
        if schema and not node.args.get("catalog") and schema.name in (STAR, REPORTING):
            yield schema.meta["start"], schema.meta["end"] + 1, schema.name
