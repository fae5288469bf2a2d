"""What is believed of a star function, tried on some of its rows before it is relied upon.

    twice      the same rows in another order, by another number of threads, give the same
    by parts   rows that come or go change what is given just as far as it is said that they reach

That can refute, it can't prove. It is done once for each version of the code, on a few rows of the inputs.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace

import duckdb

from etl_assets.engine import duck
from etl_assets.engine.duck import identifier, listing
from etl_assets.engine.operators import Opaque
from etl_assets.lake.current import forget, made_so_far, materialized
from etl_assets.lake.files import Files, LakeError
from etl_assets.lake.seal import is_intact, sealed
from etl_assets.star.application import Application, Applied
from etl_assets.star.definition import ContractError, Inputs, StarFunction
from etl_assets.star.files import trial_path
from etl_assets.star.reach import InputChange

_ROWS = 300


class Refuted(ContractError):
    """A function is not what it is said to be; the text says in which way."""


@dataclass(frozen=True)
class Verdict:
    """What was found: that the outcome depends on the order of rows, that changes reach further than believed; both empty
    where nothing was."""

    order: str = ""
    parts: str = ""


# What this process knows already, by lake and version of the code: the star is opened many times.
_known: dict[tuple[str, str], Verdict] = {}


def tried(
    definition: StarFunction,
    inputs: Inputs,
    changes: Mapping[str, InputChange],
    connection: duckdb.DuckDBPyConnection,
    files: Files,
) -> Verdict:
    """Try a function on some rows of its inputs, unless this version of it was tried before; the verdict is kept in the
    lake. Raises `Refuted` where that leaves nothing to go by."""
    version = inputs.code_version(definition)
    path, this = trial_path(definition.name), (files.url, version)
    if this not in _known and (kept := _verdict_kept(files, path)):
        code_version, verdict = kept
        _known[files.url, code_version] = verdict
    if this not in _known:
        since = made_so_far()
        try:
            some = {name: _some(change, connection) for name, change in changes.items()}
            if not any(_count(change.rows, connection) for change in some.values() if change.keys):
                return Verdict()  # nothing to try it on yet
            verdict = _known[this] = _verdict(definition, inputs, some, connection)
        finally:
            forget(connection, (), since)
        with files.writing(path) as stream:
            stream.write(sealed(json.dumps({"code_version": version} | asdict(verdict)).encode()))
    verdict = _known[this]
    if verdict.order:
        raise Refuted(verdict.order)
    if verdict.parts and definition.schema.by is not None:
        raise Refuted(f"{verdict.parts}: declare another by=, or none")
    return verdict


def _verdict_kept(files: Files, path: str) -> tuple[str, Verdict] | None:
    """The version of the code that was tried and the verdict; None if there is none, or it is damaged."""
    if not files.exists(path):
        return None
    try:
        content = files.read(path)
        if not is_intact(content):
            return None
        told = json.loads(content)
        return str(told["code_version"]), Verdict(told["order"], told["parts"])
    except (ValueError, KeyError, TypeError, LakeError):
        return None


def _some(change: InputChange, connection: duckdb.DuckDBPyConnection) -> InputChange:
    rows = materialized(connection, f"SELECT * FROM {change.rows} LIMIT {_ROWS}")
    return replace(change, rows=rows, pick=None, gone=None, come=None, reshaped=False)


def _verdict(
    definition: StarFunction,
    inputs: Inputs,
    some: Mapping[str, InputChange],
    connection: duckdb.DuckDBPyConnection,
) -> Verdict:
    application = Application(definition, inputs, connection)
    try:
        given = _kept(application.whole(some, ""), connection)
    except duckdb.Error:  # it fails on these rows: that is said where it is applied to all
        return Verdict()
    order = "; ".join(_twice(application, some, given, connection))
    parts = [
        found
        for name, change in some.items()
        if change.keys and _count(change.rows, connection)
        for found in _by_parts(application, some, name, given, connection)
    ]
    return Verdict(order, "; ".join(parts) if not order else "")


def _twice(
    application: Application,
    some: Mapping[str, InputChange],
    given: str,
    connection: duckdb.DuckDBPyConnection,
) -> Iterator[str]:
    """Apply it to the same rows the other way round."""
    (threads,) = duck.one(connection, "SELECT current_setting('threads')")
    turned = {
        name: replace(
            change,
            rows=materialized(connection, f"SELECT * FROM {change.rows} ORDER BY hash({_all(change)}) DESC"),
        )
        for name, change in some.items()
    }
    connection.execute(f"SET threads = {1 if threads > 1 else 2}")
    try:
        again = _kept(application.whole(turned, ""), connection)
    finally:
        connection.execute(f"SET threads = {threads}")
    if not _same(given, again, connection):
        yield (
            "it gives something else when the same rows come in another order: something in it depends on that, such as "
            "a number given among rows that an order leaves side by side (order by the whole key)"
        )


def _by_parts(
    application: Application,
    some: Mapping[str, InputChange],
    name: str,
    given: str,
    connection: duckdb.DuckDBPyConnection,
) -> Iterator[str]:
    """Let half of an input's rows come, and let them go again."""
    change = some[name]
    chosen = f"hash({listing(change.keys)}) % 2 = 0"
    half = materialized(connection, f"SELECT * FROM {change.rows} WHERE {chosen}")
    rest = materialized(connection, f"SELECT * FROM {change.rows} WHERE NOT ({chosen})")
    nothing = f"(SELECT * FROM {change.rows} LIMIT 0)"
    without = _kept(application.whole({**some, name: replace(change, rows=rest)}, ""), connection)
    for moved, before, after in (
        (replace(change, gone=nothing, come=half), without, given),
        (replace(change, rows=rest, gone=half, come=nothing), given, without),
    ):
        try:
            applied = application.to_changes({**some, name: moved})
        except Opaque:  # nothing is said of it, then: it is compared whole
            return
        if applied.was is None:
            return
        made = f"(SELECT * FROM {before} EXCEPT ALL SELECT * FROM {applied.was} UNION ALL SELECT * FROM {applied.now})"
        if not _same(made, after, connection):
            yield f"a change of {name} reaches further than its {applied.how.partition(':')[0]} says"
            return


def _kept(applied: Applied, connection: duckdb.DuckDBPyConnection) -> str:
    return materialized(connection, f"SELECT * FROM {applied.now}")


def _same(one: str, other: str, connection: duckdb.DuckDBPyConnection) -> bool:
    query = f"SELECT count(*) FROM ((FROM {one} EXCEPT ALL FROM {other}) UNION ALL (FROM {other} EXCEPT ALL FROM {one}))"
    return duck.one(connection, query) == (0,)


def _count(rows: str, connection: duckdb.DuckDBPyConnection) -> int:
    (count,) = duck.one(connection, f"SELECT count(*) FROM {rows}")
    return int(count)


def _all(change: InputChange) -> str:
    return ", ".join(map(identifier, [*change.columns, *change.keys]))
