"""A version of code that changes when its meaning does: comments, formatting and docstrings do not count.

What a function means is its own text, that of what it uses of the same package (functions and classes, wherever they
stand), and the values of the constants it uses. Other packages do not count, nor do files: their content is data.
"""

import ast
import dataclasses
import hashlib
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import CodeType, FunctionType, ModuleType
from typing import Any, cast

_PLAIN = (str, bytes, int, float, complex, type(None), range)


def code_version(function: Callable[..., Any], *also: str) -> str:
    """16 hexadecimal digits that identify a function, what it uses of its own package, and `also`."""
    seen: dict[str, str] = {}
    _function(cast(FunctionType, inspect.unwrap(function)), seen, decorated=False)
    # What the package is called, or where it lies, does not count.
    package = f"{function.__module__.rpartition('.')[0]}."
    named = sorted((name.removeprefix(package), text) for name, text in seen.items())
    return declared_version(*(f"{name}:{text}" for name, text in named), *also)


def declared_version(*parts: str) -> str:
    """16 hexadecimal digits that identify what is declared rather than written as a function."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _function(function: FunctionType, seen: dict[str, str], *, decorated: bool = True) -> None:
    """Note a function and what it uses. What decorates the first one says what it is for, not what it does."""
    name = _name(function)
    if name in seen:
        return
    tree = _tree(function)
    if tree is None:  # made by `exec`, or a lambda amid an expression
        seen[name] = _compiled(function.__code__)
        return
    names = _names(function.__code__)
    if isinstance(tree.body[0], ast.FunctionDef | ast.AsyncFunctionDef):
        if not decorated:
            tree.body[0].decorator_list = []
        names |= {base for decorator in tree.body[0].decorator_list for base, *_ in _chains(decorator)}
    seen[name] = ast.dump(tree)
    _follow(tree, function.__globals__, names, function, seen)
    enclosed = inspect.getclosurevars(function).nonlocals
    given = {"defaults": function.__defaults__, "keyword defaults": function.__kwdefaults__}
    for used, value in {**enclosed, **given}.items():
        _value(value, f"{name} {used}", function, seen)


def _class(kind: type, seen: dict[str, str]) -> None:
    name = _name(kind)
    if name in seen:
        return
    tree = _tree(kind)
    if tree is None:
        seen[name] = name
        return
    seen[name] = ast.dump(tree)
    namespace = vars(inspect.getmodule(kind) or object)
    _follow(tree, namespace, set(namespace), kind, seen)
    for parent in kind.__bases__:
        _value(parent, "", kind, seen)


def _follow(
    tree: ast.AST, namespace: Mapping[str, Any], names: set[str], user: Any, seen: dict[str, str]
) -> None:
    """Note the values of the names, and of the attributes of modules and constants, that code uses."""
    for base, *attributes in _chains(tree):
        if base not in names or base not in namespace:
            continue
        value, path = namespace[base], base
        for attribute in attributes:
            if not _transparent(value, user) or not hasattr(value, attribute):
                break
            value, path = getattr(value, attribute), f"{path}.{attribute}"
            if inspect.ismethod(value):
                _value(value.__self__, path, user, seen)
        _value(value, f"{user.__module__}.{path}", user, seen)


def _value(value: Any, name: str, user: Any, seen: dict[str, str]) -> None:
    """Note a value that code uses, under a name, if it is of the same package or a constant."""
    if isinstance(value, partial):
        _value(value.func, name, user, seen)
        value = (value.args, value.keywords)
    if callable(value):
        value = inspect.unwrap(value)
    if isinstance(value, FunctionType) and _ours(value.__module__, user):
        _function(value, seen)
    elif isinstance(value, type) and _ours(value.__module__, user):
        _class(value, seen)
    elif inspect.ismethod(value):
        _value(value.__func__, name, user, seen)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            _value(getattr(value, field.name), f"{name}.{field.name}", user, seen)
    elif (text := _constant(value)) is not None:
        seen[name] = text


def _transparent(value: Any, user: Any) -> bool:
    """Whether looking at an attribute has no effect: of a module of ours, or of a declared value."""
    if isinstance(value, ModuleType):
        return _ours(value.__name__, user)
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _constant(value: Any) -> str | None:
    """A constant as text, whatever its order in memory; None for what is none."""
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, list | tuple):
        parts = [str(_constant(item)) for item in value]
    elif isinstance(value, set | frozenset):
        parts = sorted(map(str, map(_constant, value)))
    elif isinstance(value, Mapping):
        parts = [f"{_constant(key)}: {_constant(item)}" for key, item in value.items()]
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = [
            f"{field.name}={_constant(getattr(value, field.name))}" for field in dataclasses.fields(value)
        ]
    else:
        return None
    return f"{type(value).__name__}({', '.join(parts)})"


def _chains(tree: ast.AST) -> Iterator[list[str]]:
    """Names and the attributes asked of them: `a.b.c` is [a, b, c]."""
    inner: set[ast.AST] = set()
    for node in ast.walk(tree):
        names: list[str] = []
        part: ast.AST = node
        while isinstance(part, ast.Attribute):
            names.append(part.attr)
            part = part.value
        if isinstance(part, ast.Name) and node not in inner:
            yield [part.id, *reversed(names)]
        if isinstance(node, ast.Attribute):
            inner.add(node.value)


def _tree(value: Any) -> ast.Module | None:
    """The syntax of a function or class without docstrings; None if its source is not there, or not by itself."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(value)))
    except (OSError, SyntaxError, TypeError):
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and ast.get_docstring(
            node
        ):
            node.body = node.body[1:]
    return tree


def _compiled(code: CodeType) -> str:
    """What compiled code does, with that of functions defined inside it, wherever they lie in memory."""
    values = [_compiled(value) if isinstance(value, CodeType) else repr(value) for value in code.co_consts]
    return f"{code.co_code.hex()} {' '.join(code.co_names)} ({', '.join(values)})"


def _names(code: CodeType) -> set[str]:
    """Global names that code uses, those of functions defined inside it included."""
    inner = (_names(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*inner)


def _name(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def _ours(module: str, user: Any) -> bool:
    return module.partition(".")[0] == str(user.__module__).partition(".")[0]
