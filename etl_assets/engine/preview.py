"""A few rows for people to look at."""

import re
from collections.abc import Iterable, Sequence

from etl_assets.engine.printable import printable

_WIDEST = 40
PREVIEWED = 400
"""So many characters of a value are looked at: it may have hundreds of millions."""
_PLAIN = re.compile(r"[^\W_]+(?:[ |]+[^\W_]+)*")  # words
_PLAIN_NAME = re.compile(r"[a-zA-Z]\w*", re.ASCII)
_PLAIN_NUMBER = re.compile(r"[\d :.,+TZe-]+")  # numbers, dates, times


def markdown(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; long values are cut, NULL shows as an empty cell.

    No value makes an image, a link or HTML: what is more than words or a number stands in a code span, where Markdown
    means nothing. Escapes would not do: links are made of what looks like an address after all escapes are gone.
    """

    def cell(value: object) -> str:
        if isinstance(value, bool):
            value = str(value).lower()
        if isinstance(value, str | bytes):
            value = value[:PREVIEWED]
        text = "" if value is None else " ".join(str(value).split())
        text = text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"
        plain = _PLAIN if isinstance(value, str) else _PLAIN_NUMBER
        words = not text or plain.fullmatch(text.removesuffix("…"))
        return text.replace("|", "\\|") if words else _as_code(text)

    head = [name if _PLAIN_NAME.fullmatch(name) else _as_code(name) for name in columns]
    lines = [head, ["---"] * len(columns), *([cell(value) for value in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _as_code(text: str) -> str:
    """A code span of a table. A bar would end the cell, whatever is written before it, so it is shown as a broken one;
    the fence is longer than any row of backticks within."""
    shown = printable(" ".join(text.split())).replace("|", "¦")
    fence = "`" * (max(map(len, re.findall("`+", shown)), default=0) + 1)
    return f"{fence} {shown} {fence}" if "`" in shown else f"{fence}{shown}{fence}"
