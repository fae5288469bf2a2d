"""Steps in a database: a query that becomes a frame, a statement, a frame that becomes a table."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

from etl_assets.steps.contract import Made, Output, Step, StepError
from etl_assets.steps.dialects import OF_DATABASES, OF_WAREHOUSES
from etl_assets.steps.parameters import Parameter, named, placeholders
from etl_assets.steps.sessions import WAREHOUSE, Bound, IfExists, setting_of
from etl_assets.steps.statement import Statement
from etl_assets.steps.work import Work

_DATABASE = re.compile(r"[a-z][a-z0-9_]*")
_TABLE = re.compile(r"(?:\w+\.)?\w+")


@dataclass(frozen=True)
class _InDatabase(Step):
    """A step in a database: `warehouse`, or one whose URL ETL_DATABASE_<NAME> has."""

    database: str = field(default=WAREHOUSE, kw_only=True)

    @property
    def works_in(self) -> str:
        return self.database

    @property
    def settings(self) -> Sequence[str]:
        return [] if self.database == WAREHOUSE else [setting_of(self.database)]

    def check(self) -> None:
        if not _DATABASE.fullmatch(self.database):
            raise ValueError(
                f"{self.name}: {self.database!r} can't name a database: write a word of small letters; its URL is the "
                "setting ETL_DATABASE_<NAME>"
            )


@dataclass(frozen=True)
class _WithStatement(_InDatabase):
    """A step that runs a statement with `:parameters`."""

    sql: str = field(default="", kw_only=True)

    def check(self) -> None:
        super().check()
        try:
            _ = self.statement
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None

    @cached_property
    def statement(self) -> Statement:
        return Statement(self.sql)

    def bound(self, work: Work) -> Bound:
        """The statement with the values of this run."""
        return Bound(self.statement, work.parameters, work.values)

    def mistakes(self, parameters: Mapping[str, Parameter]) -> Iterator[str]:
        in_warehouse = self.database == WAREHOUSE
        yield from self.statement.mistakes(parameters, OF_WAREHOUSES if in_warehouse else OF_DATABASES)

    def star_tables(self, star: Collection[str]) -> list[str]:
        if self.database != WAREHOUSE:
            return []
        return [name for name in self.statement.star_tables() if name in star]

    def shown(self) -> Mapping[str, str]:
        return {"query": f"```sql\n{self.sql.strip()}\n```"}

    def refuse_unproven(self, work: Work) -> None:
        """Raises `StepError` if what it reads of the warehouse is not what the source was."""
        if self.database == WAREHOUSE and (reason := work.unproven(self.statement.star_tables())):
            raise StepError(f"the warehouse is not proven equal to the source: {reason}")


@dataclass(frozen=True)
class SqlQuery(_WithStatement):
    """A query, whose answer becomes a Parquet file of the lake, some rows at a time, and a frame for who takes it."""

    kinds: ClassVar[frozenset[str]] = frozenset({"sql", "parquet"})
    output: ClassVar[Output] = "frame"

    def make(self, work: Work) -> Made:
        self.refuse_unproven(work)
        kept = work.keeping.put_frame(self.name, work.session(self.database).read(self.bound(work)))
        return Made(
            {"path": kept.path, "bytes": kept.bytes}, kept.version, work.keeping.head(self.name), kept.rows
        )


@dataclass(frozen=True)
class SqlExecute(_WithStatement):
    """A statement in a transaction of its own; the interface shows the rows that it affected. What comes after it in the same
    database sees what it did, a temporary table too."""

    kinds: ClassVar[frozenset[str]] = frozenset({"sql"})

    @property
    def changes_session(self) -> bool:
        return True

    def make(self, work: Work) -> Made:
        self.refuse_unproven(work)
        affected = work.session(self.database).execute(self.bound(work))
        return Made({} if affected is None else {"rows affected": affected})


@dataclass(frozen=True)
class SqlWrite(_InDatabase):
    """The frame of another step, written to a table in one transaction. `table`: `name` or `schema.name`, maybe with
    `{parameters}`. A table that is there is refused, unless `if_exists` says `replace` or `append`."""

    of: str = field(default="", kw_only=True)
    table: str = field(default="", kw_only=True)
    if_exists: IfExists = field(default="fail", kw_only=True)

    kinds: ClassVar[frozenset[str]] = frozenset({"sql", "table"})

    def check(self) -> None:
        super().check()
        if not _TABLE.fullmatch(re.sub(r"\{\w+\}", "x", self.table)):
            raise ValueError(f"{self.name}: {self.table!r} is no table: write name or schema.name")
        if self.if_exists not in ("fail", "replace", "append"):
            raise ValueError(f"{self.name}: if_exists is fail, replace or append, not {self.if_exists!r}")
        schema = self.table.rpartition(".")[0].lower()
        if self.database == WAREHOUSE and schema in {"star", "reporting"}:
            raise ValueError(
                f"{self.name}: schema {schema} of the warehouse is the platform's: write another one"
            )

    @property
    def inputs(self) -> Sequence[str]:
        return [self.of]

    @property
    def changes_session(self) -> bool:
        return True

    def mistakes(self, parameters: Mapping[str, Parameter]) -> Iterator[str]:
        for name in placeholders(self.table):
            if name not in parameters:
                yield f"{{{name}}} names no parameter; there are {', '.join(parameters) or 'none'}"

    def make(self, work: Work) -> Made:
        table = named(self.table, work.values)
        if not _TABLE.fullmatch(table):
            raise StepError(f"{table!r} is no table: the parameters in it are of letters, digits and _")
        frame = work.keeping.frame(self.of)
        if not frame.column_names:
            raise StepError(f"{self.of} has no columns: no table can be made of it")
        rows = work.session(self.database).write(table, frame, self.if_exists)
        return Made({"dagster/table_name": table, "written": self.if_exists}, "", frame.slice(0, 10), rows)
