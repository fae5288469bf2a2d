"""The table, in Markdown, and the picture: what each tool took, and what it had then."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.peers.environments import Environment
from benchmarks.peers.measuring import FIRST, Line
from benchmarks.peers.tool import Tool

TABLE, PICTURE = "peers.md", "peers.png"
_HEAD = (
    "| rows | case | tool | wall s | processor s | per million rows | of `\\copy` | peak MiB | written MB | contents | digest | "
    "other types |\n|---:|---|---|---:|---:|---:|---:|---:|---:|---|---|---|\n"
)


def write(
    folder: Path,
    lines: Sequence[Line],
    tools: Mapping[Tool, Environment],
    missing: Mapping[Tool, str],
    base: str,
) -> str:
    """Write both into `folder`; returns the table. Ratios are to processor seconds of a first load by the tool `base`."""
    table = _HEAD + "".join(_row(line, lines, base) for line in lines) + "\n"
    table += "".join(_configured(tool, made) for tool, made in tools.items())
    table += "".join(f"- {tool.name} is not to be had here: {reason}\n" for tool, reason in missing.items())
    (folder / TABLE).write_text(table)
    _draw(folder / PICTURE, [line for line in lines if line.case == FIRST and not line.failed])
    return table


def _row(line: Line, lines: Sequence[Line], base: str) -> str:
    start = f"| {line.rows:,} | {line.case} | {line.tool} | "
    if line.failed or not line.verdict:
        reason = line.failed.replace("|", "/")
        return f"{start}failed: {reason} |||||||||\n"
    copies = [of for of in lines if (of.tool, of.scale, of.case) == (base, line.scale, FIRST)]
    ratio = f"{line.processor / copies[0].processor:.2f}" if copies else ""
    verdict = line.verdict
    return start + " | ".join(
        [
            f"{line.wall:.1f}",
            f"{line.processor:.1f}",
            f"{line.processor / line.rows * 1e6:.2f}",
            ratio,
            f"{line.peak_bytes >> 20:,}",
            f"{line.written_bytes / 1e6:,.1f}",
            "equal" if not verdict.differences else f"**not equal**: {'; '.join(verdict.differences)}",
            f"`{verdict.digest}`",
            ", ".join(verdict.types) + " |\n",
        ]
    )


def _configured(tool: Tool, made: Environment) -> str:
    """A line on a tool: versions, how it is set up, and what would have been preferred."""
    versions = f" ({', '.join(made.versions)})" if made.versions else ""
    instead = f" Not to be had: {'; '.join(made.instead_of)}." if made.instead_of else ""
    return f"- {tool.name}{versions}: {tool.configured}.{instead}\n"


def _draw(picture: Path, lines: Sequence[Line]) -> None:
    """Seconds over rows of first loads, both on logarithmic axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    for axes, name, title in zip(
        figure.subplots(1, 2),
        ("processor", "wall"),
        ("processor seconds, the server's included", "seconds on the wall"),
        strict=True,
    ):
        for number, tool in enumerate(dict.fromkeys(line.tool for line in lines)):
            points = sorted((line.rows, getattr(line, name)) for line in lines if line.tool == tool)
            style = {"linewidth": 2.5} if tool.startswith("etl") else {"linewidth": 1.2}
            axes.plot(*zip(*points, strict=True), marker="os^v"[number % 4], label=tool, **style)
        axes.set(xscale="log", yscale="log", xlabel="rows", title=f"First load: {title}")
        axes.grid(which="both", alpha=0.2)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", frameon=False)
    figure.savefig(picture, dpi=90)
