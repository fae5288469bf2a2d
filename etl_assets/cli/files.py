"""`etl files`: which Parquet files the star consists of, for whoever reads them without this platform."""

from typing import TYPE_CHECKING

import click

from etl_assets.cli import environment, output

if TYPE_CHECKING:
    from etl_assets.star.files import TableFiles


@click.command()
@click.argument("table", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def files(table: str | None, as_json: bool) -> None:
    """List the files of the lake's star, or those of one TABLE, one to a line.

    \b
      duckdb -c "SELECT count(*) FROM read_parquet([$(etl files TABLE | sed "s/.*/'&'/" | paste -sd,)])"

    What is not listed does not exist: a folder may hold files of runs that were killed, or that were replaced a moment
    ago. Of a fact the files are in the order of their batches.
    """
    settings = environment.settings()

    from etl_assets.lake.names import number

    with environment.resources(settings, "lake") as found:
        star = found.lake.star()
        tables = dict(star.manifest.tables) if star.manifest else {}
        url = star.files.url
    table = table and table.rpartition("/")[2]
    if table and table not in tables:
        raise click.UsageError(
            f"the lake's star has no {table}; it has {', '.join(tables) or 'no table yet'}"
        )
    if as_json:
        chosen = {table: tables[table]} if table else tables
        output.emit_json(
            {"lake": url, "tables": {name: _listed(files, url) for name, files in chosen.items()}}
        )
    elif table:
        for file in tables[table].files:
            output.say(f"{url}/{file.path}")
    else:
        output.table(
            ["table", "kind", "batch", "files", "rows", "size"],
            [
                (
                    name,
                    made.kind,
                    number(made.files[-1].batch),
                    len(made.files),
                    sum(file.rows for file in made.files),
                    output.size(sum(file.bytes for file in made.files)),
                )
                for name, made in tables.items()
            ],
        )


def _listed(made: "TableFiles", url: str) -> dict[str, object]:
    return {"kind": made.kind, "files": [f"{url}/{file.path}" for file in made.files]}
