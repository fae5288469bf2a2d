"""Two machines fill one lake from a source in which business goes on, and from a REST API, while a nemesis disturbs them. Every
batch, every version of the star that could be seen, every certificate and the warehouses are compared with the log of the
business, and with what the API says.

    python -m etl_assets_tests.soak --minutes 10 [--seed 7]

Not here: Dagster's own processes, which `automation.soak` kills.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from etl_assets.proof.hops.source import compare_pages
from etl_assets.stand_ins.postgres import serve
from etl_assets.star.resource import Lake
from etl_assets_tests.direct import Direct
from etl_assets_tests.network import network
from etl_assets_tests.soak import model
from etl_assets_tests.soak.business import Business
from etl_assets_tests.soak.machine import Machine, Order, Outcome, machines
from etl_assets_tests.soak.nemesis import Nemesis, small_disk
from etl_assets_tests.soak.service import SALE, Service, fetch, load
from etl_assets_tests.soak.versions import Versions

_SETTINGS = {"autovacuum": "off", "wal_writer_delay": "20ms"}


@dataclass
class Report:
    """What happened."""

    seed: int
    transactions: int = 0
    lost_answers: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    api_faults: Counter[str] = field(default_factory=Counter)
    windows: int = 0
    editions_of_api: int = 0
    runs: Counter[str] = field(default_factory=Counter)
    batches: int = 0
    stars: int = 0
    warehouses: int = 0
    certificates: int = 0
    editions: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        return not self.differences and not self.mistakes and self.batches > 0 and self.stars > 0

    def __str__(self) -> str:
        return "\n".join(
            [
                f"seed         {self.seed}",
                f"source       {self.transactions:,} transactions committed, {self.lost_answers} with their answer lost",
                f"faults       {_listed(self.faults)}",
                f"API          {self.windows} windows loaded, corrected {self.editions_of_api - 1} times; {_listed(self.api_faults)}",
                f"runs         {_listed(self.runs)}",
                f"compared     {self.batches} batches, {self.stars} versions of the star ({_listed(self.editions)}), "
                f"{self.certificates} certificates, {self.warehouses} warehouses",
                f"differences  {len(self.differences)}",
                *self.differences[:20],
                f"mistakes     {len(self.mistakes)}",
                *self.mistakes[:5],
            ]
        )


def _listed(counted: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counted.most_common()) or "none"


def soak(folder: Path, seconds: float, seed: int, say: Callable[[str], None] = lambda line: None) -> Report:
    """Go on for so long, and until each fault was done once; then let everything come to rest, and compare."""
    try:
        return _soaked(folder, seconds, seed, say)
    except BaseException as error:
        error.add_note(f"the seed was {seed}")
        raise


def _soaked(folder: Path, seconds: float, seed: int, say: Callable[[str], None]) -> Report:
    report = Report(seed)
    with ExitStack() as stack:
        source, lake = folder / "source", folder / "lake"
        server = stack.enter_context(ExitStack())
        url = server.enter_context(serve(source, settings=_SETTINGS))
        business = Business(url, seed)
        business.begin()
        far, between = stack.enter_context(network(url))
        disk = stack.enter_context(small_disk(folder / "disk"))
        one, other = stack.enter_context(machines((disk or folder) / "a", folder / "b"))
        service = Service()
        api = stack.enter_context(service.serve())
        versions = Versions(lake, business, service)
        watching = versions.watch()

        def restart() -> int:
            pid = int((source / "data/postmaster.pid").read_text().splitlines()[0])
            os.kill(pid, signal.SIGQUIT)  # as `pg_ctl stop -m immediate`
            while (source / "data/postmaster.pid").exists():
                time.sleep(0.02)
            server.close()
            business.url = server.enter_context(serve(source, settings=_SETTINGS))
            return int(business.url.rsplit(":", 1)[1].partition("/")[0])

        nemesis = Nemesis(seed, [one, other], between, restart, business, service, disk)
        rng = random.Random(seed + 1)
        deadline = time.monotonic() + seconds

        def order(machine: Machine) -> None:
            if machine.runs:
                _note(report, machine.wait())
            chance = rng.randrange(10**6)
            machine.start(Order(far, api, chance, machine.data, lake, nemesis.edition, nemesis.clock_days))

        try:
            _begin(one, lake, api)
            while time.monotonic() < deadline or not nemesis.is_done:
                pause = time.monotonic() + rng.uniform(0.2, 2.5)
                while time.monotonic() < pause:
                    for machine in (one, other):
                        if machine.is_idle:
                            order(machine)
                    time.sleep(0.02)
                say(nemesis.strike())
            between.mend()
            for machine in (one, other):
                _note(report, machine.wait())
            business.end()
            rests = _come_to_rest(
                report, [one, other], Order(far, api, 0, one.data, lake, nemesis.edition), versions
            )
        finally:
            versions.stop()
            watching.join()
        versions.look()
        versions.compare_batches()
        if rests:
            _verify(report, Direct(business.url, one.data, model.inputs(nemesis.edition), lake_url=str(lake)))
        report.transactions, report.lost_answers = len(business.log), business.lost_answers
        report.faults, report.api_faults = nemesis.done, nemesis.api_faults
        report.windows, report.editions_of_api = len(versions.windows), service.edition
        report.batches, report.stars, report.warehouses = (
            versions.batches,
            versions.stars,
            versions.warehouses,
        )
        report.certificates, report.editions = versions.certificates, versions.editions
        report.differences += versions.differences
    return report


def _note(report: Report, ended: Outcome) -> None:
    if ended.mistake:
        report.mistakes.append(ended.mistake)
    report.runs[ended.refusal.partition(":")[0] or ("mistake" if ended.mistake else "went well")] += 1


def _begin(machine: Machine, lake: Path, api: str) -> None:
    """Load the first window of the API, without which there is no star."""
    batches = Lake(url=str(lake), scratch=str(machine.data), cache=str(machine.data / "cache")).batches()
    fetch(api, batches, machine.data / "scratch", chance=1)
    assert load(batches, machine.data / "scratch") == 1


def _come_to_rest(report: Report, machines: list[Machine], order: Order, versions: Versions) -> bool:
    """Undisturbed, each machine brings its warehouse up to date, as the source is now."""
    for machine in machines:
        machine.kill()  # a process of its own age
        machine.start(replace(order, data=machine.data))
        ended = machine.wait()
        if ended.refusal or ended.mistake:
            report.mistakes.append(f"at rest {machine.name}: {ended.refusal}{ended.mistake}")
            return False
        versions.compare_warehouse(machine.data / "warehouse.duckdb", versions.numbers()[-1])
    return True


def _verify(report: Report, flow: Direct) -> None:
    """The platform's own verification and its rebuild from all batches say the same."""
    with flow.verifier() as (verifier, _):
        pages = list(compare_pages(verifier, [SALE]))
    for finding in [*flow.verified(thorough=True), *pages, *flow.rebuilt()]:
        if finding.difference:
            report.differences.append(f"verification: {finding.difference}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    asked = parser.parse_args()
    begun = time.monotonic()

    def say(line: str) -> None:
        sys.stdout.write(f"{time.monotonic() - begun:5.0f} s  {line}\n")
        sys.stdout.flush()

    say(f"seed {asked.seed}")
    with tempfile.TemporaryDirectory(prefix="etl-assets-soak-") as name:
        Path(name).chmod(0o755)  # the server has its own user if we are root
        report = soak(Path(name), asked.minutes * 60, asked.seed, say)
    sys.stdout.write(f"{report}\n")
    return int(not report.is_sound)


if __name__ == "__main__":
    sys.exit(main())
