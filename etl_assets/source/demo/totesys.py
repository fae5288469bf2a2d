"""The demo's source: the embedded PostgreSQL with a generated ToteSys in it."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg2

from etl_assets.source.demo.generator import generate
from etl_assets.source.demo.postgres import serve

_GENERATING = 0x0E71_0001  # an advisory lock, so that of two first users one generates and the other waits


@contextmanager
def serve_totesys(folder: Path) -> Iterator[str]:
    """The URL of a ToteSys that is kept in `folder`, generated on first use; served while the block runs."""
    with serve(folder) as url:
        with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", (_GENERATING,))
            cursor.execute("SELECT to_regclass('public.sales_order') IS NULL")
            (empty,) = cursor.fetchone() or (True,)
            connection.rollback()  # generation sees what others committed, and holds no snapshot of ours
            if empty:
                generate(url)
        yield url
