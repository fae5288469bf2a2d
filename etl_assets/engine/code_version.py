"""A version of code that changes when its meaning does: comments, formatting and docstrings do not count."""

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any


def code_version(function: Callable[..., Any], *also: str) -> str:
    """16 hexadecimal digits that identify a function, the functions of this project that it calls, and `also`."""
    seen: dict[str, str] = {}
    _collect(function, seen)
    parts = [*(f"{name}:{text}" for name, text in sorted(seen.items())), *also]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _collect(function: Any, seen: dict[str, str]) -> None:
    name = f"{function.__module__}.{function.__qualname__}"
    if name in seen:
        return
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.decorator_list = []
            if ast.get_docstring(node) is not None:
                node.body = node.body[1:]
    seen[name] = ast.dump(tree)
    package = function.__module__.partition(".")[0]
    for used in _names(function.__code__):
        value = function.__globals__.get(used)
        if isinstance(value, FunctionType) and value.__module__.partition(".")[0] == package:
            _collect(value, seen)
        elif isinstance(value, str | int | float | tuple | frozenset):
            seen[f"{function.__module__}.{used}"] = repr(value)


def _names(code: CodeType) -> set[str]:
    """Global names that code uses, those of functions defined inside it included."""
    inner = (_names(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*inner)
