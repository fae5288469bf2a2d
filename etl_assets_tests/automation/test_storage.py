"""Dagster's history in PostgreSQL: kept, forgotten and migrated with the configuration that deployments use."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import dagster as dg
import dagster_postgres.run_storage.run_storage
import psycopg2
import pytest
import yaml
from dagster._core.storage.runs.sql_run_storage import SqlRunStorage
from dagster._core.storage.sql import run_alembic_downgrade
from dagster_postgres.utils import pg_alembic_config

from etl_assets.automation.history_size import history_bytes
from etl_assets.automation.retention import forget_beyond, forget_run, forgettable
from etl_assets_tests.automation.test_retention import DEFS

ROOT = Path(__file__).parents[2]
OLDER = "1aca709bba64"
"""The schema of Dagster 1.8: without the tables and columns of backfill tags and of the pools' default limit."""


@pytest.fixture
def url(database: Callable[..., str]) -> str:
    return database()


@pytest.fixture
def home(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Dagster's home as a deployment has it."""
    (tmp_path / "dagster.yaml").write_text((ROOT / "deploy/dagster-postgres.yaml").read_text())
    parts = urlsplit(url)
    variables = {
        "DAGSTER_HOME": str(tmp_path),
        "DAGSTER_PG_HOST": parts.hostname or "",
        "DAGSTER_PG_PORT": str(parts.port),
        "DAGSTER_PG_USER": parts.username or "",
        "DAGSTER_PG_PASSWORD": parts.password or "not asked for here",
        "DAGSTER_PG_DB": parts.path.removeprefix("/"),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return tmp_path


@contextmanager
def opened(home: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance


def run(instance: dg.DagsterInstance) -> str:
    done = DEFS.resolve_job_def("frequent").execute_in_process(instance=instance, tags={"mine": "yes"})
    assert done.success
    return done.run_id


def count(url: str, table: str, run_id: str) -> int:
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {table} WHERE run_id = %s", [run_id])
        return int(cursor.fetchall()[0][0])


def test_the_history_is_in_postgres_and_survives_the_process(url: str, home: Path) -> None:
    with opened(home) as instance:
        run_id = run(instance)
    assert count(url, "runs", run_id) == 1
    with opened(home) as instance:
        kept = instance.get_run_by_id(run_id)
        assert kept is not None
        assert kept.is_success
        latest = instance.get_latest_materialization_event(dg.AssetKey("often"))
        assert latest is not None
        assert latest.run_id == run_id
    assert list(home.rglob("*.db")) == [], "something went to SQLite"


def test_old_runs_go_with_all_that_hangs_on_them(
    url: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("etl_assets.automation.retention.NEWEST_KEPT", 1)
    with opened(home) as instance:
        goes, stays = run(instance), run(instance)
        later = datetime.now(UTC) + timedelta(seconds=5)
        assert forgettable(instance, datetime.now(UTC) - timedelta(days=1)) == []
        assert forgettable(instance, later) == [goes]
        tables = ("runs", "run_tags", "event_logs", "asset_check_executions")
        before = [count(url, table, stays) for table in tables]
        assert all(count(url, table, goes) for table in tables)
        forget_run(instance, goes)
        assert not any(count(url, table, goes) for table in tables)
        assert [count(url, table, stays) for table in tables] == before
        assert forgettable(instance, later) == []
        run(instance)


def test_the_oldest_go_while_rows_need_more_room_than_they_may(
    url: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files of PostgreSQL don't become smaller, so they alone don't say what is too much."""
    monkeypatch.setattr("etl_assets.automation.retention.NEWEST_KEPT", 1)
    with opened(home) as instance:
        empty = history_bytes(instance, 0)
        runs = [run(instance) for _ in range(8)]
        with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT pg_database_size(current_database())")
            everything = int(cursor.fetchall()[0][0])
        by_files, by_rows = history_bytes(instance, everything), history_bytes(instance, 0)
        assert by_files / 3 < by_rows <= by_files < everything
        # Half of what the runs brought may stay: half of them, then, though the files are as large as they were.
        gone, size = forget_beyond(instance, limit := (empty + by_rows) // 2)
        assert size <= limit < history_bytes(instance, everything)
        assert 2 <= gone <= 6
        assert [run_id for run_id in runs if instance.get_run_by_id(run_id)] == runs[gone:]
        assert forget_beyond(instance, limit)[0] == 0


@pytest.mark.fault("F41")
def test_an_older_schema_is_migrated_by_the_documented_command(url: str, home: Path) -> None:
    with opened(home) as instance:
        before = run(instance)
        newest = instance.schema_str()
        storage = instance.run_storage
        assert isinstance(storage, SqlRunStorage)
        # One schema for all three storages. Dagster's own scripts take back what came since.
        with storage.connect() as old:
            config = pg_alembic_config(dagster_postgres.run_storage.run_storage.__file__)
            run_alembic_downgrade(config, old, OLDER)
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('backfill_tags')")
        assert cursor.fetchall() == [(None,)]
    with opened(home) as instance:
        assert instance.schema_str() != newest
    done = subprocess.run(
        [Path(sys.executable).with_name("dagster"), "instance", "migrate"],
        capture_output=True, text=True, env=os.environ, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with opened(home) as instance:
        assert instance.schema_str() == newest
        kept = instance.get_run_by_id(before)
        assert kept is not None
        assert kept.is_success
        assert len(instance.all_logs(before)) > 5
        run(instance)


def test_but_for_the_storage_deployments_are_configured_as_the_project_is() -> None:
    project = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    production = yaml.safe_load((ROOT / "deploy/dagster-postgres.yaml").read_text())
    assert production.pop("storage").keys() == {"postgres"}
    local = {"storage", "compute_logs", "local_artifact_storage"}
    assert {name: value for name, value in project.items() if name not in local} == production
