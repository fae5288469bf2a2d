"""What went wrong in a database, an engine or a function, told without the rows that it went wrong with.

Drivers and engines quote rows: PostgreSQL in DETAIL and CONTEXT and in the text of some errors, DuckDB, Arrow and Python in
most that are about a value. What they say ends in logs, in the history and in mails. So a line is made of what is no value:
the kind of the error, table, column and constraint, and the library's own text only where it can hold none.
"""

import linecache
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import psycopg2
from psycopg2 import errorcodes

from etl_assets.errors import EtlError

# Classes of SQLSTATE whose texts name relations, roles, limits and states. Not among them: 22 (data), P0 (raised by a
# function of the database), HV (foreign data), XX (internal).
_TELLING = {
    "08",
    "0A",
    "0B",
    "23",
    "25",
    "26",
    "28",
    "34",
    "3D",
    "3F",
    "40",
    "42",
    "53",
    "54",
    "55",
    "57",
    "58",
}
# Where the text of an error of any class was written by a function of the database.
_PROCEDURES = ("pl_", "plperl", "plpy", "pltcl", "plv8")
_ENGINE_TELLING = (
    duckdb.BinderException,
    duckdb.CatalogException,
    duckdb.ConnectionException,
    duckdb.DependencyException,
    duckdb.HTTPException,
    duckdb.InterruptException,
    duckdb.IOException,
    duckdb.NotImplementedException,
    duckdb.OutOfMemoryException,
    duckdb.ParserException,
    duckdb.PermissionException,
    duckdb.SyntaxException,
    duckdb.TransactionException,
)
# Quotes are escaped where one error is told in another.
_FULL = re.compile(r'file \\?"([^"\\]+)\\?"?:? ?.*No space left on device')
_ENGINE_TOLD: dict[type[duckdb.Error], str] = {
    duckdb.ConversionException: "a value can't be converted",
    duckdb.ConstraintException: "rows break a constraint",
    duckdb.OutOfRangeException: "a number is out of range",
    duckdb.InvalidInputException: "an input is invalid",
}
_CODE_TELLING = (
    NameError,
    AttributeError,
    ImportError,
    NotImplementedError,
    SyntaxError,
)
_NARWHALS_TELLING = (
    "ColumnNotFoundError",
    "DuplicateError",
    "InvalidIntoExprError",
    "MultiOutputExpressionError",
    "UnsupportedDTypeError",
)


class Fault(EtlError):
    """An error of a library, without what it quotes."""


def raised_by(library: str, *names: str) -> tuple[type[Exception], ...]:
    """Classes of errors of a library, by their names in a module of it, for an `except`. What was not imported has raised
    nothing."""
    module = sys.modules.get(library)
    return tuple(getattr(module, name) for name in names) if module else ()


def databases() -> tuple[type[Exception], ...]:
    """Errors whose texts may quote rows."""
    return (duckdb.Error, psycopg2.Error, *raised_by("pyarrow.lib", "ArrowException"))


def told(error: BaseException) -> str:
    """An error in one line, without values."""
    if isinstance(error, EtlError):
        return _line(error)
    if isinstance(error, psycopg2.Error):
        return _of_postgres(error)
    if isinstance(error, duckdb.Error):
        return _of_duckdb(error)
    if isinstance(error, OSError):
        return (
            f"{error.filename}: {error.strerror}"
            if error.filename
            else (error.strerror or type(error).__name__)
        )
    return _of_code(error)


def bare(error: BaseException) -> Fault:
    """The same as an error that may be a cause: it has the stack, and no value."""
    return Fault(told(error)).with_traceback(error.__traceback__)


@contextmanager
def without_values() -> Iterator[None]:
    """Let what databases and engines raise come out without values."""
    try:
        yield
    except databases() as error:
        raise bare(error) from None


def _of_postgres(error: psycopg2.Error) -> str:
    code = error.pgcode
    if code is None:  # the driver's own
        tells = isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError)
        return (_line(error) if tells else "") or type(error).__name__
    diagnosed = error.diag
    text = " ".join((diagnosed.message_primary or "").split())
    own = not (diagnosed.source_file or "").startswith(_PROCEDURES)
    # What a client says when it gives up a COPY is repeated.
    tells = code[:2] in _TELLING and own and not text.startswith("COPY ")
    named = {
        "table": ".".join(filter(None, (diagnosed.schema_name, diagnosed.table_name))),
        "column": diagnosed.column_name,
        "constraint": diagnosed.constraint_name,
        "type": diagnosed.datatype_name,
    }
    places = [f"{what} {name}" for what, name in named.items() if name and not (tells and name in text)]
    kind = "" if tells and text else f"{_condition(code)} (SQLSTATE {code})"
    return ", ".join([kind or text, *places])


def _condition(code: str) -> str:
    try:
        return str(errorcodes.lookup(code)).lower().replace("_", " ")
    except KeyError:
        return "an error"


def _of_duckdb(error: duckdb.Error) -> str:
    kind = type(error)
    if full := _FULL.search(str(error)):
        return f"{full[1]}: no space left on the device; make room there, and run again"
    if isinstance(error, _ENGINE_TELLING):
        # Below it stands the query, which may have values in it.
        lines = re.split(r"\nLINE |\s*Possible solutions:", str(error))[0].splitlines()
        return " ".join(" ".join(lines).split()) or kind.__name__
    if "checksum" in str(error) or "orrupt" in str(error):
        return "a database file is corrupt: a checksum does not match"
    said = next((text for known, text in _ENGINE_TOLD.items() if isinstance(error, known)), "it failed")
    return f"{said} (DuckDB: {kind.__name__})"


def _of_code(error: BaseException) -> str:
    kind = type(error)
    if isinstance(error, (*_CODE_TELLING, *raised_by("narwhals.exceptions", *_NARWHALS_TELLING))):
        return f"{kind.__name__}: {_line(error)}"
    at = next((f for f in reversed(traceback.extract_tb(error.__traceback__)) if _is_ours(f.filename)), None)
    if at is None:
        return kind.__name__
    # What stands in the code is no value of a row: a column that is misspelt there.
    code = _statement(at)
    written = [w for w in re.findall(r"'([^']+)'", str(error)) if f'"{w}"' in code or f"'{w}'" in code]
    named = f" ({', '.join(written)})" if written else ""
    return f"{kind.__name__}{named} at {Path(at.filename).name}:{at.lineno}"


def _statement(at: traceback.FrameSummary) -> str:
    """The code that failed."""
    first = at.lineno or 0
    return "".join(linecache.getline(at.filename, n) for n in range(first, (at.end_lineno or first) + 1))


def _is_ours(filename: str) -> bool:
    """Whether a line of code is of the project or its user, rather than of a library."""
    return Path(filename).is_absolute() and "site-packages" not in filename and filename != __file__


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
