"""Which public classes of different rooms have one name: who reads it would take one for the other.

python -m etl_assets_tests.class_names
"""

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from etl_assets_tests.arrows import rooms

TWICE: Mapping[str, str] = {
    "Link": "apis: a way to page, as a project declares it; star: columns of two inputs that agree",
    "Step": "steps: what a project declares; star: what a batch does to a table",
}
"""Names that stand for two things, with these; no others may."""


def twice(package: Path, known: Mapping[str, str] = TWICE) -> Iterator[str]:
    """The places of the public classes whose name another room has too, and the names that are `known` for nothing."""
    found: dict[str, dict[str, str]] = {}
    for room, files in rooms(package).items():
        for path in files:
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    place = f"{path.relative_to(package).as_posix()}:{node.lineno}"
                    found.setdefault(node.name, {})[room] = place
    for name, places in sorted(found.items()):
        if len(places) > 1 and name not in known:
            yield f"{' and '.join(places.values())}: two rooms have a class {name}: name what each of them is"
    for name in known.keys() - {name for name, places in found.items() if len(places) > 1}:
        yield f"etl_assets_tests/class_names.py: no two rooms have a class {name}: take it off the list"


if __name__ == "__main__":
    told = list(twice(Path(__file__).parent.parent / "etl_assets"))
    sys.stdout.writelines(f"{line}\n" for line in told)
    sys.exit(bool(told))
