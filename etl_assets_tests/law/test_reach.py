"""Where the engine computes a function on the rows that a change reaches alone, it leaves out the same rows of the result
as they were and as they are: one function after the other, without a lake around them."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import Any

import click
import duckdb
import pyarrow as pa
import pytest

from etl_assets.engine.operators import Opaque
from etl_assets.star.application import Application
from etl_assets.star.change import InputChange, hidden
from etl_assets.star.definition import Inputs
from etl_assets_tests.law import definitions
from etl_assets_tests.law.functions import Stars, StarSpec, arrow_type
from etl_assets_tests.law.histories import Key, Source
from etl_assets_tests.law.interpret import interpret
from etl_assets_tests.law.models import TableSpec, Values, random_model
from etl_assets_tests.law.test_pieces import counted
from etl_assets_tests.law.trees import Type

MODELS = int(os.environ.get("ETL_LAW_REACH", "12"))
FIRST = int(os.environ.get("ETL_LAW_FIRST", "0"))
FUNCTIONS = 5
CHANGES = 12
_tally: Counter[str] = Counter()

State = Mapping[str, Mapping[Key, Values]]
"""The rows of each table that fit, by key."""


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    """With what was found out at the end (pytest -s)."""
    with duckdb.connect() as connection:
        yield connection
    click.echo(f"\n{dict(_tally)}")


@dataclass(frozen=True)
class Tables:
    """Tables in DuckDB, as the engine sees them."""

    connection: duckdb.DuckDBPyConnection
    specs: Mapping[str, TableSpec]

    def change(self, name: str, was: State, now: State) -> InputChange:
        spec = self.specs[name]
        keys = was[name].keys() | now[name].keys()
        changed = [key for key in keys if was[name].get(key) != now[name].get(key)]
        rows = self._table(spec, now[name])
        gone, come = (
            self._table(spec, {key: state[name][key] for key in changed if key in state[name]})
            for state in (was, now)
        )
        declared, key = tuple(spec.declared), tuple(map(hidden, spec.key))
        if not changed:
            return InputChange(name, declared, key, rows, None)
        return InputChange(name, declared, key, rows, None, gone=gone, come=come)

    def _table(self, spec: TableSpec, rows: Mapping[Key, Values]) -> str:
        """A table with rows, and their keys under other names beside them."""
        types = {c.name: arrow_type(Type(c.kind.declared)) for c in spec.used}
        types |= {hidden(key): types[key] for key in spec.key}
        full = [{**row, **{hidden(key): row[key] for key in spec.key}} for row in rows.values()]
        name = f"made_{_tally['tables']}"
        _tally["tables"] += 1
        self.connection.from_arrow(pa.Table.from_pylist(full, pa.schema(list(types.items())))).create(name)
        return name

    def forget(self) -> None:
        """What was made does not pile up."""
        made = self.connection.execute(
            "SELECT table_name, table_type FROM information_schema.tables"
        ).fetchall()
        for name, kind in made:
            self.connection.execute(f'DROP {"VIEW" if kind == "VIEW" else "TABLE"} IF EXISTS "{name}"')


def state(source: Source) -> State:
    return {
        name: {
            key: values
            for key, row in rows.items()
            if (values := source.model.tables[name].typed(row)) is not None
        }
        for name, rows in source.tables.items()
    }


def told(spec: StarSpec, was: State, now: State) -> str:
    """A change, to see what went wrong."""
    lines = [str(spec)]
    for name in spec.parameters:
        for key in sorted(was[name].keys() | now[name].keys()):
            before, after = was[name].get(key), now[name].get(key)
            lines.append(f"    {name} {before if before == after else f'{before} -> {after}'}")
    return "\n".join(lines)


@pytest.mark.parametrize("seed", range(FIRST, FIRST + MODELS))
def test_what_a_change_does_not_reach_stays_as_it_was(
    seed: int, connection: duckdb.DuckDBPyConnection
) -> None:
    examine(seed, connection)


def examine(seed: int, connection: duckdb.DuckDBPyConnection) -> None:
    """Some functions over a random model, through some changes of it."""
    rng = Random(seed)
    model = random_model(rng)
    source = Source(rng, model)
    source.begin()
    states = [state(source)]
    for _ in range(CHANGES):
        source.change()
        states.append(state(source))
    make = Stars(rng, model, late=True)
    specs = [make.table(f"table_{number}", "dimension") for number in range(FUNCTIONS)]
    specs = [spec for spec in specs if "codes" not in spec.parameters]
    inputs = definitions.declared(model, specs, late=True)
    tables = Tables(connection, model.tables)
    for was, now in pairwise(states):
        for spec in specs:
            _reaches_enough(spec, inputs, tables, was, now)
        tables.forget()


def _reaches_enough(spec: StarSpec, inputs: Inputs, tables: Tables, was: State, now: State) -> None:
    changes = {name: tables.change(name, was, now) for name in spec.parameters}
    if not any(change.changed for change in changes.values()):
        return
    try:
        applied = Application(inputs.star[spec.name], inputs, tables.connection).to_changes(changes)
    except Opaque:
        _tally["compared whole"] += 1
        return
    _tally[applied.how.partition(":")[0]] += 1
    assert applied.was is not None
    old, new = (interpret(spec.tree, {n: list(rows.values()) for n, rows in s.items()}) for s in (was, now))
    before, after = _rows(tables.connection, applied.was), _rows(tables.connection, applied.now)
    _tally["changes of the result"] += counted(old) != counted(new)
    _tally["rows left out"] += len(new) - len(after)
    # What was left out may not be less than nothing, and must be the same before and after.
    assert not counted(before) - counted(old), told(spec, was, now)
    assert not counted(after) - counted(new), told(spec, was, now)
    assert counted(old) - counted(before) == counted(new) - counted(after), told(spec, was, now)


def _rows(connection: duckdb.DuckDBPyConnection, name: str) -> list[dict[str, Any]]:
    relation = connection.sql(f"FROM {name}")
    return [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]
