"""A few rows for people to look at."""

from collections.abc import Iterable, Sequence

_WIDEST = 40


def markdown(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; long values are cut, NULL shows as an empty cell."""

    def cell(value: object) -> str:
        if isinstance(value, bool):
            value = str(value).lower()
        text = "" if value is None else " ".join(str(value).split()).replace("|", "\\|")
        return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"

    lines = [columns, ["---"] * len(columns), *([cell(value) for value in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
