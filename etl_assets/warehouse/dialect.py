"""How engines of warehouses write what they share: names, types, comparisons; and the tables in which a warehouse keeps its
own notes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from etl_assets.engine.types import Type
from etl_assets.star.schema import Column, Fact, StarTable
from etl_assets.warehouse.schemas import STAR

SCHEMA = STAR


@dataclass(frozen=True)
class ControlTable:
    """A table in which the warehouse keeps its own notes."""

    name: str
    description: str
    columns: Sequence[Column]
    key: Sequence[str]


LOADS = ControlTable(
    "loads",
    "One row is a file of the lake that was loaded: of a dimension the latest, of a fact one per batch, or for many.",
    [
        Column("table_name", "text"),
        Column("batch", "bigint"),
        Column("version", "text"),
        Column("rows", "bigint"),
        Column("loaded_at", "timestamp", "UTC."),
        Column("run_id", "text"),
    ],
    key=["table_name", "batch"],
)
SUPERSEDED = ControlTable(
    "superseded",
    "One row is a version of a fact that a later one took the place of; what the views of the current state leave out.",
    [Column("table_name", "text"), Column("record_id", "bigint")],
    key=["table_name", "record_id"],
)
INFERRED = ControlTable(
    "inferred_members",
    "One row is a member that a fact refers to before its dimension has it; the dimension shows a stand-in.",
    [Column("table_name", "text"), Column("member_key", "text")],
    key=["table_name", "member_key"],
)
BATCHES = ControlTable(
    "batches",
    "One row is a batch that a load brought the warehouse up to; `certified` is when all tables were found equal as of it.",
    [
        Column("batch", "bigint"),
        Column("source_time", "timestamp", "As of when the batch shows the source, UTC."),
        Column("run_id", "text"),
        Column("lake", "text", "The identity of the lake that it is of."),
        Column("project", "text"),
        Column("certified", "timestamp?", "UTC."),
        Column(
            "manifest",
            "text?",
            "The SHA-256 of the batch's manifest in the lake; NULL where an older version noted the batch.",
        ),
    ],
    key=["batch"],
)
OF_TABLES = (LOADS, SUPERSEDED, INFERRED)
"""Books whose rows are each about a table of the star."""
BOOKS = (*OF_TABLES, BATCHES)
LAST_CHANGE = "last_change"
"""A table in which an engine without a transaction over all tables notes whose turn it is."""
OWN_NAMES = frozenset({*(book.name for book in BOOKS), LAST_CHANGE})
"""What no table of a star can be called. Beside it there is the view of each fact (`current`)."""


def is_outdated(book: ControlTable, columns: Mapping[str, tuple[str, bool]], dialect: "Dialect") -> bool:
    """Whether a book is one of an older version, which wrote the numbers of batches as text, or lacked a column. A load
    carries on what it says: else nobody would know any more which tables of the warehouse are ours."""
    wanted = {(c.name, dialect.type(c.type)) for c in book.columns}
    return bool(columns) and not wanted <= {(name, kind) for name, (kind, _) in columns.items()}


def carried_on(book: ControlTable, columns: Mapping[str, tuple[str, bool]], dialect: "Dialect") -> str:
    """The query of what an outdated book, with the columns that it has, says in the columns and types of now."""
    chosen = ", ".join(
        f"{dialect.cast(name if c.name in columns else 'NULL', c.type)} AS {name}"
        for c in book.columns
        for name in [dialect.identifier(c.name)]
    )
    return f"SELECT {chosen} FROM {dialect.place(book.name)}"


@dataclass(frozen=True)
class Dialect:
    """How an engine writes names and types. `name` is sqlglot's name of it, and the attribute of `Type`; `schema` is what
    it calls schema `star`."""

    name: str
    quote: str = '"'
    schema: str = SCHEMA

    def identifier(self, name: str) -> str:
        """A name, quoted."""
        return f"{self.quote}{name.replace(self.quote, self.quote * 2)}{self.quote}"

    def listing(self, names: Sequence[str], prefix: str = "") -> str:
        """Names, quoted, with a comma between them."""
        return ", ".join(prefix + self.identifier(name) for name in names)

    def literal(self, text: str) -> str:
        """A text as SQL has it."""
        return "'" + text.replace("'", "''") + "'"

    def place(self, name: str) -> str:
        """A table of schema `star`."""
        return f"{self.identifier(self.schema)}.{self.identifier(name)}"

    def type(self, type_: Type) -> str:
        """What the engine calls a type."""
        name: str = getattr(type_, self.name)
        return name

    def cast(self, value: str, type_: Type) -> str:
        """The SQL that makes a value one of a type."""
        return f"CAST({value} AS {self.type(type_)})"

    def hexadecimal(self, value: str) -> str:
        """The SQL of bytes as hexadecimal digits."""
        return f"lower(hex({value}))"

    def same(self, names: Sequence[str], one: str, other: str) -> str:
        """The condition that two rows have the same values in columns, none of which is NULL."""
        return " AND ".join(
            f"{one}.{self.identifier(name)} = {other}.{self.identifier(name)}" for name in names
        )

    def present(self, names: Sequence[str], row: str) -> str:
        """The condition that no value of columns is NULL."""
        return " AND ".join(f"{row}.{self.identifier(name)} IS NOT NULL" for name in names)

    def member_key(self, table: "StarTable", row: str) -> str:
        """The text of a row's key in `star.inferred_members`. Of several columns each value stands in quotes, a quote in
        it is doubled: no two keys have the same text."""
        parts = [self._text(f"{row}.{self.identifier(n)}", table.by_name[n].type) for n in table.key_columns]
        if len(parts) == 1:
            return parts[0]
        quote, doubled, between = (self.literal(text) for text in ('"', '""', '","'))
        quoted = [f"replace({part}, {quote}, {doubled})" for part in parts]
        return f"({quote} || {f' || {between} || '.join(quoted)} || {quote})"

    def _text(self, value: str, type_: Type) -> str:
        if type_.name == "bytea":  # bytes need be no text
            return f"({self.literal(chr(92) + 'x')} || {self.hexadecimal(value)})"
        return self.cast(value, INFERRED.columns[1].type)

    def declared(self, table: "StarTable") -> list[tuple[str, tuple[str, bool]]]:
        """The columns of a table as `WarehouseReader.columns` tells them when it is as declared."""
        return [(c.name, (self.type(c.type), c.type.nullable)) for c in table.columns]

    def declares(
        self, held: Mapping[str, tuple[str, bool]], table: "StarTable", names: Sequence[str]
    ) -> bool:
        """Whether columns that a table has (`held`) are of the types that are declared."""
        wanted = {name: self.type(table.by_name[name].type) for name in names}
        return all(name in held and held[name][0] == wanted[name] for name in names)

    def comments(self, table: "StarTable | ControlTable") -> list[str]:
        """What a table and its columns mean, as DuckDB and PostgreSQL are told."""
        place = self.place(table.name)
        return [
            f"COMMENT ON TABLE {place} IS {self.literal(table.description)}",
            *(
                f"COMMENT ON COLUMN {place}.{self.identifier(c.name)} IS {self.literal(c.description)}"
                for c in table.columns
                if c.description
            ),
        ]

    def current_view(self, fact: Fact) -> str:
        """The query of a fact's view of what is current."""
        return (
            f"SELECT {self.listing([c.name for c in fact.columns], 'f.')} FROM {self.place(fact.name)} AS f "
            f"WHERE NOT f.deleted AND NOT EXISTS (SELECT 1 FROM {self.place(SUPERSEDED.name)} AS s "
            f"WHERE s.table_name = {self.literal(fact.name)} AND s.record_id = f.{self.identifier(fact.record)})"
        )


DUCKDB = Dialect("duckdb")


def current(fact: str) -> str:
    """The view with the latest version of each row of a fact that still exists."""
    return f"{fact}_current"
