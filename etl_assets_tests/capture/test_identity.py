"""Copies of a source that look like it: what a copy shares with the one before can't vouch for it, so it is read whole. What is
another database for sure, or an older state, is refused until somebody says that it is meant."""

import hashlib
import json
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from etl_assets.lake.batches import Batches
from etl_assets.lake.manifest import SourceIdentity
from etl_assets.raw.landing import take_batch
from etl_assets.raw.recent import Share
from etl_assets.raw.request import CaptureRequest, Notes
from etl_assets.source.identity import LaggingReplica, OtherSource
from etl_assets.source.table import Table
from etl_assets.stand_ins.postgres import serve
from etl_assets_tests.capture.comparing import Lake, connect, execute
from etl_assets_tests.capture.servers import SETTINGS, copy_disk, replicated, wait_until

T = Table("t", "", {"id": "int", "v": "text?"})


def begun(url: str) -> None:
    execute(
        url,
        "CREATE TABLE t (id int PRIMARY KEY, v text)",
        "INSERT INTO t SELECT n, 'v' || n FROM generate_series(1, 50) n",
    )


def read(lake: Lake) -> str:
    """How a sync read the table, and why."""
    taken = lake.sync(T)
    assert taken
    state = taken.tables["t"]
    return f"{state.read}: {state.why}"


def test_a_copy_made_from_a_template_is_read_whole(database: Callable[..., str], tmp_path: Path) -> None:
    """Server, database name, relation, ids and log position: all are as before, or ahead."""
    golden = database()
    begun(golden)
    admin, _, name = golden.rpartition("/")
    execute(f"{admin}/postgres", f"CREATE DATABASE {name}_shop TEMPLATE {name}")
    lake = Lake(f"{admin}/{name}_shop", tmp_path)
    try:
        lake.sync(T)
        execute(golden, "UPDATE t SET v = 'changed in the template' WHERE id IN (3, 4, 5)")
        execute(lake.url, "UPDATE t SET v = 'lost with the copy' WHERE id = 7")
        assert read(lake).startswith("horizon: ")
        execute(
            f"{admin}/postgres",
            f"DROP DATABASE {name}_shop WITH (FORCE)",
            f"CREATE DATABASE {name}_shop TEMPLATE {name}",
        )
        assert read(lake).startswith("whole: the database was dropped and made again, or is a copy")
        assert lake.is_exact(T)
        execute(lake.url, "UPDATE t SET v = 'later' WHERE id = 1")
        assert read(lake).startswith("horizon: ")
        assert lake.is_exact(T)
    finally:
        execute(f"{admin}/postgres", f"DROP DATABASE IF EXISTS {name}_shop WITH (FORCE)")


@pytest.mark.fault("F6")
def test_a_server_that_was_set_back_to_a_copy_of_its_disk_is_read_whole(
    postgres_folder: Path, tmp_path: Path
) -> None:
    """Ids and log position have caught up: nothing but the start of the process tells the two apart."""
    folder, copy = postgres_folder / "disk", postgres_folder / "copy of the disk"
    with serve(folder) as url:
        begun(url)
        Lake(url, tmp_path).sync(T)
    copy_disk(folder, copy)
    with serve(folder) as url:
        lake = Lake(url, tmp_path)
        execute(
            url, "UPDATE t SET v = 'set back' WHERE id IN (3, 4)", "INSERT INTO t VALUES (99, 'set back')"
        )
        assert read(lake).startswith("whole: the server was started since the last batch")
        execute(url, "UPDATE t SET v = 'set back too' WHERE id = 5")
        assert read(lake).startswith("horizon: ")
    shutil.rmtree(folder)
    copy.rename(folder)
    with serve(folder) as url:
        lake = Lake(url, tmp_path)
        for _ in range(30):
            execute(url, *["UPDATE t SET v = v WHERE id = 1"] * 10)
        execute(url, "UPDATE t SET v = 'new' WHERE id = 2")
        assert read(lake).startswith("whole: ")
        assert lake.is_exact(T)


@pytest.mark.fault("F6")
def test_two_clones_that_take_turns_are_read_whole_at_every_turn(
    postgres_folder: Path, tmp_path: Path
) -> None:
    """All that a clone says of itself it has from its template, and its ids and its log are ahead: nothing but the start of
    the process tells one from the other. One that was refreshed meanwhile stands behind what the lake has seen of the other."""
    template, folders = postgres_folder / "template", [postgres_folder / f"clone {n}" for n in (1, 2)]
    with serve(template, settings=SETTINGS) as url:
        begun(url)
    for folder in folders:
        copy_disk(template, folder)
    with serve(folders[0], settings=SETTINGS) as one, serve(folders[1], settings=SETTINGS) as other:
        lake = Lake(one, tmp_path)
        identities = set()
        for turn, url in enumerate((one, other, one, other)):
            execute(url, f"UPDATE t SET v = 'turn {turn}' WHERE id IN ({turn % 2 + 1}, 9)")
            clone = replace(lake, url=url)
            while turn and not _is_ahead(clone):
                execute(url, "UPDATE t SET v = v || '.' WHERE id = 7")
            why = (
                "the server was started since the last batch" if turn else "the lake holds nothing of it yet"
            )
            assert read(clone).startswith(f"whole: {why}")
            assert clone.is_exact(T)
            identities.add(but_for_the_start(lake.latest().source))
        assert len(identities) == 1
        execute(other, "UPDATE t SET v = 'the same clone once more' WHERE id = 3")
        assert read(clone).startswith("horizon: ")
    shutil.rmtree(folders[0])
    copy_disk(template, folders[0])
    with serve(folders[0], settings=SETTINGS) as url, pytest.raises(OtherSource, match="stands behind"):
        replace(lake, url=url).sync(T)


def but_for_the_start(source: SourceIdentity) -> SourceIdentity:
    """An identity but for the start of the process."""
    return source.model_copy(update={"started": None})


def test_a_database_that_was_renamed_goes_on(database: Callable[..., str], tmp_path: Path) -> None:
    url = database()
    begun(url)
    admin, _, name = url.rpartition("/")
    Lake(url, tmp_path).sync(T)
    execute(f"{admin}/postgres", f"ALTER DATABASE {name} RENAME TO {name}_live")
    try:
        lake = Lake(f"{url}_live", tmp_path)
        execute(lake.url, "UPDATE t SET v = 'later' WHERE id = 1")
        assert read(lake).startswith("horizon: ")
        assert lake.is_exact(T)
    finally:
        execute(f"{admin}/postgres", f"ALTER DATABASE {name}_live RENAME TO {name}")


@pytest.mark.fault("F6")
def test_another_database_is_refused_until_it_is_meant(database: Callable[..., str], tmp_path: Path) -> None:
    lake = Lake(database(), tmp_path)
    begun(lake.url)
    lake.sync(T)
    before = lake.everything()
    other = replace(lake, url=database())
    begun(other.url)
    execute(other.url, "UPDATE t SET v = 'of another' WHERE id = 9")
    names = [url.rpartition("/")[2] for url in (lake.url, other.url)]
    with pytest.raises(
        OtherSource, match=f"from the database {names[0]} .* leads to the database {names[1]} "
    ) as told:
        other.sync(T)
    assert "etl run --adopt" in str(told.value)
    assert lake.everything() == before
    taken = other.sync(T, adopt=True)
    assert taken
    assert taken.tables["t"].why == "the source is another server or database than the last batch's"
    assert taken.changed["t"].changed == 1
    assert other.is_exact(T)
    with pytest.raises(OtherSource):
        lake.sync(T)


@pytest.mark.fault("F6")
def test_a_backup_is_refused_and_a_promoted_copy_read_whole(postgres_folder: Path, tmp_path: Path) -> None:
    """The backup lacks what the lake has seen. Promoted and ahead of it, it is another history of the same server."""
    folder, backup = postgres_folder / "live", postgres_folder / "backup"
    with serve(folder, settings=SETTINGS) as url:
        begun(url)
    copy_disk(folder, backup)
    with serve(folder, settings=SETTINGS) as url:
        lake = Lake(url, tmp_path)
        execute(url, *[f"UPDATE t SET v = 'live {n}' WHERE id = {n % 50}" for n in range(200)])
        lake.sync(T)
    with serve(backup, settings=SETTINGS) as url:
        restored = replace(lake, url=url)
        with pytest.raises(
            OtherSource, match=r"stands behind what the lake holds of it: its log stands at .* --adopt"
        ):
            restored.sync(T)
    (backup / "data/recovery.signal").touch()
    ended = {**SETTINGS, "restore_command": "false", "recovery_target_action": "promote"}
    with serve(backup, settings=ended) as url:
        promoted = replace(lake, url=url)
        wait_until(url, "NOT pg_is_in_recovery()")
        with pytest.raises(OtherSource, match="stands behind"):
            promoted.sync(T)
        while not _is_ahead(promoted):
            execute(url, "UPDATE t SET v = v || '.'")
        execute(url, "UPDATE t SET v = 'promoted' WHERE id = 3")
        assert read(promoted).startswith(
            "whole: the server was restored or failed over: timeline 2 instead of 1"
        )
        assert promoted.is_exact(T)
    with serve(folder, settings=SETTINGS) as url:
        with pytest.raises(OtherSource, match="it is on timeline 1, batch 000002 was read on 2"):
            replace(lake, url=url).sync(T)
        assert lake.latest().batch == 2


def _is_ahead(lake: Lake) -> bool:
    latest = lake.latest()
    with closing(connect(lake.url)) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_current_wal_flush_lsn() > %s::pg_lsn AND txid_current() > %s",
            (latest.lsn, latest.next_transaction),
        )
        return cursor.fetchall() == [(True,)]


@pytest.mark.fault("F6")
def test_a_replica_that_lags_is_refused_until_it_has_caught_up(postgres_folder: Path, tmp_path: Path) -> None:
    with replicated(postgres_folder) as (primary, replica):
        begun(primary)
        wait_until(replica, "to_regclass('t') IS NOT NULL")
        execute(replica, "SELECT pg_wal_replay_pause()")
        lake = Lake(primary, tmp_path)
        execute(primary, "UPDATE t SET v = 'not there yet' WHERE id = 4")
        lake.sync(T)
        lagging = replace(lake, url=replica)
        with pytest.raises(
            LaggingReplica, match=r"lags behind the lake: its log stands at .* when it has caught up"
        ):
            lagging.sync(T)
        execute(replica, "SELECT pg_wal_replay_resume()")
        wait_until(replica, "(SELECT v FROM t WHERE id = 4) = 'not there yet'")
        wait_until(replica, f"pg_last_wal_replay_lsn() >= '{lake.latest().lsn}'::pg_lsn")
        again = lagging.sync(T, one_history=True)
        assert again is None
        execute(primary, "UPDATE t SET v = 'later' WHERE id = 5")
        wait_until(replica, "(SELECT v FROM t WHERE id = 5) = 'later'")
        taken = lagging.sync(T, one_history=True)
        assert taken
        assert taken.tables["t"].read == "horizon"
        assert lagging.is_exact(T)
        assert lake.sync(T)  # here nobody vouches for what the other server said
        assert lake.latest().tables["t"].why.startswith("the server was started since the last batch")


@pytest.mark.fault("F6")
def test_a_replica_that_was_promoted_a_moment_ago_is_another_history(
    postgres_folder: Path, tmp_path: Path
) -> None:
    """Its last checkpoint is of the time before for as long as the first one after it takes. What it never got is missing, and
    its ids and its log soon are ahead."""
    slow = {"checkpoint_timeout": "1d", "checkpoint_completion_target": "0.9"}
    with replicated(postgres_folder, **slow) as (primary, replica):
        begun(primary)
        execute(primary, "CREATE TABLE ballast AS SELECT n FROM generate_series(1, 100000) n")
        wait_until(replica, f"pg_last_wal_replay_lsn() >= '{at(primary)}'::pg_lsn")
        access = postgres_folder / "primary/data/pg_hba.conf"
        access.write_text(f"host replication all all reject\n{access.read_text()}")
        execute(primary, "SELECT pg_reload_conf()")
        wait_until(primary, "(SELECT count(pg_terminate_backend(pid)) FROM pg_stat_replication) = 0")
        lake = Lake(primary, tmp_path)
        execute(primary, "UPDATE t SET v = 'lost' WHERE id = 4")
        lake.sync(T)
        execute(replica, "SELECT pg_promote()")
        promoted = replace(lake, url=replica)
        execute(replica, "UPDATE t SET v = 'kept' WHERE id = 5")
        while not _is_ahead(promoted):
            execute(replica, "SELECT pg_current_xact_id()")
        assert timeline_of_checkpoint(replica) == 1
        taken = promoted.sync(T, one_history=True)
        assert taken
        assert taken.tables["t"].why.startswith("the server was restored or failed over: timeline 2 instead")
        assert promoted.is_exact(T)


def at(url: str) -> str:
    with closing(connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_current_wal_flush_lsn()::text")
        return str(cursor.fetchall()[0][0])


def timeline_of_checkpoint(url: str) -> int:
    with closing(connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT timeline_id FROM pg_control_checkpoint()")
        return int(cursor.fetchall()[0][0])


def test_a_sweep_finds_what_no_row_version_tells(database: Callable[..., str], tmp_path: Path) -> None:
    """Rows of a lake that are not the source's, in each part of the table in turn: found in that part, and mended."""
    lake = Lake(database(), tmp_path)
    execute(
        lake.url,
        "CREATE TABLE t (id int PRIMARY KEY, v text)",
        "INSERT INTO t SELECT n, repeat('v', 500) FROM generate_series(1, 600) n",
    )
    lake.sync(T)
    for part, key in enumerate((5, 300, 599)):
        assert all(lake.sync(T, share=Share(n, 3)) is None for n in range(3))
        falsify(lake, key)
        assert all(lake.sync(T, share=Share(n, 3)) is None for n in range(3) if n != part)
        notes = Notes()
        request = CaptureRequest(lake.url, [T], "a sweep", share=Share(part, 3))
        taken = take_batch(request, Batches(lake.files), lake.folder, lambda table, size: None, notes)
        assert taken
        assert notes.strays == {"t": 1}
        assert taken.tables["t"].unusual
        assert taken.changed["t"].changed == 1
        assert lake.is_exact(T)


def falsify(lake: Lake, key: int) -> None:
    """Let the first batch hold another value of a row than the source ever had."""
    path = lake.path / "raw/batches/000001.json"
    manifest = json.loads(path.read_text())
    rows = manifest["tables"]["t"]["changes"]["rows"]
    landed = lake.path / rows["path"]
    lines = landed.read_text().splitlines()
    lines[key] = f"{key},other"
    landed.write_text("\n".join([*lines, ""]))
    content = landed.read_bytes()
    rows |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    path.write_text(json.dumps(manifest))
