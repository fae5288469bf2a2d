"""Who reads what is derived for long notes in the lake what that is: runs go on meanwhile, and would remove it, as newer
takes its place. What a verification is looking at stays until it ends; a note that a killed one left counts for a day.
"""

import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from etl_assets.lake.files import Files, LakeError

_FOLDER = "current/verifying"
_LONGEST = timedelta(days=1)


@dataclass(frozen=True)
class Held:
    """The batch that somebody is at, and the path of the star's manifest that is read with it (None: there is none)."""

    batch: int
    star: str | None


@contextmanager
def holding(files: Files, newest: Callable[[], Held]) -> Iterator[Held]:
    """Keep what is newest now for as long as the block lasts. Who may only read the lake keeps nothing: what goes away then
    is missed, and named."""
    path = f"{_FOLDER}/{secrets.token_hex(6)}.json"
    held = newest()
    try:
        while True:
            noted = _noted(files, path, held)
            # What became newest before the note was there may have made somebody remove what is held.
            if not noted or (now := newest()) == held:
                break
            held = now
        yield held
    finally:
        with suppress(LakeError):
            files.remove(path)


def _noted(files: Files, path: str, held: Held) -> bool:
    until = datetime.now(UTC) + _LONGEST
    content = {"batch": held.batch, "star": held.star, "until": until.isoformat()}
    try:
        with files.writing(path) as stream:
            stream.write(json.dumps(content).encode())
    except LakeError:
        return False
    return True


def all_held(files: Files) -> list[Held]:
    """What others are reading. Notes that count no longer, or can't be read, are removed."""
    found = []
    for name in files.names(_FOLDER):
        path = f"{_FOLDER}/{name}"
        try:
            told = json.loads(files.read(path))
            held, until = Held(told["batch"], told["star"]), datetime.fromisoformat(told["until"])
        except LakeError:
            continue  # its reader is done
        except (ValueError, KeyError, TypeError):
            until = datetime.min.replace(tzinfo=UTC)
        if until > datetime.now(UTC):
            found.append(held)
        else:
            files.remove(path)
    return found
