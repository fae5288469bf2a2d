"""`etl history`: a star table as it was after a batch, or at a time.

Of facts, the warehouse answers that too:

    SELECT * FROM star.<fact> WHERE batch <= 5
    QUALIFY row_number() OVER (PARTITION BY <its key> ORDER BY <its record> DESC) = 1 AND NOT deleted
"""

import datetime
from pathlib import Path

import click

from etl_assets.cli import environment, output

_SHOWN = 20


@click.command()
@click.argument("table")
@click.option("--batch", type=click.IntRange(1), help="After this batch.")
@click.option(
    "--at", "moment", metavar="TIMESTAMP", help="At this time, as 2024-05-31 or 2024-05-31T12:00; UTC."
)
@click.option(
    "--limit", type=click.IntRange(0), help=f"So many rows. Else all, of the table on screen {_SHOWN}."
)
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def history(
    table: str, batch: int | None, moment: str | None, limit: int | None, as_csv: bool, as_json: bool
) -> None:
    """Show a star table as it was.

    Of facts, the version of each row that was current then; of dimensions, all members, with those that were gone
    flagged. The time that counts is the source's, when the batch was taken.

    \b
    Of facts the warehouse answers that too:
      SELECT * FROM star.FACT WHERE batch <= 5
      QUALIFY row_number() OVER (PARTITION BY its_key ORDER BY its_record DESC) = 1
          AND NOT deleted
    """
    settings = environment.settings()
    if (batch is None) == (moment is None):
        raise click.UsageError("give either --batch or --at")
    if as_csv and as_json:
        raise click.UsageError("give either --csv or --json")
    instant = _instant(moment) if moment else None

    from etl_assets.lake.names import number
    from etl_assets.proof.history import at_batch, at_time, table_then

    project = environment.project(settings)
    if table not in project.star:
        raise click.UsageError(f"there is no star table {table}; there are {', '.join(project.star)}")
    with environment.resources(settings, "lake") as found, found.lake.open(project.inputs) as bench:
        builder = bench.builder
        manifest = at_time(builder.batches, instant) if instant else at_batch(builder.batches, batch or 0)
        with table_then(builder, table, manifest, Path(found.lake.scratch)) as relation:
            rows = relation.fetchall()
    columns = [column.name for column in project.star[table].schema.columns]
    shown = rows[: limit if limit is not None else None if as_csv or as_json else _SHOWN]
    if as_json:
        output.emit_json(
            {
                "table": table,
                "batch": number(manifest.batch),
                "source_time": manifest.server_time.isoformat(),
                "total_rows": len(rows),
                "rows": [dict(zip(columns, row, strict=True)) for row in shown],
            }
        )
    elif as_csv:
        output.csv(columns, shown)
    else:
        output.table(columns, [[output.exact(value) for value in row] for row in shown])
        output.say(
            f"\n{len(shown):,} of {output.count(len(rows), 'row', 'rows')} of {table} after batch {number(manifest.batch)}, "
            f"the source as of {output.moment(manifest.server_time)} UTC"
        )


def _instant(text: str) -> datetime.datetime:
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise click.UsageError(
            f"--at {text}: write 2024-05-31, 2024-05-31T12:00 or 2024-05-31T12:00+02:00"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
