"""Who asks the demo's source every few seconds keeps it up while it lives, and leaves nothing behind."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import psycopg2
import pytest

from etl_assets.stand_ins.postgres import serve
from etl_assets.totesys.demo.generator import generate
from etl_assets.totesys.demo.simulator import go_on
from etl_assets_tests.source.demo.test_postgres import is_answered, kill_server, query, url_of

_KEEPER = """
import sys
from pathlib import Path
from etl_assets.totesys.demo.totesys import keep_serving
for line in sys.stdin:
    print(keep_serving(Path(sys.argv[1])), flush=True)
"""


@pytest.fixture(scope="module")
def folder(postgres_folder: Path) -> Path:
    with serve(postgres_folder / "kept") as url:
        generate(url, scale=0.02)
    return postgres_folder / "kept"


@pytest.fixture
def keepers() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def keeper(folder: Path, keepers: ExitStack) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _KEEPER, str(folder)]
    started = keepers.enter_context(
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    )
    keepers.callback(started.kill)
    return started


def ask(keeper: subprocess.Popen[str]) -> str:
    assert keeper.stdin is not None
    keeper.stdin.write("\n")
    keeper.stdin.flush()
    return url_of(keeper)


def test_it_stays_up_between_questions_and_stops_with_who_asked(folder: Path, keepers: ExitStack) -> None:
    one = keeper(folder, keepers)
    url = ask(one)
    started = query(url, "select pg_postmaster_start_time()")
    assert ask(one) == url
    assert query(url, "select pg_postmaster_start_time()") == started
    one.communicate()
    assert one.returncode == 0
    assert not is_answered(url)


def test_after_a_kill_the_next_one_takes_the_server_over_and_stops_it(
    folder: Path, keepers: ExitStack
) -> None:
    killed = keeper(folder, keepers)
    url = ask(killed)
    killed.kill()
    killed.wait()
    assert is_answered(url)
    following = keeper(folder, keepers)
    assert ask(following) == url
    following.communicate()
    assert not is_answered(url)


def test_a_server_that_died_is_started_again(folder: Path, keepers: ExitStack) -> None:
    one = keeper(folder, keepers)
    url = ask(one)
    kill_server(folder)
    deadline = time.monotonic() + 10  # its children end a moment after it
    while is_answered(url):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert query(ask(one), "select count(*) > 0 from sales_order") is True
    one.communicate()


def test_business_goes_on_with_sales_and_now_and_then_a_day(totesys: str) -> None:
    business = go_on(totesys, 0)
    before = query(totesys, "select count(*) from sales_order")
    told = [next(business) for _ in range(10)]
    assert [line.startswith("sold: sales order ") for line in told] == [True] * 9 + [False]
    assert "deleted 1 payment" in told[-1]
    # Nine sales, and a day with 5 orders of which 4 are sales, less the sale that it cancels.
    with closing(psycopg2.connect(totesys)) as connection, connection.cursor() as cursor:
        cursor.execute("select count(*) from sales_order")
        assert cursor.fetchone() == (int(str(before)) + 9 + 4 - 1,)
