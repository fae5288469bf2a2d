"""`etl quarantine`: which values can't be represented as declared, and why."""

from dataclasses import asdict

import click

from etl_assets.cli import environment, output


@click.command()
@click.option("--table", "only", metavar="TABLE", help="Of this source table only.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def quarantine(only: str | None, as_json: bool) -> None:
    """List values that don't fit their declared types, newest batch first.

    Their rows are landed as they are, and kept out of the star until the source or the declaration is mended.
    """
    settings = environment.settings()

    from etl_assets.proof.explain import quarantined

    project = environment.project(settings)
    if only and only not in project.inputs.tables:
        raise click.UsageError(f"--table {only}: the tables are {', '.join(project.inputs.tables)}")
    with environment.resources(settings, "lake") as found:
        listed = []
        if found.lake.batches().newest():
            with found.lake.open(project.inputs) as bench:
                tables = [only] if only else list(project.inputs.tables)
                listed = list(quarantined(bench.builder, bench.manifest, tables))
    if as_json:
        output.emit_json(
            {"quarantined": [{"table": table, "key": key} | asdict(misfit) for table, key, misfit in listed]}
        )
    elif not listed:
        output.say("nothing is quarantined")
    else:
        output.table(
            ["table", "batch", "key", "column", "value", "reason"],
            [(table, m.batch, key, m.column, m.value, m.reason) for table, key, m in listed],
        )
