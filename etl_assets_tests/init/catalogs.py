"""Random databases of the worst kind: names that are code, every type, keys and references of every form.

What a database refuses is left out: that is a savepoint's work, so that no rule of PostgreSQL's has to be known twice.
"""

import random
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field

import psycopg2
from psycopg2.extensions import cursor as Cursor

from etl_assets_tests.init.samples import quoted, text

WORDS = (
    "order", "select", "class", "None", "lambda", "raw", "batches", "quarantine", "star", "reporting", "deleted", "batch", "record",
    "date", "dim_date", "nw", "rows", "key", "Kunde", "kunde", "KUNDE", "straße", "strasse", "Straße", "日本", "имя", "é" * 31, "n" * 63,
    "N" * 63, "x" * 62 + "y", "it's", 'a "b"', '"; DROP TABLE t; --', '""" + exit() + """', "new\nline", "back\\slash", "ends\\",
    "a.b", "a b", "a-b", "a_b", "1st", "_", "__init__", "self", "%s", "{}", "{0}", "# noqa", "\u202egnp", "self_id", "total", "name",
    "id", "amount", "import", "print", "list", "Table", "Column", "fact", "report", "part", "sale", "created_at",
)  # fmt: skip
COMMENTS = (
    '"""',
    "'''",
    "ends\\",
    "new\nline\r\nand",
    '\\"',
    "it's",
    "#",
    "x" * 300,
    "日本語",
    "{0} %s",
    "Größe\tin m²",
    "\\N",
    "",
)
# A type, and the SQL of a value for the number `n`.
KINDS = {
    "int": "n", "bigint": "n * 1000000007", "smallint": "n % 100", "numeric": "n / 3.0", "numeric(9,2)": "n * 1.25", "real": "n / 4.0",
    "double precision": "n / 8.0", "text": "'t' || n || E'\\n\"''\\\\ é'", "varchar(7)": "'v' || n % 1000", "char(5)": "'c' || n % 1000",
    "bpchar": "'b' || n || ' '", '"char"': "chr(65 + n % 26)", "date": "date '2024-01-01' + n % 400", "timestamp": "timestamp '2024-01-01' + n * interval '1 hour 0.000001 s'",
    "timestamptz": "timestamptz '2024-01-01 00:00+02' + n * interval '1 hour'", "time": "CASE n % 9 WHEN 0 THEN time '24:00' ELSE time '00:00' + n * interval '1 minute' END",
    "timetz": "timetz '12:00+02'", "interval": "n * interval '1 day 1 second'", "boolean": "n % 2 = 0", "uuid": "md5(n::text)::uuid",
    "bytea": "decode(md5(n::text), 'hex')", "json": "json_build_object('n', n)", "jsonb": "jsonb_build_object('n', n)", "int[]": "ARRAY[n, NULL, 1]",
    "text[]": "ARRAY['a,\"b', 't' || n]", "int4range": "int4range(n, n + 2)", "money": "(n * 1.5)::numeric::money", "inet": "'10.0.0.1'::inet + n",
    "bit(3)": "(n % 8)::int::bit(3)", "tsvector": "to_tsvector('simple', 'w' || n)", "point": "point(n, 1)", "mood": "(ARRAY['sad', 'it''s', 'ok'])[1 + n % 3]::mood",
    "positive": "abs(n % 1000) + 1", "short": "left('s' || n, 4)", "pair": "ROW(n, 'x,\"y')::pair", "xml": "('<a>' || n || '</a>')::xml",
    "textdate": "to_char(date '2024-01-01' + n % 400, 'YYYY-MM-DD')",
}  # fmt: skip
KEYS = (
    "int",
    "bigint",
    "text",
    "uuid",
    "date",
    "smallint",
    "bpchar",
    "char(5)",
    "numeric(9,2)",
    "timestamp",
    "mood",
    "varchar(7)",
)
TYPES = (
    "CREATE TYPE mood AS ENUM ('sad', 'it''s', 'ok'); CREATE TYPE pair AS (a int, b text); CREATE DOMAIN positive AS int CHECK (VALUE > 0); "
    "CREATE DOMAIN short AS varchar(4) NOT NULL; CREATE DOMAIN textdate AS text"
)


@dataclass
class Made:
    """A table that was made: its columns with their types, its key, and its references."""

    schema: str
    name: str
    columns: dict[str, str]
    key: Sequence[str]
    unique: Sequence[str] = ()
    references: list[tuple[Sequence[str], "Made", Sequence[str]]] = field(default_factory=list)
    written: int = 0

    @property
    def place(self) -> str:
        return f"{quoted(self.schema)}.{quoted(self.name)}"


class Catalog:
    """A random database, from a seed: made at once, changed as often as one likes."""

    def __init__(self, url: str, seed: int) -> None:
        self.url = url
        self.chance = random.Random(seed)
        self.tables: list[Made] = []

    def make(self) -> None:
        """Tables, views, references, comments and rows."""
        with closing(psycopg2.connect(self.url)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(TYPES)
            schemas = [
                "public",
                *self.chance.sample(["sales", "Sales", "raw", "a b"], self.chance.randint(0, 2)),
            ]
            for schema in schemas[1:]:
                cursor.execute(f"CREATE SCHEMA {quoted(schema)}")
            for _ in range(self.chance.randint(4, 8)):
                self._table(cursor, self.chance.choice(schemas))
            self._circle(cursor)
            for table in self.tables:
                self._comments(cursor, table)
                for _ in range(self.chance.choice([0, 1, 12, 30])):
                    self._insert(cursor, table)
            self._others(cursor)

    def change(self, count: int) -> int:
        """Insert, update, delete and re-point rows; how many changes were taken."""
        made = 0
        with closing(psycopg2.connect(self.url)) as connection, connection, connection.cursor() as cursor:
            for _ in range(count):
                table = self.chance.choice(self.tables)
                what = self.chance.choice([self._insert, self._update, self._delete, self._point])
                made += what(cursor, table)
        return made

    # -- what there is -------------------------------------------------------------------------------------------

    def _table(self, cursor: Cursor, schema: str) -> None:
        chance = self.chance
        name = chance.choice(WORDS)
        names = list(dict.fromkeys(chance.sample(WORDS, chance.randint(3, 12))))
        columns = {column: chance.choice(list(KINDS)) for column in names}
        key = names[: chance.choice([1, 1, 1, 2, 3])]
        columns |= {column: chance.choice(KEYS) for column in key}
        made = Made(schema, name, columns, key)
        for _ in range(chance.choice([0, 1, 1, 2])):
            self._refer(made)
        if chance.random() < 0.2 and len(key) == 1:  # to itself
            made.columns["boss"] = columns[key[0]]
            made.references.append((["boss"], made, key))
        form = chance.choice(
            ["primary"] * 5 + ["identity", "unique", "nulls", "partial", "expression", "none"]
        )
        if form == "identity":
            made.columns[key[0]] = "bigint"
            made.key = key = [key[0]]
        parts = [
            f"{quoted(c)} {kind}" + (" NOT NULL" if c in key else "") for c, kind in made.columns.items()
        ]
        if form == "identity":
            parts[list(made.columns).index(key[0])] += " GENERATED ALWAYS AS IDENTITY"
        if form in ("primary", "identity"):
            parts.append(f"PRIMARY KEY ({', '.join(map(quoted, key))})")
        for own, other, theirs in made.references:
            gone = chance.choice(["CASCADE", "SET NULL", "NO ACTION"])
            parts.append(
                f"FOREIGN KEY ({', '.join(map(quoted, own))}) REFERENCES {other.place} ({', '.join(map(quoted, theirs))}) "
                f"ON DELETE {gone}"
            )
        if chance.random() < 0.3:
            parts.append(f"generated boolean GENERATED ALWAYS AS ({quoted(key[0])} IS NULL) STORED")
        split = form == "primary" and chance.random() < 0.2
        statement = f"CREATE TABLE {made.place} ({', '.join(parts)})" + (
            f" PARTITION BY HASH ({quoted(key[0])})" if split else ""
        )
        indexed = {
            "unique": f"CREATE UNIQUE INDEX ON {made.place} ({', '.join(map(quoted, key))})",
            "nulls": f"CREATE UNIQUE INDEX ON {made.place} ({quoted(names[-1])}) NULLS NOT DISTINCT",
            "partial": f"CREATE UNIQUE INDEX ON {made.place} ({quoted(key[0])}) WHERE {quoted(key[0])} IS NOT NULL",
            "expression": f"CREATE UNIQUE INDEX ON {made.place} (lower({quoted(key[0])}::text))",
        }
        more = [indexed[form]] if form in indexed else []
        if split:
            more += [
                f"CREATE TABLE {quoted(schema)}.{quoted(f'part_{len(self.tables)}_{n}')} PARTITION OF {made.place} "
                f"FOR VALUES WITH (MODULUS 2, REMAINDER {n})"
                for n in range(2)
            ]
        if chance.random() < 0.3:
            more.append(f"ALTER TABLE {made.place} ADD gone int; ALTER TABLE {made.place} DROP gone")
        if tried(cursor, statement, *more):
            made.key = key if form in ("primary", "identity", "unique") else ()
            if (
                form == "primary"
                and len(names) > 3
                and tried(
                    cursor,
                    f"CREATE UNIQUE INDEX ON {made.place} ({quoted(names[-1])})",
                    f"ALTER TABLE {made.place} ALTER {quoted(names[-1])} SET NOT NULL",
                )
            ):
                made.unique = [names[-1]]
            self.tables.append(made)

    def _refer(self, made: Made) -> None:
        """Columns that refer to a key, or to a unique column, of a table that is there; maybe to the same one again."""
        targets = [(t, k) for t in self.tables for k in (t.key, t.unique) if k]
        if targets:
            other, theirs = self.chance.choice(targets)
            own = [
                f"{self.chance.choice(['fk', 'FK', 'of the', other.name[:20]])}_{len(made.references)}_{n}"
                for n in range(len(theirs))
            ]
            made.columns.update(zip(own, (other.columns[c] for c in theirs), strict=True))
            made.references.append((own, other, theirs))

    def _circle(self, cursor: Cursor) -> None:
        """The first table refers to the last, which may refer to it."""
        first, last = self.tables[0], self.tables[-1]
        if len(last.key) == 1 and tried(
            cursor,
            f"ALTER TABLE {first.place} ADD circle {last.columns[last.key[0]]} REFERENCES {last.place} ({quoted(last.key[0])}) ON DELETE SET NULL",
        ):
            first.columns["circle"] = last.columns[last.key[0]]
            first.references.append((["circle"], last, last.key))

    def _comments(self, cursor: Cursor, table: Made) -> None:
        cursor.execute(f"COMMENT ON TABLE {table.place} IS {text(self.chance.choice(COMMENTS))}")
        for name in table.columns:
            if self.chance.random() < 0.5:
                cursor.execute(
                    f"COMMENT ON COLUMN {table.place}.{quoted(name)} IS {text(self.chance.choice(COMMENTS))}"
                )

    def _others(self, cursor: Cursor) -> None:
        """What is no table of its own, or has nothing."""
        first = self.tables[0]
        for statement in (
            f"CREATE VIEW {quoted('a view')} AS SELECT * FROM {first.place}",
            f"CREATE MATERIALIZED VIEW made AS SELECT * FROM {first.place}",
            f"CREATE TABLE heir (more int) INHERITS ({first.place})",
            "CREATE TABLE nothing ()",
        ):
            tried(cursor, statement)

    # -- rows ----------------------------------------------------------------------------------------------------

    def _value(self, table: Made, column: str) -> str:
        n = self.chance.randint(-50, 5000)
        value = f"(SELECT {KINDS[table.columns[column]]} FROM (VALUES ({n})) AS v (n))"
        free = column not in table.key and column not in table.unique and table.columns[column] != "short"
        return "NULL" if free and self.chance.random() < 0.15 else value

    def _insert(self, cursor: Cursor, table: Made) -> bool:
        values = {column: self._value(table, column) for column in table.columns}
        for own, other, theirs in table.references:
            values |= self._aimed(own, other, theirs)
        names = ", ".join(map(quoted, values))
        return tried(
            cursor,
            f"INSERT INTO {table.place} ({names}) OVERRIDING SYSTEM VALUE VALUES ({', '.join(values.values())})",
        )

    def _aimed(self, own: Sequence[str], other: Made, theirs: Sequence[str]) -> dict[str, str]:
        """The values of a reference: those of one row of the other table, picked at random."""
        offset = self.chance.randint(0, 5)
        ordered = ", ".join(f"{quoted(c)}::text" for c in theirs)
        return {
            mine: f"(SELECT {quoted(c)} FROM {other.place} ORDER BY {ordered} OFFSET {offset} LIMIT 1)"
            for mine, c in zip(own, theirs, strict=True)
        }

    def _some(self, table: Made) -> str:
        return f"ctid = (SELECT ctid FROM {table.place} ORDER BY tableoid, ctid OFFSET {self.chance.randint(0, 12)} LIMIT 1)"

    def _update(self, cursor: Cursor, table: Made) -> bool:
        column = self.chance.choice(list(table.columns))
        return tried(
            cursor,
            f"UPDATE {table.place} SET {quoted(column)} = {self._value(table, column)} WHERE {self._some(table)}",
        )

    def _delete(self, cursor: Cursor, table: Made) -> bool:
        return tried(cursor, f"DELETE FROM {table.place} WHERE {self._some(table)}")

    def _point(self, cursor: Cursor, table: Made) -> bool:
        if not table.references:
            return False
        aimed = self._aimed(*self.chance.choice(table.references))
        changed = ", ".join(f"{quoted(c)} = {value}" for c, value in aimed.items())
        return tried(cursor, f"UPDATE {table.place} SET {changed} WHERE {self._some(table)}")


def tried(cursor: Cursor, *statements: str) -> bool:
    """Whether the database takes statements; else nothing of them is left."""
    cursor.execute("SAVEPOINT before")
    try:
        for statement in statements:
            cursor.execute(statement)
    except psycopg2.Error:
        cursor.execute("ROLLBACK TO before")
        return False
    return True
