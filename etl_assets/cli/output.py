"""Results on stdout: tables, aligned as text or drawn on a terminal, JSON and CSV."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NoReturn

import click

NOTHING_YET = 3
"""The exit code of a command that finds nothing yet of what it is asked for."""
_NUMBER = (int, float, Decimal)


def nothing_yet(line: str) -> NoReturn:
    """Say what there is none of, and leave with the code for that."""
    click.echo(f"etl: {line}", err=True)
    raise click.exceptions.Exit(NOTHING_YET)


def emit_json(value: Mapping[str, Any]) -> None:
    """One JSON object; times in ISO 8601."""
    click.echo(json.dumps(value, indent=2, default=str))


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table; columns whose values are all numbers are aligned to the right."""
    cells = [[cell(value) for value in row] for row in rows]
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
        click.echo("  ".join(aligned).rstrip())


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
    return f"{value:%Y-%m-%d %H:%M:%S}"


def difference(text: str) -> None:
    """A line about what is not as it should be: red on a terminal."""
    click.secho(text, fg="red" if sys.stdout.isatty() else None)


def csv(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """CSV as PostgreSQL writes it: NULL is nothing, the empty text is a pair of quotes."""
    for row in [headers, *rows]:
        click.echo(",".join("" if value is None else _quoted(exact(value)) for value in row))


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if text == "" or set(text) & set(',"\n\r') else text


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
