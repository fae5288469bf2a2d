"""A table that other code makes is made from its first batch on; where these are more than a limit, a run asks first."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType

import narwhals as nw
import pytest

from etl_assets.proof import forecast
from etl_assets.source.table import Table
from etl_assets.star.definition import Inputs
from etl_assets.star.function import StarFunction, dimension, fact
from etl_assets.star.outcome import Build
from etl_assets.star.resource import OpenLake
from etl_assets_tests.direct import Direct
from etl_assets_tests.flow import execute
from etl_assets_tests.law.cases import Make, changed, described

INVOICE = Table("invoice", "", {"id": "int", "total": "int"})
MOST = 2
ROWS = list[tuple[int, int, int, int, bool]]


def invoices(function: Callable[[nw.LazyFrame], nw.LazyFrame]) -> StarFunction:
    columns = described(id="int", total="int")
    return fact(key="id", record="record_id", columns=columns, name="fact_invoice")(function)


@invoices
def as_it_was(invoice: nw.LazyFrame) -> nw.LazyFrame:
    return invoice.select("id", "total")


@invoices
def as_it_is(invoice: nw.LazyFrame) -> nw.LazyFrame:
    return invoice.select("id", (nw.col("total") * 10).cast(nw.Int32).alias("total"))


@dataclass(frozen=True)
class Changed:
    """A lake of three batches, and code that is not what made its star."""

    flow: Direct

    @contextmanager
    def bench(self) -> Iterator[OpenLake]:
        with self.flow.lake.open(self.flow.inputs) as bench:
            yield bench

    def derived(self, bench: OpenLake, *replay: str, anew: bool = False) -> Build:
        anew_ = ["fact_invoice"] if anew else []
        (build,) = bench.builder.derive(bench.manifest, None, anew_, replay=replay, most_batches=MOST)
        bench.publish([build])
        return build

    def rows(self) -> ROWS:
        """Record, key, total, batch and whether it is deleted, as the lake shows them."""
        return sorted(self.flow.lake_dump()["fact_invoice"])


@pytest.fixture
def other(make: Make) -> Changed:
    flow = make(
        "CREATE TABLE invoice (id int PRIMARY KEY, total int); INSERT INTO invoice VALUES (1, 1), (2, 2)",
        [INVOICE],
        as_it_was,
    )
    changed(flow, "UPDATE invoice SET total = 3 WHERE id = 1")
    changed(flow, "DELETE FROM invoice WHERE id = 2")
    return Changed(replace(flow, inputs=Inputs(flow.inputs.tables, {"fact_invoice": as_it_is}, {})))


WAS: ROWS = [(1, 1, 1, 1, False), (2, 2, 2, 1, False), (3, 1, 3, 2, False), (4, 2, 2, 3, True)]


def test_a_run_asks_before_it_goes_through_more_batches_than_the_limit(other: Changed) -> None:
    with other.bench() as bench:
        build = other.derived(bench)
        assert build.failure == (
            "fact_invoice was made by other code, or by none: to make it means to go through 3 batches, more than 2 "
            "(ETL_REPLAY_BATCHES); run again with --replay star/fact_invoice, or, to let it begin at the newest batch, "
            "without what it was before, with --from-now star/fact_invoice"
        )
        assert build.shows == 3
    assert other.rows() == WAS


def test_what_a_run_would_ask_is_told_before(other: Changed) -> None:
    def told(most: int, changing: Mapping[str, str] = MappingProxyType({})) -> str:
        with other.bench() as bench:
            (make,) = forecast.makes(bench.builder, bench.manifest, changing, most)
            (loaded,) = forecast.loads(bench.builder, [make], {}, None)
            assert loaded.what == make.what
            return make.what

    assert (told(2), told(3), told(3, {"invoice": "1 rows written"})) == ("waits", "anew", "waits")
    with other.bench() as bench:
        (make,) = forecast.makes(bench.builder, bench.manifest, {}, MOST)
        assert make.why == other.derived(bench).failure


@dimension(key="id", columns=described(id="uuid", label="text?"), name="dim_place")
def labelled(place: nw.LazyFrame) -> nw.LazyFrame:
    return place.select("id", "label")


@dimension(key="id", columns=described(id="uuid", name="text?", at="timestamptz?"), name="dim_place")
def named(place: nw.LazyFrame) -> nw.LazyFrame:
    return place.select("id", nw.col("label").alias("name"), "at")


def test_only_what_is_declared_otherwise_is_why_a_table_would_be_made_anew(make: Make) -> None:
    flow = make(
        "CREATE TABLE place (id uuid PRIMARY KEY, label text, at timestamptz)",
        [Table("place", "", {"id": "uuid", "label": "text?", "at": "timestamptz?"})],
        labelled,
    )
    other = replace(flow, inputs=Inputs(flow.inputs.tables, {"dim_place": named}, {}))
    with other.lake.open(other.inputs) as bench:
        (make_,) = forecast.makes(bench.builder, bench.manifest, {}, MOST)
    assert make_.why == (
        "its contract changed: name is new; its contract changed: at is new; "
        "its contract changed: label is declared no longer: 1 batches are gone through again"
    )


def test_a_replay_that_was_asked_for_makes_all_versions_and_goes_on(other: Changed) -> None:
    with other.bench() as bench:
        assert other.derived(bench, "fact_invoice").passed
    anew = [(record, key, 10 * total, batch, gone) for record, key, total, batch, gone in WAS]
    assert other.rows() == anew
    execute(other.flow.url, "UPDATE invoice SET total = 4")
    other.flow.capture()
    with other.bench() as bench:
        assert other.derived(bench).passed
    assert other.rows() == [*anew, (5, 1, 40, 4, False)]


def test_a_table_that_begins_now_goes_on_from_there_also_when_it_is_made_again(other: Changed) -> None:
    with other.bench() as bench:
        bench.star.begin_at("fact_invoice", bench.manifest.batch)
        assert other.derived(bench).passed
    now: ROWS = [(1, 1, 30, 3, False)]
    assert other.rows() == now
    execute(other.flow.url, "UPDATE invoice SET total = 4")
    other.flow.capture()
    for anew in (False, True):
        with other.bench() as bench:
            assert other.derived(bench, anew=anew).passed
        assert [row[1:] for row in other.rows()] == [(1, 30, 3, False), (1, 40, 4, False)]
