"""What a report's query reads, found in the query itself: it can't go stale, and a wrong name is an error at once.

Queries are written in the SQL that PostgreSQL, BigQuery and DuckDB share, and are read here as PostgreSQL's.
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from sqlglot import exp, parse_one
from sqlglot.lineage import lineage
from sqlglot.optimizer.qualify import qualify
from sqlglot.optimizer.scope import build_scope
from sqlglot.schema import MappingSchema, Schema

from etl_assets.engine.operators import NOT_FOLLOWED, told
from etl_assets.exports.contract import Report, ReportError
from etl_assets.star.schema import Fact, StarTable

_DIALECT = "postgres"
_CURRENT = "_current"


@dataclass(frozen=True)
class ReportQuery:
    """A query of schema `star`, checked against what the star's tables declare."""

    owner: str
    sql: str
    star: Mapping[str, StarTable] = field(repr=False)

    def _table(self, name: str) -> StarTable | None:
        """What can be read by a name: a table, or a fact by the view of its current rows, which has the same columns."""
        fact = self.star.get(name.removesuffix(_CURRENT))
        return self.star.get(name) or (fact if isinstance(fact, Fact) else None)

    def _read(self, parsed: exp.Expr) -> dict[str, StarTable]:
        """The tables and views of schema `star` that a query names."""
        names = {table.name for table in parsed.find_all(exp.Table) if table.db == "star"}
        return {name: table for name in names if (table := self._table(name))}

    def _columns(self, parsed: exp.Expr) -> Schema:
        """What sqlglot is told of the tables that are read: names as they are, or a column in capitals could not be named in
        quotes."""
        names: dict[str, object] = {
            "star": {
                name: {c.name: c.type.duckdb for c in table.columns}
                for name, table in self._read(parsed).items()
            }
        }
        return MappingSchema(names, dialect=_DIALECT, normalize=False)

    @cached_property
    def _parsed(self) -> exp.Query:
        """The query with every column traced to its table. Raises `ReportError` where that is impossible."""
        try:
            parsed = parse_one(self.sql, dialect=_DIALECT)
            own = {cte.alias_or_name for cte in parsed.find_all(exp.CTE)}
            for table in parsed.find_all(exp.Table):
                if table.name not in own and (table.db != "star" or not self._table(table.name)):
                    current = [name + _CURRENT for name, one in self.star.items() if isinstance(one, Fact)]
                    known = [f"star.{name}" for name in (*self.star, *current)]
                    near = difflib.get_close_matches(f"star.{table.name}", known, 1)
                    raise ReportError(
                        f"{self.owner}: its query reads {table.sql(dialect=_DIALECT)!r}, and can read star tables only; "
                        + (f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}")
                    )
            qualified = qualify(parsed, schema=self._columns(parsed), dialect=_DIALECT)
        except NOT_FOLLOWED as error:
            raise ReportError(f"{self.owner}: its query is wrong: {told(error)}") from error
        if not isinstance(qualified, exp.Query):
            raise ReportError(f"{self.owner}: its query is no SELECT")
        return qualified

    @property
    def columns(self) -> list[str]:
        """The names of the columns it answers."""
        return list(self._parsed.named_selects)

    @cached_property
    def tables(self) -> list[str]:
        """The star tables it reads, sorted; the view of a fact's current rows counts as the fact."""
        return sorted({table.name for table in self._read(self._parsed).values()})

    @cached_property
    def sources(self) -> Mapping[str, list[tuple[str, str]]]:
        """For each column it answers, the star tables and columns that its values are made from."""
        parsed = self._parsed
        read = self._read(parsed)
        # The scope spares another qualification, for which sqlglot takes longer than for all else here.
        nodes = lineage(
            None, parsed, self._columns(parsed), dialect=_DIALECT, scope=build_scope(parsed), copy=False
        )
        return {
            column: sorted(
                {
                    (read[node.source.name].name, exp.to_column(node.name).name)
                    for node in top.walk()
                    if not node.downstream and isinstance(node.source, exp.Table)
                }
            )
            for column, top in nodes.items()
        }


def queries(report: Report, star: Mapping[str, StarTable]) -> tuple[ReportQuery, ReportQuery | None]:
    """The query of a report, and that of its control totals, checked against what a star declares. Raises `ReportError`."""
    query = ReportQuery(report.name, report.query, star)
    control = ReportQuery(f"{report.name} (control)", report.control, star) if report.control else None
    _ = query.columns
    if control and not set(control.columns) <= set(report.by_name):
        raise ReportError(f"{control.owner}: its columns {control.columns} must be columns of the report")
    return query, control


def traced(
    reports: Iterable[Report], star: Mapping[str, StarTable]
) -> dict[str, tuple[ReportQuery, ReportQuery | None]]:
    """The same of several reports, by name."""
    return {report.name: queries(report, star) for report in reports}
