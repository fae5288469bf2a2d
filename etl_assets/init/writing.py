"""The files of a project: modules that run as they are, and are meant to be read and gone on with."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import count
from urllib.parse import quote

from psycopg2.extensions import parse_dsn

from etl_assets.engine.types import Type
from etl_assets.init.declaring import ANY_NUMERIC, Declaration, Declared, Note, slug, snake, unique
from etl_assets.init.design import described, summed
from etl_assets.init.layout import WIDTH, call, chain, comment, docstring, literal, literals, prose, sentence
from etl_assets.init.proposal import CALENDAR, Design, LeftJoin, ProposedTable, StarColumn

_TITLE = 31  # characters of a report's title: it names a sheet of a workbook
_MOST_GROUPS = 10_000  # that a report is grouped by
# Of a sum whose column says that it has more: a sheet holds 15 digits, and refuses what has more.
_SCALE = 4
_NAME = 63  # of a report's name: it names a table of the warehouse
# Of an address: what says where and how, and is no secret.
_OPTIONS = ("sslmode", "channel_binding", "target_session_attrs", "connect_timeout", "gssencmode")


def modules(declaration: Declaration, design: Design) -> dict[str, str]:
    """The modules of a project, by file name."""
    files = {
        "__init__.py": docstring("The tables, the star and the reports of a database, begun by etl init.")
        + "\n",
        "tables.py": tables_module(declaration),
        "facts.py": _star_module("The facts: one function per table.", "fact", design.facts),
        "reports.py": _reports_module(design),
    }
    if design.dimensions or design.has_calendar:
        files["dimensions.py"] = _dimensions_module(design)
    return files


# -- tables.py -----------------------------------------------------------------------------------------------------------


def tables_module(declaration: Declaration) -> str:
    """All tables that are read, and what is left out."""
    constants = constant_names([declared.name for declared in declaration.tables], ())
    intro = (
        '"""The tables that are read, and what the star takes their columns for.\n\n'
        'All columns are landed; declared are those that the star may use. `?` allows NULL.\n"""'
    )
    parts = [f"{intro}\n\nfrom etl_assets.project import Table"]
    parts += [declared_table(declared, constants[declared.name]) for declared in declaration.tables]
    if declaration.left_out:
        parts.append("\n".join(["# Left out:", *map(_told, declaration.left_out)]))
    return "\n\n".join(parts) + "\n"


def constant_names(names: Sequence[str], taken: Sequence[str]) -> dict[str, str]:
    """What tables are called in a module."""
    found: dict[str, str] = {}
    for name in names:
        wanted = snake(name).upper()
        # I and O are taken for digits.
        found[name] = unique(f"{wanted}_TABLE" if wanted in {"I", "O"} else wanted, [*taken, *found.values()])
    return found


def declared_table(declared: Declared, constant: str) -> str:
    """The declaration of a table."""
    table = declared.table
    said = described(table.comment)
    arguments = [literal(table.name), literal(sentence(said) if said else one_row(declared))]
    columns = [f"{literal(name)}: {literal(type_)}" for name, type_ in declared.types.items()]
    arguments.append(call("{", columns, 1, open_=True))
    if declared.key_is_declared:
        arguments.append(f"key={literals(declared.key)}")
    if table.schema != "public":
        arguments.append(f"schema={literal(table.schema)}")
    if declared.exclude:
        arguments.append(f"exclude={literals(declared.exclude)}")
    if declared.name != table.name:
        arguments.append(f"as_={literal(declared.name)}")
    return call(f"{constant} = Table(", arguments, open_=True)


def one_row(declared: Declared) -> str:
    """What is said of a table that has no comment."""
    return f"One row is a row of {declared.shown}."


def _told(note: Note) -> str:
    text = prose(f"{note.table}: {note.what}." + ("" if note.write == "nothing" else f" Write: {note.write}"))
    return comment(f"  {text}").replace("# ", "#   ", 1)


# -- dimensions.py and facts.py ------------------------------------------------------------------------------------------


def _dimensions_module(design: Design) -> str:
    module = _star_module("The dimensions: one function per table.", "dimension", design.dimensions)
    if not design.has_calendar:
        return module
    imports = "from etl_assets.project import calendar"
    if design.dimensions:
        module = module.replace("import Column, dimension", "import Column, calendar, dimension", 1)
        return f"{module}\n\n{CALENDAR} = calendar()\n"
    return f'"""The dimensions."""\n\n{imports}\n\n{CALENDAR} = calendar()\n'


def _star_module(title: str, kind: str, tables: Sequence[ProposedTable]) -> str:
    head = docstring(f"{title} What each was taken for, and why, stands above it.")
    parts = [f"{head}\n\nimport narwhals as nw\nfrom etl_assets.project import Column, {kind}"]
    parts += [star_function(table) for table in tables]
    return "\n\n\n".join(parts) + "\n"


def star_function(made: ProposedTable) -> str:
    """The function of a star table, with its contract."""
    head = "@fact(" if made.is_fact else "@dimension("
    key = literal(made.key[0]) if len(made.key) == 1 else f"[{', '.join(map(literal, made.key))}]"
    arguments = [f"key={key}"]
    if len(f"    {arguments[0]},") > WIDTH:
        arguments = [call("key=[", map(literal, made.key), 1, open_=True)]
    if made.record:
        arguments.append(f"record={literal(made.record)}")
    arguments.append(call("columns=[", [_column(column) for column in made.columns], 1, open_=True))
    if made.references:
        links = [_link(columns, dimension) for columns, dimension in made.references.items()]
        arguments.append(call("references={", links, 1, open_=True))
    tables = list(dict.fromkeys([made.table.name, *(join.table.name for join in made.joins)]))
    parameters = [f"{name}: nw.LazyFrame" for name in tables]
    why = made.why
    if made.unshown:
        why += f" Not here: {', '.join(made.unshown)}."
    said = prose(described(made.table.table.comment))
    row = f"One row is a {'version of a ' if made.is_fact else ''}row of {prose(made.table.shown)}"
    told = f"{row}: {said}" if said else f"{row}."
    if said.startswith("One row is") and not made.is_fact:  # the database's own comment says it
        told = said
    return "\n".join(
        [
            comment(prose(why)),
            call(head, arguments, open_=True),
            call(f"def {made.name}(", parameters, tail=" -> nw.LazyFrame:"),
            docstring(told, 1),
            *_body(made),
        ]
    )


def _column(column: StarColumn) -> str:
    arguments = [literal(column.name), literal(column.declared)]
    if column.description:
        arguments.append(literal(sentence(column.description)))
    if column.references:
        arguments.append(f"references={literal(column.references)}")
    return call("Column(", arguments, 2)


def _link(columns: Sequence[str], dimension: str) -> str:
    flat = f"{literals(columns)}: {literal(dimension)}"
    if len(f"        {flat},") <= WIDTH:
        return flat
    return f"{call('(', map(literal, columns), 2, open_=True).lstrip()}: {literal(dimension)}"


def _body(made: ProposedTable) -> list[str]:
    frame, lines = made.table.name, [_trimmed(name, columns) for name, columns in made.trimmed.items()]
    if lines:
        lines.insert(0, comment("PostgreSQL compares char(n) without trailing blanks.", 1))
    for join in made.joins:
        lines.append(_join(join, frame))
        frame = "joined"
    chosen = [
        literal(column.source) if column.name == column.source and not column.day else _chosen(column)
        for column in made.columns
    ]
    return [*lines, call(f"return {frame}.select(", chosen, 1)]


def _trimmed(name: str, columns: Sequence[str]) -> str:
    """What makes texts of columns the same where PostgreSQL takes them for equal."""
    trims = []
    for column in columns:
        trim = f'nw.col({literal(column)}).str.replace_all(" +$", "")'
        if len(f"        {trim},") > WIDTH:
            trim = trim.replace('(" +$", "")', '(\n            " +$", ""\n        )')
        trims.append(trim)
    return call(f"{name} = {name}.with_columns(", trims, 1)


def _chosen(column: StarColumn) -> str:
    calls = [("col", literal(column.source))]
    if column.day:
        calls.append(("cast", "nw.Date"))
    calls.append(("alias", literal(column.name)))
    return chain("nw", *calls, indent=2).removeprefix("        ")


def _join(join: LeftJoin, frame: str) -> str:
    taken = [
        *(literal(name) for name in join.right),
        *(
            literal(name)
            if name == as_
            else chain("nw", ("col", literal(name)), ("alias", literal(as_)), indent=3).removeprefix(" " * 12)
            for name, as_ in join.columns.items()
        ),
    ]
    arguments = [call(f"{join.table.name}.select(", taken, 2)]
    if join.left == join.right:
        arguments.append(f"on={_names(join.left)}")
    else:
        arguments += [f"left_on={_names(join.left)}", f"right_on={_names(join.right)}"]
    arguments.append('how="left"')
    return call(f"joined = {frame}.join(", arguments, 1, open_=True)


def _names(names: Sequence[str]) -> str:
    return literal(names[0]) if len(names) == 1 else f"[{', '.join(map(literal, names))}]"


# -- reports.py ----------------------------------------------------------------------------------------------------------


def _reports_module(design: Design) -> str:
    head = (
        '"""The reports: each is a query that the warehouse answers, and a function that shapes the answer.\n\n'
        'Queries keep to the SQL that DuckDB, PostgreSQL and BigQuery share.\n"""\n\n'
        "import pandas as pd\n"
        "from etl_assets.project import ReportColumn, report"
    )
    sizes = {made.name: made.table.table.rows for made in design.dimensions}
    names: list[str] = []
    titles: list[str] = []
    parts = [head]
    parts += [fact_report(made, sizes, names, titles) for made in design.facts]
    return "\n\n\n".join(parts) + "\n"


def fact_report(made: ProposedTable, sizes: Mapping[str, int], names: list[str], titles: list[str]) -> str:
    """The report of a fact. `sizes`: the rows of dimensions; `names` and `titles` are taken, and its own are added."""
    by = _grouping(made, sizes)
    grouped = f"_by_{by.what}" if by.what else "_in_all"
    name = _not_taken(made.base, grouped, _NAME, "_", names)
    names.append(name)
    told = made.base.replace("_", " ")
    title = _not_taken(f"{told[:1].upper()}{told[1:]}", grouped.replace("_", " "), _TITLE, " ", titles)
    titles.append(title)
    return _report(made, by, name, title)


class _Grouping:
    """What a report is grouped by: SQL of the columns, where they come from, and the declared columns."""

    def __init__(self, what: str, columns: Mapping[str, tuple[str, str, str]], joined: str = "") -> None:
        self.what = what
        self.columns = columns
        self.joined = joined


def _grouping(made: ProposedTable, sizes: Mapping[str, int]) -> _Grouping:
    """By month, else by the smallest dimension if it is small enough to look at, else not at all."""
    if made.days:
        day = made.days[0]
        mark = "?" if next(c for c in made.columns if c.name == day).declared.endswith("?") else ""
        told = f"Of {day}."
        return _Grouping(
            "month",
            {"year": ("d.year", f"int{mark}", told), "month": ("d.month", f"int{mark}", "1 to 12.")},
            f"LEFT JOIN star.{CALENDAR} AS d ON d.date_id = f.{identifier(day)}",
        )
    links = made.links or {(column,): dimension for column, dimension in made.likely.items()}
    if links and min(sizes.get(dimension, 0) for dimension in links.values()) <= _MOST_GROUPS:
        columns = min(links, key=lambda one: sizes.get(links[one], 0))
        declared = {c.name: c.declared for c in made.columns}
        told = f"As in {links[columns]}." if made.links else f"Called like the key of {links[columns]}."
        return _Grouping(
            links[columns].removeprefix("dim_"),
            {name: (f"f.{identifier(name)}", declared[name], told) for name in columns},
        )
    return _Grouping("", {"part": ("'all'", "text", "There is one part: all.")})


def _report(made: ProposedTable, by: _Grouping, name: str, title: str) -> str:
    kinds = {c.name: Type(c.declared) for c in made.columns}
    counted = unique("entries", [*by.columns, *kinds])
    sums: dict[str, tuple[str, str, str]] = {}
    exact: list[str] = []
    for amount in summed(made):
        called = unique(amount, [*by.columns, counted])
        whole = kinds[amount].name in {"smallint", "int", "bigint"}
        scale = 0 if whole else int(kinds[amount].name.partition(",")[2].rstrip(")"))
        add = f"COALESCE(SUM(f.{identifier(amount)}), 0)"
        told = f"The sum of {called}"
        if whole:
            sums[called] = (f"CAST({add} AS BIGINT)", "bigint", f"{told}.")
        elif scale <= _SCALE or kinds[amount].name == ANY_NUMERIC:
            sums[called] = (add, f"numeric(38,{scale})", f"{told}.")
        else:
            sums[called] = (
                f"ROUND({add}, {_SCALE})",
                f"numeric(38,{_SCALE})",
                f"{told}, to {_SCALE} digits.",
            )
            continue
        exact.append(called)
    columns = [
        call("ReportColumn(", [literal(n), literal(declared), literal(told)], 2)
        for n, (_, declared, told) in by.columns.items()
    ]
    columns.append(call("ReportColumn(", [literal(counted), '"bigint"', '"How many there are."'], 2))
    columns += [
        call("ReportColumn(", [literal(n), literal(type_), literal(told)], 2)
        for n, (_, type_, told) in sums.items()
    ]
    added = {n: f"{sql} AS {identifier(n)}" for n, (sql, _, _) in sums.items()}
    totals = [f"COUNT(*) AS {identifier(counted)}", *added.values()]
    # Sums that were rounded need not come to the sum of all, rounded.
    controls = [totals[0], *(added[n] for n in exact)]
    groups = [
        sql if sql.endswith(f".{identifier(n)}") else f"{sql} AS {identifier(n)}"
        for n, (sql, _, _) in by.columns.items()
    ]
    source = f"FROM star.{made.name}_current AS f"
    query = [f"SELECT {', '.join(groups)},", *_listed(totals), source]
    if by.joined:
        query.append(by.joined)
    if by.what:
        query.append(f"GROUP BY {', '.join(sql for sql, _, _ in by.columns.values())}")
    control = [f"SELECT {', '.join(controls)}", source]
    key = f"key=[{', '.join(map(literal, by.columns))}]"
    if len(key) > 100:
        key = call("key=[", map(literal, by.columns), 1, open_=True)
    arguments = [f"title={literal(title)}", key, call("columns=[", columns, 1, open_=True)]
    arguments += [f"query={_sql(query)}", f"control={_sql(control)}"]
    unit = f"what {made.name} has" + (f" with one of dim_{by.what}" if by.what else " in all")
    if made.days:
        unit = f"what {made.name} has of a month, by {made.days[0]}; without a month: what has no day"
    return "\n".join(
        [
            call("@report(", arguments, open_=True),
            f"def {name}(answer: pd.DataFrame) -> pd.DataFrame:",
            docstring(f"One row is {unit}.", 1),
            "    return answer",
        ]
    )


def _listed(items: Sequence[str]) -> list[str]:
    return [f"    {item}{',' if item is not items[-1] else ''}" for item in items]


def _sql(lines: Sequence[str]) -> str:
    inside = "".join(f"        {line}\n" for line in lines)
    return f'"""\n{inside}    """'


def _not_taken(name: str, ending: str, longest: int, before: str, taken: Sequence[str]) -> str:
    """A name with its ending, cut to so many characters, and with a number (`before` stands before it) where another is
    called so."""
    lower = {one.lower() for one in taken}
    marks = (f"{before}{number}" if number > 1 else "" for number in count(1))
    names = (f"{_ended(name, ending, longest - len(mark), before)}{mark}" for mark in marks)
    return next(one for one in names if one.lower() not in lower)


def _ended(name: str, ending: str, longest: int, before: str) -> str:
    """A name with its ending, of which each gets half of the room if both are longer."""
    ending = ending[: max(longest // 2, longest - len(name))].rstrip(before)
    return name[: longest - len(ending)].rstrip(before) + ending


@cache
def _keywords() -> frozenset[str]:
    from sqlglot.dialects import BigQuery, DuckDB, Postgres

    known: set[str] = set()
    for dialect in (BigQuery, DuckDB, Postgres):
        known |= {word.lower() for word in dialect.Tokenizer.KEYWORDS}
    return frozenset(known)


def identifier(name: str) -> str:
    """A column's name in a report's query, in quotes where it needs them."""
    if re.fullmatch(r"[a-z][a-z0-9_]*", name) and name not in _keywords():
        return name
    return '"' + name.replace('"', '""') + '"'


# -- beside the project --------------------------------------------------------------------------------------------------


def without_password(url: str) -> str:
    """The address of a source by user, host, port and database, and how it is to be reached; never a password."""
    if url.startswith("aws-secret://"):
        return url
    given = parse_dsn(url)
    hosts = [host for host in given.get("host", given.get("hostaddr", "")).split(",") if host]
    ports = given.get("port", "").split(",")
    ports = ports * len(hosts) if len(ports) == 1 else ports
    options = {name: given[name] for name in ("service", *_OPTIONS) if name in given}
    if any(host.startswith("/") for host in hosts):
        options = {"host": ",".join(hosts), "port": ",".join(filter(None, ports)), **options}
        hosts = []
    places = (f"[{host}]" if ":" in host else quote(host, safe="") for host in hosts)
    where = ",".join(f"{place}:{port}" if port else place for place, port in zip(places, ports, strict=False))
    user = f"{quote(given['user'], safe='')}@" if "user" in given else ""
    name = f"/{quote(given['dbname'], safe='')}" if "dbname" in given else ""
    asked = "&".join(f"{option}={quote(value, safe='')}" for option, value in options.items() if value)
    return f"postgresql://{user}{where}{name or '/'}{'?' if asked else ''}{asked}"


def env_file(url: str, folder: str) -> str:
    """The settings. The password is nowhere in it."""
    return (
        "# Read by etl and Dagster from the folder they are started in; the environment wins. Never commit this file.\n\n"
        "# The source. No password stands here: put it into ~/.pgpass (host:port:database:user:password, mode 0600), or into\n"
        "# the environment as PGPASSWORD; or write it here as postgresql://user:password@host:port/database.\n"
        f"ETL_SOURCE_URL={url}\n\n"
        "# The folder of this project.\n"
        f"ETL_PROJECT={folder}\n\n"
        "# Where it all goes; these are the defaults.\n"
        "#ETL_LAKE_URL=data/lake\n"
        "#ETL_WAREHOUSE_URL=duckdb:///data/warehouse.duckdb\n"
    )


GITIGNORE = "# What etl writes: lake, warehouse, history.\n/data/\n# Settings, which may hold a password.\n.env\n__pycache__/\n"


def readme(database: str, folder: str, declaration: Declaration, design: Design) -> str:
    """What was made, and how to go on."""
    title = slug(database, "database").replace("_", " ").capitalize()
    lines = [
        f"# {title}",
        "",
        f"A star schema that is kept equal to a PostgreSQL database. `etl init` began it from the catalog: "
        f"{len(declaration.tables)} tables, {len(design.dimensions)} dimensions, {len(design.facts)} facts. "
        "It is yours from here on.",
        "",
        "| | |",
        "|---|---|",
        f"| `{folder}/tables.py` | the tables that are read, and what was left out |",
        f"| `{folder}/dimensions.py` | the dimensions, each with the reason why it is one |",
        f"| `{folder}/facts.py` | the facts, likewise |",
        f"| `{folder}/reports.py` | a report for each fact |",
        "| `.env` | the settings, without a password |",
        "",
        "```sh",
        "etl doctor          # can everything be reached and read?",
        "etl run             # from the source to the reports",
        "etl verify          # is the warehouse what the source is?",
        "etl ui              # Dagster's interface",
        "etl init --update   # what the source has by now, and the project has not",
        "```",
        "",
    ]
    return "\n".join(lines)
