"""Lands what a history found, without a server: the files and manifests that capture would have made of it.

What a batch brings is found here by itself, in Python; how it is written down (digests, quarantine, manifest) is the
platform's own.
"""

import datetime as dt
import hashlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from etl_assets.engine import duck
from etl_assets.engine.typing import types_version
from etl_assets.lake.batches import Batches
from etl_assets.lake.files import Files
from etl_assets.lake.manifest import (
    LandedFile,
    Manifest,
    SourceColumn,
    SourceIdentity,
    TableChanges,
    TableState,
)
from etl_assets.raw.landing import Landed, Landing
from etl_assets.raw.plan import ReadPlan
from etl_assets.raw.request import CaptureRequest
from etl_assets.source.catalog import Relation
from etl_assets.source.snapshot import Instant, Snapshot
from etl_assets_tests.law.definitions import table
from etl_assets_tests.law.histories import Content, Found, Key
from etl_assets_tests.law.models import Row, TableSpec

_NOBODY = SourceIdentity(system_identifier="law", timeline=1, database="law", version="16")


def written(value: str | None) -> str:
    """A field of CSV as PostgreSQL writes it: NULL is an unquoted nothing."""
    if value is None:
        return ""
    if value == "" or any(sign in value for sign in ',"\n\r'):
        return '"' + value.replace('"', '""') + '"'
    return value


def csv(names: Sequence[str], rows: Sequence[Row]) -> bytes:
    lines = [",".join(map(written, names)), *(",".join(written(row[n]) for n in names) for row in rows)]
    return "".join(f"{line}\n" for line in lines).encode()


@dataclass
class Lander:
    """Fills a lake, batch by batch."""

    files: Files
    scratch: Path
    tables: Mapping[str, TableSpec]
    held: dict[str, Content] = field(default_factory=dict)
    last: dict[str, dict[Key, Row]] = field(default_factory=dict)
    """What each key had when it was last there."""

    def land(self, found: Found, *, whole: bool) -> Manifest | None:
        """Take a batch; None if nothing changed. `whole`: the tables were read whole, so that whether all their values
        fit was looked at anew."""
        latest = Batches(self.files).latest()
        states = latest.tables if latest else {}
        if latest and all(states.get(n) and self.held[n] == rows for n, rows in found.tables.items()):
            return None
        batch = latest.batch + 1 if latest else 1
        with (
            tempfile.TemporaryDirectory(dir=self.scratch) as folder,
            duck.connect(Path(folder)) as connection,
        ):
            relations = {name: self._relation(self.tables[name]) for name in found.tables}
            landing = self._landing(relations, latest, batch, connection, Path(folder))
            landed = {}
            for name, rows in found.tables.items():
                one = _Table(self, landing, self.tables[name], rows, states.get(name), whole)
                landed[name] = one.land()
            manifest = self._committed(landing, landed)
        for name, rows in found.tables.items():
            self.held[name] = rows
            self.last.setdefault(name, {}).update(rows)
        return manifest

    def _landing(
        self,
        relations: Mapping[str, Relation],
        latest: Manifest | None,
        batch: int,
        connection: duckdb.DuckDBPyConnection,
        folder: Path,
    ) -> Landing:
        instant = Instant(f"{batch}:{batch}:", batch, batch, f"0/{batch:X}", _instant(batch), _NOBODY)
        request = CaptureRequest(
            "",
            [relation.table for relation in relations.values()],
            "the law",
            quarantine_limit=1,
            deletion_brake=1,
        )
        snapshot = Snapshot(instant, relations, [])
        return Landing.of(request, snapshot, Batches(self.files), latest, connection, folder)

    def _committed(self, landing: Landing, landed: Mapping[str, TableState]) -> Manifest:
        return landing.commit(
            {n: Landed(state, worth_a_batch=True) for n, state in landed.items()}, seconds=0
        )

    def _relation(self, spec: TableSpec) -> Relation:
        columns = tuple(
            SourceColumn(name=c.name, type=c.kind.source, nullable=c.nullable) for c in spec.columns
        )
        return Relation(
            table(spec), 0, "r", "heap", (), columns, spec.key, frozenset(), "", filtered=False, unique=True
        )


@dataclass(frozen=True)
class _Table:
    """A table of one batch."""

    lander: Lander
    landing: Landing
    spec: TableSpec
    rows: Content
    state: TableState | None
    whole: bool

    def land(self) -> TableState:
        held = self.lander.held.get(self.spec.name, {})
        came = [row for key, row in sorted(self.rows.items()) if held.get(key) != row]
        gone = [held[key] for key in sorted(held.keys() - self.rows.keys())]
        new = sum(self.spec.key_of(row) not in held for row in came)
        relation, changes = self.landing.snapshot.relations[self.spec.name], None
        if came or gone or not self.state:
            names = [column.name for column in self.spec.columns]
            rows = self._file(self.landing.naming.rows, names, came) if came or not self.state else None
            quarantined, misfits = (
                self.landing._quarantine(relation, self.landing.connection, rows, len(held))
                if rows
                else (None, 0)
            )
            assert misfits == sum(self.spec.typed(row) is None for row in came)
            changes = TableChanges(
                rows=rows,
                deletions=self._file(self.landing.naming.deletions, self.spec.key, gone) if gone else None,
                quarantined=quarantined,
                new=new,
                changed=len(came) - new,
                deleted=len(gone),
                quarantined_rows=misfits,
            )
        ever = {**self.lander.last.get(self.spec.name, {}), **self.rows}
        before = self._looked_at_anew(self.state, ever) if self.whole and self.state else self.state
        return self.landing._state(
            relation, before, ReadPlan("whole", "the law"), len(self.rows), {}, len(ever), changes
        )

    def _looked_at_anew(self, state: TableState, ever: Content) -> TableState:
        """As reading a whole table does it: do all rows fit that it has, and those that it had, as they were last?"""
        fits = all(self.spec.typed(row) is not None for row in ever.values())
        types = types_version(table(self.spec).types)
        return state.model_copy(update={"clean_under": types if fits else None})

    def _file(self, path: Callable[[str], str], names: Sequence[str], rows: Sequence[Row]) -> LandedFile:
        where = path(self.spec.name)
        content = csv(names, rows)
        with self.landing.files.writing(where) as stream:
            stream.write(content)
        digest = hashlib.sha256(content).hexdigest()
        return LandedFile(path=where, rows=len(rows), bytes=len(content), sha256=digest)


def _instant(batch: int) -> dt.datetime:
    return dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + dt.timedelta(hours=batch)
