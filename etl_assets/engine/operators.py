"""What a star function does, read from its SQL: a tree of scans, joins, selections and unions.

A function is run on empty tables; DuckDB says what query that makes. `Query` is that text, in which each table that is
read can be replaced, one occurrence at a time; `parse` gives the tree. What is not known here is not guessed: it raises
`Opaque`, and whoever asked treats the function as one that has to be computed whole.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, cached_property

import duckdb
import sqlglot
from sqlglot import exp
from sqlglot.dialects.dialect import Dialect
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.qualify import qualify
from sqlglot.tokenizer_core import Token, TokenType

from etl_assets.engine.duck import identifier

_DIALECT = "duckdb"
# Names keep their capitals: DuckDB's text has them as they were declared.
_AS_WRITTEN = Dialect.get_or_raise("duckdb, normalization_strategy=case_sensitive")
# The schemas in which inputs stand when a function is run on empty tables.
_SCHEMAS = {"raw", "star", "reference"}
# What DuckDB calls the steps of a relation in its SQL.
_STEP = "__duckdb_s"
_LONGEST = 200_000
_SIDES = {"": "inner", "LEFT": "left", "RIGHT": "right", "FULL": "full"}
_KINDS = {"SEMI": "semi", "ANTI": "anti", "CROSS": "cross"}

# Of what a query, or what it reads, may consist; whatever else there is would be overlooked.
_KNOWN: Mapping[type[exp.Expr], frozenset[str]] = {
    exp.Select: frozenset(
        {"from_", "from", "joins", "expressions", "where", "group", "having", "qualify", "order", "distinct"}
        | {"windows", "with_", "with"}
    ),
    exp.Union: frozenset({"this", "expression", "distinct", "order", "with_", "with"}),
    exp.Subquery: frozenset({"this", "alias", "with_", "with"}),
    exp.Table: frozenset({"this", "alias", "db"}),
}
# What DuckDB writes around the text of somebody's own; around its steps it is written out (see `_inlined`).
_NOT_FOLLOWED = " AS NOT MATERIALIZED ("
# What sqlglot raises for a query that it can't follow: its own errors, and others that nobody there foresaw.
NOT_FOLLOWED = (
    SqlglotError,
    AssertionError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
_STYLED = re.compile(r"\x1b\[[0-9;]*m")
# Types of which two values may be equal and not the same: 0.0 and -0.0, a month and 30 days.
_EQUAL_AND_DIFFERENT = re.compile(r"FLOAT|DOUBLE|INTERVAL|TIME WITH TIME ZONE")

Expression = exp.Expr
Types = Mapping[str, Mapping[str, str]]
"""Input -> column -> DuckDB type."""


class Opaque(Exception):
    """The SQL holds something of which it is not known what a change does to it. The text says what."""


@dataclass(frozen=True)
class Query:
    """The SQL of a function, and where it names its inputs."""

    sql: str
    names: tuple[str, ...]
    """The inputs in the order in which the text reads them; one that is read twice stands here twice."""
    places: tuple[tuple[int, int], ...]
    """For each of them, where its name begins and ends in `sql`."""

    @classmethod
    def of(cls, sql: str) -> "Query":
        """Find the inputs in the text that DuckDB gives for a relation. Raises `Opaque` if that becomes too long."""
        sql = _inlined(sql)
        found = list(_table_names(sqlglot.tokenize(sql, read=_DIALECT)))
        return cls(sql, tuple(name for name, _, _ in found), tuple((begin, end) for _, begin, end in found))

    def reading(self, tables: Sequence[str]) -> str:
        """The text with a table (as it stands in SQL) in place of each input."""
        parts, after = [], 0
        for (begin, end), table in zip(self.places, tables, strict=True):
            parts += [self.sql[after:begin], table]
            after = end
        return "".join([*parts, self.sql[after:]])


def _inlined(sql: str) -> str:
    """The text with each common table expression of DuckDB's own written out where it is read, so that no two readers
    share one. (DuckDB does the same: it marks them NOT MATERIALIZED.)"""
    tokens = sqlglot.tokenize(sql, read=_DIALECT)
    if not tokens or tokens[0].token_type != TokenType.WITH:
        return sql
    bodies: dict[str, str] = {}
    at = 1
    while tokens[at].token_type == TokenType.IDENTIFIER and tokens[at].text.startswith(_STEP):
        name = tokens[at].text
        opening = next(i for i in range(at, len(tokens)) if tokens[i].token_type == TokenType.L_PAREN)
        if [t.text.upper() for t in tokens[at + 1 : opening]] != ["AS", "NOT", "MATERIALIZED"]:
            return sql
        closing = _closing(tokens, opening)
        bodies[name] = _written_out(sql, tokens[opening + 1 : closing], bodies)
        at = closing + 1
        if tokens[at].token_type != TokenType.COMMA:
            break
        at += 1
    return _written_out(sql, tokens[at:], bodies)


def _closing(tokens: Sequence[Token], opening: int) -> int:
    depth = 0
    for i in range(opening, len(tokens)):
        depth += {TokenType.L_PAREN: 1, TokenType.R_PAREN: -1}.get(tokens[i].token_type, 0)
        if depth == 0:
            return i
    raise Opaque("its SQL can't be followed (a bracket is not closed)")


def _written_out(sql: str, tokens: Sequence[Token], bodies: Mapping[str, str]) -> str:
    """The text of some tokens, with the body of each expression that is read."""
    parts, after = [], tokens[0].start
    for before, token in zip([None, *tokens], tokens, strict=False):
        read = before is not None and before.token_type in (TokenType.FROM, TokenType.JOIN)
        if read and token.token_type == TokenType.IDENTIFIER and token.text in bodies:
            parts += [sql[after : token.start], f"({bodies[token.text]})"]
            after = token.end + 1
    made = "".join([*parts, sql[after : tokens[-1].end + 1]])
    if len(made) > _LONGEST:
        raise Opaque("its SQL is too long to be followed")
    return made


def _table_names(tokens: Sequence[Token]) -> Iterator[tuple[str, int, int]]:
    for schema, dot, name in zip(tokens, tokens[1:], tokens[2:], strict=False):
        quoted = schema.token_type == name.token_type == TokenType.IDENTIFIER
        if quoted and dot.token_type == TokenType.DOT and schema.text in _SCHEMAS:
            # A quoted identifier's end is that of its closing quote.
            yield name.text.replace('""', '"'), schema.start, name.end + 1


# -- the tree ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scan:
    """An occurrence of an input. Its columns are those of the input."""

    input: str
    occurrence: int
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """A node under the name by which columns of it are called."""

    alias: str
    node: "Node"


@dataclass(frozen=True)
class Join:
    """Two sources joined; `equal` are the pairs of expressions (of the left, of the right) that must be equal, whatever
    else must hold. `same`: what is equal there is the very same value, not 1 and 1.00."""

    kind: str
    left: "From"
    right: Source
    equal: tuple[tuple[Expression, Expression], ...]
    same: bool = True


@dataclass(frozen=True)
class Select:
    """A SELECT: `columns` in terms of what it reads. `groups`: of an aggregate, the expressions that it groups by.
    `partitions`: the PARTITION BY of each window. `distinct`: rows that are the same are one."""

    source: "From"
    columns: Mapping[str, Expression]
    groups: tuple[Expression, ...] | None = None
    partitions: tuple[tuple[Expression, ...], ...] = ()
    distinct: bool = False

    @property
    def constrains(self) -> bool:
        """Whether a row of what it gives depends on more than one row of what it reads."""
        return self.groups is not None or bool(self.partitions) or self.distinct


@dataclass(frozen=True)
class Union:
    """Rows of several nodes, their columns by position."""

    parts: tuple["Node", ...]
    distinct: bool
    columns: tuple[str, ...]


Node = Scan | Select | Union
From = Source | Join


def columns_of(node: Node) -> tuple[str, ...]:
    """The names of the columns that a node gives."""
    return tuple(node.columns)


def column(name: str, alias: str = "") -> exp.Column:
    """A column as an expression."""
    table = exp.to_identifier(alias, quoted=True) if alias else None
    return exp.Column(this=exp.to_identifier(name, quoted=True), table=table)


def aliases(source: From) -> frozenset[str]:
    """The names of the sources of a FROM."""
    if isinstance(source, Source):
        return frozenset({source.alias})
    return aliases(source.left) | aliases(source.right)


def used(expression: Expression) -> frozenset[str]:
    """The aliases whose columns an expression uses."""
    return frozenset(c.table for c in expression.find_all(exp.Column))


def substituted(expression: Expression, columns: Mapping[str, Expression]) -> Expression:
    """An expression over the columns that a node gives, in terms of what the node reads."""

    def replace(node: Expression) -> Expression:
        if isinstance(node, exp.Column):
            found = columns[node.name].copy()
            # Brackets only where something binds less tightly than a name: what is the same must read the same.
            loose = isinstance(found, exp.Binary | exp.Unary | exp.Between) and not isinstance(
                found, exp.Paren
            )
            return exp.paren(found, copy=False) if loose else found
        return node

    made = expression.copy().transform(replace)
    return made.unnest() if isinstance(made, exp.Paren) else made


def told(error: Exception) -> str:
    """What is wrong with a query, in a line without the marks that a terminal would show."""
    return _STYLED.sub("", " ".join(str(error).split()))


def text(expression: Expression) -> str:
    """An expression as SQL."""
    return expression.sql(_DIALECT)


def nodes(node: Node | From) -> Iterator[Node]:
    """A node and all below it."""
    if isinstance(node, Source):
        yield from nodes(node.node)
    elif isinstance(node, Join):
        yield from nodes(node.left)
        yield from nodes(node.right)
    else:
        yield node
        if isinstance(node, Select):
            yield from nodes(node.source)
        elif isinstance(node, Union):
            for part in node.parts:
                yield from nodes(part)


# -- parsing -----------------------------------------------------------------------------------------------------


def parse(query: Query, types: Types) -> Node:
    """The tree of a query. Raises `Opaque`."""
    numbered = [identifier(f"{number}:{name}") for number, name in enumerate(query.names)]
    schema: dict[str, dict[str, str]] = {
        f"{number}:{name}": dict(types[name]) for number, name in enumerate(query.names)
    }
    if _NOT_FOLLOWED in query.sql:
        raise Opaque("a query of its own (.query)")
    try:
        parsed = sqlglot.parse_one(query.reading(numbered), read=_DIALECT)
        qualified = qualify(
            parsed, schema=dict[str, object](schema), dialect=_AS_WRITTEN, quote_identifiers=False
        )
    except NOT_FOLLOWED as error:
        raise Opaque(f"its SQL can't be followed ({told(error)[:80]})") from error
    for name in qualified.find_all(exp.Identifier):
        name.set("quoted", True)  # so that what is the same reads the same
    with ExitStack() as stack:
        return _Parser(types, schema, stack, collated=qualified.find(exp.Collate) is not None).query(
            qualified, {}
        )


class _Parser:
    """`schema` has the inputs under the names that the query has for them; `collated`: texts may be equal that are written
    differently."""

    def __init__(self, types: Types, schema: Types, stack: ExitStack, *, collated: bool) -> None:
        self.types = types
        self.schema = schema
        self.stack = stack
        self.collated = collated
        self.with_: list[Expression] = []

    @cached_property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """With the inputs as empty tables. Most queries need none."""
        connection = self.stack.enter_context(duckdb.connect())
        for name, columns in self.schema.items():
            declared = ", ".join(f"{identifier(column)} {type_}" for column, type_ in columns.items())
            connection.execute(f"CREATE TABLE {identifier(name)} ({declared})")
        return connection

    def query(self, query: Expression, known: Mapping[str, Node]) -> Node:
        known = dict(known)
        _refuse_others(query)
        with_ = query.args.get("with_") or query.args.get("with")
        if with_:
            if with_.args.get("recursive"):
                raise Opaque("a recursive query")
            for cte in with_.expressions:
                known[cte.alias] = self.query(cte.this, known)
                self.with_.append(cte)
        if isinstance(query, exp.Subquery):
            return self.query(query.this, known)
        if isinstance(query, exp.Union) and type(query) is exp.Union:
            return self.union(query, known)
        if not isinstance(query, exp.Select):
            raise Opaque(f"{type(query).__name__.upper()} of two queries")
        return self.select(query, known)

    def union(self, query: exp.Union, known: Mapping[str, Node]) -> Node:
        """A union. What its parts give is brought to the types that it has: 1 and 1.00 are one value, and two texts."""
        names = columns_of(left := self.query(query.left, known))
        whole, *types = [self.described(part) for part in (query, query.left, query.right)]
        if whole is None:
            raise Opaque("a UNION of which it is not known what types it gives")
        parts = []
        for part, own in zip((left, self.query(query.right, known)), types, strict=True):
            if own != whole:
                columns = {
                    name: exp.cast(column(name, "u"), type_, dialect=_DIALECT)
                    for name, type_ in zip(columns_of(part), whole, strict=True)
                }
                part = Select(Source("u", part), columns)
            parts.append(part)
        return Union(tuple(parts), bool(query.args.get("distinct")), names)

    def described(self, query: Expression) -> Sequence[str] | None:
        """The types of the columns that a query gives; None if its text can't be bound."""
        query = query.copy()
        query.set("with_", None)
        with_ = ", ".join(text(cte) for cte in self.with_)
        bound = f"WITH {with_} {text(query)}" if with_ else text(query)
        try:
            return [str(row[1]) for row in self.connection.execute(f"DESCRIBE {bound}").fetchall()]
        except duckdb.Error:
            return None

    def select(self, query: exp.Select, known: Mapping[str, Node]) -> Node:
        from_ = query.args.get("from_") or query.args.get("from")
        if from_ is None:
            raise Opaque("rows that come from no input")
        source: From = self.source(from_.this, known)
        read = exp.select().from_(from_.this.copy())
        for join in query.args.get("joins") or []:
            source = self.join(source, read, join, known)
            read.append("joins", join.copy())
        for node in query.find_all(exp.Subquery, exp.Exists, exp.In, exp.Lambda):
            if isinstance(node, exp.In) and not node.args.get("query"):
                continue
            if not isinstance(node.parent, exp.From | exp.Join):
                raise Opaque("a query inside an expression")
        columns = {e.alias_or_name: e.unalias() for e in query.expressions}
        distinct = query.args.get("distinct")
        if distinct and distinct.args.get("on"):
            raise Opaque("DISTINCT ON")
        windows = [
            tuple(w.args.get("partition_by") or ())
            for e in [*query.expressions, query.args.get("qualify")]
            if e is not None
            for w in e.find_all(exp.Window)
        ]
        return Select(source, columns, self.groups(query, columns), tuple(windows), bool(distinct))

    def groups(self, query: exp.Select, columns: Mapping[str, Expression]) -> tuple[Expression, ...] | None:
        group = query.args.get("group")
        aggregated = [name for name, e in columns.items() if aggregates(e)]
        if group is None:
            return () if aggregated or query.args.get("having") else None
        if any(group.args.get(name) for name in ("grouping_sets", "cube", "rollup", "totals")) or any(
            isinstance(key, exp.GroupingSets | exp.Cube | exp.Rollup) for key in group.expressions
        ):
            raise Opaque("several groupings at once")
        if group.args.get("all"):
            return tuple(e for name, e in columns.items() if name not in aggregated)
        keys = []
        for key in group.expressions:
            if isinstance(key, exp.Literal) and not key.is_string:
                key = list(columns.values())[int(key.this) - 1]
            keys.append(key)
        return tuple(keys)

    def source(self, item: Expression, known: Mapping[str, Node]) -> Source:
        alias = item.alias_or_name
        _refuse_others(item)
        if item.alias_column_names:
            raise Opaque("columns that are given other names where they are read")
        if isinstance(item, exp.Subquery):
            return Source(alias, self.query(item.this, known))
        if not isinstance(item, exp.Table) or not isinstance(item.this, exp.Identifier):
            raise Opaque("rows that come from no input")
        number, colon, name = item.name.partition(":")
        if colon and number.isdecimal():
            return Source(alias, Scan(name, int(number), tuple(self.types[name])))
        if item.name not in known or item.db:
            raise Opaque("rows that come from no input")
        return Source(alias, known[item.name])

    def join(self, left: From, read: exp.Select, join: exp.Join, known: Mapping[str, Node]) -> Join:
        """`left` joined with another source; `read` reads what `left` is."""
        right = self.source(join.this, known)
        kind = _KINDS.get(join.kind) or _SIDES.get(join.side)
        if kind is None or join.method or join.args.get("using") or join.args.get("match_condition"):
            raise Opaque(f"a join that is not known here: {text(join)[:60]}")
        on = join.args.get("on")
        equal = []
        for condition in [on] if on is not None and not isinstance(on.unnest(), exp.And) else _parts(on):
            condition = condition.unnest()
            if isinstance(condition, exp.EQ):
                for one, other in (
                    (condition.this, condition.expression),
                    (condition.expression, condition.this),
                ):
                    if used(one) and used(one) <= aliases(left) and used(other) == {right.alias}:
                        equal.append((one.unnest(), other.unnest()))
                        break
        if kind == "cross" and equal:
            kind = "inner"
        return Join(
            kind, left, right, tuple(equal), self.same(read, exp.select().from_(join.this.copy()), equal)
        )

    def same(
        self, left: exp.Select, right: exp.Select, equal: Sequence[tuple[Expression, Expression]]
    ) -> bool:
        """Whether what is equal on both sides is the same in whatever is computed of it."""
        if not equal:
            return True
        types = [
            self.described(side.select(*(e.copy() for e in chosen)))
            for side, chosen in zip((left, right), zip(*equal, strict=True), strict=True)
        ]
        return (
            types[0] is not None
            and types[0] == types[1]
            and not any(_EQUAL_AND_DIFFERENT.search(type_) for type_ in types[0])
            and not (self.collated and any("VARCHAR" in type_ for type_ in types[0]))
        )


def _refuse_others(query: Expression) -> None:
    """Refuse what is written of a query, or of a table, that the tree does not have: LIMIT, PIVOT, a sample."""
    known = _KNOWN.get(type(query))
    others = [name for name, value in query.args.items() if value and name not in known] if known else []
    if others:
        raise Opaque(", ".join(name.upper().replace("_", " ") for name in others))


def _parts(on: Expression | None) -> Iterator[Expression]:
    if on is None:
        return
    on = on.unnest()
    if isinstance(on, exp.And):
        yield from _parts(on.left)
        yield from _parts(on.right)
    else:
        yield on


def aggregates(expression: Expression) -> bool:
    """Whether an expression aggregates rows (a window does not)."""
    for node in expression.find_all(exp.AggFunc, exp.Anonymous):
        if isinstance(node, exp.Anonymous) and node.name.lower() not in aggregate_names():
            continue
        if not isinstance(node.parent, exp.Window | exp.IgnoreNulls | exp.RespectNulls | exp.Filter) or (
            not node.find_ancestor(exp.Window)
        ):
            return True
    return False


@cache
def _functions() -> tuple[frozenset[str], frozenset[str]]:
    with duckdb.connect() as connection:
        rows = connection.execute(
            "SELECT function_name, function_type, stability FROM duckdb_functions() "
            "WHERE function_type IN ('scalar', 'aggregate')"
        ).fetchall()
    return (
        frozenset(name for name, kind, _ in rows if kind == "aggregate"),
        frozenset(name for name, _, stability in rows if stability not in (None, "CONSISTENT")),
    )


def aggregate_names() -> frozenset[str]:
    """The names of DuckDB's aggregate functions."""
    return _functions()[0]


def volatile_names() -> frozenset[str]:
    """The names of DuckDB's functions that do not always give the same for the same values."""
    return _functions()[1]
