"""When row versions can be gone by, and when not: transaction ids of another history, too far away, or wrapped around."""

import json
import os
import subprocess
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from etl_assets.lake.manifest import MAIN, Manifest, SourceColumn
from etl_assets.raw.plan import ReadPlan, plan
from etl_assets.source.catalog import Relation, describe
from etl_assets.source.identity import OtherSource
from etl_assets.source.snapshot import Instant
from etl_assets.source.table import Table
from etl_assets.stand_ins.postgres import find_binaries, serve
from etl_assets_tests.capture.comparing import Lake, connect, execute

T = Table("t", "", {"id": "text"}, key=("id",))
_TWENTY = (
    "CREATE TABLE t (id int PRIMARY KEY, a text)",
    "INSERT INTO t SELECT n, 'x' FROM generate_series(1, 20) n",
)


@pytest.fixture
def taken(lake: Lake) -> tuple[Relation, Manifest, Instant]:
    """A table, the manifest of a batch of it, and the instant of that batch."""
    execute(lake.url, *_TWENTY)
    manifest = lake.sync(T)
    assert manifest is not None
    with closing(connect(lake.url)) as connection:
        relation = describe(connection, [T])["t"]
    instant = Instant(
        manifest.snapshot,
        manifest.horizon,
        manifest.next_transaction,
        manifest.lsn,
        datetime.now(UTC),
        manifest.source,
    )
    return relation, manifest, instant


def at(manifest: Manifest, horizon: int) -> Manifest:
    """The manifest as if its batch had been taken with that horizon."""
    state = manifest.tables["t"].model_copy(update={"horizon": horizon})
    source = manifest.main.model_copy(update={"horizon": horizon, "next_transaction": horizon})
    return manifest.model_copy(update={"sources": {MAIN: source}, "tables": {"t": state}})


def test_a_table_that_did_not_change_its_shape_is_read_by_row_version(
    taken: tuple[Relation, Manifest, Instant],
) -> None:
    relation, manifest, instant = taken
    horizon = manifest.tables["t"].horizon
    assert plan(relation, manifest, instant) == ReadPlan(
        "horizon", f"row versions since transaction {horizon}", horizon
    )


@pytest.mark.parametrize("epoch", [0, 1, 5])
@pytest.mark.parametrize("horizon", [3, 2**31 - 1, 2**31, 2**32 - 5])
@pytest.mark.parametrize("passed", [0, 1, 100, 2**31 - 2**24 - 1])
def test_wherever_on_the_circle_the_distance_alone_decides(
    taken: tuple[Relation, Manifest, Instant], epoch: int, horizon: int, passed: int
) -> None:
    relation, manifest, instant = taken
    then = epoch * 2**32 + horizon
    now = replace(instant, next_transaction=then + passed)
    assert plan(relation, at(manifest, then), now).read == "horizon"
    far = replace(instant, next_transaction=then + 2**31 - 2**24)
    assert plan(relation, at(manifest, then), far) == ReadPlan(
        "whole",
        "more transactions have passed since the last batch than row versions can tell apart",
        renews=True,
        unusual=True,
    )


def _moved(**identity: Any) -> Callable[[Instant], Instant]:
    return lambda instant: replace(instant, source=instant.source.model_copy(update=identity))


@pytest.mark.fault("F6")
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_moved(system_identifier="1"), "the source is another server or database than the last batch's"),
        (
            _moved(database="other", database_oid=1),
            "the source is another server or database than the last batch's",
        ),
        (_moved(timeline=7), "the server was restored or failed over: timeline 7 instead of 1"),
        (_moved(system_identifier=None), "the server does not say which one it is"),
        (
            lambda i: replace(i, next_transaction=i.next_transaction - 1),
            "the server stands behind the last batch",
        ),
    ],
)
def test_another_server_or_history_means_a_whole_read(
    taken: tuple[Relation, Manifest, Instant], change: Callable[[Instant], Instant], told: str
) -> None:
    relation, manifest, instant = taken
    made = plan(relation, manifest, change(instant))
    assert (made.read, made.renews) == ("whole", True)
    assert made.why.startswith(told)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"oid": 1}, "the table was dropped and made again"),
        ({"partitions": (1, 2)}, "its partitions changed"),
        ({"columns": (SourceColumn(name="id", type="integer", nullable=False),)}, "its columns changed: a dropped"),
        ({"layout": ""}, "a column was replaced by one of the same name"),
        ({"filtered": True}, "row security decides"),
        ({"kind": "v"}, "a view has no row versions"),
        ({"kind": "f"}, "a foreign table has no row versions"),
        ({"access_method": "columnar"}, "its storage has no row versions"),
    ],
)  # fmt: skip
def test_another_table_means_a_whole_read(
    taken: tuple[Relation, Manifest, Instant], change: dict[str, Any], told: str
) -> None:
    relation, manifest, instant = taken
    made = plan(replace(relation, **change), manifest, instant)
    assert made.read == "whole"
    assert made.why.startswith(told)


def test_nothing_held_an_older_log_position_and_a_wish_mean_a_whole_read(
    taken: tuple[Relation, Manifest, Instant],
) -> None:
    relation, manifest, instant = taken
    assert plan(relation, None, instant).why == "the lake holds nothing of it yet"
    assert plan(relation, manifest.model_copy(update={"tables": {}}), instant).read == "whole"
    assert plan(relation, manifest, instant, whole=True).why == "asked for"
    behind = manifest.model_copy(
        update={"sources": {MAIN: manifest.main.model_copy(update={"lsn": "FF/FF000000"})}}
    )
    assert plan(relation, behind, instant).why.startswith("the server stands behind")


def test_a_database_that_was_renamed_is_the_same(taken: tuple[Relation, Manifest, Instant]) -> None:
    relation, manifest, instant = taken
    assert plan(relation, manifest, _moved(database="other")(instant)).read == "horizon"


def test_a_server_that_was_started_since_is_the_same_only_if_somebody_says_so(
    taken: tuple[Relation, Manifest, Instant],
) -> None:
    relation, manifest, instant = taken
    later = _moved(started=instant.server_time)(instant)
    assert plan(relation, manifest, later).why.startswith("the server was started since")
    assert plan(relation, manifest, later, one_history=True).read == "horizon"
    elsewhere = _moved(started=instant.server_time, timeline=7)(instant)
    assert plan(relation, manifest, elsewhere, one_history=True).read == "whole"


def test_a_table_that_a_batch_left_out_is_compared_with_the_server_it_was_read_from(
    database: Callable[..., str], tmp_path: Path
) -> None:
    first = Lake(database(), tmp_path)
    execute(first.url, *_TWENTY, "CREATE TABLE u (id int PRIMARY KEY)")
    second = replace(first, url=database(first.url.rpartition("/")[2]))
    execute(first.url, "UPDATE t SET a = 'only there' WHERE id = 5")
    u = replace(T, name="u")
    first.sync(T, u)
    execute(second.url, "INSERT INTO u VALUES (1)")
    with pytest.raises(OtherSource, match=r"leads to the database .*: another database; .* etl run --adopt"):
        second.sync(u)
    second.sync(u, adopt=True)
    manifest = second.sync(T, u, adopt=True)
    assert manifest is not None
    assert manifest.tables["t"].why.startswith("the source is another server or database")
    assert second.is_exact(T, u)


def _set(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for parent in parents:
            manifest = manifest[parent]
        manifest[last] = value

    return change


@pytest.mark.fault("F6")
@pytest.mark.many
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_set("sources.source.next_transaction", 2**40), "the server stands behind the last batch"),
        (_set("sources.source.lsn", "FFFF/0"), "the server stands behind the last batch"),
        (_set("sources.source.identity.system_identifier", "1"), "the source is another server or database"),
        (_set("sources.source.identity.timeline", 99), "the server was restored or failed over"),
        (_set("tables.t.relation", 1), "the table was dropped and made again"),
        (_set("tables.t.horizon", -(2**31)), "more transactions have passed"),
    ],
)
def test_a_whole_read_is_exact_and_renews_so_that_the_next_is_cheap_again(
    lake: Lake, change: Callable[[dict[str, Any]], None], told: str
) -> None:
    execute(lake.url, *_TWENTY)
    lake.sync(T)
    path = lake.path / "raw/batches/000001.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    execute(
        lake.url, "UPDATE t SET a = 'y' WHERE id = 1; DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (77)"
    )
    second = lake.sync(T, adopt=True)
    assert second is not None
    assert second.tables["t"].read == "whole"
    assert second.tables["t"].why.startswith(told)
    assert lake.is_exact(T)
    execute(lake.url, "UPDATE t SET a = 'z' WHERE id = 1; DELETE FROM t WHERE id = 3")
    third = lake.sync(T)
    assert third is not None
    assert third.tables["t"].read == "horizon"
    assert lake.is_exact(T)


def _as_owner(data: Path, *command: str) -> None:
    owner = data.stat().st_uid
    user = {"user": owner, "group": data.stat().st_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    subprocess.run(command, check=True, capture_output=True, cwd="/", **user)  # type: ignore[call-overload]


_SERVERS = count(1)


@pytest.fixture
def about_to_wrap(postgres_folder: Path) -> Path:
    """The folder of a server whose next transaction ids are the last before 2^32."""
    binaries = find_binaries()
    if not (binaries / "pg_resetwal").exists():
        pytest.skip("there is no pg_resetwal to move the counter of transactions with")
    folder = postgres_folder / f"wrapping-{next(_SERVERS)}"  # one that has jumped can't be prepared again
    with serve(folder, settings={"fsync": "off"}) as url:
        # What is not frozen would lie in the future after the jump.
        execute(url, "ALTER DATABASE template0 ALLOW_CONNECTIONS true")
        for name in ("template0", "template1", "postgres"):
            execute(url.rsplit("/", 1)[0] + "/" + name, "VACUUM (FREEZE)")
    data = folder / "data"
    last = 2**32 - 150
    # What pg_resetwal leaves to its user: the page of the commit log that the new transaction ids live on.
    segment = data / "pg_xact" / f"{last // (8192 * 4 * 32):04X}"
    segment.write_bytes(bytes(8192 * 32))
    os.chown(segment, data.stat().st_uid, data.stat().st_gid)
    _as_owner(
        data, str(binaries / "pg_resetwal"), "-f", "-u", str(last - 2**30), "-x", str(last), "-D", str(data)
    )
    return folder


@pytest.mark.fault("F7")
def test_transaction_ids_that_wrap_around_lose_no_row(about_to_wrap: Path, tmp_path: Path) -> None:
    with serve(about_to_wrap, settings={"fsync": "off", "autovacuum": "off"}) as url:
        lake = Lake(url, tmp_path)
        execute(url, *_TWENTY)
        lake.sync(T)
        assert lake.is_exact(T)
        before = lake.latest().next_transaction
        assert before < 2**32
        with closing(connect(url)) as late, late.cursor() as open_:
            open_.execute("BEGIN; INSERT INTO t VALUES (500, 'before the wrap, committed after it')")
            for n in range(300):
                execute(url, f"UPDATE t SET a = '{n}' WHERE id = {1 + n % 20}")
                if n % 60 == 30:
                    assert lake.sync(T)
                    assert lake.latest().tables["t"].read == "horizon"
                    assert lake.is_exact(T)
            open_.execute("COMMIT")
        execute(url, "DELETE FROM t WHERE id = 7")
        assert lake.sync(T)
        assert lake.latest().tables["t"].read == "horizon"
        assert lake.is_exact(T)
        assert lake.latest().next_transaction > 2**32
        for statement in (
            "INSERT INTO t VALUES (501, 'x')",
            "VACUUM (FREEZE) t",
            "UPDATE t SET a = 'last' WHERE id = 3",
        ):
            execute(url, statement)
            lake.sync(T)
            assert lake.latest().tables["t"].read == "horizon"
            assert lake.is_exact(T)
