"""Compares what was published with what the log of the business and the service say: every batch, and every version of the star
that could be seen. It reads the lake by manifests and SQL of its own."""

import json
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb

from etl_assets.lake.manifest import MAIN
from etl_assets_tests.oracle import parse_csv
from etl_assets_tests.soak import model
from etl_assets_tests.soak.business import TABLES, Business, Instant, State
from etl_assets_tests.soak.service import COLUMNS as SALE_COLUMNS
from etl_assets_tests.soak.service import SALE, Sales, Service

Tables = Mapping[str, set[tuple[Any, ...]]]
_FACTS = ("fact_entry", "fact_sale")
_COLUMNS = {
    "dim_account": "account_id, name, owner",
    "dim_balance": "account_id, entries, total",
    "fact_entry": "entry_id, account_id, amount, note",
    "fact_sale": "sale_id, edition, price",
}
_LANDED = {**TABLES, SALE.name: SALE_COLUMNS}


@dataclass
class Landed:
    """The rows that a lake holds as of a batch, by table and key, as the landed files say it that its manifests list."""

    lake: Path
    batch: int = 0
    rows: dict[str, dict[int, tuple[Any, ...]]] = field(
        default_factory=lambda: {name: {} for name in _LANDED}
    )
    windows: set[str] = field(default_factory=set)
    """Those of the service that were loaded by then."""

    def go_on(self, batch: int) -> None:
        """Up to a batch that is not before this one."""
        for number in range(self.batch + 1, batch + 1):
            told = manifest(self.lake, number)
            for name, columns in _LANDED.items():
                changes = told["tables"].get(name, {}).get("changes") or {}
                for row in self._landed(changes.get("rows"), columns):
                    self.rows[name][int(row[0])] = row
                for row in self._landed(changes.get("deletions"), columns[:1]):
                    del self.rows[name][int(row[0])]
            if told["tables"].get(SALE.name, {}).get("changes"):
                self.windows |= {take["window"] for take in told["sources"][SALE.name]["takes"]}
        self.batch = batch

    @property
    def sales(self) -> Sales:
        return {key: (int(row[1]), Decimal(row[2])) for key, row in self.rows[SALE.name].items()}

    def _landed(self, listed: Mapping[str, Any] | None, columns: tuple[str, ...]) -> list[tuple[Any, ...]]:
        rows = parse_csv((self.lake / listed["path"]).read_text("utf-8")) if listed else ()
        return [tuple(row[name] for name in columns) for row in rows]


def manifest(lake: Path, batch: int) -> Mapping[str, Any]:
    """The manifest of a batch."""
    told: Mapping[str, Any] = json.loads((lake / f"raw/batches/{batch:06d}.json").read_text())
    return told


@dataclass
class Versions:
    """`lake`: the folder. What was compared is counted; what differs is told."""

    lake: Path
    business: Business
    service: Service
    batches: int = 0
    stars: int = 0
    warehouses: int = 0
    certificates: int = 0
    editions: Counter[str] = field(default_factory=Counter)
    windows: set[str] = field(default_factory=set)
    differences: list[str] = field(default_factory=list)
    _seen: set[str] = field(default_factory=set)
    _over: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._newest = Landed(self.lake)
        """As of the version of the star that was looked at last."""

    # -- while it goes on ------------------------------------------------------------------------------------------

    def watch(self) -> threading.Thread:
        """Look at each version of the star as it is published, until `stop`."""
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()
        return thread

    def stop(self) -> None:
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            self.look()

    def look(self) -> None:
        """Compare the newest version of the star, if it was not compared yet."""
        manifests = sorted(self.lake.glob("star/batches/*.json"), key=_place)
        if not manifests or manifests[-1].name in self._seen:
            return
        newest = manifests[-1]
        try:
            listed = json.loads(newest.read_text())
            found = {name: self._rows(name, table["files"]) for name, table in listed["tables"].items()}
            state = self._state(listed["batch"])
            if listed["batch"] < self._newest.batch:
                self._newest = Landed(self.lake)
            self._newest.go_on(listed["batch"])
        except (OSError, duckdb.Error, ValueError, KeyError) as error:
            if newest.exists() and sorted(self.lake.glob("star/batches/*.json"), key=_place)[-1] == newest:
                # It is still the newest one, and can't be read.
                if f"unreadable {newest.name}" in self._seen:
                    self.differences.append(f"the star's {newest.name} can't be read: {error!r}")
                    self._seen.add(newest.name)
                self._seen.add(f"unreadable {newest.name}")
            return
        self._seen.add(newest.name)
        self.stars += 1
        self._compare_star(f"the star's {newest.name}", found, state, self._newest.sales)

    def _compare_star(self, what: str, found: Tables, state: State, sales: Sales) -> None:
        expected = {edition: model.star(state, sales, edition) for edition in model.EDITIONS}
        for name, rows in found.items():
            matching = [edition for edition in model.EDITIONS if expected[edition][name] == rows]
            if not matching:
                self.differences.append(f"{what}: {name}: {_difference(rows, expected['first'][name])}")
            elif name == "dim_account":
                self.editions[matching[0]] += 1

    def _rows(self, name: str, files: list[Mapping[str, Any]]) -> set[tuple[Any, ...]]:
        paths = [str(self.lake / file["path"]) for file in files]
        if not paths:
            return set()
        latest = (
            f"(FROM read_parquet($paths) QUALIFY row_number() OVER (PARTITION BY {name[5:]}_id ORDER BY {name[5:]}_record_id DESC) = 1)"
            if name in _FACTS
            else "read_parquet($paths)"
        )
        return _asked(f"SELECT {_COLUMNS[name]} FROM {latest} WHERE NOT deleted", paths=paths)

    # -- what is kept ----------------------------------------------------------------------------------------------

    def _state(self, batch: int) -> State:
        """What the business had at the instant of a batch; nothing, as long as only the service was asked."""
        source = manifest(self.lake, batch)["sources"].get(MAIN)
        return (
            self.business.state(Instant.of(source["snapshot"])) if source else {name: {} for name in TABLES}
        )

    def numbers(self) -> list[int]:
        return sorted(
            int(path.stem) for path in self.lake.glob("raw/batches/*.json") if path.stem.isdecimal()
        )

    def compare_batches(self) -> None:
        """Every batch: the landed files up to it, and its certificate, against the source as of its snapshot and the service."""
        landed = Landed(self.lake)
        for batch in self.numbers():
            before = landed.sales
            landed.go_on(batch)
            state = self._state(batch)
            for name in TABLES:
                held = set(landed.rows[name].values())
                expected = {tuple(None if v is None else str(v) for v in row) for row in state[name].values()}
                if held != expected:
                    self.differences.append(f"batch {batch}: {name}: {_difference(held, expected)}")
            if wrong := self.service.wrong(landed.sales, before, landed.windows):
                self.differences.append(f"batch {batch}: {SALE.name}: {wrong}")
            self.batches += 1
            self._compare_certificate(batch, {name: len(rows) for name, rows in landed.rows.items()})
        self.windows = landed.windows

    def _compare_certificate(self, batch: int, rows: Mapping[str, int]) -> None:
        path = self.lake / f"raw/batches/{batch:06d}.certificate.json"
        if not path.exists():  # the run was ended before it, and the next one certified what came later
            return
        told = json.loads(path.read_text())["tables"]
        for name, source in {"dim_account": "account", "fact_entry": "entry", "fact_sale": SALE.name}.items():
            # Another machine may have published what its edition makes before this one looked at its own.
            if not told[name]["equal"] and not all(
                " shows batch " in one for one in told[name]["differences"]
            ):
                self.differences.append(f"certificate {batch}: {name}: {told[name]['differences']}")
            said = told[name]["whole"].get("source", {}).get("rows")
            if said is not None and said != rows[source]:
                self.differences.append(f"certificate {batch}: {name}: {said} rows instead of {rows[source]}")
        self.certificates += 1

    def compare_warehouse(self, path: Path, batch: int) -> None:
        """A warehouse that is up to date shows the source as of a batch."""
        state, landed = self._state(batch), Landed(self.lake)
        landed.go_on(batch)
        with duckdb.connect(str(path), read_only=True) as connection:
            found = {
                name: set(
                    connection.execute(
                        f"SELECT {columns} FROM star.{name}"
                        + ("_current" if name in _FACTS else " WHERE NOT deleted")
                    ).fetchall()
                )
                for name, columns in _COLUMNS.items()
            }
        known = {key for key, _, _ in found["dim_account"]}
        lost = known - set(state["account"])  # stand-ins, of accounts that entries name and nobody has
        found["dim_account"] = {row for row in found["dim_account"] if row[0] not in lost}
        self.warehouses += 1
        self._compare_star(f"the warehouse {path.parent.name}", found, state, landed.sales)


def _place(path: Path) -> tuple[int, int]:
    """The batch and the edition of a manifest of the star."""
    batch, _, edition = path.stem.partition("-")
    return int(batch), int(edition or 1)


def _asked(sql: str, **parameters: Any) -> set[tuple[Any, ...]]:
    with duckdb.connect() as connection:
        return set(connection.execute(sql, parameters).fetchall())


def _difference(found: set[tuple[Any, ...]], expected: set[tuple[Any, ...]]) -> str:
    return (
        f"{len(found - expected)} too many, {len(expected - found)} missing, e.g. "
        f"{sorted(found - expected, key=repr)[:2]} instead of {sorted(expected - found, key=repr)[:2]}"
    )
