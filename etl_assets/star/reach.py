"""How far a change of the inputs of a star function reaches, and the same function on just the rows that it reaches.

The tree of the function's SQL is gone through twice. Upwards: the values by which rows that changed are known are
followed through each join and group, to an *anchor*: the scan, or the lowest aggregate or window that everything else
hangs on, whose key says which rows of the result may differ. Downwards: the inputs are cut down to what the anchor's
rows with these keys are made of, whole groups always. The function's own SQL then runs on these rows, as they are and
as they were.

More rows than needed do no harm; fewer would. Wherever the tree does not show that nothing is left out, `Opaque` is
raised, with the reason, and the function is computed whole.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import duckdb
from sqlglot import exp

from etl_assets.engine.duck import identifier
from etl_assets.engine.operators import (
    Expression,
    From,
    Join,
    Node,
    Opaque,
    Query,
    Scan,
    Select,
    Source,
    Union,
    aliases,
    column,
    columns_of,
    nodes,
    substituted,
    text,
    used,
)
from etl_assets.lake.current import materialized
from etl_assets.star.change import InputChange, shown_key
from etl_assets.star.touched import (
    ROW,
    VALUE,
    Touched,
    _made_of,
    _plain,
    as_values,
    by_position,
    chosen_by,
    in_values,
    is_over_rows,
    of_row,
    same_values,
    seen_below,
    without_alias,
)

# The joins in which a row of the result is one of the left side, whatever the right side adds to it or says of it.
_DRIVEN = {"inner", "left", "semi", "anti", "cross"}


@dataclass(frozen=True)
class Anchor:
    """A node, and the expressions (of a scan, over its columns; of a select, over what it reads; of a union, over its
    columns) whose values name the rows that everything above is made of, one by one or group by group."""

    node: Node
    key: tuple[Expression, ...]


@dataclass
class Reach:
    """What a change of some inputs reaches in one function. Without a connection nothing is computed: it is only found
    out whether the tree allows it. Raises `Opaque`."""

    tree: Node
    inputs: Mapping[str, InputChange]
    connection: duckdb.DuckDBPyConnection | None = None
    restricted: dict[int, tuple[str, str]] = field(default_factory=dict)
    """Occurrence -> its rows as they were and as they are, cut down."""
    reached: int = 0
    """How many keys of anchors were reached."""

    def run(self) -> tuple[Anchor, ...]:
        """Find the keys that are reached and cut the inputs down to them."""
        found = list(self._anchors(self.tree))
        for anchor in found:
            parts = list(self._collect(self.tree, anchor))
            if not parts:
                self._empty(anchor.node)
                continue
            table = self._union(parts)
            if self.connection:
                ((count,),) = self.connection.execute(f"SELECT count(*) FROM {table}").fetchall()
                self.reached += count
            self._restrict_path(self.tree, anchor, table)
        return tuple(found)

    def describe(self, anchors: Sequence[Anchor]) -> str:
        """The keys of anchors in words."""
        told = []
        for anchor in anchors:
            names = []
            for key in anchor.key:
                traced = self._trace_anchor(anchor, key)
                if traced is None:
                    names.append(text(key).replace('"', ""))
                    continue
                scan, expression = traced
                is_key = expression.name in self.inputs[scan.input].keys
                shown = shown_key(expression.name) if is_key else text(expression).replace('"', "")
                names.append(f"{scan.input}.{shown}")
            told.append(", ".join(names))
        return " and ".join(dict.fromkeys(told))

    def column(self, source: From, expression: Expression) -> tuple[str, str] | None:
        """The input and its column that an expression over a FROM is; None if it is computed, or not always that."""
        traced = self._trace_from(source, expression)
        if traced is None or not isinstance(traced[1], exp.Column):
            return None
        return traced[0].input, traced[1].name

    def _trace_anchor(self, anchor: Anchor, key: Expression) -> tuple[Scan, Expression] | None:
        if isinstance(anchor.node, Scan):
            return anchor.node, key
        if isinstance(anchor.node, Select):
            return self._trace_from(anchor.node.source, key)
        return None

    # -- anchors -------------------------------------------------------------------------------------------------

    def _anchors(self, node: Node) -> Iterator[Anchor]:
        if isinstance(node, Scan):
            yield Anchor(node, tuple(column(name) for name in self.inputs[node.input].keys))
        elif isinstance(node, Union):
            if node.distinct:
                yield Anchor(node, self._exact(node, [column(name) for name in node.columns], "a UNION"))
            else:
                for part in node.parts:
                    yield from self._anchors(part)
        elif node.constrains:
            yield Anchor(node, self._constrained(node))
        else:
            source = node.source
            while isinstance(source, Join):
                _driven(source)
                source = source.left
            yield from self._anchors(source.node)

    def _constrained(self, node: Select) -> tuple[Expression, ...]:
        """The expressions, over what a select reads, by which its groups can be told apart in its inputs."""
        if node.groups is None and not node.partitions:
            candidates, what = list(node.columns.values()), "DISTINCT"
        else:
            candidates, what = _common(node), "an aggregate" if node.groups is not None else "a window"
            if not candidates:
                raise Opaque(f"{what} without {'GROUP BY' if node.groups is not None else 'PARTITION BY'}")
        return self._exact(node.source, candidates, what)

    def _exact(
        self, node: "Node | From", candidates: Sequence[Expression], what: str
    ) -> tuple[Expression, ...]:
        """Those of the expressions by which the inputs of a node can be cut down, group by group."""
        found = [c for c in candidates if not is_over_rows(c) and self._allows(node, [c])]
        while found and not self._allows(node, found):
            found.pop()
        if not found:
            listed = ", ".join(text(c).replace('"', "") for c in candidates)[:80]
            raise Opaque(f"{what} by {listed}, which does not come from the table that drives it")
        return tuple(found)

    def _allows(self, node: "Node | From", key: Sequence[Expression]) -> bool:
        trial = Reach(self.tree, self.inputs)
        try:
            trial._restrict(node, key, "", exact=True)
        except Opaque:
            return False
        return True

    # -- upwards: what changed -----------------------------------------------------------------------------------

    def _collect(self, node: Node, anchor: Anchor) -> Iterator[str]:
        """Tables with the values of an anchor's key that changes below a node reach."""
        if node is anchor.node:
            yield from self._at_anchor(anchor)
        elif isinstance(node, Select):
            yield from self._collect_from(node.source, anchor)
        elif isinstance(node, Union):
            for part in node.parts:
                if _contains(part, anchor.node):
                    yield from self._collect(part, anchor)

    def _collect_from(self, source: From, anchor: Anchor) -> Iterator[str]:
        if isinstance(source, Source):
            yield from self._collect(source.node, anchor)
            return
        yield from self._collect_from(source.left, anchor)
        for touched in self._of_right(source):
            yield self._descend_from(source.left, touched, anchor)

    def _at_anchor(self, anchor: Anchor) -> Iterator[str]:
        node = anchor.node
        if isinstance(node, Union):
            for part in node.parts:
                key = [column(columns_of(part)[node.columns.index(k.name)]) for k in anchor.key]
                for touched in self._touched(part):
                    yield self._all_of(part, touched, key)
        elif isinstance(node, Scan):
            for touched in self._touched(node):
                yield self._all_of(node, touched, anchor.key)
        else:
            for touched in self._touched_from(node.source):
                yield self._all_of(node.source, touched, anchor.key)

    def _all_of(self, node: "Node | From", touched: Touched, wanted: Sequence[Expression]) -> str:
        """The values of all `wanted` expressions in the rows touched."""
        values = [in_values(e, touched) for e in wanted]
        if all(value is not None for value in values):
            return self._values(
                f"SELECT DISTINCT {as_values([str(v) for v in values])} FROM {touched.table} AS {VALUE}"
            )
        return self._find(node, touched, wanted)

    def _touched(self, node: Node) -> Iterator[Touched]:
        """The rows of a node that changes of inputs touch."""
        if isinstance(node, Scan):
            change = self.inputs[node.input]
            if change.changed:
                names = [*change.columns, *change.keys]
                chosen = ", ".join(f"{identifier(name)} AS v{i}" for i, name in enumerate(names))
                table = f"(SELECT {chosen} FROM {change.gone} UNION ALL SELECT {chosen} FROM {change.come})"
                yield Touched(tuple(column(name) for name in names), table)
        elif isinstance(node, Union):
            for part in node.parts:
                renamed = dict(zip(columns_of(part), node.columns, strict=True))
                for touched in self._touched(part):
                    expressions = tuple(column(renamed[e.name]) for e in touched.expressions)
                    yield replace(touched, expressions=expressions)
        else:
            for touched in self._touched_from(node.source):
                yield self._given_by(node, touched)

    def _given_by(self, node: Select, touched: Touched) -> Touched:
        """What a change of what a select reads touches in what it gives."""
        given = node.columns
        if node.groups is not None or node.partitions:
            common = _common(node)
            if not common:
                raise Opaque(
                    "an aggregate without GROUP BY"
                    if node.groups is not None
                    else "a window without PARTITION BY"
                )
            touched = self._some_of(node.source, touched, common)
        names, values = [], []
        for name, expression in given.items():
            value = None if is_over_rows(expression) else in_values(expression, touched)
            if value is not None:
                names.append(column(name))
                values.append(value)
        if names:
            chosen = f"(SELECT {as_values(values)} FROM {touched.table} AS {VALUE})"
            return Touched(tuple(names), chosen, touched.same)
        plain = {n: e for n, e in given.items() if not is_over_rows(e)}
        found = self._some_of(node.source, touched, list(plain.values()))
        by_text = {text(e): n for n, e in plain.items()}
        return replace(found, expressions=tuple(column(by_text[text(e)]) for e in found.expressions))

    def _some_of(
        self, node: "Node | From", touched: Touched, wanted: Sequence[Expression], *, same: bool = False
    ) -> Touched:
        """The values of some of the expressions in the rows touched, as many as can be told together; `same`: those that
        the rows have."""
        computed = [(e, value) for e in wanted if (value := in_values(e, touched)) is not None]
        if computed and (touched.same or not same):
            values = as_values([value for _, value in computed])
            table = f"(SELECT {values} FROM {touched.table} AS {VALUE})"
            return Touched(tuple(e for e, _ in computed), table, touched.same)
        by_scan: dict[int, list[Expression]] = {}
        for e in wanted:
            traced = self._trace(node, e)
            if traced:
                by_scan.setdefault(traced[0].occurrence, []).append(e)
        for together in by_scan.values():
            try:
                return Touched(tuple(together), self._find(node, touched, together))
            except Opaque:
                continue
        raise Opaque("columns by which a change could be followed are left out on the way")

    def _touched_from(self, source: From) -> Iterator[Touched]:
        if isinstance(source, Source):
            for touched in self._touched(source.node):
                expressions = tuple(column(e.name, source.alias) for e in touched.expressions)
                yield replace(touched, expressions=expressions)
            return
        _driven(source)
        yield from self._touched_from(source.left)
        yield from self._of_right(source)

    def _of_right(self, join: Join) -> Iterator[Touched]:
        """What changes of the right side of a join touch, by what the left side is joined on."""
        for touched in self._touched_from(join.right):
            if not join.equal:
                raise Opaque("a join without an equality")
            by_right = {text(right): left for left, right in join.equal}
            # What is equal to something equal need not be equal to it, where types differ.
            found = self._some_of(join.right, touched, [right for _, right in join.equal], same=True)
            present = " AND ".join(f"v{i} IS NOT NULL" for i in range(len(found.expressions)))
            table = self._values(f"SELECT DISTINCT * FROM {found.table} WHERE {present}")
            yield Touched(tuple(by_right[text(e)] for e in found.expressions), table, join.same)

    # -- downwards: rows with certain values ---------------------------------------------------------------------

    def _descend_from(self, source: From, touched: Touched, anchor: Anchor) -> str:
        """The values of an anchor's key in the rows of a FROM that are touched."""
        if isinstance(source, Source):
            return self._descend(source.node, without_alias(touched), anchor)
        left = chosen_by(touched, aliases(source.left))
        if left:
            return self._descend_from(source.left, left, anchor)
        return self._descend_from(source.left, self._across(source, touched), anchor)

    def _descend(self, node: Node, touched: Touched, anchor: Anchor) -> str:
        if node is anchor.node:
            if isinstance(node, Select):
                return self._find(node.source, seen_below(node, touched), anchor.key)
            return self._find(node, touched, anchor.key)
        if isinstance(node, Select):
            return self._descend_from(node.source, seen_below(node, touched), anchor)
        if isinstance(node, Union):
            part = next(part for part in node.parts if _contains(part, anchor.node))
            return self._descend(part, by_position(node, part, touched), anchor)
        raise Opaque("a table that is read in more than one way")

    def _across(self, join: Join, touched: Touched) -> Touched:
        """Rows of a join that are known by values of its right side, by what the left side is joined on."""
        right = chosen_by(touched, frozenset({join.right.alias}))
        if right is None or not join.equal:
            raise Opaque("a join without an equality")
        if join.kind == "left" and not all(isinstance(e, exp.Column) for e in right.expressions):
            raise Opaque("something computed of what a left join may not find")
        found = self._find(join.right, right, [r for _, r in join.equal])
        present = " AND ".join(f"v{i} IS NOT NULL" for i in range(len(join.equal)))
        if join.kind == "left" and self.connection:
            nulls = " OR ".join(f"v{i} IS NULL" for i in range(len(right.expressions)))
            query = f"SELECT count(*) FROM {right.table} WHERE {nulls}"
            if self.connection.execute(query).fetchall() != [(0,)]:
                raise Opaque("rows that a left join does not find")
        table = self._values(f"SELECT DISTINCT * FROM {found} WHERE {present}")
        return Touched(tuple(left for left, _ in join.equal), table)

    def _find(self, node: "Node | From", touched: Touched, wanted: Sequence[Expression]) -> str:
        """The values of `wanted` expressions in the rows touched, as they are and as they were."""
        if isinstance(node, Source):
            return self._find(node.node, without_alias(touched), [_plain(e) for e in wanted])
        if isinstance(node, Scan):
            rows = self.inputs[node.input].ever()
            return self._matching(rows, touched, wanted)
        if isinstance(node, Select):
            down = [substituted(e, node.columns) for e in wanted]
            if any(is_over_rows(e) for e in down):
                raise Opaque("what is computed of several rows")
            return self._find(node.source, seen_below(node, touched), down)
        if isinstance(node, Union):
            parts = []
            for part in node.parts:
                names = dict(zip(node.columns, columns_of(part), strict=True))
                renamed = [substituted(e, {n: column(p) for n, p in names.items()}) for e in wanted]
                parts.append(self._find(part, by_position(node, part, touched), renamed))
            return self._union(parts)
        return self._find_joined(node, touched, wanted)

    def _find_joined(self, join: Join, touched: Touched, wanted: Sequence[Expression]) -> str:
        _driven(join)
        if join.kind == "left" and not all(isinstance(e, exp.Column) for e in wanted if _uses(e, join.right)):
            raise Opaque("something computed of what a left join may not find")
        sides = frozenset().union(*(used(e) for e in wanted))
        on_left, on_right = aliases(join.left), frozenset({join.right.alias})
        if sides <= on_left:
            left = chosen_by(touched, on_left) or self._across(join, touched)
            return self._find(join.left, left, wanted)
        if not sides <= on_right or join.kind in ("semi", "anti"):
            raise Opaque("values of both sides of a join together")
        right = chosen_by(touched, on_right)
        if right is None:
            by_left = chosen_by(touched, on_left)
            if by_left is None or not join.equal:
                raise Opaque("a join without an equality")
            keys = self._find(join.left, by_left, [one for one, _ in join.equal])
            right = Touched(tuple(other for _, other in join.equal), keys)
        found = self._find(join.right, right, wanted)
        if join.kind == "left":  # a row for which nothing is found has NULL there
            nulls = ", ".join("NULL" for _ in wanted)
            found = self._values(f"SELECT * FROM {found} UNION ALL SELECT {nulls}")
        return found

    # -- cutting the inputs down ---------------------------------------------------------------------------------

    def _restrict_path(self, node: Node, anchor: Anchor, table: str) -> None:
        """Cut down what an anchor is made of to some of its keys; then what is joined to it, where that is easy."""
        if node is anchor.node:
            below = node.source if isinstance(node, Select) else node
            self._restrict(below, anchor.key, table, exact=True)
        elif isinstance(node, Union):
            part = next(part for part in node.parts if _contains(part, anchor.node))
            self._restrict_path(part, anchor, table)
        elif isinstance(node, Select):
            self._restrict_joined(node.source, anchor, table)

    def _restrict_joined(self, source: From, anchor: Anchor, table: str) -> None:
        if isinstance(source, Source):
            self._restrict_path(source.node, anchor, table)
            return
        self._restrict_joined(source.left, anchor, table)
        self._follow(source)

    def _restrict(self, node: "Node | From", key: Sequence[Expression], table: str, *, exact: bool) -> None:
        """Cut the inputs of a node down to what its rows with certain values are made of. If `exact`, raises `Opaque`
        where that can't be; else leaves them whole there."""
        if isinstance(node, Source):
            self._restrict(node.node, [_plain(e) for e in key], table, exact=exact)
        elif isinstance(node, Scan):
            self._cut(node, key, table)
        elif isinstance(node, Union):
            for part in node.parts:
                names = dict(zip(node.columns, columns_of(part), strict=True))
                renamed = [substituted(e, {n: column(p) for n, p in names.items()}) for e in key]
                self._restrict(part, renamed, table, exact=exact)
        elif isinstance(node, Select):
            down = [substituted(e, node.columns) for e in key]
            if any(is_over_rows(e) for e in down):
                _left_whole(exact, "what is computed of several rows")
                return
            if node.groups is not None or node.partitions:
                common = {text(e) for e in _common(node)}
                kept = [i for i, e in enumerate(down) if _made_of(e, common)]
                if len(kept) < len(down):
                    _left_whole(exact, "groups within groups")
                    return
            self._restrict(node.source, down, table, exact=exact)
        else:
            self._restrict_join(node, key, table, exact=exact)

    def _restrict_join(self, join: Join, key: Sequence[Expression], table: str, *, exact: bool) -> None:
        try:
            left = self._by_left(join, Touched(tuple(key), table))
        except Opaque as error:
            _left_whole(exact, str(error))
            return
        self._restrict(join.left, left.expressions, self._kept(left.table), exact=exact)
        self._follow(join)

    def _by_left(self, join: Join, touched: Touched) -> Touched:
        """What is touched of a join, by values of its left side."""
        _driven(join)
        left = chosen_by(touched, aliases(join.left))
        if left is None and join.kind != "inner":
            raise Opaque("what a join adds")
        return left or self._across(join, touched)

    def _follow(self, join: Join) -> None:
        """Cut the right side of a join down to what the rows of the left side, cut down already, ask for."""
        asked: dict[int, list[tuple[Expression, Expression]]] = {}
        for left, right in join.equal:
            traced = self._trace_from(join.left, left)
            if traced and traced[0].occurrence in self.restricted:
                asked.setdefault(traced[0].occurrence, []).append((traced[1], right))
        if not asked or not self.connection:
            return
        occurrence, pairs = max(asked.items(), key=lambda item: len(item[1]))
        was, now = self.restricted[occurrence]
        wanted = as_values([text(of_row(e)) for e, _ in pairs])
        rows = f"SELECT {wanted} FROM {now} AS {ROW} UNION SELECT {wanted} FROM {was} AS {ROW}"
        self._restrict(join.right, [right for _, right in pairs], self._values(rows), exact=False)

    def _cut(self, scan: Scan, key: Sequence[Expression], table: str) -> None:
        if scan.occurrence in self.restricted:
            raise Opaque("a table that is read in more than one way")
        if self.connection is None:
            self.restricted[scan.occurrence] = ("", "")
            return
        change = self.inputs[scan.input]
        names = ", ".join(f"{ROW}.{identifier(name)}" for name in [*change.columns, *change.keys])
        touched = Touched(tuple(key), table)
        now = self._values(f"SELECT {names} FROM {self._picked(change, touched)} AS {ROW}")
        was = now
        if change.changed:
            same = " AND ".join(f"{ROW}.{identifier(k)} = c.{identifier(k)}" for k in change.keys)
            was = self._values(
                f"SELECT {names} FROM {now} AS {ROW} ANTI JOIN {change.come} AS c ON {same} UNION ALL "
                f"SELECT {names} FROM {change.gone} AS {ROW} SEMI JOIN {table} AS {VALUE} ON {same_values(touched)}"
            )
        self.restricted[scan.occurrence] = (was, now)

    def _empty(self, node: Node) -> None:
        """Cut the inputs of a node down to nothing."""
        for scan in nodes(node):
            if isinstance(scan, Scan):
                nothing = f"(SELECT * FROM {self.inputs[scan.input].rows} LIMIT 0)"
                self.restricted[scan.occurrence] = (nothing, nothing)

    def _picked(self, change: InputChange, touched: Touched) -> str:
        """A FROM clause with the rows, as they are, that are touched."""
        table = f"{change.rows} AS {ROW} SEMI JOIN {touched.table} AS {VALUE} ON {same_values(touched)}"
        if change.pick is None:
            return f"(SELECT {ROW}.* FROM {table})"
        # First their keys, from few columns; then the rows: what is not asked for need not be typed.
        if [text(e) for e in touched.expressions] == [text(column(key)) for key in change.keys]:
            named = ", ".join(f"v{i} AS {identifier(key)}" for i, key in enumerate(change.keys))
            return change.pick(self._values(f"SELECT DISTINCT {named} FROM {touched.table}"))
        keys = ", ".join(f"{ROW}.{identifier(key)}" for key in change.keys)
        return change.pick(self._values(f"SELECT DISTINCT {keys} FROM {table}"))

    # -- where a column comes from -------------------------------------------------------------------------------

    def _trace(self, node: "Node | From", expression: Expression) -> tuple[Scan, Expression] | None:
        """The scan whose columns an expression is computed of, and the expression there; None if it is no single one, or
        if rows have another value than that scan's rows give: a left join may find none."""
        if isinstance(node, Scan):
            return node, expression
        if isinstance(node, Select):
            down = substituted(expression, node.columns)
            return None if is_over_rows(down) else self._trace_from(node.source, down)
        if isinstance(node, Union):
            return None
        return self._trace_from(node, expression)

    def _trace_from(self, source: From, expression: Expression) -> tuple[Scan, Expression] | None:
        if isinstance(source, Source):
            return self._trace(source.node, _plain(expression))
        sides = used(expression)
        if sides and sides <= aliases(source.left):
            return self._trace_from(source.left, expression)
        if sides == {source.right.alias} and (source.kind != "left" or isinstance(expression, exp.Column)):
            return self._trace_from(source.right, expression)
        return None

    # -- tables --------------------------------------------------------------------------------------------------

    def _matching(self, rows: str, touched: Touched, wanted: Sequence[Expression]) -> str:
        values = as_values([text(of_row(e)) for e in wanted])
        return self._values(
            f"SELECT DISTINCT {values} FROM {rows} AS {ROW} SEMI JOIN {touched.table} AS {VALUE} ON {same_values(touched)}"
        )

    def _union(self, tables: Sequence[str]) -> str:
        if len(tables) == 1:
            return tables[0]
        return self._values(" UNION ".join(f"SELECT * FROM {table}" for table in tables))

    def _kept(self, table: str) -> str:
        return self._values(f"SELECT * FROM {table}") if table.startswith("(") else table

    def _values(self, query: str) -> str:
        return materialized(self.connection, query) if self.connection else "nothing"


_KIND_NAMES = {"full": "a FULL JOIN", "right": "a RIGHT JOIN"}


def rewritten(query: Query, reach: Reach, *, now: bool) -> str:
    """The function's SQL on the rows that a change reaches, as they are or as they were."""
    tables = []
    for occurrence, name in enumerate(query.names):
        change = reach.inputs[name]
        if occurrence in reach.restricted:
            was, is_ = reach.restricted[occurrence]
            rows = is_ if now else was
        else:
            rows = change.rows if now else change.before()
        names = ", ".join(identifier(column_) for column_ in change.columns)
        tables.append(f"(SELECT {names} FROM {rows})")
    return query.reading(tables)


def _driven(join: Join) -> None:
    if join.kind not in _DRIVEN:
        raise Opaque(_KIND_NAMES[join.kind])


def _left_whole(exact: bool, reason: str) -> None:
    if exact:
        raise Opaque(reason)


def _uses(expression: Expression, side: Source) -> bool:
    return side.alias in used(expression)


def _contains(node: Node, other: Node) -> bool:
    return any(found is other for found in nodes(node))


def _common(node: Select) -> list[Expression]:
    """The expressions that all groups and windows of a select have in common: rows that differ in one of them have
    nothing to do with each other."""
    lists = [list(p) for p in node.partitions]
    if node.groups is not None:
        lists.insert(0, list(node.groups))
    first, *others = lists
    texts = [{text(e) for e in other} for other in others]
    return [e for e in first if used(e) and all(text(e) in other for other in texts)]
