"""Which room may use which: arrows run one way, and Dagster stays where assets, resources and automation are.

    python -m etl_assets_tests.arrows

Rooms are the packages and modules directly below `etl_assets`. A room may use those of a lower floor, and itself.
"""

import ast
import sys
from collections.abc import Iterator, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

FLOORS: Sequence[frozenset[str]] = (
    frozenset(
        {"errors", "failpoints", "permissions", "addresses", "notices", "progress", "later", "cost", "owners"}
    ),
    frozenset({"plain", "faults", "pace", "presentation"}),
    frozenset({"preflight", "engine"}),
    frozenset({"clients"}),
    frozenset({"lake"}),
    frozenset({"source"}),
    frozenset({"raw"}),
    frozenset({"apis"}),
    frozenset({"star"}),
    frozenset({"warehouse"}),
    frozenset({"exports"}),
    frozenset({"steps"}),
    frozenset({"project"}),
    frozenset({"proof"}),
    frozenset({"settings"}),
    frozenset({"automation"}),
    frozenset({"deployments"}),
    frozenset({"definitions"}),
    frozenset({"interface", "init", "component"}),
    frozenset({"cli"}),
)
APART = {"totesys": "project", "cards": "project", "stand_ins": "errors"}
"""What ships beside the platform: the projects, which use nothing but `project`, and servers for demo and tests."""
DAGSTER = ("assets.py", "resource.py", "io_manager.py", "checks.py")
DAGSTER_IN = frozenset(
    {"automation", "component", "definitions", "deployments", "presentation", "interface", "cli"}
)
DAGSTER_AS = {
    "clients/bigquery.py": "Dagster's own client is extended",
    "clients/alerts.py": "a place for alerts is a resource",
    "clients/secrets.py": "Dagster's own client is used",
    "exports/frame_type.py": "the contract of a report is a Dagster type",
    "exports/publishing.py": "a place to publish is a resource",
    "exports/duckdb.py": "it is such a resource",
    "exports/postgres.py": "likewise",
    "exports/bigquery.py": "likewise",
    "warehouse/contract.py": "an engine is a resource",
    "warehouse/bigquery.py": "it is such a resource",
}
STARTERS = frozenset({"deployments.py", "cli/demo.py", "cli/demo_cloud.py", "cli/simulate.py"})
"""What may start the demo: the deployment that names no source, and the commands that are it."""


def rooms(package: Path) -> dict[str, list[Path]]:
    """The files of each room."""
    found: dict[str, list[Path]] = {}
    for path in sorted(package.rglob("*.py")):
        room = path.relative_to(package).parts[0].removesuffix(".py")
        if room != "__init__":
            found.setdefault(room, []).append(path)
    return found


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """The modules that a file imports when it runs, with their lines; those for type checkers only are none."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield node.lineno, whole if node.module == "etl_assets" else node.module


def wrong(package: Path) -> Iterator[str]:
    """The arrows of a package that run against the rule."""
    floor = {room: n for n, names in enumerate(FLOORS) for room in names}
    for room, files in rooms(package).items():
        for path in files:
            name = path.relative_to(package).as_posix()
            for line, module in imports(path):
                parts = module.split(".")
                may = room in DAGSTER_IN or room in APART or path.name in DAGSTER or name in DAGSTER_AS
                if parts[0] == "dagster" and not may:
                    yield f"{name}:{line}: dagster is used by assets, resources and automation only"
                if parts[0] != "etl_assets" or len(parts) < 2 or parts[1] == room:
                    continue
                other = parts[1]
                if room in APART:
                    if APART[room] == "project" and "demo/" not in name and other != APART[room]:
                        yield f"{name}:{line}: a project uses etl_assets.project only, not {module}"
                elif other in APART and name in STARTERS:
                    continue
                elif other in APART:
                    yield f"{name}:{line}: {module} is for demos and tests"
                elif other not in floor or room not in floor:
                    yield f"{name}:{line}: {other if other not in floor else room} is on no floor (etl_assets_tests/arrows.py)"
                elif floor[other] >= floor[room]:
                    yield f"{name}:{line}: {room} may not use {other}, which is above it or beside it"


def circles(package: Path) -> Iterator[str]:
    """Files that need each other: when they are imported, later, or for their types."""
    files = {
        ".".join(("etl_assets", *path.relative_to(package).with_suffix("").parts)).removesuffix(
            ".__init__"
        ): path
        for path in package.rglob("*.py")
    }
    needs: dict[str, set[str]] = {}
    for module, path in files.items():
        found = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                found |= {name if name in files else node.module for name in names}
        needs[module] = found & files.keys() - {module}
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        yield f"a circle of imports: {' needs '.join(reversed(error.args[1]))}"


if __name__ == "__main__":
    house = Path(__file__).parent.parent / "etl_assets"
    found = [*wrong(house), *circles(house)]
    sys.stdout.writelines(f"{line}\n" for line in found)
    sys.exit(bool(found))
