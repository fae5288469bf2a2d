"""Results on stdout: tables, aligned as text or drawn on a terminal, and JSON."""

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import click

_NUMBER = (int, float, Decimal)


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
    Console().print(drawn)


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
