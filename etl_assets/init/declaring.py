"""Which tables of a catalog a project declares: what it calls them, their types and keys; and what it leaves out, and why."""

import keyword
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from etl_assets.engine.types import Type
from etl_assets.init.catalog import WIDE_BYTES, Catalog, CatalogColumn, CatalogTable, ForeignKey

# What a parameter can't be called in the modules that are written, and what ruff takes for a digit.
_TAKEN = {"nw", "calendar", "dimension", "fact", "report", "joined", "l", "O", "I"}
# How letters are spelled that are none of ASCII's with a mark, so that a table is called by more than a number.
_LETTERS = (
    "а=a б=b в=v г=g д=d е=e ж=zh з=z и=i к=k л=l м=m н=n о=o п=p р=r с=s т=t у=u ф=f х=kh ц=ts ч=ch ш=sh щ=shch ъ= ы=y ь= э=e "
    "ю=yu я=ya і=i є=ye ґ=g ђ=dj ј=j љ=lj њ=nj ћ=c џ=dz α=a β=v γ=g δ=d ε=e ζ=z η=i θ=th ι=i κ=k λ=l μ=m ν=n ξ=x ο=o π=p ρ=r "
    "σ=s ς=s τ=t υ=y φ=f χ=ch ψ=ps ω=o ß=ss æ=ae œ=oe ø=o ł=l đ=d ð=d þ=th ı=i"
)
_SPELLED = str.maketrans(dict(pair.split("=") for pair in _LETTERS.split()))
_LONGEST = 48  # of a table's name that a star table's name is made of: PostgreSQL takes 63 bytes
_ALL = "*"  # can't be declared: in a star function it means all columns
_KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table"}
# Scale 9 with 29 digits before it is what BigQuery calls a NUMERIC; the others take more.
ANY_NUMERIC, _ANY_SCALE = "numeric(38,9)", 9
# The digits that integers have.
_WIDTHS = {"smallint": "numeric(5,0)", "int": "numeric(10,0)", "bigint": "numeric(19,0)"}
_FLOATS = {"real", "double precision"}
_TIMES = {"date", "timestamp", "timestamptz", "time"}
_DECIMAL = re.compile(r"numeric\((\d+),(-?\d+)\)")
_ISO_DATE = re.compile(r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])")
_FEW = 0.05  # of the values looked at: a run stops at more misfits
_ENOUGH = 3  # values that are dates, before a text is said to hold dates
_MANY_ROWS, _MANY_BYTES = 50_000_000, 20 * 10**9
_SECRET = re.compile(
    r"(?i)passw(or)?d|passphrase|(^|_)pwd(_|$)|(^|_)(user|login)_?pass$|(^|_)pass_?(crypt|hash|salt)|secret|(api|private)_?key"
    r"|(access|auth|refresh|reset|remember)_?token|^token$"
)
# When a password was changed, or how long a token lives, is none.
_TELLING = ("text", "bytea", "json", "jsonb", "array", "xml")


@dataclass(frozen=True)
class Note:
    """Something about a table that its owner should know, and what to write."""

    table: str
    what: str
    write: str


@dataclass(frozen=True)
class Declared:
    """A table that the project declares: `name` is what the project calls it, `types` its columns as they are declared."""

    table: CatalogTable
    name: str
    key: tuple[str, ...]
    types: Mapping[str, str]
    exclude: tuple[str, ...] = ()

    @property
    def key_is_declared(self) -> bool:
        return not self.table.primary

    @property
    def shown(self) -> str:
        return shown(self.table)

    @property
    def columns(self) -> list[CatalogColumn]:
        return [column for column in self.table.columns if column.name in self.types]


@dataclass(frozen=True)
class Declaration:
    """All that a project declares of a source, what it leaves out, and what looks risky."""

    tables: Sequence[Declared]
    left_out: Sequence[Note]
    risks: Sequence[Note]


def declare(catalog: Catalog) -> Declaration:
    """The tables of a catalog as a project declares them."""
    keys = {table.oid: _key(table, catalog.foreign_keys) for table in catalog.tables if table.keys}
    told = {table.oid: _left_out(table, keys.get(table.oid, ())) for table in catalog.tables}
    left_out = [note for note in told.values() if note]
    kept = [table for table in catalog.tables if not told[table.oid]]
    names = _names(kept)
    types = {(t.oid, c.name): declared_type(c) for t in kept for c in t.columns}
    _align(types, catalog.foreign_keys)
    tables: list[Declared] = []
    risks: list[Note] = []
    for table in kept:
        key = keys[table.oid]
        exclude = _doubled(table, key)
        tables.append(
            Declared(
                table,
                names[table.oid],
                key,
                {
                    c.name: types[table.oid, c.name]
                    for c in table.columns
                    if c.name not in exclude and c.name != _ALL
                },
                exclude,
            )
        )
        risks += _risks(tables[-1])
    return Declaration(tables, left_out, risks)


def shown(table: CatalogTable) -> str:
    """A table as people name it."""
    return table.name if table.schema == "public" else f"{table.schema}.{table.name}"


# -- what is left out ----------------------------------------------------------------------------------------------------


def _left_out(table: CatalogTable, key: Sequence[str]) -> Note | None:
    name = shown(table)
    if table.kind in _KINDS:
        return Note(name, f"it is {_KINDS[table.kind]}", 'Table(…, key=("…",)) if you want its rows')
    if table.inherits is not None:
        return Note(
            name, f"its rows are read as those of {table.inherits}", "Table(…) for the columns of its own"
        )
    if not table.columns:
        return Note(name, "it has no columns", "nothing")
    if not table.usage:
        return Note(
            name, "no right to read it", f"GRANT USAGE ON SCHEMA {table.quoted_schema} TO {table.role}"
        )
    if not table.select:
        return Note(name, "no right to read it", f"GRANT SELECT ON {table.quoted} TO {table.role}")
    if table.refused:
        return Note(
            name, "row security refuses it to this role", f"ALTER ROLE {table.role} SET row_security = on"
        )
    if not key:
        return Note(
            name,
            "it has no key: no primary key, no unique index over columns that are NOT NULL",
            'Table(…, key=("…",)), naming the columns that tell its rows apart',
        )
    if _ALL in key or all(column.name == _ALL for column in table.columns):
        return Note(name, "its key is called *", "Table(…) over a view that calls it otherwise")
    if len({name.lower() for name in key}) < len(key):
        return Note(
            name, "columns of its key differ only in case", "Table(…) over a view that calls them otherwise"
        )
    return None


def _key(table: CatalogTable, foreign_keys: Sequence[ForeignKey]) -> tuple[str, ...]:
    """The primary key, else of the unique indexes the one that most foreign keys lead to; else one with the fewest columns,
    and of these a number before a text."""
    if table.primary:
        return table.keys[0]
    led_to = [set(one.target_columns) for one in foreign_keys if one.target == table.oid]
    numbers = {column.name for column in table.columns if declared_type(column) in _WIDTHS}
    return min(
        table.keys,
        key=lambda names: (-led_to.count(set(names)), len(names), not numbers >= set(names), names),
    )


def _doubled(table: CatalogTable, key: Sequence[str]) -> tuple[str, ...]:
    """Columns that can't be read beside others, which differ from them only in case. Those of the key stay."""
    seen = {name.lower() for name in key}
    doubled = []
    for column in table.columns:
        if column.name not in key and column.name.lower() in seen:
            doubled.append(column.name)
        seen.add(column.name.lower())
    return tuple(doubled)


# -- names ---------------------------------------------------------------------------------------------------------------


def _names(tables: Sequence[CatalogTable]) -> dict[int, str]:
    """What the project calls each table: its own name, where that can name the parameter of a function and no other table."""
    schemas: dict[str, set[str]] = {}
    for table in tables:
        schemas.setdefault(table.name.lower(), set()).add(table.schema)
    found: dict[int, str] = {}
    # Who can keep a name keeps it.
    for table in sorted(tables, key=lambda t: not can_name(t.name)):
        several = len(schemas[table.name.lower()]) > 1 and table.schema != "public"
        wanted = f"{table.schema}_{table.name}" if several else table.name
        found[table.oid] = unique(wanted if can_name(wanted) else slug(wanted, "table"), found.values())
    return found


def can_name(name: str) -> bool:
    """Whether a table's name can be the parameter of a star function, and part of an asset's key, as it is."""
    return (
        bool(re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name))
        and len(name) <= _LONGEST
        and not keyword.iskeyword(name)
        and name not in _TAKEN
        and not re.match(r"(?i)(dim|fact)_", name)  # what the star's tables are called
    )


def slug(name: str, kind: str) -> str:
    """A name of ASCII letters, digits and underscores that says as much as it can of another."""
    letters = unicodedata.normalize("NFKD", snake(name)).translate(_SPELLED)
    plain = letters.encode("ascii", "ignore").decode()
    words = re.sub(r"[^a-z0-9]+", "_", plain).strip("_")[:_LONGEST].strip("_")
    if not words or not words[0].isalpha() or keyword.iskeyword(words) or not can_name(words):
        return f"{kind}_{words}".rstrip("_")[:_LONGEST]
    return words


def snake(name: str) -> str:
    """`OrderLine` as `order_line`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def unique(name: str, taken: Iterable[str]) -> str:
    """A name that none of those that are taken is, in whatever case: with a number behind it, if need be."""
    lower = {one.lower() for one in taken}
    found, number = name, 2
    while found.lower() in lower:
        found, number = f"{name}_{number}", number + 1
    return found


# -- types ---------------------------------------------------------------------------------------------------------------


def declared_type(column: CatalogColumn) -> str:
    """A column's type as a project declares it, with `?` where the source allows NULL."""
    return _type(column) + ("" if column.required else "?")


def _type(column: CatalogColumn) -> str:
    if column.kind in {"array", "enum"}:
        return column.kind
    if column.kind == "other":
        return "text"
    if match := _DECIMAL.fullmatch(column.type):
        return _decimal(int(match[1]), int(match[2]))
    bare = re.sub(r"\(\d+(,\d+)?\)", "", column.type)
    if bare == "numeric":
        fits = all(re.fullmatch(rf"-?\d{{1,29}}(\.\d{{1,{_ANY_SCALE}}})?", value) for value in column.seen)
        return ANY_NUMERIC if fits else "numeric"
    if bare == "time without time zone" and any(value.startswith("24:") for value in column.seen):
        return "text"
    if _is_text(column):
        return "text"
    if bare.startswith("interval"):
        return "interval"
    try:
        return Type(bare).name
    except ValueError:
        return "text"


def _decimal(precision: int, scale: int) -> str:
    """PostgreSQL takes scales below zero and above the precision."""
    precision, scale = max(precision - min(scale, 0), scale), max(scale, 0)
    return f"numeric({precision},{scale})" if precision <= 38 else "numeric"


def _align(types: dict[tuple[int, str], str], foreign_keys: Sequence[ForeignKey]) -> None:
    """Give columns that refer to one another one type, the widest, where they are integers or decimals of several sizes."""
    changed = True
    while changed:
        changed = False
        for one in foreign_keys:
            for own, other in zip(one.columns, one.target_columns, strict=True):
                pair = (one.table, own), (one.target, other)
                if all(place in types for place in pair):
                    wide = _widest(*(types[place].removesuffix("?") for place in pair))
                    for place in pair if wide else ():
                        wanted = f"{wide}?" if types[place].endswith("?") else str(wide)
                        changed |= types[place] != wanted
                        types[place] = wanted


def _widest(one: str, other: str) -> str | None:
    """The type that holds the values of both, None if there is none of their kind."""
    if "text" in (one, other) and {one, other} & _TIMES:
        return "text"  # for what no warehouse has
    if one in _WIDTHS and other in _WIDTHS:
        return max(one, other, key=list(_WIDTHS).index)
    first, second = (_DECIMAL.fullmatch(_WIDTHS.get(name, name)) for name in (one, other))
    if not first or not second:
        return None
    scale = max(int(first[2]), int(second[2]))
    before = max(int(match[1]) - int(match[2]) for match in (first, second))
    return f"numeric({before + scale},{scale})" if before + scale <= 38 else None


# -- what looks risky ----------------------------------------------------------------------------------------------------


def _risks(declared: Declared) -> Iterator[Note]:
    table, name = declared.table, declared.shown
    if declared.key_is_declared:
        yield Note(name, f"no primary key: a unique index stands in ({', '.join(declared.key)})", "nothing")
    if table.filtered:
        yield Note(
            name, "row security decides which rows are seen", f"ALTER ROLE {table.role} BYPASSRLS to see all"
        )
    if table.rows > _MANY_ROWS or table.bytes > _MANY_BYTES:
        yield Note(
            name, f"large: some {table.rows:,} rows, {table.bytes / 1e9:,.0f} GB", "the first run at night"
        )
    if table.heirs:
        more = f" and {len(table.heirs) - 3} more" if len(table.heirs) > 3 else ""
        yield Note(
            name,
            f"the rows of {', '.join(table.heirs[:3])}{more} are read as its own, and nothing keeps its key unique among them: "
            "a run leaves it out as soon as a key occurs twice",
            "nothing",
        )
    if declared.exclude:
        yield Note(
            name,
            f"{', '.join(declared.exclude)} differs only in case from another column: left out (exclude=)",
            "a view that calls it otherwise, to have it",
        )
    for column in declared.columns:
        if found := _risk(column, declared.types[column.name]):
            yield Note(f"{name}.{column.name}", *found)
        is_telling = declared.types[column.name].removesuffix("?") in _TELLING
        if is_telling and _SECRET.search(snake(column.name)) and column.name not in declared.key:
            yield Note(
                f"{name}.{column.name}",
                "it is called like a secret, and would lie in the lake and the warehouse as it is",
                f'exclude=("{column.name}",) in tables.py, and take it out of the columns there and in the star',
            )


def _risk(column: CatalogColumn, declared: str) -> tuple[str, str] | None:
    """What is risky about a column, and what to write."""
    mark = "" if column.required else "?"
    if column.type == "money":
        return (
            "money is read as the text that lc_monetary makes of it",
            "ALTER TABLE … TYPE numeric(12,2), or a view",
        )
    if column.type == "time without time zone" and declared.startswith("text"):
        return "it has times of 24:00, which no warehouse has, and is kept as text", "nothing"
    if _is_day(column) or column.type in _FLOATS:
        kind, without = (
            ("days", "infinity, or beyond the years 1 to 9999")
            if _is_day(column)
            else ("values", "NaN, or infinity")
        )
        if declared.startswith("text"):
            return (
                f"it has {kind} that no warehouse has ({without}), and is kept as text",
                f"a view that has NULL for them, to have it as {column.type}",
            )
        if any(_strange(column)):
            return (
                f"it has {kind} that no warehouse has ({without}): their rows go into quarantine",
                f'"text{mark}" for it in tables.py',
            )
    if column.type == "numeric" and declared.startswith("numeric("):
        return (
            f"numeric without a precision is taken for {ANY_NUMERIC}: what has more digits goes into quarantine",
            f'"numeric{mark}" for it in tables.py, to have it as text',
        )
    if column.type == "numeric":
        return (
            "numeric without a precision, with values of many digits: kept as text",
            '"numeric(p,s)" for it',
        )
    is_text = declared.startswith("text") and column.kind == "base"
    if is_text and len(column.seen) >= _ENOUGH and all(_ISO_DATE.fullmatch(v.strip()) for v in column.seen):
        return "a text that is always a date in the rows looked at", f'"date{mark}" for it in tables.py'
    if column.width >= WIDE_BYTES:
        return f"some {column.width:,} bytes in each row", f'exclude=("{column.name}",) if nobody needs it'
    return None


def _is_text(column: CatalogColumn) -> bool:
    """Whether a day, an instant or a float is often none that a warehouse has. A day without end means something, and is
    written again; others may be slips of the pen, which quarantine is for."""
    strange = list(_strange(column))
    is_endless = _is_day(column) and (column.endless or any("infinity" in value for value in strange))
    return is_endless or len(strange) > len(column.seen) * _FEW


def _is_day(column: CatalogColumn) -> bool:
    return column.kind == "base" and column.type.startswith(("date", "timestamp"))


def _strange(column: CatalogColumn) -> Iterator[str]:
    """Of the values looked at those that no warehouse has."""
    if _is_day(column):
        yield from (v for v in column.seen if v.endswith("BC") or not re.match(r"\d{4}-", v))
    elif column.kind == "base" and column.type in _FLOATS:
        yield from (v for v in column.seen if v.lstrip("-") in {"NaN", "Infinity"})
