"""Which public functions say nothing of themselves. A method that keeps what a class above it promises need not say it again.

python -m etl_assets_tests.docstrings
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ENOUGH = 0.95
"""The share of public functions that must say what they do."""
_SAYS_ITSELF = ("property", "setter", "overload", "override")


def public(package: Path) -> Iterator[tuple[str, bool]]:
    """Each public function, by its place, and whether it says what it does."""
    classes: dict[str, ast.ClassDef] = {}
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(package.rglob("*.py"))}
    for tree in trees.values():
        classes.update({node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)})
    for path, tree in trees.items():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef):
                yield from _function(path, node, bool(ast.get_docstring(node)))
            elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                for inner in node.body:
                    if isinstance(inner, ast.FunctionDef):
                        yield from _function(path, inner, _is_said(inner.name, node, classes))


def _function(path: Path, node: ast.FunctionDef, said: bool) -> Iterator[tuple[str, bool]]:
    kinds = [ast.unparse(decorator) for decorator in node.decorator_list]
    if not node.name.startswith("_") and not any(word in kind for kind in kinds for word in _SAYS_ITSELF):
        yield f"{path}:{node.lineno}: {node.name}", said


def _is_said(name: str, kind: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> bool:
    """Whether a method says what it does, or one that it takes the place of does."""
    own = [node for node in kind.body if isinstance(node, ast.FunctionDef) and node.name == name]
    if any(ast.get_docstring(node) for node in own):
        return True
    above = [base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "") for base in kind.bases]
    return any(base in classes and _is_said(name, classes[base], classes) for base in above)


if __name__ == "__main__":
    found = list(public(Path(__file__).parent.parent / "etl_assets"))
    silent = [place for place, said in found if not said]
    if len(silent) > (1 - ENOUGH) * len(found):
        sys.stdout.writelines(f"{place} says nothing of itself\n" for place in silent)
        sys.exit(1)
