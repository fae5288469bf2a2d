"""What a change of the first parameter reaches, told from a tree: whether `by=` may be declared of it."""

from collections.abc import Sequence

from etl_assets_tests.law.trees import (
    Distinct,
    Explode,
    Filter,
    Group,
    Input,
    Join,
    Relation,
    Select,
    Union,
    Window,
    inputs,
    origin,
)


def rows_stay_alone(tree: Relation, first: str) -> bool:
    """Whether each row of the first parameter is treated by itself, whatever the others hold."""
    if first not in inputs(tree):
        return False
    if isinstance(tree, Input):
        return True
    if isinstance(tree, Select | Filter | Explode):
        return rows_stay_alone(tree.of, first)
    if isinstance(tree, Join):
        mine, other = (tree.left, tree.right) if first in inputs(tree.left) else (tree.right, tree.left)
        kept = tree.how in ("inner", "cross") or (mine is tree.left and tree.how != "full")
        return kept and first not in inputs(other) and rows_stay_alone(mine, first)
    if isinstance(tree, Union):
        return all(rows_stay_alone(part, first) for part in tree.parts)
    return False


def groups_stay_together(tree: Relation, first: str, by: Sequence[str]) -> bool:
    """Whether the rows of the first parameter that are alike in columns can be treated apart from all others. Inputs
    besides the first that have such columns must be joined on them, since they are cut up likewise."""
    if isinstance(tree, Input):
        return tree.name == first
    if isinstance(tree, Select | Filter | Explode):
        return groups_stay_together(tree.of, first, by)
    if isinstance(tree, Union):
        return all(groups_stay_together(part, first, by) for part in tree.parts)
    if isinstance(tree, Group):
        return groups_stay_together(tree.of, first, by) and _among(tree.of, tree.by, first, by)
    if isinstance(tree, Window):
        ways = (total.partition for total in tree.totals)
        return groups_stay_together(tree.of, first, by) and all(
            _among(tree.of, way, first, by) for way in ways
        )
    if isinstance(tree, Distinct):
        return groups_stay_together(tree.of, first, by) and _among(tree.of, list(tree.types), first, by)
    assert isinstance(tree, Join)
    if tree.how == "full" or first in inputs(tree.right):
        return False
    return groups_stay_together(tree.left, first, by) and not _named(tree.right, by)


def _among(tree: Relation, names: Sequence[str], first: str, by: Sequence[str]) -> bool:
    return {(first, name) for name in by} <= {origin(tree, name) for name in names}


def _named(tree: Relation, by: Sequence[str]) -> bool:
    """Whether an input has one of the columns."""
    if isinstance(tree, Input):
        return bool(set(by) & set(tree.types))
    parts = (
        (tree.left, tree.right)
        if isinstance(tree, Join)
        else tree.parts
        if isinstance(tree, Union)
        else (tree.of,)
    )
    return any(_named(part, by) for part in parts)
