"""Whatever kept file is damaged, and however: the next run has all right, or it refuses and says what is to be done.

Each round copies what a few runs left, damages one file of it, changes a row or two in the source, and runs again. What
star and warehouse show then is compared with what PostgreSQL computes from the source. Nothing wrong is ever shown, and what
is derived mends itself.

ETL_DAMAGES=200 does that many rounds, from ETL_DAMAGE_FIRST on.
"""

import json
import os
import re
import shutil
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal

import dagster as dg
import pytest
from click.testing import Result

from etl_assets_tests import oracle
from etl_assets_tests.commands import etl, use
from etl_assets_tests.flow import Flow, exact, execute, same
from etl_assets_tests.hiring import BICYCLES, play_day
from etl_assets_tests.lake_layout import newest_of_star
from etl_assets_tests.oracle import Moment

ROUNDS = int(os.environ.get("ETL_DAMAGES", "5"))
FIRST = int(os.environ.get("ETL_DAMAGE_FIRST", "0"))
SEEDS = [int(seed) for seed in os.environ.get("ETL_DAMAGE", "").split(",") if seed] or range(
    FIRST, FIRST + ROUNDS
)

How = Literal["flipped", "cut", "removed", "swapped"]
HOWS: tuple[How, ...] = ("flipped", "cut", "removed", "swapped")
KINDS: Mapping[str, str] = {
    "landed": r"lake/raw/(?!batches/)[^/]+/.*\.csv",
    "manifest": r"lake/raw/batches/\d+\.json",
    "base": r"lake/current/[^/]+/\d.*\.parquet",
    "star": r"lake/star/[^/]+/.*\.parquet",
    "star manifest": r"lake/star/batches/.*\.json",
    "note": r"lake/raw/batches/\d+\.(certificate|verified)\.json|lake/current/trials/.*\.json",
    "decision": r"lake/star/baselines/.*\.json",
    "warehouse": r"warehouse\.duckdb",
    "report": r"reports\.xlsx",
}
"""What is kept, as patterns of paths."""
NOT_DERIVED = {"landed", "manifest", "decision"}
CHANGES = (
    "UPDATE bike SET model = 'Model {n}' WHERE bike_id = 1 + mod({n}, 10)",
    "UPDATE hire SET minutes = minutes + 1, last_updated = now() WHERE hire_id = 1 + mod({n}, 40)",
    "UPDATE station SET phone = '0{n}' WHERE station_id = 1 + mod({n}, 8)",
    "UPDATE payment SET amount = amount + 0.01 WHERE mod(payment_id, 50) = mod({n}, 50)",
    "UPDATE station SET name = 'Station {n}' WHERE station_id = 1 + mod({n}, 8)",
    "UPDATE station SET last_updated = now() WHERE station_id = 1 + mod({n}, 3)",
    "DELETE FROM payment WHERE payment_id = (SELECT max(payment_id) FROM payment)",
)


@dataclass(frozen=True)
class Damage:
    """A file of what is kept that was spoilt; `paths` names the other one too that it was swapped with."""

    kind: str
    how: How
    paths: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.kind} {self.how}: {' and '.join(self.paths)}"

    def is_named_in(self, text: str) -> bool:
        """Whether a text names one of the files; of a manifest its number does."""
        names = [Path(path).name for path in self.paths]
        numbers = [name.removesuffix(".json") for name in names if self.kind == "manifest"]
        return any(name in text for name in (*names, *numbers))


@dataclass(frozen=True)
class Kept:
    """What a few runs left in `data`, and what it shows; `older` is its warehouse as one of the first runs left it."""

    url: str
    data: Path
    older: Path
    shows: Moment

    def copied(self, place: Path) -> Path:
        return shutil.copytree(self.data, place / "data")


@pytest.fixture(scope="module")
def kept(
    module_database: Callable[..., str],
    template: Callable[..., str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Kept]:
    """Four batches, with bases of several ages."""
    url = module_database(template("bicycles"))
    folder = tmp_path_factory.mktemp("damage")
    data, older = folder / "data", folder / "older.duckdb"
    with pytest.MonkeyPatch.context() as patch:
        use(patch, data, ETL_PROJECT=BICYCLES.project, ETL_SOURCE_URL=url)
        patch.setattr("etl_assets.lake.current._COMPACT_ROWS", 1)
        patch.setattr("etl_assets.cli.environment.open_instance", dg.DagsterInstance.ephemeral)
        for batch in range(4):
            if batch:
                play_day(url, seed=batch, hires=3)
                execute(url, "UPDATE bike SET model = model || 'x'")
            decided = ["--from-now", "dim_station"] if batch == 2 else []
            done("run", *decided)
            if batch == 1:
                shutil.copy(data / "warehouse.duckdb", older)
            assert verified()["equal"]
        yield Kept(url, data, older, BICYCLES.moment(url))


def done(*arguments: str) -> None:
    ran = etl(*arguments)
    assert ran.exit_code == 0, ran.stderr


def verified(*options: str) -> dict[str, Any]:
    ran = etl("verify", "--json", *options)
    assert ran.stdout, ran.stderr
    told: dict[str, Any] = json.loads(ran.stdout)
    return told


def differences(told: Mapping[str, Any]) -> str:
    return "; ".join(one["difference"] for one in told["comparisons"] if one["difference"])


# -- one round --------------------------------------------------------------------------------------------------------


def inflict(random: Random, kind: str, data: Path, older: Path) -> Damage:
    files = [path for path in sorted(data.rglob("*")) if path.is_file()]
    chosen = [path for path in files if re.fullmatch(KINDS[kind], str(path.relative_to(data)))]
    path = random.choice(chosen)
    siblings = [p for p in chosen if p.parent == path.parent and p.read_bytes() != path.read_bytes()]
    how = random.choice(HOWS if siblings or kind == "warehouse" else HOWS[:3])
    content = path.read_bytes()
    paths = [path]
    if how == "flipped":
        at, bit = random.randrange(len(content)), 1 << random.randrange(8)
        path.write_bytes(content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :])
    elif how == "cut":
        path.write_bytes(content[: random.randrange(len(content))])
    elif how == "removed":
        path.unlink()
    elif kind == "warehouse":
        shutil.copy(older, path)
    else:
        other = random.choice(siblings)
        path.write_bytes(other.read_bytes())
        other.write_bytes(content)
        paths.append(other)
    return Damage(kind, how, tuple(str(path.relative_to(data)) for path in paths))


def shown(flow: Flow, now: Moment, before: Moment | None = None) -> bool:
    """Whether warehouse and star show the source as it is now, or, table by table, as it was before."""
    for name, rows in now.star.items():
        allowed = [rows, before.star[name]] if before else [rows]
        for found in (flow.warehouse_rows(name, rows.columns), flow.lake_rows(name, rows.columns)):
            assert any(same(one, found) for one in allowed), f"{name} shows {differing(found, rows.rows)}"
    if before is None:
        dates = oracle.calendar(flow.url, now.used_dates)
        assert same(dates, flow.warehouse_rows("dim_date", dates.columns))
        assert same(dates, flow.lake_rows("dim_date", dates.columns))
    return True


def differing(found: list[tuple[Any, ...]], expected: list[tuple[object, ...]]) -> str:
    had, wanted = set(exact(found)), set(exact(expected))
    return f"{sorted(had - wanted, key=str)[:3]} instead of {sorted(wanted - had, key=str)[:3]}"


def is_refused(ran: Result, damage: Damage) -> bool:
    """Whether a run ended with one line that names the file and says what to do."""
    assert ran.exit_code == 1
    assert "Traceback" not in ran.stderr
    lines = [line for line in ran.stderr.splitlines() if line.startswith("etl: ")]
    assert lines == ran.stderr.splitlines()[-1:]
    assert damage.is_named_in(lines[0]), lines[0]
    assert re.search(r"etl repair|restore|etl run|move it away|remove it", lines[0]), lines[0]
    return True


def mend(damage: Damage, kept: Kept, data: Path, says: str) -> None:
    """Do what was said is to be done."""
    if damage.kind == "landed":
        assert "etl repair" in says
        done("repair")
    elif damage.kind in NOT_DERIVED:
        assert "restore" in says, says
        for path in damage.paths:
            shutil.copy(kept.data / path, data / path)
        done("run")
    else:
        for options in ([], ["--whole"]):
            done("run", *options)
            if verified()["equal"]:
                break


def play(seed: int, kept: Kept, folder: Path) -> tuple[str, str]:
    """One round; what was damaged, and what became of it."""
    random = Random(seed)
    kind = list(KINDS)[seed % len(KINDS)]
    data = kept.copied(folder)
    with pytest.MonkeyPatch.context() as patch:
        use(patch, data, ETL_PROJECT=BICYCLES.project, ETL_SOURCE_URL=kept.url)
        # Its history in SQLite takes more time than all else.
        patch.setattr("etl_assets.cli.environment.open_instance", dg.DagsterInstance.ephemeral)
        damage = inflict(random, kind, data, kept.older)
        print(f"seed {seed}, {damage}", flush=True)  # noqa: T201
        for change in random.sample(CHANGES, random.choice((1, 2))):
            execute(kept.url, change.format(n=seed))
        flow = Flow(kept.url, data)
        now = flow.moment
        rebuild = ["--rebuild"] if seed % 3 == 0 else []
        ran = etl("run")
        if ran.exit_code == 0:
            assert shown(flow, now)
            told = verified(*rebuild)
            if told["equal"]:
                return damage.kind, "healed by the run"
            says = differences(told)
            assert damage.is_named_in(says), says
            outcome = "named by the verification"
            mend(damage, kept, data, says)
        else:
            assert is_refused(ran, damage)
            if damage.kind == "warehouse":  # it was set aside, so that nobody sees it
                assert list(data.glob("warehouse.duckdb.damaged-*"))
            elif not damage.kind.startswith("star"):
                assert shown(flow, now, kept.shows)
            outcome = "refused"
            mend(damage, kept, data, ran.stderr)
        assert shown(flow, now)
        assert newest_of_star(flow.lake)
        told = verified(*rebuild)
        assert told["equal"], (outcome, differences(told))
        return damage.kind, f"{outcome}, then mended"


@pytest.mark.fault("F15", "F16")
def test_whatever_is_damaged_nothing_wrong_is_shown_and_all_can_be_mended(kept: Kept, tmp_path: Path) -> None:
    outcomes: Counter[tuple[str, str]] = Counter()
    failed: list[str] = []
    for seed in SEEDS:
        folder = tmp_path / str(seed)
        folder.mkdir()
        try:
            kind, outcome = play(seed, kept, folder)
        except Exception as error:  # noqa: BLE001  # the other rounds are worth knowing too
            failed.append(f"seed {seed}: {''.join(traceback.format_exception(error)[-3:])}")
            continue
        finally:
            shutil.rmtree(folder)
        print(f"  {outcome}", flush=True)  # noqa: T201
        outcomes[kind, outcome] += 1
    for (kind, outcome), count in sorted(outcomes.items()):
        print(f"{kind:14} {outcome:40} {count:4}")  # noqa: T201
    assert not failed, "\n".join(failed)
