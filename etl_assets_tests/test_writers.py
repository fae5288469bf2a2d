"""Eight writers at once, four on each of two lakes, in a folder and in buckets, suspended at every place and continued:
no lake is left that can't be read, of those that took the same number one commits it, and all others end with one line.

Some ask a standby for the claim on the lake, and some need none, so that nothing but the creation of the manifest decides.

ETL_WRITERS=200 does that many rounds, from ETL_WRITERS_FIRST on.
"""

import hashlib
import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, get_args

import psycopg2
import pytest

from etl_assets import failpoints
from etl_assets_tests.capture.servers import replicated
from etl_assets_tests.direct import Direct
from etl_assets_tests.flow import execute
from etl_assets_tests.object_stores import Store, google, moto, on_google, on_s3
from etl_assets_tests.oracle import parse_csv
from etl_assets_tests.shop import INPUTS, SOURCE
from etl_assets_tests.writers import Order, Outcome, Writer, writers

ROUNDS = int(os.environ.get("ETL_WRITERS", "3"))
FIRST = int(os.environ.get("ETL_WRITERS_FIRST", "0"))
WRITERS = 8
LIFE = 8
"""So many rounds a pair of lakes is filled; then another pair is begun, by all at once."""
LONGEST_SECONDS = 120
# What publishes a report touches no lake.
NAMES = [place for place in get_args(failpoints.Place) if not place.startswith(("report", "page"))]
PLACES = [
    *NAMES,
    "file written:2",
    "file published:2",
    "file published:4",
    "star published:2",
    "*:5",
    "*:9",
    "*:14",
]
CHANGES = (
    "UPDATE team SET name = 'team {n}' WHERE id = 1 + mod({n}, 5)",
    "UPDATE worker SET team_id = mod({n}, 6) WHERE mod(id, 7) = mod({n}, 7)",
    "UPDATE sale SET amount = amount + 1 WHERE mod(id, 9) = mod({n}, 9)",
    "INSERT INTO sale SELECT max(id) + 1, 3, {n}, '2024-03-01' FROM sale",
    "DELETE FROM sale WHERE id = (SELECT max(id) FROM sale)",
    "UPDATE sale SET due = CASE due WHEN 'soon' THEN '2024-05-01' ELSE 'soon' END WHERE id = 1 + mod({n}, 300)",
)


@dataclass(frozen=True)
class Pair:
    """Two lakes of one kind, which have a folder each for what their writers keep."""

    lakes: tuple[Store, Store]
    folders: tuple[Path, Path]


@dataclass
class Scene:
    """A source with its standby, eight writers, and the places where lakes can be."""

    primary: str
    standby: str
    writers: Sequence[Writer]
    openers: Sequence[Callable[[Path], Store]]
    folder: Path
    pairs: dict[int, Pair]
    told: Counter[str]

    def pair(self, number: int) -> Pair:
        """The lakes of a round: of each kind in turn."""
        kind, age = number % len(self.openers), number // len(self.openers)
        if kind not in self.pairs or age % LIFE == 0:
            folders = tuple(self.folder / f"{number}-{which}" for which in "ab")
            lakes = tuple(self.openers[kind](folder) for folder in folders)
            self.pairs[kind] = Pair(lakes, folders)  # type: ignore[arg-type]  # two of each
        return self.pairs[kind]


@pytest.fixture(scope="module")
def scene(postgres_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("writers")
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        primary, standby = stack.enter_context(replicated(postgres_folder))
        execute(primary, SOURCE)
        amazon, (proxy, service) = stack.enter_context(moto()), stack.enter_context(google())

        def in_folder(at: Path) -> Store:
            return Store("folder", str(at / "lake"), at / "copies")

        def in_s3(at: Path) -> Store:
            return on_s3(amazon, at / "copies")

        def in_google(at: Path) -> Store:
            return on_google(proxy, service, at / "copies")

        for store in (in_s3(folder), in_google(folder)):
            for name, value in store.environment.items():
                patch.setenv(name, value)
        yield Scene(
            primary,
            standby,
            stack.enter_context(writers(WRITERS)),
            (in_folder, in_s3, in_google),
            folder,
            {},
            Counter(),
        )


# -- one round ---------------------------------------------------------------------------------------------------------


def orders(random: Random, number: int, pair: Pair, scene: Scene) -> Iterator[Order]:
    """What the eight are to do: every place has its turn, and each lake has writers with claims of different servers."""
    for place in range(WRITERS):
        lake, member = divmod(place, WRITERS // 2)
        url = random.choice((scene.primary, scene.primary, scene.standby))
        stops = random.random() < 0.7
        yield Order(
            name=f"r{number:03d}w{place}",
            url=url,
            data=pair.folders[lake] / f"machine{max(member, 1)}",  # the first two share one
            lake_url=pair.lakes[lake].url,
            stop_at=PLACES[(number * WRITERS + place) % len(PLACES)] if stops else "",
            granted=random.random() < 0.4,
        )


def change(random: Random, url: str) -> None:
    execute(url, random.choice(CHANGES).format(n=random.randrange(1000)))


def end_sessions(url: str, name: str) -> None:
    """As for a machine that slept for too long."""
    execute(
        url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'etl-assets ' || %s || ' %%'",
        name,
    )


def run_all(random: Random, scene: Scene) -> None:
    """Let all that were started come to their ends. Some go on soon after they suspended themselves, others when nobody
    else runs any more, and of some the server ends the sessions meanwhile."""
    asleep: dict[str, float] = {}
    deadline = time.monotonic() + LONGEST_SECONDS
    while running := [writer for writer in scene.writers if not writer.is_done]:
        assert time.monotonic() < deadline, f"these go on for ever: {[writer.order for writer in running]}"
        suspended = [writer for writer in running if writer.is_suspended]
        random.shuffle(suspended)
        for writer in suspended:
            order = writer.order
            assert order
            if order.name not in asleep:
                scene.told[f"suspended at {order.stop_at}"] += 1
                asleep[order.name] = time.monotonic() + random.choice((0, 0.3, 1, LONGEST_SECONDS))
                if random.random() < 0.3:
                    end_sessions(order.url, order.name)
                if random.random() < 0.3:
                    change(random, scene.primary)
            elif time.monotonic() > asleep[order.name] or len(suspended) == len(running):
                asleep[order.name] = 0
                writer.go_on()
                break  # one after the other
        time.sleep(0.01)


def judge(scene: Scene, before: Sequence[int], pair: Pair) -> None:
    """Each batch has one writer, and who did not win was told in one line why."""
    for lake, had in zip(pair.lakes, before, strict=True):
        found = {
            w.order.name: w.outcome
            for w in scene.writers
            if w.order and w.order.lake_url == lake.url and w.outcome
        }
        assert len(found) == WRITERS // 2
        for name, outcome in found.items():
            assert not outcome.mistake, f"{name}: {outcome.mistake}"
            assert "\n" not in outcome.refusal, outcome.refusal
            assert "--adopt" not in outcome.refusal, outcome.refusal  # the source is what it was
            told = f"{lake.kind}: {kind_of(outcome)}"
            if told not in scene.told:
                print(f"  {name} {outcome.refusal}", flush=True)  # noqa: T201
            scene.told[told] += 1
        won = {outcome.batch: name for name, outcome in found.items() if outcome.batch}
        assert len(won) == sum(outcome.batch is not None for outcome in found.values())
        new = {number: manifest for number, manifest, _ in manifests(lake.everything()) if number > had}
        assert {number: manifest["run_id"] for number, manifest in new.items()} == won


def kind_of(outcome: Outcome) -> str:
    line = re.sub(r"(gs|s3)://\S+|/\S+", "…", outcome.refusal)
    line = re.sub(r"etl-assets \w+ on \S+", "…", re.sub(r"[0-9A-F]+/[0-9A-F]+|\d+(:\d+)*", "n", line))
    told = "won" if outcome.batch else "refused" if line else "nothing was to be done"
    return f"{told}, {line[:110]}" if line else told


# -- what a lake is, read without the product --------------------------------------------------------------------------


def manifests(content: Mapping[str, bytes]) -> list[tuple[int, Mapping[str, Any], str]]:
    """Number, content and hash of the manifests, oldest first."""
    found = {
        int(told[1]): path for path in content if (told := re.fullmatch(r"raw/batches/(\d+)\.json", path))
    }
    return [
        (number, json.loads(content[path]), hashlib.sha256(content[path]).hexdigest())
        for number, path in sorted(found.items())
    ]


def listed(manifest: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for state in manifest["tables"].values():
        for kind in ("rows", "deletions", "quarantined"):
            if state["changes"] and state["changes"][kind]:
                yield state["changes"][kind]


def is_whole(content: Mapping[str, bytes]) -> bool:
    """Whether each manifest names the one before, and each file that they list is there as it was landed."""
    before = None
    for place, (number, manifest, digest) in enumerate(manifests(content), start=1):
        assert (number, manifest["previous"]) == (place, before)
        before = digest
        for file in listed(manifest):
            assert hashlib.sha256(content[file["path"]]).hexdigest() == file["sha256"]
    return True


def leftovers(content: Mapping[str, bytes]) -> list[str]:
    """What is in the folders of the batches that no manifest lists."""
    known = {file["path"] for _, manifest, _ in manifests(content) for file in listed(manifest)}
    return [
        path
        for path in content
        if path.startswith("raw/")
        and path not in known
        and path != "raw/batches/newest"
        and not re.fullmatch(r"raw/batches/[\w.]+\.json", path)
    ]


def folded(content: Mapping[str, bytes]) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Table -> key -> row, as the batches tell it."""
    rows: dict[str, dict[str, Mapping[str, Any]]] = {name: {} for name in INPUTS.tables}
    for _, manifest, _ in manifests(content):
        for name, state in manifest["tables"].items():
            changes = state["changes"] or {"rows": None, "deletions": None}
            for kind in ("rows", "deletions"):
                if changes[kind]:
                    for row in parse_csv(content[changes[kind]["path"]].decode()):
                        key = str(row["id"])
                        if kind == "rows":
                            rows[name][key] = row
                        else:
                            del rows[name][key]
    return rows


def selected(url: str) -> dict[str, dict[str, Mapping[str, Any]]]:
    """The same, as the source has it."""
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        for name in INPUTS.tables:
            cursor.execute(f'SELECT * FROM "{name}" LIMIT 0')
            columns = [column.name for column in cursor.description or ()]
            cursor.execute(f'SELECT {", ".join(f"{column}::text" for column in columns)} FROM "{name}"')
            found[name] = {row[0]: dict(zip(columns, row, strict=True)) for row in cursor.fetchall()}
    return found


def is_right(lake: Store, quiet: Direct, *, rebuilt: bool) -> bool:
    """Whether the lake can be read, and shows the source once somebody ran undisturbed."""
    assert is_whole(lake.everything())
    quiet.run()
    content = lake.everything()
    assert is_whole(content)
    assert folded(content) == selected(quiet.url)
    assert leftovers(content) == []
    wrong = [finding for finding in quiet.verified(thorough=True) if not finding.equal]
    wrong += [finding for finding in quiet.rebuilt() if not finding.equal] if rebuilt else []
    assert wrong == []
    return True


def play(number: int, scene: Scene) -> None:
    random = Random(number)
    pair = scene.pair(number)
    before = [max((n for n, _, _ in manifests(lake.everything())), default=0) for lake in pair.lakes]
    change(random, scene.primary)
    for writer, order in zip(scene.writers, orders(random, number, pair, scene), strict=True):
        writer.start(order)
    run_all(random, scene)
    judge(scene, before, pair)
    for lake, folder in zip(pair.lakes, pair.folders, strict=True):
        quiet = Direct(scene.primary, folder / "quiet", INPUTS, lake_url=lake.url)
        assert is_right(lake, quiet, rebuilt=number % 5 == 0)


@pytest.mark.many
@pytest.mark.fault("F25")
@pytest.mark.parametrize("kind", range(3))
@pytest.mark.parametrize("place", ["file published", "file written:2"])
def test_who_slept_while_others_took_its_number_and_the_next_is_told_so_and_leaves_nothing(
    scene: Scene, kind: int, place: str, tmp_path: Path
) -> None:
    """The others removed what it had landed until then, and that it had landed something."""
    lake = scene.openers[kind](tmp_path)
    quiet = Direct(scene.primary, tmp_path / "quiet", INPUTS, lake_url=lake.url)
    quiet.run()
    for statement in CHANGES[:4]:
        execute(scene.primary, statement.format(n=7))
    sleeper = scene.writers[0]
    sleeper.start(Order("asleep", scene.primary, tmp_path / "asleep", lake.url, place, granted=True))
    until(lambda: sleeper.is_suspended)
    for n in (8, 9):
        execute(scene.primary, CHANGES[0].format(n=n))
        quiet.run()
    sleeper.go_on()
    until(lambda: sleeper.is_done)
    assert sleeper.outcome
    assert re.fullmatch(
        r"Overtaken: batch 000002 of the lake \S+ was committed by another run meanwhile; this one brought nothing: run it again",
        sleeper.outcome.refusal,
    ), sleeper.outcome
    assert leftovers(lake.everything()) == []
    assert is_right(lake, quiet, rebuilt=False)


def test_who_took_a_snapshot_before_another_committed_takes_the_source_for_no_older_one(
    scene: Scene, tmp_path: Path
) -> None:
    quiet = Direct(scene.primary, tmp_path / "quiet", INPUTS)
    quiet.run()
    sleeper = scene.writers[0]
    lake = str(tmp_path / "quiet/lake")
    sleeper.start(Order("asleep", scene.primary, tmp_path / "asleep", lake, "snapshot taken", granted=True))
    until(lambda: sleeper.is_suspended)
    execute(scene.primary, CHANGES[0].format(n=11))
    quiet.run()
    sleeper.go_on()
    until(lambda: sleeper.is_done)
    assert sleeper.outcome
    assert sleeper.outcome.refusal == (
        "SourceInterrupted: batch 000002 was committed by another run after this one had taken its snapshot; run it again"
    )


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONGEST_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.fault("F3")
def test_of_writers_that_are_suspended_anywhere_one_wins_and_the_lake_is_right(scene: Scene) -> None:
    for number in range(FIRST, FIRST + ROUNDS):
        started = time.monotonic()
        play(number, scene)
        print(f"round {number}: {time.monotonic() - started:.1f} s", flush=True)  # noqa: T201
    for told, count in sorted(scene.told.items()):
        print(f"{count:5} {told}")  # noqa: T201
    assert sum(count for told, count in scene.told.items() if "won" in told) >= ROUNDS
    assert len([told for told in scene.told if told.startswith("suspended")]) > min(ROUNDS, len(PLACES)) / 2
