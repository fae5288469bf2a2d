"""Where something is declared: file and line, as an editor takes them."""

import inspect
import sys
from collections.abc import Callable
from typing import Any


def location(function: Callable[..., Any]) -> str:
    """The file and line where a function begins."""
    code = inspect.unwrap(function).__code__
    return f"{code.co_filename}:{code.co_firstlineno}"


def caller(further_out: int = 0) -> str:
    """The file and line that call whoever asks; or those that call its caller, so many calls further out."""
    frame = sys._getframe(2 + further_out)
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
