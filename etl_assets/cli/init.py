"""`etl init`: a project from the catalog of a database."""

import shutil
import textwrap
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from etl_assets.cli import environment, output
from etl_assets.errors import EtlError

if TYPE_CHECKING:
    from etl_assets.init.catalog import Catalog
    from etl_assets.init.declaring import Declaration, Note
    from etl_assets.init.proposal import Design
    from etl_assets.source.table import Table

_SETTING = "ETL_SOURCE_URL"
_SHOWN = 40  # notes of a kind
_WIDTH = 100  # of a line with many names


class InitError(EtlError):
    """A project can't be begun, or not be brought up to date."""


@click.command("init", short_help="Begin a project from the catalog of a database.")
@click.argument("arguments", nargs=-1, metavar="[URL] [FOLDER]")
@click.option("--schema", "schemas", multiple=True, metavar="NAME", help="Only this schema. Repeatable.")
@click.option(
    "--tables",
    "patterns",
    multiple=True,
    metavar="PATTERN",
    help="Only tables whose name, or schema.name, is like this: 'order*'. Repeatable.",
)
@click.option("--update", is_flag=True, help="Show what the catalog has and the project has not, as a diff.")
@click.option("--write", is_flag=True, help="With --update: add it. Nothing is taken away.")
def init(
    arguments: tuple[str, ...],
    schemas: tuple[str, ...],
    patterns: tuple[str, ...],
    update: bool,
    write: bool,
) -> None:
    """Begin a project in FOLDER (etl_project) from the catalog of the database at URL (ETL_SOURCE_URL).

    It reads the catalog, and a few rows where that says too little, and writes tables, dimensions, facts and reports
    that run as they are. Beside them it puts .env, .gitignore and README.md, where there are none. It overwrites nothing, and
    writes no password.
    """
    if write and not update:
        raise click.UsageError("--write goes with --update")
    url, folder = _told_apart(arguments)
    known = environment.settings()
    given = url
    url = url or known.source_url
    if not url:
        raise InitError(
            f"no database is named: write etl init postgresql://user@host:port/database, or set {_SETTING}"
        )
    if update:
        _update(url, folder, known.project, schemas, patterns, write=write)
    else:
        _begin(url, folder or "etl_project", schemas, patterns, is_set=given is None)


def _told_apart(arguments: Sequence[str]) -> tuple[str | None, str | None]:
    """The URL and the folder, of which either may be left out."""
    urls = [one for one in arguments if "://" in one or "=" in one]
    folders = [one for one in arguments if one not in urls]
    if len(urls) > 1 or len(folders) > 1:
        raise click.UsageError("write one URL and one FOLDER at the most")
    return next(iter(urls), None), next(iter(folders), None)


def _begin(url: str, folder: str, schemas: Sequence[str], patterns: Sequence[str], *, is_set: bool) -> None:
    root = Path(folder)
    if root.exists() or root.is_symlink():
        raise InitError(
            f"{folder} is there already, and is left as it is: name another folder, or etl init --update"
        )

    from etl_assets.init import writing
    from etl_assets.init.declaring import declare
    from etl_assets.init.design import design
    from etl_assets.project import hidden_by

    if hidden := hidden_by(root):
        raise InitError(
            f"a project in {folder} would hide {hidden}: name another folder; nothing was written"
        )
    catalog = _read(url, schemas, patterns)
    declaration = declare(catalog)
    if not declaration.tables:
        _show_notes("Left out", declaration.left_out)
        raise InitError("none of its tables can be read into a project; nothing was written")
    star = design(declaration.tables, catalog.foreign_keys)
    _write_project(root, writing.modules(declaration, star))
    address = writing.without_password(url)
    beside = {
        ".env": writing.env_file(address, folder),
        ".gitignore": writing.GITIGNORE,
        "README.md": writing.readme(_database(url), folder, declaration, star),
    }
    left = [name for name, text in beside.items() if not _write_new(Path(name), text)]
    _show(catalog, declaration, star)
    written = [name for name in beside if name not in left]
    output.say(f"\nwritten: {', '.join([f'{folder}/', *written])}")
    if left:
        output.say(f"left as they are: {', '.join(left)}")
    _show_next(url, address, folder, has_env=".env" in written, is_set=is_set)


def _read(url: str, schemas: Sequence[str], patterns: Sequence[str]) -> "Catalog":
    from etl_assets.clients.secrets import database_url
    from etl_assets.init import catalog
    from etl_assets.source.connection import connect

    with closing(connect(database_url(url, _SETTING), "etl-assets init")) as connection:
        found = catalog.read(connection, schemas, patterns)
    if not found.tables:
        only = f" like {', '.join(patterns)}" if patterns else ""
        where = f" in {', '.join(schemas)}" if schemas else ""
        raise InitError(f"there are no tables{only}{where}")
    return found


def _database(url: str) -> str:
    from etl_assets.addresses import AddressError, Database

    try:
        return Database.read(url).name or "database"
    except AddressError:
        return "database"


def _write_project(root: Path, files: dict[str, str]) -> None:
    """The folder appears whole: what is interrupted leaves none."""
    unfinished = root.with_name(f".{root.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        for name, text in files.items():
            (unfinished / name).write_text(text, encoding="utf-8")
        unfinished.rename(root)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write_new(path: Path, text: str) -> bool:
    """Write a file that is not there yet; False if one is."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        return False
    return True


# -- what is told --------------------------------------------------------------------------------------------------------


def _show(catalog: "Catalog", declaration: "Declaration", star: "Design") -> None:
    tables = len(declaration.tables)
    columns = sum(len(table.types) for table in declaration.tables)
    output.say(
        f"{output.count(tables, 'table', 'tables')} with {output.count(columns, 'column', 'columns')}: "
        f"{output.count(len(star.facts), 'fact', 'facts')}, {output.count(len(star.dimensions), 'dimension', 'dimensions')}"
        f"{' and a calendar' if star.has_calendar else ''}\n"
    )
    made = [*star.facts, *star.dimensions]
    output.table(["star table", "of", "why"], [(m.name, m.table.shown, m.why) for m in made[:_SHOWN]])
    if len(made) > _SHOWN:
        output.say(f"… and {len(made) - _SHOWN} more: see facts.py and dimensions.py")
    shown = {m.table.shown for m in made}
    if joined := {name: into for name, into in star.joined.items() if name not in shown}:
        output.say("\nLookups, joined into what refers to them:")
        for name, into in joined.items():
            output.say(f"  {name}: {', '.join(dict.fromkeys(into))}")
    _show_notes("Left out", declaration.left_out)
    _show_notes("To look at", [*declaration.risks, *star.notes])
    if catalog.unsampled:
        output.say(
            f"  {output.count(catalog.unsampled, 'table was', 'tables were')} not looked into: it took too long, or holds what is no text"
        )


def _show_notes(title: str, notes: "Sequence[Note]") -> None:
    if not notes:
        return
    output.say(f"\n{title}:")
    told: dict[str, list[str]] = {}
    for note in notes:
        write = "" if note.write == "nothing" else f"; write {note.write}"
        told.setdefault(f"{note.what}{write}", []).append(note.table)
    for text, (name, *others) in list(told.items())[:_SHOWN]:
        if others:  # what many have in common is told once
            names = textwrap.wrap(", ".join([name, *others]), _WIDTH, break_on_hyphens=False)
            output.say("\n".join([f"  {text}:", *(f"    {line}" for line in names)]))
        else:
            output.say(f"  {name}: {text}")
    if len(told) > _SHOWN:
        output.say(f"  … and {len(told) - _SHOWN} more")


def _show_next(url: str, address: str, folder: str, *, has_env: bool, is_set: bool) -> None:
    from psycopg2.extensions import parse_dsn

    hides = not url.startswith("aws-secret://") and "password" in parse_dsn(url)
    output.say("\nNow:")
    if hides and not is_set:
        output.say("  put the password into ~/.pgpass, or: export PGPASSWORD=…")
    if not has_env:
        if not is_set:
            output.say(f"  export {_SETTING}='{address}'")
        if folder != "etl_project":
            output.say(f"  export ETL_PROJECT='{folder}'")
    output.say("  etl run")


# -- bringing it up to date ----------------------------------------------------------------------------------------------


def _update(
    url: str,
    folder: str | None,
    setting: str | None,
    schemas: Sequence[str],
    patterns: Sequence[str],
    *,
    write: bool,
) -> None:
    from etl_assets import project
    from etl_assets.init import updating
    from etl_assets.init.declaring import declare

    found = project.load(folder or setting)
    if found.is_shipped and not (folder or setting):
        raise InitError("there is no project here: etl init begins one")
    if not found.tables:
        raise InitError(
            f"the project {found.name} reads no table of a database: name the folder of one that does, or begin one by etl init"
        )
    # A schema that the project reads nothing of was left out on purpose, unless it is named.
    schemas = schemas or sorted({table.schema for table in found.tables.values()})
    catalog = _read(url, schemas, patterns)
    update = updating.compare(
        catalog, declare(catalog), found, _main_module(found.root, found.tables.values())
    )
    if patterns:
        update.gone.clear()
    if not (update.shown or update.by_hand or update.gone):
        output.say("the project has all that the catalog has")
        return
    if diff := update.diff(Path.cwd()):
        output.say(diff)
        output.say()
    for gone in update.gone:
        output.say(f"gone from the source: {gone}; take it away by hand, with what uses it")
    for told in update.by_hand:
        output.say(f"by hand: {told}")
    if update.files and write:
        update.write()
        output.say(f"written: {', '.join(str(path) for path in update.files)}")
    elif update.files:
        output.say("Now: etl init --update --write adds what is new")


def _main_module(root: Path, tables: "Iterable[Table]") -> Path:
    """The module that new tables are added to: tables.py, else the one that declares the first table."""
    if (root / "tables.py").is_file():
        return root / "tables.py"
    first = next(iter(tables))
    return Path(first.where.rpartition(":")[0])
