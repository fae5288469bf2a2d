"""What is believed of a star function, tried on some of its rows before it is relied upon.

    twice      the same rows in other orders, by another number of threads, give the same
    by parts   rows that come or go change what is given just as far as it is said that they reach

That can refute, it can't prove. It is done for each version of the code, on some rows of the inputs, and again as these
grow, until there were enough rows to tell. A function that can't be applied to some rows out of many says nothing.
"""

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial

import duckdb

from etl_assets.engine import duck
from etl_assets.engine.duck import identifier, listing
from etl_assets.engine.operators import Opaque
from etl_assets.lake.current import forget, made_so_far, materialized
from etl_assets.lake.files import Files, LakeError
from etl_assets.lake.seal import is_intact, sealed
from etl_assets.star.application import Application, Applied
from etl_assets.star.change import InputChange
from etl_assets.star.definition import Inputs
from etl_assets.star.files import trial_path
from etl_assets.star.function import ContractError, StarFunction, function_fails
from etl_assets.star.samples import sampled

_ENOUGH = 300
_ENOUGH_OF_TIES = 20_000
"""Where an order may leave rows side by side: such rows may be few."""
# An input's rows are parted at random, several times: so many eighths of them come and go each time. What somebody says of
# a function needs more than what is read from its SQL.
_PARTS_OF_WHAT_IS_SAID = (4, 4, 4, 1)
_PARTS_OF_WHAT_IS_READ = (4, 1)
_ORDERS = 2


class Refuted(ContractError):
    """A function is not what it is said to be; the text says in which way."""


@dataclass(frozen=True)
class Verdict:
    """What was found: that the outcome depends on the order of rows, that changes reach further than believed; both empty
    where nothing was. `rows`: about how many rows each input had then, as far as it matters."""

    order: str = ""
    parts: str = ""
    rows: Mapping[str, int] = field(default_factory=dict)

    def stands(self, rows: Mapping[str, int]) -> bool:
        """Whether it is no use trying again, now that inputs have so many rows."""
        if self.order or self.parts:
            return True
        return all(now < max(1, 2 * self.rows.get(name, 0)) for name, now in rows.items())

    def final(self, enough: int) -> bool:
        """Whether there is nothing to try again, however many rows there will be."""
        return bool(self.order or self.parts) or all(tried > enough // 2 for tried in self.rows.values())


# What this process knows already, by lake and version of the code: the star is opened many times.
_known: dict[tuple[str, str], Verdict] = {}


def tried(
    definition: StarFunction,
    inputs: Inputs,
    changes: Mapping[str, InputChange],
    connection: duckdb.DuckDBPyConnection,
    files: Files,
) -> Verdict:
    """Try a function on some rows of its inputs, unless this version of it was tried before on as many; the verdict is
    kept in the lake. Raises `Refuted` where that leaves nothing to go by."""
    version = inputs.code_version(definition)
    path, this = trial_path(definition.name), (files.url, version)
    if this not in _known and (kept := _verdict_kept(files, path)):
        code_version, verdict = kept
        _known[files.url, code_version] = verdict
    verdict = _known.get(this, Verdict())
    enough = _ENOUGH_OF_TIES if inputs.ties.get(definition.name) else _ENOUGH
    if this not in _known or not verdict.final(enough):
        rows = {name: _rows(change, connection, enough) for name, change in changes.items() if change.keys}
        if not verdict.stands(rows):
            verdict = _known[this] = _tried(definition, inputs, changes, connection, rows, enough)
            with files.writing(path) as stream:
                stream.write(sealed(json.dumps({"code_version": version} | asdict(verdict)).encode()))
    if verdict.order:
        raise Refuted(verdict.order)
    if verdict.parts and definition.schema.by is not None:
        raise Refuted(f"{verdict.parts}: declare another by=, or none")
    return verdict


def _rows(change: InputChange, connection: duckdb.DuckDBPyConnection, enough: int) -> int:
    """About how many rows an input has, up to as many as are enough."""
    if change.size is not None:
        return min(change.size, enough)
    return _count(f"(SELECT 1 FROM {change.rows} LIMIT {enough})", connection)


def _verdict_kept(files: Files, path: str) -> tuple[str, Verdict] | None:
    """The version of the code that was tried and the verdict; None if there is none, or it is damaged."""
    if not files.exists(path):
        return None
    try:
        content = files.read(path)
        if not is_intact(content):
            return None
        told = json.loads(content)
        rows = {str(name): int(count) for name, count in told["rows"].items()}
        return str(told["code_version"]), Verdict(told["order"], told["parts"], rows)
    except (ValueError, KeyError, TypeError, AttributeError, LakeError):
        return None


def _tried(
    definition: StarFunction,
    inputs: Inputs,
    changes: Mapping[str, InputChange],
    connection: duckdb.DuckDBPyConnection,
    rows: Mapping[str, int],
    enough: int,
) -> Verdict:
    since = made_so_far()
    try:
        some = sampled(definition, inputs, changes, connection, enough)
        order, parts = _Trial(definition, inputs, some, connection).found()
    finally:
        forget(connection, (), since)
    return Verdict(order, parts, rows)


class _Trial:
    """A function, and some rows of its inputs."""

    def __init__(
        self,
        definition: StarFunction,
        inputs: Inputs,
        some: Mapping[str, InputChange],
        connection: duckdb.DuckDBPyConnection,
    ) -> None:
        self.application = Application(definition, inputs, connection)
        self.seed = inputs.code_version(definition)
        self.ties = inputs.ties.get(definition.name, ())
        self.partings = _PARTS_OF_WHAT_IS_SAID if definition.schema.by else _PARTS_OF_WHAT_IS_READ
        self.some = some
        self.connection = connection

    def found(self) -> tuple[str, str]:
        """What is wrong with its order and its parts, in words."""
        try:
            given = self._given(self.some)
            order = next(self._twice(given), "")
        except function_fails():  # on these rows: if it does on all, that is said where it is applied to them
            return "", ""
        parts = [] if order else [told for name in self.some for told in self._by_parts(name, given)]
        return order, "; ".join(parts)

    def _twice(self, given: str) -> Iterator[str]:
        """Apply it to the same rows in other orders."""
        (threads,) = duck.one(self.connection, "SELECT current_setting('threads')")
        for nth in range(_ORDERS):
            turned = {name: self._turned(change, nth) for name, change in self.some.items()}
            self.connection.execute(f"SET threads = {1 if threads > 1 else 2}")
            try:
                again = self._given(turned)
            finally:
                self.connection.execute(f"SET threads = {threads}")
            if not _same(given, again, self.connection):
                why = "; ".join(dict.fromkeys(self.ties)) or (
                    "something in it depends on that, such as a number given among rows that an order leaves side by side "
                    "(order by the whole key)"
                )
                yield f"it gives something else when the same rows come in another order: {why}"
                return

    def _turned(self, change: InputChange, nth: int) -> InputChange:
        columns = ", ".join(map(identifier, [*change.columns, *change.keys]))
        query = f"SELECT * FROM {change.rows} ORDER BY {self._chance(nth, columns)}"
        return replace(change, rows=materialized(self.connection, query))

    def _by_parts(self, name: str, given: str) -> Iterator[str]:
        """Let some of an input's rows come, and let them go again, several times."""
        if not self.some[name].keys or not _count(self.some[name].rows, self.connection):
            return
        for nth, eighths in enumerate(self.partings):
            try:
                told = self._parted(name, given, nth, eighths)
            except Opaque:  # nothing is said of it, then: it is compared whole
                return
            except function_fails():  # it relies on the rows that were left out: that says nothing
                continue
            if told:
                yield told
                return

    def _parted(self, name: str, given: str, nth: int, eighths: int) -> str:
        change = self.some[name]
        chosen = f"{self._chance(nth, listing(change.keys))} % 8 < {eighths}"
        kept = partial(materialized, self.connection)
        part = kept(f"SELECT * FROM {change.rows} WHERE {chosen}")
        rest = kept(f"SELECT * FROM {change.rows} WHERE NOT ({chosen})")
        nothing = f"(SELECT * FROM {change.rows} LIMIT 0)"
        come = self.application.to_changes({**self.some, name: replace(change, gone=nothing, come=part)})
        without = self._given({**self.some, name: replace(change, rows=rest)})
        if self._differs(come, without, given):
            return f"a change of {name} reaches further than its {come.how.partition(':')[0]} says"
        left = replace(change, rows=rest, gone=part, come=nothing)
        gone = self.application.to_changes({**self.some, name: left})
        if self._differs(gone, given, without):
            return f"a change of {name} reaches further than its {gone.how.partition(':')[0]} says"
        return ""

    def _differs(self, applied: Applied, before: str, after: str) -> bool:
        made = f"(SELECT * FROM {before} EXCEPT ALL SELECT * FROM {applied.was} UNION ALL SELECT * FROM {applied.now})"
        return not _same(made, after, self.connection)

    def _given(self, changes: Mapping[str, InputChange]) -> str:
        return materialized(self.connection, f"SELECT * FROM {self.application.whole(changes, '').now}")

    def _chance(self, nth: int, columns: str) -> str:
        """A number for each row, as by chance: others for each version of the code, and each time."""
        # Twice, since a hash of several values is their hashes put together bit by bit.
        return f"hash(hash({zlib.crc32(f'{self.seed} {nth}'.encode())}, {columns}))"


def _same(one: str, other: str, connection: duckdb.DuckDBPyConnection) -> bool:
    query = f"SELECT count(*) FROM ((FROM {one} EXCEPT ALL FROM {other}) UNION ALL (FROM {other} EXCEPT ALL FROM {one}))"
    return duck.one(connection, query) == (0,)


def _count(rows: str, connection: duckdb.DuckDBPyConnection) -> int:
    (count,) = duck.one(connection, f"SELECT count(*) FROM {rows}")
    return int(count)
