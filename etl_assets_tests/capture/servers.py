"""PostgreSQL servers of a test's own: copies of their disks, and standbys."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg2
from psycopg2 import sql

from etl_assets.stand_ins.postgres import serve
from etl_assets_tests.capture.comparing import Lake, execute

SETTINGS = {"fsync": "off", "wal_level": "replica", "max_wal_senders": "4", "autovacuum": "off"}


def copy_disk(folder: Path, copy: Path) -> None:
    """Copy what a server that is stopped keeps, with its owner."""
    subprocess.run(["cp", "-a", folder, copy], check=True)


@contextmanager
def replicated(folder: Path, **settings: str) -> Iterator[tuple[str, str]]:
    """The URLs of a primary and of its standby, which has some settings of its own."""
    primary, standby = folder / "primary", folder / "standby"
    with serve(primary, settings=SETTINGS):
        pass
    copy_disk(primary, standby)
    (standby / "data/standby.signal").touch()
    with serve(primary, settings=SETTINGS) as url:
        follows = {"primary_conninfo": url, "wal_receiver_status_interval": "1"}
        with serve(standby, settings={**SETTINGS, **follows, **settings}) as replica:
            yield url, replica
    shutil.rmtree(primary)
    shutil.rmtree(standby)


def wait_until(url: str, condition: str) -> None:
    """Wait until a query of a server gives true."""
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        for _ in range(400):
            cursor.execute(f"SELECT {condition}")
            if cursor.fetchall() == [(True,)]:
                return
            time.sleep(0.05)
    raise AssertionError(f"never: {condition}")


def as_role(url: str, name: str) -> str:
    """The URL with which a role connects to the same database; it gets the password of the URL's user."""
    parts = urlsplit(url)
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(
            sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(name), sql.Literal(parts.password))
        )
        connection.commit()
    return url.replace(f"//{parts.username}:", f"//{name}:")


@contextmanager
def role(lake: Lake, *statements: str, options: str = "") -> Iterator[Lake]:
    """The lake as a role of its own reads it, which may select from everything in public."""
    name = f"reader_{os.getpid()}"
    execute(
        lake.url,
        f"CREATE ROLE {name} LOGIN {options}",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}",
    )
    try:
        for statement in statements:
            execute(lake.url, statement.format(role=name))
        yield Lake(as_role(lake.url, name), lake.folder)
    finally:
        execute(lake.url, f"DROP OWNED BY {name}; DROP ROLE {name}")
