"""A damaged history of Dagster's, in SQLite: it is derived, so it is set aside and another one begun.

Only what SQLite itself says of a file's content counts as damage: not that somebody holds it, that the disk is full, or
that a newer version made it.
"""

import fcntl
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

_CONTENT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
# Each of these says something of all runs, and of what the others say.
_OF_ALL_RUNS = {"runs.db", "index.db"}
_SERVED = "interface.lock"


def sqlite_error(error: BaseException) -> sqlite3.Error | None:
    """The error of SQLite's behind another; None if there is none."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, sqlite3.Error):
            return link
        link = link.__cause__ or link.__context__
    return None


def set_aside(home: Path) -> str | None:
    """Rename what is damaged of the history in `home`; what was done, in one line. None if nothing is. Of the events of one
    run only these are set aside."""
    history = home / "history"
    damaged = [path for path in sorted(history.rglob("*.db")) if not _is_sound(path)]
    whole = [history] if any(path.name in _OF_ALL_RUNS for path in damaged) else damaged
    if any(not _is_sound(path) for path in (home / "schedules").glob("*.db")):
        whole.append(home / "schedules")
    if not whole:
        return None
    if _is_served(home):
        return None
    end = f".damaged-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    for path in whole:
        for part in (path, *(path.with_name(path.name + log) for log in ("-wal", "-shm", "-journal"))):
            if part.exists():
                part.rename(part.with_name(part.name + end))
    told = ", ".join(str(path.with_name(path.name + end)) for path in whole)
    lost = {
        history: "the list of runs",
        home / "schedules": "which sensors and schedules are switched on",
    }
    return (
        f"Dagster's history was damaged: it was set aside as {told}, and another one begun; with it went "
        f"{' and '.join(lost.get(path, 'the events of a run') for path in whole)}, nothing of lake, warehouse and source"
    )


def _is_served(home: Path) -> bool:
    """Whether an interface has the history open: it would go on with the files that were set aside."""
    try:
        with (home / _SERVED).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _is_sound(path: Path) -> bool:
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)) as connection:
            found = connection.execute("PRAGMA integrity_check(1)").fetchone()
            return bool(found == ("ok",))
    except sqlite3.Error as error:
        return getattr(error, "sqlite_errorcode", 0) & 0xFF not in _CONTENT
