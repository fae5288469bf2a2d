"""A version of code that changes when its meaning does: comments, formatting and docstrings do not count.

What a function means is its own text, that of what it uses of the same package (functions and classes, wherever they
stand), and the values of the constants it uses; of a value that can't be written down faithfully (a decimal, an expression,
a pattern, an object) the statements that make it. Other packages do not count, nor do files: their content is data.
"""

import ast
import dataclasses
import hashlib
import importlib.util
import inspect
import linecache
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial
from pathlib import Path
from types import CodeType, FunctionType, ModuleType, SimpleNamespace
from typing import Any, cast

_PLAIN = (str, bytes, int, float, complex, type(None), range)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


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
    if isinstance(tree.body[0], _FUNCTIONS):
        if not decorated:
            tree.body[0].decorator_list = []
        names |= {base for decorator in tree.body[0].decorator_list for base, *_ in _chains(decorator)}
    seen[name] = ast.dump(tree)
    _follow(tree, function.__globals__, names, function, seen)
    enclosed = inspect.getclosurevars(function).nonlocals
    given = {"defaults": function.__defaults__, "keyword defaults": function.__kwdefaults__}
    for used, value in given.items():
        if not _value(value, f"{name} {used}", function, seen) and isinstance(tree.body[0], _FUNCTIONS):
            _follow(tree.body[0].args, function.__globals__, set(function.__globals__), function, seen)
    for used, value in enclosed.items():
        if not _value(value, f"{name} {used}", function, seen):
            _all_around(function, seen)


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
        value, path, home = namespace[base], base, (namespace, base)
        said = True
        for attribute in attributes:
            if not _transparent(value, user) or not hasattr(value, attribute):
                break
            if isinstance(value, ModuleType):
                home = (vars(value), attribute)
            value, path = getattr(value, attribute), f"{path}.{attribute}"
            if inspect.ismethod(value):
                said = _value(value.__self__, path, user, seen) and said
        if not (_value(value, f"{user.__module__}.{path}", user, seen) and said):
            _made(*home, seen)


def _made(namespace: Mapping[str, Any], name: str, seen: dict[str, str]) -> None:
    """Note the statements of a module by which a name of it has its value, and what these use."""
    module = namespace["__name__"]
    key = f"{module}.{name} is made by"
    if key in seen:
        return
    statements = [s for s in _of_file(namespace.get("__file__")).body if _makes(s, name)]
    seen[key] = "\n".join(map(ast.dump, statements))
    user = SimpleNamespace(__module__=module)
    for statement in statements:
        if isinstance(statement, ast.ImportFrom):
            given = "." * statement.level + (statement.module or "")
            other = sys.modules.get(importlib.util.resolve_name(given, namespace.get("__package__") or ""))
            named = next((a.name for a in statement.names if (a.asname or a.name) == name), name)
            if other and _ours(other.__name__, user) and hasattr(other, named):
                _made(vars(other), named, seen)
        else:
            _follow(statement, namespace, {n for n in namespace if not n.startswith("__")}, user, seen)


def _makes(statement: ast.stmt, name: str) -> bool:
    """Whether a statement of a module may give a name its value, or change it."""
    if isinstance(statement, ast.ImportFrom):
        return any(alias.name == "*" or (alias.asname or alias.name) == name for alias in statement.names)
    if isinstance(statement, (*_FUNCTIONS, ast.ClassDef, ast.Import)):
        return False
    targets: list[ast.AST] = [statement]
    if isinstance(statement, ast.Assign):
        targets = list(statement.targets)
    elif isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    return any(isinstance(n, ast.Name) and n.id == name for t in targets for n in ast.walk(t))


def _all_around(function: FunctionType, seen: dict[str, str]) -> None:
    """Note the modules that stand where a function does: one of them gave it what it encloses."""
    file = function.__globals__.get("__file__")
    package = function.__module__.rpartition(".")[0]
    for path in sorted(Path(file).parent.glob("*.py")) if file and package else []:
        seen[f"{package}.{path.stem} as a whole"] = ast.dump(_of_file(str(path)))


def _value(value: Any, name: str, user: Any, seen: dict[str, str]) -> bool:
    """Note a value that code uses, under a name, if it is of the same package or a constant; whether that says all of it."""
    said = True
    if isinstance(value, partial):
        said = _value(value.func, name, user, seen)
        value = (value.args, value.keywords)
    if callable(value):
        value = inspect.unwrap(value)
    if isinstance(value, FunctionType) and _ours(value.__module__, user):
        _function(value, seen)
    elif isinstance(value, type) and _ours(value.__module__, user):
        _class(value, seen)
    elif inspect.ismethod(value):
        said = _value(value.__func__, name, user, seen)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            said = _value(getattr(value, field.name), f"{name}.{field.name}", user, seen) and said
    elif (text := _constant(value)) is not None:
        seen[name] = text
        said = _is_constant(value) and said
    else:
        said = isinstance(value, type | ModuleType) or inspect.isroutine(value)
    return said


def _is_constant(value: Any) -> bool:
    """Whether the text of a constant says all of it."""
    if isinstance(value, Mapping):
        return all(_is_constant(item) for pair in value.items() for item in pair)
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_is_constant, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return all(_is_constant(getattr(value, field.name)) for field in dataclasses.fields(value))
    return isinstance(value, _PLAIN)


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
    return _without_docstrings(tree)


def _of_file(file: str | None) -> ast.Module:
    """The syntax of a module without docstrings; nothing if its source is not there."""
    linecache.checkcache(file)
    return _of_text("".join(linecache.getlines(file)) if file else "")


@lru_cache(maxsize=64)  # modules of a project, for each function that asks
def _of_text(text: str) -> ast.Module:
    try:
        return _without_docstrings(ast.parse(text))
    except SyntaxError:
        return ast.parse("")


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, (*_FUNCTIONS, ast.ClassDef, ast.Module)) and ast.get_docstring(node):
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
