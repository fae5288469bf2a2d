"""All tools on one source: a first load each, then changes and nothing new for those that bring only changes.

They take turns, so that what disturbs the machine for a while disturbs all of them.
"""

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.cost import Cost, of_process
from benchmarks.peers.contents import Truth, Verdict, compare, read_source
from benchmarks.peers.environments import Environment
from benchmarks.peers.tool import Task, Tool
from benchmarks.source import Source, change

CASES = FIRST, CHANGES, NOTHING = "first load", "4,800 changes", "nothing changed"
ROOT = Path(__file__).parent.parent.parent
_OURS = ("ETL_", "DAGSTER_", "PG", "PYTHON", "VIRTUAL_ENV")


@dataclass(frozen=True)
class Line:
    """What a tool took for a case (medians), and what it had then; or why it failed. `rows` are those of the source of that `scale`."""

    scale: str
    rows: int
    case: str
    tool: str
    wall: float = 0
    processor: float = 0
    peak_bytes: int = 0
    written_bytes: int = 0
    verdict: Verdict | None = None
    failed: str = ""


def clean_environment(home: Path) -> dict[str, str]:
    """The variables of this process, without those that would change what a tool does, and with a place for what it keeps."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    return {**kept, "HOME": str(home), "PYTHONPATH": str(ROOT)}


@dataclass(frozen=True)
class Sitting:
    """Tools with their environments, on one source. `folder` has a folder for each of them. What takes longer than `limit` seconds
    is ended, and has failed."""

    scale: str
    source: Source
    folder: Path
    tools: Mapping[Tool, Environment]
    keys: Mapping[str, str]
    repeats: int
    limit: float

    def lines(self) -> Iterator[Line]:
        """Measure all cases, and compare what is there after each. A tool that failed takes no further part."""
        failed: set[str] = set()
        for case in CASES:
            able = [tool for tool in self.tools if tool.name not in failed]
            for line in self._case(case, [tool for tool in able if tool.increments or case == FIRST]):
                if line.failed:
                    failed.add(line.tool)
                yield line

    def _case(self, case: str, tools: list[Tool]) -> Iterator[Line]:
        costs: dict[Tool, list[Cost]] = {tool: [] for tool in tools}
        failed: dict[Tool, str] = {}
        for _ in range(self.repeats):
            if case == CHANGES:
                change(self.source.url)
            for tool in tools:
                if tool not in failed:
                    try:
                        costs[tool].append(self._run(tool, case))
                    except RuntimeError as error:
                        failed[tool] = f"{error}: {self._last_words(tool)}"
        truth = read_source(self.source.url, self.folder / "truth", self.keys)
        for tool in tools:
            yield self._line(tool, case, truth, costs[tool], failed.get(tool, ""))

    def _run(self, tool: Tool, case: str) -> Cost:
        folder = self.folder / tool.folder
        if case == FIRST:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        task = Task(self.source.url, folder, self.keys, first=case == FIRST)
        python = self.tools[tool].python
        variables = {**clean_environment(folder), **tool.variables(task)}
        with self._log(tool).open("a") as log:
            cost = of_process(
                tool.program(task, python), variables, self.source.postmaster, folder, log, self.limit
            )
        print(f"{case}, {tool.name}: {cost.wall:.1f} s, {cost.processor:.1f} s of processor", file=sys.stderr)
        return cost

    def _line(self, tool: Tool, case: str, truth: Truth, costs: list[Cost], failed: str) -> Line:
        if failed:
            print(f"{case}, {tool.name}: {failed}", file=sys.stderr)
            return Line(self.scale, truth.rows, case, tool.name, failed=failed)
        return Line(
            self.scale,
            truth.rows,
            case,
            tool.name,
            median(cost.wall for cost in costs),
            median(cost.processor for cost in costs),
            round(median(cost.peak_bytes for cost in costs)),
            round(median(cost.written_bytes for cost in costs)),
            compare(truth, self.folder / tool.folder, tool.written),
        )

    def _log(self, tool: Tool) -> Path:
        return self.folder / tool.folder / "log"

    def _last_words(self, tool: Tool) -> str:
        said = self._log(tool).read_text(errors="replace").strip().splitlines()
        return said[-1] if said else f"see {self._log(tool)}"
