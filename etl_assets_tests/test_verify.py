"""Whatever is altered, wherever it is kept: verification finds it, and says in which table, at which hop, which keys."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import google_crc32c
import narwhals as nw
import pytest

from etl_assets.lake.certificates import certificate_path
from etl_assets.lake.folder import LocalFiles
from etl_assets.lake.holding import Held, all_held, holding
from etl_assets.lake.names import manifest_path
from etl_assets.proof.findings import Finding
from etl_assets.proof.history import table_then
from etl_assets.proof.hops.landed import compare_files, compare_raw
from etl_assets.proof.hops.source import compare_source
from etl_assets.proof.hops.star import compare_star
from etl_assets.proof.hops.warehouse import compare_loaded, compare_warehouse
from etl_assets.raw import reading
from etl_assets.raw.changes import changed_rows
from etl_assets.raw.controls import Unproven
from etl_assets.source.table import Table
from etl_assets.star.definition import Inputs
from etl_assets.star.function import StarFunction
from etl_assets.star.schema import Column, Dimension
from etl_assets.warehouse.assets import batch_of
from etl_assets.warehouse.load import load_star
from etl_assets_tests.direct import Direct
from etl_assets_tests.flow import execute
from etl_assets_tests.lake_layout import landed, newest_of_star, star_files, unsealed
from etl_assets_tests.shop import DAY, INPUTS, SOURCE


@pytest.fixture(scope="module")
def kept(module_database: Callable[[], str], tmp_path_factory: pytest.TempPathFactory) -> Direct:
    """A first batch and one with changes of all kinds; not to be touched."""
    flow = Direct(module_database(), tmp_path_factory.mktemp("verify"), INPUTS)
    execute(flow.url, SOURCE)
    flow.run()
    execute(flow.url, DAY)
    flow.run()
    return flow


@pytest.fixture
def flow(kept: Direct, tmp_path: Path) -> Direct:
    """A copy, to be tampered with; the source is not."""
    shutil.copytree(kept.data, tmp_path / "data")
    return kept.at(tmp_path / "data")


@pytest.fixture
def own(database: Callable[[], str], tmp_path: Path) -> Direct:
    """A flow whose source may be changed too."""
    flow = Direct(database(), tmp_path, INPUTS)
    execute(flow.url, SOURCE)
    flow.run()
    return flow


def differences(findings: list[Finding]) -> Mapping[tuple[str, str], str]:
    """(hop, table) -> what differs."""
    return {(finding.hop, finding.table): finding.difference for finding in findings if not finding.equal}


def rewritten(lake: Path, name: str, query: str) -> None:
    """Replace the first file of a star table by what a query makes of it (as `file`), and have the star's manifest vouch
    for it: as if something had made it so."""
    path = star_files(lake, name)[0]
    aside = path.with_suffix(".aside")
    with duckdb.connect() as connection:
        connection.execute(f"CREATE VIEW file AS FROM read_parquet('{path}')")
        connection.execute(f"COPY ({query}) TO '{aside}' (FORMAT parquet)")
    aside.replace(path)
    newest = newest_of_star(lake)
    assert newest
    told = json.loads(newest.read_text())
    entry = told["tables"][name]["files"][0]
    content = path.read_bytes()
    entry |= {"bytes": len(content), "checksum": f"{google_crc32c.value(content):08x}"}
    newest.write_text(json.dumps(told))


def in_warehouse(flow: Direct, statement: str) -> None:
    with duckdb.connect(str(flow.data / "warehouse.duckdb")) as connection:
        connection.execute(statement)


def test_what_nobody_touched_is_equal_at_every_hop(kept: Direct) -> None:
    for thorough in (False, True):
        findings = kept.verified(thorough=thorough)
        assert differences(findings) == {}
        hops = {"manifests", "files", "raw", "star", "warehouse", "source"}
        assert {finding.hop for finding in findings} == hops
    again = kept.rebuilt()
    assert differences(again) == {}
    assert {(f.hop, f.table) for f in again} == {
        (hop, table) for hop in ("rebuilt star", "rebuilt warehouse") for table in INPUTS.star
    }


def test_verification_leaves_no_trace_in_the_warehouse(flow: Direct) -> None:
    def contents() -> list[Any]:
        with flow.reading() as connection:
            return connection.execute(
                "SELECT schema_name, view_name FROM duckdb_views() WHERE NOT internal UNION ALL "
                "SELECT schema_name, table_name FROM duckdb_tables() ORDER BY ALL"
            ).fetchall()

    before = contents()
    assert {schema for schema, _ in before} == {"star"}
    flow.verified(thorough=True)
    flow.rebuilt()
    assert contents() == before


@pytest.mark.fault("F15")
def test_a_changed_byte_of_a_landed_file_is_found(flow: Direct) -> None:
    path = landed(flow.data / "lake", "sale", 1)
    path.write_bytes(path.read_bytes().replace(b"7.25", b"9.25", 1))
    with flow.verifier() as (verifier, _):
        found = differences(list(compare_files(verifier)))
    assert list(found) == [("files", "sale")]
    assert path.name in found["files", "sale"]


def test_a_landed_file_that_is_gone_is_found(flow: Direct) -> None:
    path = landed(flow.data / "lake", "sale", 2, "deletions")
    path.unlink()
    with flow.verifier() as (verifier, _):
        found = differences(list(compare_files(verifier)))
    assert list(found) == [("files", "sale")]
    assert path.name in found["files", "sale"]


def test_a_row_held_too_many_is_found_against_the_totals_of_the_source(flow: Direct) -> None:
    path = flow.data / "lake/raw/batches/000002.json"
    manifest = json.loads(path.read_text())
    manifest["tables"]["worker"]["rows"] -= 1
    manifest["tables"]["sale"]["controls"]["amount"]["sum"] = "1.00"
    path.write_text(json.dumps(manifest))
    with flow.verifier() as (verifier, _):
        found = differences(list(compare_raw(verifier)))
    assert found["raw", "worker"] == "31 rows are held, the source had 30"


@pytest.mark.fault("F16")
@pytest.mark.parametrize(
    "query",
    [
        "SELECT * REPLACE (CASE WHEN sale_id = 7 THEN amount + 0.01 ELSE amount END AS amount) FROM file",
        "SELECT * FROM file WHERE sale_id <> 7",
        "FROM file UNION ALL SELECT * REPLACE (999 AS sale_record_id, 777 AS sale_id) FROM file WHERE sale_id = 7",
    ],
    ids=["altered", "missing", "added"],
)
def test_a_fact_file_that_was_tampered_with_is_found(
    query: str, flow: Direct, request: pytest.FixtureRequest
) -> None:
    rewritten(flow.data / "lake", "fact_sale", query)
    name = request.node.callspec.id
    found = differences(flow.verified(source=False))
    assert set(found) == {("star", "fact_sale"), ("warehouse", "fact_sale")}
    told = {
        "altered": "sale_id 7: amount is 7.26 and should be 7.25",
        "missing": "sale_id 7 is missing",
        "added": "sale_id 777 is there and should not be",
    }[name]
    assert found["star", "fact_sale"] == f"1 key differs: {told}"
    assert found["warehouse", "fact_sale"].startswith("1 key differs: sale_record_id ")
    assert set(differences(flow.rebuilt())) == {("rebuilt star", "fact_sale")}


def test_a_doubled_row_of_a_fact_file_is_found(flow: Direct) -> None:
    rewritten(flow.data / "lake", "fact_sale", "FROM file UNION ALL FROM file WHERE sale_id = 7")
    twice = "the same keys occur more often than once"
    assert differences(flow.verified(source=False))["warehouse", "fact_sale"] == twice
    assert differences(flow.rebuilt())["rebuilt star", "fact_sale"] == twice


def test_a_tampered_column_is_found_be_it_an_amount_or_not(flow: Direct) -> None:
    rewritten(
        flow.data / "lake",
        "dim_worker",
        "SELECT * REPLACE (CASE WHEN worker_id BETWEEN 4 AND 6 THEN 'x' ELSE name END AS name) FROM file",
    )
    found = differences(flow.verified(source=False))
    assert found == {
        ("star", "dim_worker"): "3 keys differ: "
        + "; ".join(f"worker_id {n}: name is x and should be worker {n}" for n in (4, 5, 6)),
        ("warehouse", "dim_worker"): "3 keys differ: "
        + "; ".join(f"worker_id {n}: name is worker {n} and should be x" for n in (4, 5, 6)),
    }


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        (
            "UPDATE star.fact_sale SET amount = amount + 1 WHERE sale_id = 7",
            "amount is 8.25 and should be 7.25",
        ),
        ("DELETE FROM star.fact_sale WHERE sale_id = 7", "is missing"),
        (
            "INSERT INTO star.fact_sale SELECT * FROM star.fact_sale WHERE sale_id = 7",
            "the same keys occur more often than once",
        ),
    ],
)
def test_a_changed_row_of_the_warehouse_is_found(statement: str, told: str, flow: Direct) -> None:
    in_warehouse(flow, statement)
    found = differences(flow.verified(source=False))
    assert list(found) == [("warehouse", "fact_sale")]
    assert told in found["warehouse", "fact_sale"]
    assert set(differences(flow.rebuilt())) == {("rebuilt warehouse", "fact_sale")}


def test_a_current_view_that_was_tampered_with_is_found(flow: Direct) -> None:
    in_warehouse(
        flow, "INSERT INTO star.superseded SELECT 'fact_sale', sale_record_id FROM star.fact_sale_current"
    )
    found = differences(flow.verified(source=False))
    assert list(found) == [("warehouse", "fact_sale")]
    assert found["warehouse", "fact_sale"].startswith("what is current: ")


def test_a_table_that_the_warehouse_lost_is_found(flow: Direct) -> None:
    in_warehouse(flow, "DROP VIEW star.fact_sale_current; DROP TABLE star.fact_sale")
    found = differences(flow.verified(source=False))
    assert list(found) == [("warehouse", "fact_sale")]


def test_a_warehouse_that_was_not_loaded_since_is_told_to_be_behind(own: Direct) -> None:
    execute(own.url, DAY)
    own.capture()
    with own.lake.open(own.inputs) as bench:
        bench.publish(list(bench.builder.derive(bench.manifest)))
    told = differences(own.verified())
    assert {hop for hop, _ in told} == {"warehouse"}
    assert all(
        why.startswith("it shows batch 000001, and the star batch 000002: run etl run; ")
        for why in told.values()
    )


def test_what_changes_in_the_source_after_the_batch_is_no_difference(own: Direct) -> None:
    execute(own.url, DAY)
    for thorough in (False, True):
        findings = own.verified(thorough=thorough)
        assert differences(findings) == {}
        told = {finding.table: finding.compared for finding in findings if finding.hop == "source"}
        assert "30 new, 12 changed and 7 deleted since the batch" in told["sale"]


# -- changes behind the back of row versions ---------------------------------------------------------------------------


def look_away(flow: Direct) -> None:
    """Push the horizon of what is held ahead: the next batch takes no row version for recent."""
    path = sorted((flow.data / "lake/raw/batches").glob("??????.json"))[-1]
    manifest = json.loads(path.read_text())
    for state in manifest["tables"].values():
        state["horizon"] += 100_000
    path.write_text(json.dumps(manifest))


@pytest.mark.fault("F27")
@pytest.mark.parametrize(
    ("change", "read"),
    [
        ("UPDATE sale SET amount = amount + 1 WHERE id = 7", "whole"),
        ("INSERT INTO sale VALUES (1000, 1, 1, '2024-01-05')", "whole"),
        ("DELETE FROM sale WHERE id = 7; INSERT INTO sale VALUES (1000, 1, 1, '2024-01-05')", "whole"),
        ("DELETE FROM sale WHERE id = 7", "horizon"),  # deletions have no row version: the count tells
    ],
)
def test_a_change_that_no_row_version_tells_of_is_captured_all_the_same(
    change: str, read: str, database: Callable[[], str], tmp_path: Path
) -> None:
    flow = Direct(database(), tmp_path, INPUTS)
    execute(flow.url, SOURCE.replace("'soon'", "'2024-01-06'"))
    flow.run()
    look_away(flow)
    execute(flow.url, change)
    manifest = flow.run()
    assert manifest is not None
    assert (manifest.tables["sale"].read, manifest.tables["worker"].read) == (read, "horizon")
    assert differences(flow.verified(thorough=True)) == {}


@pytest.mark.fault("F27")
def test_a_silent_change_that_no_total_tells_of_is_found_by_a_thorough_look(own: Direct) -> None:
    look_away(own)
    execute(own.url, "UPDATE worker SET name = 'silent' WHERE id IN (4, 9)")
    found = differences(own.verified(thorough=True))
    assert found["source", "worker"] == "2 rows differ unexplained, key 4 to 9"
    assert "changed or swapped" in found["manifests", "all tables"]  # to look away is to change the manifest
    own.run(whole=True)
    assert differences(own.verified(thorough=True)) == {}


@pytest.mark.fault("F15")
def test_the_warehouse_names_the_manifests_that_it_was_loaded_from(flow: Direct) -> None:
    """Also where star and certificate, which name the newest one, are gone."""
    with flow.lake.open(flow.inputs) as bench:
        tables = [made.schema for made in flow.inputs.star.values()]
        load_star(flow.warehouse, bench.star, tables, {}, "a test", batch=batch_of(bench, "ours"))
    assert differences(flow.verified(source=False)) == {}
    lake = flow.data / "lake"
    newest = lake / manifest_path(2)
    shutil.rmtree(lake / "star/batches")
    (lake / certificate_path(2)).unlink()
    newest.write_text(unsealed(newest))
    changed = "manifest 000002 is not the one it was loaded from: it was changed or swapped"
    assert differences(flow.verified(source=False))["warehouse", "all tables"] == changed
    newest.unlink()
    gone = "it was loaded up to batch 000002, whose manifest is not there"
    assert differences(flow.verified(source=False))["warehouse", "all tables"] == gone


def test_a_batch_that_does_not_add_up_is_never_committed(
    database: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = Direct(database(), tmp_path, INPUTS)
    execute(flow.url, SOURCE.replace("'soon'", "'2024-01-06'"))
    flow.run()
    held, raw = flow.dump(), sorted(tmp_path.glob("lake/raw/batches/*.json"))

    def losing_a_change(*arguments: Any) -> Any:  # as a defect of ours would
        found = changed_rows(*arguments)
        return replace(found, rows=found.rows.limit(0)) if found.changed else found

    monkeypatch.setattr(reading, "changed_rows", losing_a_change)
    execute(flow.url, "UPDATE sale SET amount = amount + 1 WHERE id = 7")
    with pytest.raises(
        Unproven, match=r"the amount of sale add up to .* in the source and to .* in the lake"
    ) as caught:
        flow.run()
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.glob("lake/raw/batches/*.json")) == raw
    assert flow.dump() == held


def test_a_damaged_total_is_mended_from_the_rows(database: Callable[[], str], tmp_path: Path) -> None:
    flow = Direct(database(), tmp_path, INPUTS)
    execute(flow.url, SOURCE.replace("'soon'", "'2024-01-06'"))
    flow.run()
    path = tmp_path / "lake/raw/batches/000001.json"
    manifest = json.loads(path.read_text())
    control = manifest["tables"]["sale"]["controls"]["amount"]
    control["held"] = str(float(control["held"]) + 1)
    path.write_text(json.dumps(manifest))
    execute(flow.url, DAY)
    batch = flow.run()
    assert batch is not None
    assert batch.tables["sale"].read == "whole"
    mended = batch.tables["sale"].controls["amount"]
    assert mended.held == mended.sum
    assert differences(flow.verified(thorough=True)) == {}


def test_sums_are_proven_again_once_all_misfits_are_mended(
    database: Callable[[], str], tmp_path: Path
) -> None:
    flow = Direct(database(), tmp_path, INPUTS)
    execute(flow.url, SOURCE)
    first = flow.run()
    assert first is not None
    assert first.tables["sale"].clean_under is None
    execute(flow.url, "UPDATE sale SET due = '2024-01-01' WHERE due = 'soon'")
    batch = flow.run(whole=True)
    assert batch is not None
    control = batch.tables["sale"].controls["amount"]
    assert batch.tables["sale"].clean_under is not None
    assert control.held == control.sum
    assert differences(flow.verified(thorough=True)) == {}


def test_a_misfit_that_a_whole_read_finds_deleted_is_still_one_of_the_members(own: Direct) -> None:
    execute(own.url, "UPDATE worker SET name = NULL WHERE id = 5")
    own.run()
    execute(own.url, "DELETE FROM worker WHERE id = 5")
    batch = own.run(whole=True)
    assert batch is not None
    assert batch.tables["worker"].clean_under is None
    assert differences(own.verified(thorough=True)) == {}


def test_a_table_that_was_told_to_begin_later_is_so_when_it_is_made_again_too(own: Direct) -> None:
    for statement in (DAY, "DELETE FROM sale WHERE id = 9; DELETE FROM worker WHERE id = 8"):
        execute(own.url, statement)
        own.run()
    for name in INPUTS.star:
        own.lake.star().begin_at(name, 2)
    execute(own.url, "DELETE FROM sale WHERE id = 10; DELETE FROM worker WHERE id = 11")
    own.run()
    assert differences([*own.verified(), *own.rebuilt()]) == {}
    with own.lake.open(INPUTS) as bench:
        for batch, sales, workers in ((1, 294, 30), (2, 323, 31), (3, 322, 30)):
            at = bench.builder.batches.get(batch)
            for name, rows in (("fact_sale", sales), ("dim_worker", workers)):
                with table_then(bench.builder, name, at, own.data / "scratch") as then:
                    assert len(then.filter("NOT deleted").fetchall()) == rows, (name, batch)


def test_columns_may_have_any_name(database: Callable[[], str], tmp_path: Path) -> None:
    names = ["__here", "__hash", "k0", "e0", "lacking", "s"]

    def dim_t(t: nw.LazyFrame) -> nw.LazyFrame:
        return t.filter(nw.col("id") < 100)  # not row by row alone: compared whole

    schema = Dimension("dim_t", "", "id", [Column("id", "int"), *(Column(n, "text?") for n in names)])
    table = Table("t", "", {"id": "int", **dict.fromkeys(names, "text?")})
    made = StarFunction(schema, dim_t)
    flow = Direct(database(), tmp_path, Inputs({"t": table}, {"dim_t": made}, {}))
    columns = ", ".join(f"{name} text" for name in names)
    execute(
        flow.url, f"CREATE TABLE t (id int PRIMARY KEY, {columns}); INSERT INTO t VALUES (1, 'x'), (2, 'y')"
    )
    flow.run()
    execute(flow.url, "UPDATE t SET __hash = 'z' WHERE id = 1; DELETE FROM t WHERE id = 2")
    flow.run()
    assert differences([*flow.verified(), *flow.rebuilt()]) == {}
    in_warehouse(flow, "UPDATE star.dim_t SET __here = 'other'")
    told = differences(flow.verified(source=False))["warehouse", "dim_t"]
    assert (
        told == "2 keys differ: id 1: __here is other and should be x; id 2: __here is other and should be y"
    )


# -- beside runs -------------------------------------------------------------------------------------------------------


def test_what_runs_publish_during_a_verification_is_no_difference_at_any_hop(own: Direct) -> None:
    def run(amount: int) -> None:
        execute(
            own.url,
            f"UPDATE sale SET amount = {amount} WHERE id = 3; UPDATE worker SET name = '{amount}' WHERE id = 4",
        )
        own.run()

    with own.verifier() as (verifier, _):
        found = [*compare_files(verifier), *compare_raw(verifier)]
        for amount in (11, 12, 13):
            run(amount)
        found += compare_star(verifier)
        run(14)
        with own.warehouse.resting() as reader:
            run(15)
            found += compare_warehouse(verifier, reader)
        found += compare_source(verifier, own.url, list(own.inputs.tables.values()), thorough=True)
        assert differences(found) == {}
        assert not [finding for finding in found if finding.skipped]
        told = {f.table: f.compared for f in found if f.hop == "warehouse"}
        assert all("as of batch 000005" in compared for compared in told.values())
        # What is really another is found beside runs too.
        in_warehouse(own, "UPDATE star.fact_sale SET amount = 99 WHERE sale_id = 7")
        (key,) = differences(compare_loaded(verifier, own.warehouse)).items()
        assert key[0] == ("warehouse", "fact_sale")
        assert "amount is 99.00 and should be 7.25" in key[1]
    assert list((own.data / "lake/current/verifying").iterdir()) == []
    run(16)  # with what was kept no longer needed
    assert len(list((own.data / "lake/star/dim_worker").iterdir())) == 2


def test_a_batch_that_a_run_is_bringing_is_verified_as_the_one_before(own: Direct) -> None:
    execute(own.url, DAY)
    own.capture()
    told = "the star shows batch 000001 of it, or what other code made, not batch 000002: run etl run"
    assert differences(own.verified(source=False))["star", "fact_sale"] == told  # nobody brings it
    with own.verifier(under_way=True) as (verifier, _):
        assert verifier.manifest.batch == 1
        found = [
            *compare_files(verifier),
            *compare_raw(verifier),
            *compare_star(verifier),
            *compare_loaded(verifier, own.warehouse),
        ]
        assert differences(found) == {}
    with own.lake.open(own.inputs) as bench:
        bench.publish(list(bench.builder.derive(bench.manifest)))  # and the warehouse is still to come
    assert ("warehouse", "fact_sale") in differences(own.verified(source=False))
    with own.verifier(under_way=True) as (verifier, _):
        assert verifier.manifest.batch == 2
        assert differences([*compare_star(verifier), *compare_loaded(verifier, own.warehouse)]) == {}


def test_a_note_that_a_killed_verification_left_keeps_nothing_for_good(tmp_path: Path) -> None:
    files = LocalFiles(tmp_path)
    with holding(files, lambda: Held(1, None)):
        (note,) = (tmp_path / "current/verifying").iterdir()
        assert all_held(files) == [Held(1, None)]
        told = json.loads(note.read_text())
        note.write_text(json.dumps(told | {"until": "2024-01-01T00:00:00+00:00"}))
        assert all_held(files) == []
        assert not note.exists()


def test_runs_need_not_wait_for_a_verification(own: Direct) -> None:
    execute(own.url, "UPDATE sale SET amount = 1 WHERE id = 3")
    with own.verifier() as (verifier, _):
        asking = iter(compare_source(verifier, own.url, list(own.inputs.tables.values()), thorough=True))
        next(asking)  # it has begun, and is not done
        manifest = own.capture(wait_seconds=0)
        assert manifest
        assert manifest.batch == 2
        assert [finding for finding in asking if not finding.equal] == []
