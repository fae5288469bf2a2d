"""Python as a formatter leaves it: what is put together here is neither changed by `ruff format` nor carried out by accident.

A name or comment of a catalog gets into a module as a literal, in a docstring or in a comment, and no other way.
"""

import re
import textwrap
from collections.abc import Iterable, Sequence

from etl_assets.engine.printable import printable

WIDTH = 110
_STEP = "    "
# What a comment tells tools.
_TOLD_TOOLS = re.compile(r"(?i)\b(noqa|(?:fmt|yapf|isort|ruff|mypy|type|pyright|pragma)(?=\s*:))")
# Ruff takes literals that begin so for files that anybody can write to, and addresses that anybody can reach.
_SUSPECT = re.compile(r"(/tmp|/var/tmp|/dev/shm|0\.0\.0\.0|::$)")


def literal(text: str) -> str:
    """A text as Python writes it, in the quotes that need fewer escapes."""
    quote = "'" if text.count('"') > text.count("'") else '"'
    escaped = printable(text.replace("\\", "\\\\"))
    return quote + escaped.replace(quote, f"\\{quote}") + quote


def literals(texts: Sequence[str]) -> str:
    """Texts as a tuple."""
    return f"({', '.join(map(literal, texts))}{',' if len(texts) == 1 else ''})"


def prose(text: str) -> str:
    """A text of others for a comment or docstring: in one line, without anything that means something there."""
    line = printable(" ".join(text.split())).replace("#", " ").replace('"', "'").replace("\\", "/")
    return " ".join(_TOLD_TOOLS.sub(r"'\1'", line).split())


def sentence(text: str) -> str:
    """A text of others as a description: in one line, and nothing that a linter takes for something else."""
    line = " ".join(text.split())
    return f"In the source: {line}" if _SUSPECT.match(line) else line


def call(head: str, arguments: Iterable[str], indent: int = 0, *, tail: str = "", open_: bool = False) -> str:
    """A call, or whatever has brackets: in one line where it fits, else (or if `open_`) one argument to a line. `head` ends
    with the opening bracket."""
    arguments = list(arguments)
    margin = _STEP * indent
    close = {"(": ")", "[": "]", "{": "}"}[head[-1]] + tail
    flat = f"{margin}{head}{', '.join(arguments)}{close}"
    # What is in brackets within brackets is followed by a comma.
    if not arguments or (not open_ and len(flat) + (indent > 1) <= WIDTH and "\n" not in flat):
        return flat
    inner = "".join(f"{_inner(argument, margin)},\n" for argument in arguments)
    return f"{margin}{head}\n{inner}{margin}{close}"


def _inner(argument: str, margin: str) -> str:
    """An argument in a line of its own; one of several lines is indented already."""
    return argument if argument.startswith(margin + _STEP) else f"{margin}{_STEP}{argument}"


def docstring(text: str, indent: int = 0) -> str:
    """A docstring of one paragraph."""
    margin = _STEP * indent
    flat = f'{margin}"""{text}"""'
    if len(flat) <= WIDTH:
        return flat
    lines = textwrap.wrap(text, WIDTH - len(margin) - 3, break_long_words=False, break_on_hyphens=False)
    if len(lines) == 1:
        return flat
    return f'{margin}"""' + f"\n{margin}".join(lines) + f'\n{margin}"""'


def comment(text: str, indent: int = 0) -> str:
    """A comment of one paragraph."""
    margin = f"{_STEP * indent}# "
    return "\n".join(
        margin + line
        for line in textwrap.wrap(text, WIDTH - len(margin), break_long_words=False, break_on_hyphens=False)
    )


def chain(head: str, *calls: tuple[str, str], indent: int) -> str:
    """Calls upon calls, such as nw.col("a").alias("b"), as one argument: each call has one argument or none."""
    margin = _STEP * indent
    flat = margin + head + "".join(f".{name}({argument})" for name, argument in calls)
    (first, value), *rest = calls
    if len(flat) + 1 <= WIDTH or not rest:
        return flat
    opened = f"{margin}{head}.{first}({value})"
    exploded = f"{margin}{head}.{first}(\n{margin}{_STEP}{value}\n{margin})"
    if len(rest) == 1:
        name, argument = rest[0]
        if len(f"{opened}.{name}(") <= WIDTH:
            return f"{opened}.{name}(\n{margin}{_STEP}{argument}\n{margin})"
        return f"{exploded}.{name}({argument})"
    begun = opened if len(opened) <= WIDTH else exploded
    return "\n".join([begun, *(f"{margin}.{name}({argument})" for name, argument in rest)])
