"""Killed anywhere: readers have a whole version, and running again is all that it takes to be where one would be.

Runs happen in children forked off a warm process, which costs a fraction of a fresh Python. The long forms (marked
slow) kill at every place there is; the short ones at every name, and at some places of any name.
"""

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import IO, Any, get_args

import psycopg2
import pytest

from etl_assets import failpoints
from etl_assets.errors import EtlError
from etl_assets.lake.names import number
from etl_assets_tests.direct import Direct, Dump
from etl_assets_tests.flow import Flow, assert_equal_to, execute
from etl_assets_tests.hiring import play_day
from etl_assets_tests.refusing import Refusing
from etl_assets_tests.shop import DAY, INPUTS, SOURCE

# Those of reports and of APIs are tested with them.
NAMES = [place for place in get_args(failpoints.Place) if not place.startswith(("report", "page"))]
TOLD, SPARED = 3, 4
"""How a child ends that failed with an error of ours in one line; and that made fewer calls than the one to be refused."""
ONCE_ONLY = "base kept"  # right after the commit: whoever runs again has nothing more to capture


# -- children ---------------------------------------------------------------------------------------------------------


def serve() -> None:
    """Fork a child for each line of stdin; tell its pid, and how it ended."""
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _work(order)
        print(json.dumps(pid), flush=True)  # noqa: T201
        _, status = os.waitpid(pid, 0)
        print(json.dumps(os.waitstatus_to_exitcode(status)), flush=True)  # noqa: T201


def _work(order: Mapping[str, Any]) -> None:
    code = 1
    try:
        os.environ["ETL_FAIL_AT"] = order["fail_at"]
        data = Path(order["data"])
        if order["open_files"]:
            resource.setrlimit(resource.RLIMIT_NOFILE, (order["open_files"], order["open_files"]))
        if order["refuse"]:
            refusing = Refusing(data, abs(order["refuse"]), lasting=order["refuse"] < 0)
            refusing.begin()
        if order["job"] == "direct":
            Direct(order["url"], data, INPUTS).run()
            code = SPARED if order["refuse"] and refusing.calls < refusing.nth else 0
        else:
            code = int(not Flow(order["url"], data).run().success)
    except EtlError as error:
        code = TOLD if "\n" not in str(error) else 1
    finally:
        os._exit(code)


@dataclass(frozen=True)
class Children:
    """What runs flows in processes that can be killed."""

    orders: IO[str]
    answers: IO[str]

    def start(self, flow: Direct | Flow, fail_at: str = "", *, refuse: int = 0, open_files: int = 0) -> int:
        """Begin a run; returns the pid. `refuse`: the call of the system, counted from 1, that fails; if it is negative,
        those after it do too. `open_files`: so many may be open at a time."""
        job = "direct" if isinstance(flow, Direct) else "dagster"
        order = {
            "job": job,
            "url": flow.url,
            "data": str(flow.data),
            "fail_at": fail_at,
            "refuse": refuse,
            "open_files": open_files,
        }
        self.orders.write(json.dumps(order) + "\n")
        self.orders.flush()
        return int(self.answers.readline())

    def end(self) -> int:
        """The exit code of the run that began last, negative for a signal."""
        return int(self.answers.readline())

    def killed_at(self, flow: Direct | Flow, place: str) -> bool:
        """Run until a place is reached; False if the run ended without reaching it."""
        self.start(flow, place)
        code = self.end()
        assert code in {0, -signal.SIGKILL}
        return code != 0


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    command = [sys.executable, "-W", "ignore", "-c", "from etl_assets_tests.test_kill import serve; serve()"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        yield Children(server.stdin, server.stdout)
        server.stdin.close()


# -- what is there ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class State:
    """All that anybody can read."""

    warehouse: Dump
    star: Dump
    raw: Mapping[str, str]

    @classmethod
    def of(cls, flow: Direct) -> "State":
        raw: dict[str, str] = {}
        for path in sorted((flow.data / "lake/raw/batches").glob("*.json")):
            if path.stem.isdecimal():
                for name, state in json.loads(path.read_text())["tables"].items():
                    for kind, file in (state["changes"] or {}).items():
                        if isinstance(file, dict):
                            content = (flow.data / "lake" / file["path"]).read_bytes()
                            assert sha256(content).hexdigest() == file["sha256"]
                            raw[f"{path.stem} {name} {kind}"] = file["sha256"]
        return cls(flow.dump(), flow.lake_dump(), raw)

    def is_between(self, before: "State", after: "State") -> bool:
        """Whether each of the things that appear at once is either as it was or as it will be."""
        assert self.warehouse in (before.warehouse, after.warehouse)
        assert self.raw in (before.raw, after.raw)
        assert self.star in (before.star, after.star)
        return True


@dataclass(frozen=True)
class Story:
    """A run to be killed: from what is kept `before` it to what is kept `after` it, undisturbed."""

    kept: Direct
    before: State
    after: State

    def begin(self, folder: Path) -> Direct:
        """A copy of what was kept before, to be run and killed."""
        data = folder / "data"
        shutil.rmtree(data, ignore_errors=True)
        if self.kept.data.exists():
            shutil.copytree(self.kept.data, data)
        return self.kept.at(data)

    def goes_on(self, flow: Direct, *, tidied: bool = True) -> bool:
        """Run again, as anybody would: it ends like the undisturbed run. `tidied`: who was disturbed could still write down
        what it had begun, so that this is removed now."""
        flow.run()
        assert State.of(flow) == self.after
        if not tidied:
            return True
        left = [path.name for path in (flow.data / "lake/raw").rglob(".unfinished-*")]
        # What belongs to no landed file goes once its batch is past: that of the newest one may be somebody's who still writes it.
        newest = f".unfinished-{number(flow.lake.batches().newest() or 0)}-"
        late = [name for name in left if not name.startswith(newest)]
        assert [name for name in late if ".open-" not in name and ".json-" not in name] == []
        return True


@pytest.fixture(scope="module")
def stories(
    module_database: Callable[[], str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Story]:
    """The first run of a lake, and one that brings changes of all kinds."""
    urls = {name: module_database() for name in ("first", "increment")}
    folder = tmp_path_factory.mktemp("kill")
    made = {}
    for name, url in urls.items():
        execute(url, SOURCE)
        kept, undisturbed = (Direct(url, folder / name / which, INPUTS) for which in ("kept", "undisturbed"))
        if name == "increment":
            kept.run()
            execute(url, DAY)
            shutil.copytree(kept.data, undisturbed.data)
        undisturbed.run()
        made[name] = Story(kept, State.of(kept), State.of(undisturbed))
    return made.__getitem__


each_story = pytest.mark.parametrize("name", ["first", "increment"])


# -- kill -9 ----------------------------------------------------------------------------------------------------------


@pytest.mark.fault("F1")
@each_story
def test_a_run_that_is_killed_at_every_place_in_turn_ends_like_one_that_is_not(
    name: str, stories: Callable[[str], Story], children: Children, tmp_path: Path
) -> None:
    story = stories(name)
    flow = story.begin(tmp_path)
    for place in NAMES:
        if place != ONCE_ONLY:
            assert children.killed_at(flow, place), place
            assert State.of(flow).is_between(story.before, story.after), place
    assert story.goes_on(flow)


@pytest.mark.fault("F1")
@each_story
@pytest.mark.parametrize(
    "place",
    [
        "manifest written",
        ONCE_ONLY,
        pytest.param("*:7", marks=pytest.mark.slow),
        pytest.param("*:14", marks=pytest.mark.slow),
        pytest.param("star published:2", marks=pytest.mark.slow),
        "warehouse loading:2",
    ],
)
def test_after_a_kill_readers_have_a_whole_version_and_running_again_goes_on(
    name: str, place: str, stories: Callable[[str], Story], children: Children, tmp_path: Path
) -> None:
    story = stories(name)
    flow = story.begin(tmp_path)
    assert children.killed_at(flow, place)
    assert State.of(flow).is_between(story.before, story.after)
    assert story.goes_on(flow)


@pytest.mark.fault("F1")
@pytest.mark.slow
@each_story
def test_there_is_no_place_to_be_killed_at_that_does_harm(
    name: str, stories: Callable[[str], Story], children: Children, tmp_path: Path
) -> None:
    story = stories(name)
    number = 1
    while children.killed_at(flow := story.begin(tmp_path), f"*:{number}"):
        assert State.of(flow).is_between(story.before, story.after), number
        assert story.goes_on(flow), number
        number += 1
    assert number > 25
    assert State.of(flow) == story.after


def kill_at_random(story: Story, children: Children, folder: Path, seed: int) -> None:
    flow = story.begin(folder)
    pid = children.start(flow)
    time.sleep(Random(seed).uniform(0, 0.8))
    with contextlib.suppress(ProcessLookupError):  # it may have ended before
        os.kill(pid, signal.SIGKILL)
    assert children.end() in {0, -signal.SIGKILL}
    assert State.of(flow).is_between(story.before, story.after), seed
    assert story.goes_on(flow), seed


@pytest.mark.fault("F1")
def test_a_kill_at_any_instant_does_no_harm(
    stories: Callable[[str], Story], children: Children, tmp_path: Path
) -> None:
    for seed in range(3):
        kill_at_random(stories(("first", "increment")[seed % 2]), children, tmp_path, seed)


@pytest.mark.fault("F1")
@pytest.mark.slow
@each_story
def test_no_kill_at_any_instant_does_harm(
    name: str, stories: Callable[[str], Story], children: Children, tmp_path: Path
) -> None:
    for seed in range(100, 130):
        kill_at_random(stories(name), children, tmp_path, seed)


@pytest.mark.fault("F1")
def test_the_whole_job_goes_on_too(children: Children, bicycles: str, tmp_path: Path) -> None:
    flow = Flow(bicycles, tmp_path)
    assert children.killed_at(flow, "star published:3")
    children.start(flow)
    assert children.end() == 0
    assert_equal_to(flow.moment, flow)


@pytest.mark.fault("F1")
@pytest.mark.slow
def test_the_whole_job_ends_equal_to_the_source_however_often_it_is_killed(
    children: Children, bicycles: str, tmp_path: Path
) -> None:
    flow = Flow(bicycles, tmp_path)
    rng = Random(3)
    for day in range(4):
        for _ in range(5):
            children.killed_at(flow, f"*:{rng.randint(1, 45)}")
        children.start(flow)
        assert children.end() == 0
        assert_equal_to(flow.moment, flow)
        play_day(flow.url, seed=day, hires=3)


# -- calls of the system that fail -------------------------------------------------------------------------------------


def is_refused_and_goes_on(
    story: Story, children: Children, folder: Path, *, refuse: int = 0, open_files: int = 0
) -> bool:
    """Whether a run of which something is refused harms nothing; False if it had no need of that."""
    flow = story.begin(folder)
    limits = (refuse, open_files)
    children.start(flow, refuse=refuse, open_files=open_files)
    ended = children.end()
    assert ended in {0, TOLD, SPARED}, limits
    assert State.of(flow).is_between(story.before, story.after), limits
    if ended != TOLD:
        assert State.of(flow) == story.after, limits
    else:
        assert story.goes_on(flow, tidied=False), limits
    return ended != SPARED


@pytest.mark.fault("F40")
@pytest.mark.parametrize(("name", "refuse"), [("first", -20), ("increment", 60)])
def test_a_call_of_the_system_that_fails_once_or_for_good_does_no_harm(
    name: str, refuse: int, stories: Callable[[str], Story], children: Children, tmp_path: Path
) -> None:
    assert is_refused_and_goes_on(stories(name), children, tmp_path, refuse=refuse)


@pytest.mark.fault("F40")
@pytest.mark.slow
@each_story
def test_whichever_call_of_the_system_fails_it_does_no_harm(
    name: str, stories: Callable[[str], Story], children: Children, tmp_path: Path
) -> None:
    for sign in (1, -1):
        number = 1
        while is_refused_and_goes_on(stories(name), children, tmp_path, refuse=sign * number):
            number += 1
        assert number > 100


@pytest.mark.fault("F11")
@pytest.mark.parametrize(
    "open_files", [24, *(pytest.param(n, marks=pytest.mark.slow) for n in (12, 16, 32, 40))]
)
def test_too_few_files_that_may_be_open_do_no_harm(
    open_files: int, stories: Callable[[str], Story], children: Children, tmp_path: Path
) -> None:
    is_refused_and_goes_on(stories("increment"), children, tmp_path, open_files=open_files)


# -- SIGTERM ----------------------------------------------------------------------------------------------------------


def backends(url: str) -> int:
    """How many connections of ours the source has, apart from those of these tests."""
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND application_name LIKE 'etl-assets %'"
        )
        (row,) = cursor.fetchall()
        return int(row[0])


def until(condition: Callable[[], bool], seconds: float) -> float:
    """Wait for a condition; returns how long that took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds
        time.sleep(0.02)
    return time.monotonic() - started


@pytest.mark.many
@pytest.mark.fault("F39")
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_stopped_while_it_reads_leaves_nothing_behind(
    sign: signal.Signals, children: Children, database: Callable[..., str], tmp_path: Path
) -> None:
    url = database()
    execute(
        url,
        f"""{SOURCE}; ALTER TABLE sale RENAME TO sales;
        CREATE VIEW sale AS SELECT *, pg_sleep(0.1)::text AS slow FROM sales""",  # 30 s, and not a word meanwhile
    )
    flow = Direct(url, tmp_path, INPUTS)
    pid = children.start(flow)
    until(lambda: backends(url) > 1, 10)
    time.sleep(0.5)
    os.kill(pid, sign)
    started = time.monotonic()
    assert children.end() == -sign
    assert time.monotonic() - started + until(lambda: backends(url) == 0, 10) < 10
    assert list(tmp_path.glob("lake/raw/batches/*.json")) == []
