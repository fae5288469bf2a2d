"""However many batches there were, a fact has few files, and star and warehouse show the same as ever."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from etl_assets.lake.batches import Batches
from etl_assets.lake.files import Files
from etl_assets.lake.folder import LocalFiles
from etl_assets.proof.history import table_then
from etl_assets.star import files as star_module
from etl_assets.star import merging
from etl_assets.star.files import StarFile
from etl_assets_tests.direct import Direct
from etl_assets_tests.flow import execute
from etl_assets_tests.shop import INPUTS, SOURCE

BATCHES = 24
FACT = "fact_sale"


@pytest.fixture(scope="module", autouse=True)
def soon() -> Iterator[None]:
    """Merge three files, and leave two apart: what takes hundreds of batches else takes some."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merging, "_FEW", 3)
        patch.setattr(merging, "_APART", 2)
        yield


@pytest.fixture(scope="module")
def shop(module_database: Callable[[], str], tmp_path_factory: pytest.TempPathFactory) -> Direct:
    """A flow over many batches; its warehouse slept through some of them, twice."""
    flow = Direct(module_database(), tmp_path_factory.mktemp("merging"), INPUTS)
    execute(flow.url, SOURCE)
    flow.run()
    for number in range(2, BATCHES + 1):
        change(flow, number)
        flow.capture()
        if number in {7, 8, 9, 10, 11, 18}:
            star_alone(flow)
        else:
            flow.derive()
    return flow


def change(flow: Direct, number: int) -> None:
    """A sale that is changed, a new one, and, now and then, one that goes."""
    execute(flow.url, "UPDATE sale SET amount = amount + 1 WHERE id = %s", number)
    execute(flow.url, "INSERT INTO sale VALUES (%s, 1, 1, '2024-01-01')", 1000 + number)
    if number % 5 == 0:
        execute(flow.url, "DELETE FROM sale WHERE id = %s", 1000 + number - 1)


def star_alone(flow: Direct) -> None:
    """Bring the star up to the newest batch, and leave the warehouse."""
    with flow.lake.open(flow.inputs) as bench:
        bench.publish(list(bench.builder.derive(bench.manifest)))


def listed(flow: Direct) -> list[StarFile]:
    return list(flow.lake.star().fact_files(FACT))


@pytest.mark.places
def test_a_fact_has_few_files_which_hold_each_batch_once_and_in_order(shop: Direct) -> None:
    files = listed(shop)
    assert len(files) <= 1 + 2 + 3 * 3
    assert [file.batches for file in files[-2:]] == [1, 1]
    assert files[0].batches == 1  # all there was at first
    assert files[1].batches > 3  # merged more than once
    assert sum(file.batches for file in files) == BATCHES
    spans = [batch for file in files for batch in range(file.first, file.batch + 1)]
    assert spans == list(range(1, BATCHES + 1))
    with shop.lake.open(shop.inputs) as bench:
        for file in files:
            rows = bench.connection.read_parquet(str(bench.star.local(file.path)))
            assert rows.count("*").fetchall() == [(file.rows,)]
            assert set(rows.project("batch").fetchall()) == {(b,) for b in range(file.first, file.batch + 1)}


def test_what_star_and_warehouse_show_is_right(shop: Direct) -> None:
    assert [f.difference for f in (*shop.verified(thorough=True), *shop.rebuilt()) if not f.equal] == []
    assert sorted(shop.lake_dump()[FACT], key=repr) == shop.dump()[FACT]


def test_the_warehouse_s_book_has_few_entries_and_counts_all_rows(shop: Direct) -> None:
    with shop.reading() as connection:
        entries, rows = connection.execute(
            f"SELECT count(*), sum(rows) FROM star.loads WHERE table_name = '{FACT}'"
        ).fetchall()[0]
        (held,) = connection.execute(f"SELECT count(*) FROM star.{FACT}").fetchall()[0]
    assert entries <= len(listed(shop)) + 3
    assert rows == held


def test_a_warehouse_that_slept_through_a_merge_loads_what_it_lacks_and_nothing_twice(
    shop: Direct, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That it is loaded anew would be right too, and slow: what tells is that nothing is taken out of the fact."""
    told: list[str] = []
    from etl_assets.warehouse.duckdb import DuckDBLoadSession

    commit = DuckDBLoadSession.commit

    def spying(self: DuckDBLoadSession, statements: Iterable[str], name: str) -> None:
        given = list(statements)
        told.extend(given)
        commit(self, given, name)

    monkeypatch.setattr(DuckDBLoadSession, "commit", spying)
    for number in range(BATCHES + 1, BATCHES + 9):
        change(shop, number)
        shop.capture()
        star_alone(shop)
    with shop.reading() as connection:
        (newest,) = connection.execute(f"SELECT max(batch) FROM star.{FACT}").fetchall()[0]
    assert any(file.first <= newest < file.batch for file in listed(shop))
    shop.derive()
    assert not [statement for statement in told if f'DELETE FROM "star"."{FACT}"' in statement]
    assert sorted(shop.lake_dump()[FACT], key=repr) == shop.dump()[FACT]


@pytest.mark.parametrize("batch", [1, 5, 13, BATCHES])
def test_a_fact_is_shown_as_it_was_after_a_batch_in_the_middle_of_a_file(shop: Direct, batch: int) -> None:
    with shop.lake.open(shop.inputs) as bench:
        then = bench.builder.batches.get(batch)
        with table_then(bench.builder, FACT, then, shop.data / "scratch") as rows:
            ids = [sale for (sale,) in rows.project("sale_id").fetchall()]
            fit = then.tables["sale"].rows - bench.builder.misfits("sale", then)
    assert max(ids) == (1000 + batch if batch > 1 else 300)
    assert len(ids) == len(set(ids)) == fit


def test_a_file_that_is_damaged_is_not_merged_and_made_again(shop: Direct) -> None:
    before = shop.lake_dump()[FACT]
    path = shop.data / "lake" / listed(shop)[-1].path
    path.write_bytes(path.read_bytes()[:-9] + b"123456789")
    star_alone(shop)
    assert shop.lake_dump()[FACT] == before
    shop.derive()


class Counting(LocalFiles):
    """A folder that counts what is asked of it."""

    asked: ClassVar[Counter[str]] = Counter()

    def names(self, folder: str) -> list[str]:
        self.asked[f"names {folder}"] += 1
        return super().names(folder)

    def sizes(self, folder: str) -> dict[str, int]:
        self.asked[f"sizes {folder}"] += 1
        return super().sizes(folder)


def test_no_run_lists_the_manifests(shop: Direct, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("etl_assets.lake.resource.open_files", lambda url, cache: Counting(Path(url)))
    change(shop, 500)
    Counting.asked.clear()
    shop.run()
    assert Counting.asked
    assert "names raw/batches" not in Counting.asked
    assert len(list((shop.data / "lake/star/batches").iterdir())) <= star_module._MANIFESTS + 1
    assert len(list((shop.data / "lake/star" / FACT).iterdir())) <= 2 * len(listed(shop)) + 3


# -- which batch is the newest ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "note", [None, b"", b"7", b'{"batch": 99}', b'{"batch": 3}', b'{"batch": "x"}', b'{"batch": 0}']
)
def test_the_newest_batch_is_found_whatever_is_noted(
    shop: Direct, tmp_path: Path, note: bytes | None
) -> None:
    batches = shop.lake.batches()
    newest = max(batches.numbers())
    path = shop.data / "lake/raw/batches/newest"
    kept = path.read_bytes()
    try:
        path.unlink() if note is None else path.write_bytes(note)
        assert shop.lake.batches().newest() == newest
    finally:
        path.write_bytes(kept)
    assert Batches(_empty(tmp_path)).newest() is None


def _empty(folder: Path) -> Files:
    return LocalFiles(folder / "nothing")


def test_a_batch_that_was_committed_and_not_noted_is_the_newest(shop: Direct) -> None:
    path = shop.data / "lake/raw/batches/newest"
    before = path.read_bytes()
    change(shop, 600)
    taken = shop.capture()
    assert taken
    path.write_bytes(before)  # as if the run had been killed between the two
    assert shop.lake.batches().newest() == taken.batch
    change(shop, 601)
    after = shop.run()
    assert after
    assert after.batch == taken.batch + 1
    assert replace(shop).lake.batches().newest() == after.batch


# -- another engine --------------------------------------------------------------------------------------------------


def test_a_warehouse_in_postgresql_sleeps_through_merges_too(
    database: Callable[[], str], tmp_path: Path
) -> None:
    flow = Direct(database(), tmp_path, INPUTS, warehouse_url=database())
    execute(flow.url, SOURCE)
    flow.run()
    for number in range(2, 14):
        change(flow, number)
        flow.capture()
        if number in {5, 6, 7, 8, 9, 10}:
            star_alone(flow)
        else:
            flow.derive()
    assert sorted(flow.lake_dump()[FACT], key=repr) == flow.dump()[FACT]
    with flow.warehouse.reading() as reader:
        book = reader.rows(f"SELECT batch, \"rows\" FROM star.loads WHERE table_name = '{FACT}' ORDER BY 1")
    assert sum(rows for _, rows in book) == len(flow.dump()[FACT])
    assert len(book) < 13 - 4
