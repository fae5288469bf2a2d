"""Repeats random samples of the law: `python -m etl_assets_tests.law SEED [LAST] [--large] [--unguarded] [--server]`, and tells of those
that are broken; `--show` only prints what a seed stands for."""

import argparse
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click

from etl_assets.stand_ins.postgres import serve
from etl_assets_tests.capture.comparing import execute
from etl_assets_tests.law.play import Broken, play, sample
from etl_assets_tests.law.test_law import as_if_large, unguarded


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m etl_assets_tests.law", description=__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("last", type=int, nargs="?")
    parser.add_argument("--large", action="store_true", help="as if there were many rows")
    parser.add_argument("--server", action="store_true", help="with a real PostgreSQL")
    parser.add_argument("--unguarded", action="store_true", help="without trying functions beforehand")
    parser.add_argument("--show", action="store_true")
    parser.add_argument("--keep", type=Path, help="a folder for lake and warehouse")
    return parser.parse_args()


@contextmanager
def _server(wanted: bool, folder: Path) -> Iterator[str]:
    if not wanted:
        yield ""
        return
    folder.chmod(0o755)
    with serve(folder / "postgres", settings={"fsync": "off"}) as url:
        yield url


def main() -> int:
    asked = _arguments()
    tally: Counter[str] = Counter()
    broken = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = stack.enter_context(_server(asked.server, folder))
        if asked.large:
            stack.enter_context(as_if_large())
        if asked.unguarded:
            stack.enter_context(unguarded())
        for seed in range(asked.seed, (asked.last or asked.seed) + 1):
            if asked.show:
                click.echo(sample(seed))
                continue
            place = ""
            if url:
                execute(url, f"CREATE DATABASE law_{seed}")
                place = url.rsplit("/", 1)[0] + f"/law_{seed}"
            try:
                with tempfile.TemporaryDirectory(dir=folder) as data:
                    tally.update(play(seed, asked.keep or Path(data), place))
            except Broken as error:
                click.echo(f"{seed} is broken: {error}\n")
                broken.append(seed)
            except Exception:  # noqa: BLE001 (the samples after it are wanted too)
                click.echo(f"{seed} fails:\n{traceback.format_exc()}\n{sample(seed)}\n")
                broken.append(seed)
    click.echo(f"{dict(tally)} broken: {broken}")
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main())
