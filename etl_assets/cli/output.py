"""Results on stdout: tables, aligned as text or drawn on a terminal, JSON and CSV.

All that a command prints goes through here, since it may hold values: a terminal would carry out what is in them, and so
would a spreadsheet.
"""

import io
import json
import re
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NoReturn

import click

from etl_assets.engine.printable import printable

NOTHING_YET = 3
"""The exit code of a command that finds nothing yet of what it is asked for."""
_NUMBER = (int, float, Decimal)
_WRITTEN_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)
_BEGINS_FORMULA = set("=+-@\N{MINUS SIGN}")
_BLANKS = {"Zs", "Zl", "Zp", "Cc", "Cf"}


def say(text: str = "", *, err: bool = False, **style: Any) -> None:
    """Lines for people. Nothing in them is carried out by a terminal."""
    lines = "\n".join(map(printable, text.split("\n")))
    click.secho(lines, err=err, **style)  # noqa: TID251  this is the place


def nothing_yet(line: str) -> NoReturn:
    """Say what there is none of, and leave with the code for that."""
    say(f"etl: {line}", err=True)
    raise click.exceptions.Exit(NOTHING_YET)


def emit_json(value: Mapping[str, Any]) -> None:
    """One JSON object; times in ISO 8601."""
    click.echo(json.dumps(value, indent=2, default=str))  # noqa: TID251  JSON has its own escapes


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table; columns whose values are all numbers are aligned to the right."""
    headers = [printable(header) for header in headers]
    cells = [[printable(cell(value)) for value in row] for row in rows]
    right = [
        bool(rows) and all(isinstance(row[i], _NUMBER) or row[i] is None for row in rows)
        for i in range(len(headers))
    ]
    if sys.stdout.isatty():
        _drawn(headers, cells, right)
        return
    widths = [max(len(row[i]) for row in [headers, *cells]) for i in range(len(headers))]
    for row in [headers, *cells]:
        aligned = (
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(row, widths, right, strict=True)
        )
        say("  ".join(aligned).rstrip())


def _drawn(headers: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    drawn = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for header, to_right in zip(headers, right, strict=True):
        drawn.add_column(header, justify="right" if to_right else "left", no_wrap=True)
    for row in cells:
        drawn.add_row(*(escape(text) for text in row))
    # What is too wide for the terminal is broken there; a path that is cut short would be of no use.
    wide = sum(max(map(len, column)) + 3 for column in zip(headers, *cells, strict=True))
    Console(width=max(Console().width, wide)).print(drawn)


def shown(value: object) -> str:
    """A value as it is, in a line for people."""
    return printable(exact(value))


def exact(value: object) -> str:
    """A value as it is: nothing is rounded or set apart."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "NULL" if value is None else str(value)


def cell(value: object) -> str:
    """A value as text: thousands apart, two decimals, seconds of a time."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float | Decimal):
        return f"{value:,.2f}"
    return moment(value) if isinstance(value, datetime) else str(value)


def moment(value: datetime) -> str:
    """An instant as people read it, in UTC to the second."""
    return f"{value:%Y-%m-%d %H:%M:%S}"


def difference(text: str) -> None:
    """A line about what is not as it should be: red on a terminal."""
    say(printable(text), fg="red" if sys.stdout.isatty() else None)


def csv(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """CSV as PostgreSQL writes it: NULL is nothing, the empty text is a pair of quotes. A text that a spreadsheet would
    take for a formula has a ' before it; `--json` has it as it is. In a file it is UTF-8 whatever the locale is: that alone has
    every character."""
    if not sys.stdout.isatty() and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
    for row in [headers, *rows]:
        line = ",".join("" if value is None else _field(exact(value)) for value in row)
        # A file gets it exactly: click would take out what looks like a colour, and what is behind that would come first.
        click.echo(printable(line) if sys.stdout.isatty() else line, color=True)  # noqa: TID251


def _field(text: str) -> str:
    """OWASP's rules on CSV injection: quotes alone keep no spreadsheet from taking a cell for a formula."""
    if _WRITTEN_NUMBER.fullmatch(text):
        return text
    # Where the separator is another one, the rest of a text may become a cell of its own.
    first, *rest = re.split(r"(?<=.)([;\t])", text, flags=re.DOTALL)
    risky = first[:1] in ("\t", "\r", "\n") or _is_formula(first)
    inert = "".join(
        [f"'{first}" if risky else first, *(f"'{cell}" if _is_formula(cell) else cell for cell in rest)]
    )
    return _quoted(inert, always=inert != text or bool(rest))


def _is_formula(text: str) -> bool:
    """Whether a cell begins as a formula does, also behind blanks, in full width, or in another variant of the sign."""
    begun = next((c for c in text if unicodedata.category(c) not in _BLANKS), "")
    if unicodedata.normalize("NFKC", begun)[:1] not in _BEGINS_FORMULA or not begun:
        return False
    return not _WRITTEN_NUMBER.fullmatch(text.strip())


def _quoted(text: str, *, always: bool = False) -> str:
    quotes = always or text == "" or set(text) & set(',"\n\r')
    return '"' + text.replace('"', '""') + '"' if quotes else text


def size(value: float) -> str:
    """Bytes in decimal units: 999 B, 1.0 kB, 12.3 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def count(number: int, one: str, several: str) -> str:
    """A number and what it counts."""
    return f"{number:,} {one if number == 1 else several}"
