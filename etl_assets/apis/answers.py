"""What an answer says: its JSON, its numbers as they are written, the records in it, the page that it leads to.

Not here: how it was asked for (`client`), and what becomes of a record (`records`).
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from enum import Enum
from numbers import Integral
from typing import TYPE_CHECKING, Any
from uuid import UUID

from etl_assets.apis.declaration import Api, Records
from etl_assets.apis.errors import ApiError
from etl_assets.apis.paging import dig, in_words

if TYPE_CHECKING:
    import httpx2

# RFC 8288: an address in <>, and behind it parameters, of which those in quotes may have any sign. Some leave out the <>.
_LINK = re.compile(
    r'(?:<([^>]*)>|([^\s<>;,"]+))((?:\s*;\s*[^\s=;,"]*(?:\s*=\s*(?:"(?:[^"\\]|\\.)*"|[^\s;,"]*))?)*)'
)
_PARAMETER = re.compile(r';\s*([^\s=;,"]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;,"]*))')


class Number(str):
    """A number of a JSON text that is no whole one, as it is written there."""

    __slots__ = ()


class Written(Decimal):
    """The same to calculate with, for functions that take the records out of an answer; as text it is as it was written."""

    __slots__ = ("_text",)

    def __new__(cls, text: str) -> "Written":
        """A number that is written like this."""
        number = super().__new__(cls, text)
        number._text = text
        return number

    _text: str

    def __str__(self) -> str:
        return self._text


@dataclass(frozen=True)
class Answer:
    """An answer. `body`: its text in UTF-8, unpacked, empty if it has none (204); `value`: what it says. `url`: where of the API's
    server it came from, or was redirected from; `headers`: all that it has, however their names are written. `calls`: when each
    attempt was made (seconds since 1970)."""

    body: bytes
    value: Any
    url: "httpx2.URL"
    headers: Mapping[str, str]
    calls: tuple[float, ...]

    @property
    def next_link(self) -> str | None:
        """The address of the next page in its header `Link`, as it stands there."""
        for found in _LINK.finditer(self.headers.get("link", "")):
            # The first of a name counts; names, and what a link is, are written in capitals or not.
            told = {
                name.lower(): quoted or plain for name, quoted, plain in _PARAMETER.findall(found[3])[::-1]
            }
            if "next" in told.get("rel", "").lower().split():
                return found[1] if found[1] is not None else found[2]
        return None


def parsed(body: bytes, records: Records = "") -> Any:
    """What the JSON text of an answer says; numbers that are no whole ones as they are written, and to calculate with if a
    function takes the records out of it. NaN and infinity, which JSON does not have, are floats, and fit no type. Raises
    `ValueError`, or `RecursionError` for one that is nested too deeply."""
    return json.loads(body, parse_float=Written if callable(records) else Number, parse_constant=float)


def records_in(api: Api, body: bytes) -> list[Any]:
    """The records of a page that has landed."""
    return records_of(api.name, parsed(body, api.records), api.records) if body else []


def records_of(api: str, value: Any, where: Records) -> list[Any]:
    """The records of an answer; `where`: a path, or a function. Raises `ApiError` if they are not there."""
    if callable(where):
        try:
            return [as_json(record) for record in where(value)]
        except Exception as error:  # noqa: BLE001  whatever a user's function raises; StopIteration would end the stream
            raise ApiError(f"{api}: the function for its records fails: {type(error).__name__}") from None
    found = dig(value, where)
    if not isinstance(found, list):
        place = f"at {in_words(where)}" if where else "as the answer"
        hint = "a function takes them out of what is no list, as records=lambda answer: …"
        kind = "nothing, or null," if found is None else type(found).__name__
        raise ApiError(
            f"{api}: its answer has {kind} {place}, where a list of records should be (records=; {hint})"
        )
    return found


def as_json(value: Any) -> Any:
    """What a function gave, as a JSON text would have it; what none can have stays what it is, and fits no type."""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, bool | str | None):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, float):
        return Number(float.__repr__(value)) if math.isfinite(value) else value
    if isinstance(value, Decimal):
        return Number(value) if value.is_finite() else value
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {name: as_json(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(one) for one in value]
    return value
