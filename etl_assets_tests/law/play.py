"""One random sample: a model, its star and its history, played through the platform and compared with the oracle."""

import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

import duckdb

from etl_assets.errors import EtlError
from etl_assets.lake.folder import LocalFiles
from etl_assets.star.definition import Inputs
from etl_assets_tests.direct import Direct
from etl_assets_tests.law import published
from etl_assets_tests.law.definitions import declared, write_codes
from etl_assets_tests.law.functions import StarSpec, random_star
from etl_assets_tests.law.histories import Found, random_history
from etl_assets_tests.law.landing import Lander
from etl_assets_tests.law.models import Codes, Model, random_codes, random_model
from etl_assets_tests.law.oracle import Batch, Oracle, Shown
from etl_assets_tests.law.server import Server

Stars = list[StarSpec]


class Broken(AssertionError):
    """The platform shows something else than the law says."""


@dataclass(frozen=True)
class Sample:
    """What a seed stands for. From batch `turn` on, the table that comes later is declared, the star is `then`, and the
    reference file holds `codes`."""

    seed: int
    model: Model
    star: Stars
    then: Stars
    turn: int
    codes: Sequence[Codes]
    history: Sequence[Found]

    def stars(self, batch: int) -> Stars:
        return self.then if batch >= self.turn else self.star

    def codes_at(self, batch: int) -> Sequence[Codes]:
        return self.codes if batch >= self.turn else self.model.codes

    def __str__(self) -> str:
        read = [
            f"{i + 1}: {', '.join(f.tables)}{'' if f.derived else ' (not derived)'}"
            for i, f in enumerate(self.history)
        ]
        told = [f"seed {self.seed}", str(self.model), *map(str, self.star)]
        if self.model.codes:
            told.append(f"codes {self.model.codes}, then {self.codes}")
        if self.then != self.star:
            told += [f"from batch {self.turn + 1} on:", *map(str, self.then)]
        return "\n".join([*told, *read])


def sample(seed: int) -> Sample:
    rng = Random(seed)
    model = random_model(rng)
    batches = rng.randint(3, 7)
    turn = rng.randint(1, batches - 1)
    star = random_star(rng, model, late=False)
    then = star
    if model.late or rng.random() < 0.15:
        then = _later(rng, model, star)
    history = random_history(rng, model, late_from=turn, batches=batches)
    codes = random_codes(rng) if model.codes and rng.random() < 0.5 else model.codes
    return Sample(seed, model, star, then, turn, codes, history)


def _later(rng: Random, model: Model, star: Stars) -> Stars:
    """Another star: with more tables, or with other functions under the same names."""
    if rng.random() < 0.4:
        return [*star, *random_star(rng, model, late=True, prefix="late_")]
    return random_star(rng, model, late=True)


@dataclass
class Play:
    """A sample on its way through a lake and a warehouse in a folder."""

    sample: Sample
    data: Path
    url: str = ""
    batches: list[Batch] = field(default_factory=list)
    tally: Counter[str] = field(default_factory=Counter)
    _flows: dict[bool, Direct] = field(default_factory=dict)
    _inferred: dict[str, set[Any]] = field(default_factory=dict)
    """The stand-ins that each dimension ever needed."""

    @cached_property
    def _files(self) -> duckdb.DuckDBPyConnection:
        """What the lake's files are read with."""
        return duckdb.connect()

    @cached_property
    def lander(self) -> Lander:
        (self.data / "scratch").mkdir(parents=True, exist_ok=True)
        return Lander(LocalFiles(self.data / "lake"), self.data / "scratch", self.sample.model.tables)

    def land(self, found: Found, rng: Random) -> int | None:
        """Land what a batch found; its number, or None if there was nothing new."""
        manifest = self.lander.land(found, whole=rng.random() < 0.3)
        return manifest.batch if manifest else None

    def run(self, capture: Callable[[int, Found], int | None] | None = None) -> None:
        """Take every batch, bring star and warehouse up as the history says, and compare."""
        rng = Random(self.sample.seed)
        waiting = False
        for place, found in enumerate(self.sample.history):
            number = capture(place, found) if capture else self.land(found, rng)
            if number:
                self.batches.append(Batch(number, found.tables))
                self.tally["batches"] += 1
            waiting = waiting or bool(number) or place == self.sample.turn
            if found.derived and waiting:
                self.compare(place)
                waiting = False
        self.finish()

    def flow(self, place: int) -> Direct:
        late = place >= self.sample.turn
        if late not in self._flows:
            codes = self.sample.codes_at(place)
            self.data.mkdir(parents=True, exist_ok=True)
            file = write_codes(self.data, codes) if codes else None
            inputs = declared(self.sample.model, self.sample.stars(place), late=late, codes=file)
            self._flows[late] = Direct(self.url, self.data, inputs)
            self._classify(inputs)
        return self._flows[late]

    def compare(self, place: int) -> None:
        """Bring star and warehouse up, and hold them against the oracle."""
        flow, stars = self.flow(place), self.sample.stars(place)
        self.derive(flow)
        codes = self.sample.codes_at(place)
        expected = Oracle(self.sample.model.tables, stars, self.batches, codes).shown()
        both = {spec.name: (spec, expected[spec.name]) for spec in stars}
        with flow.reading() as warehouse:
            for spec in stars:
                self._compare_table(flow.data, warehouse, spec, both)

    def derive(self, flow: Direct) -> None:
        try:
            flow.derive(certified=False)
        except (AssertionError, EtlError) as error:
            raise Broken(f"batch {self.batches[-1].number}: {error}") from error

    def _compare_table(
        self,
        data: Path,
        warehouse: duckdb.DuckDBPyConnection,
        spec: StarSpec,
        stars: Mapping[str, tuple[StarSpec, Shown]],
    ) -> None:
        promised = published.promised(spec, stars[spec.name][1])
        self._equal(spec, "lake", promised, published.in_lake(self._files, data, spec))
        self._equal(spec, "warehouse", promised, published.in_warehouse(warehouse, spec))
        if spec.kind == "fact":
            existing = set(stars[spec.name][1].current)
            found = self._keys(published.current_in_warehouse(warehouse, spec), spec)
            self._same(spec, "view", existing, found)
        else:
            wanted, found = published.to_be_inferred(spec, stars), published.inferred(warehouse, spec)
            # What only rows of the past referred to stays until the dimension is loaded anew.
            once = self._inferred.setdefault(spec.name, set())
            once |= wanted
            self._same(spec, "inferred", wanted, found - (once - wanted))
        self.tally["rows"] += len(promised.rows)

    @staticmethod
    def _keys(table: published.Table, spec: StarSpec) -> set[Any]:
        places = [list(table.types).index(name) for name in spec.key]
        return {tuple(row[place] for place in places) for row in table.rows}

    def _equal(self, spec: StarSpec, where: str, promised: published.Table, found: published.Table) -> None:
        self.tally["comparisons"] += 1
        if told := published.difference(promised, found):
            raise Broken(f"batch {self.batches[-1].number}, {spec.name} in the {where}: {told}")

    def _same(self, spec: StarSpec, where: str, wanted: set[Any], found: set[Any]) -> None:
        self.tally["comparisons"] += 1
        if spec.kind == "fact":
            wanted = {published.exact_key(spec, key) for key in wanted}
        if wanted != found:
            raise Broken(
                f"batch {self.batches[-1].number}, {spec.name}, {where}: lacks {wanted - found}, has {found - wanted}"
            )

    def finish(self) -> None:
        """A rebuild from the same batches is the same, and the verifier finds no difference."""
        flow = self.flow(len(self.sample.history) - 1)
        again = flow.at(self.data / "again")
        shutil.copytree(self.data / "lake/raw", again.data / "lake/raw")
        again.derive(certified=False)
        with flow.reading() as one, again.reading() as other:
            for spec in self.sample.stars(len(self.sample.history) - 1):
                files = [published.in_lake(self._files, made.data, spec) for made in (flow, again)]
                self._equal(spec, "rebuild", *files)
                rows = [published.in_warehouse(reader, spec) for reader in (one, other)]
                self._equal(spec, "rebuilt warehouse", *rows)
        if wrong := [
            finding for finding in flow.verified(source=bool(self.url), thorough=True) if not finding.equal
        ]:
            raise Broken(f"verify: {wrong}")

    def _classify(self, inputs: Inputs) -> None:
        """Count by what changes of each table's inputs will be compared."""
        for definition in inputs.star.values():
            self.tally[inputs.classified(definition).partition(":")[0]] += 1


def play(seed: int, data: Path, url: str = "") -> Counter[str]:
    """Play a sample, with a real source if there is a `url`; what it came to. Raises `Broken`, and tells everything that
    is needed to see why."""
    made = sample(seed)
    playing = Play(made, data, url)
    try:
        if url:
            server = Server(url, data, made.model, made.history, Random(seed))
            server.begin()
            playing.run(server.capture)
        else:
            playing.run()
    except Broken as broken:
        raise Broken(f"{broken}\n\n{made}") from broken
    return playing.tally
