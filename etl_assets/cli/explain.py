"""`etl explain`: one row, from the source to the exports."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from etl_assets.cli import environment, output

if TYPE_CHECKING:
    from etl_assets.proof.explain import Arrival, Story, Version


@click.command()
@click.argument("table")
@click.argument("key")
@click.option("--offline", is_flag=True, help="Leave the source alone.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def explain(ctx: click.Context, table: str, key: str, offline: bool, as_json: bool) -> None:
    """Follow a row from the source to the exports.

    TABLE is a table of the source or of the star, KEY the row's key; a,b if the key has two columns. Shows the row
    as it is in the source, the file and line of each version landed, what is quarantined of it, and its versions in
    star and warehouse. Ends with 1 if there never was such a row.
    """
    settings = environment.settings()

    from etl_assets.proof.explain import Explainer, UnknownTable, WrongKey

    project = environment.project(settings)
    known = [*project.inputs.tables, *project.star]
    if table not in known:
        raise click.UsageError(f"there is no table {table}; there are {', '.join(known)}")
    names = ["lake", "warehouse", *([] if offline else ["source"])]
    with environment.resources(settings, *names) as found, found.lake.open(project.inputs) as bench:
        try:
            explainer = Explainer(bench.builder, bench.manifest, table)
            parts = explainer.parsed(key)
        except (UnknownTable, WrongKey) as error:
            raise click.UsageError(str(error)) from error
        api = project.apis.get(explainer.table.name) if explainer.table else None
        ask = not offline and explainer.table is not None and api is None
        url = found.source.address() if ask else None
        with found.warehouse.reading() if found.warehouse.exists else nullcontext() as warehouse:
            story = explainer.story(parts, url, warehouse, api)
    shown_in = {definition.name for definition in explainer.made} | set(story.context_of)
    exports = [
        name
        for name, queries in project.queries.items()
        if shown_in & {table for query in queries if query for table in query.tables}
    ]
    if as_json:
        output.emit_json({"asked": table} | asdict(story) | {"exports": exports})
    elif story.seen:
        _show(table, story, exports, settings.lake_url)
    if not story.seen:
        output.say(f"etl: {table} {','.join(parts)} was never seen", err=True)
        ctx.exit(1)


def _show(table: str, story: "Story", exports: list[str], lake_url: str) -> None:
    origin = "" if story.table == table else f", a row of {story.table or 'no source table: it is computed'}"
    output.say(f"{table} {','.join(story.key)}{origin}")
    if story.table:
        output.say(f"\nsource  {_source(story)}")
        for page in story.pages:
            output.say(f"        {lake_url}/{page}")
        if story.source:
            _values(story.source)
        output.say()
        if story.arrivals:
            output.table(
                ["batch", "as of (UTC)", "what it brought", "file:line"],
                [
                    (a.batch, a.server_time, what, f"{lake_url}/{a.file}:{a.line}")
                    for a, what in zip(story.arrivals, _brought(story.arrivals), strict=True)
                ],
            )
        else:
            output.say("raw  no batch has it yet")
        for misfit in story.misfits:
            output.difference(
                f"quarantined in batch {misfit.batch}: {misfit.column} ({output.shown(misfit.value)}) {misfit.reason} "
                f"({lake_url}/{misfit.file}:{misfit.line})"
            )
    output.say()
    _versions("star", story.star, lake_url)
    if story.warehouse is None:
        output.say("warehouse  not there yet")
    else:
        _versions("warehouse", story.warehouse, None)
    for version in story.star[-1:]:
        output.say(f"\n{version.table}, the latest version")
        _values(version.values)
    if story.context_of:
        output.say(f"\nlooked up by: {', '.join(story.context_of)}")
    output.say(f"\nexports that read it: {', '.join(exports) or 'none'}")


def _source(story: "Story") -> str:
    if story.pages:
        return f"an API, which is not asked; its newest {output.count(len(story.pages), 'page', 'pages')} with it"
    if not story.asked_source:
        return "not asked (--offline)"
    if story.source is None:
        return "does not have it"
    newer = story.newer_in_source
    if newer:
        return f"has it; since the newest batch, {', '.join(newer)} changed"
    return "has it" + (", as it was landed last" if newer is not None else "; no batch has it as it is now")


def _brought(arrivals: Sequence["Arrival"]) -> list[str]:
    told = []
    before = None
    for arrival in arrivals:
        if arrival.deleted:
            told.append("deleted")
        elif before is None or before.deleted:
            told.append("new" if before is None else "new again")
        else:
            was, now = before.values, arrival.values
            differ = [name for name in now if name not in was or was[name] != now[name]]
            told.append(
                "changed: "
                + ", ".join(f"{n} {output.shown(was.get(n))} > {output.shown(now[n])}" for n in differ)
            )
        before = arrival
    return told


def _versions(stage: str, versions: Sequence["Version"], lake_url: str | None) -> None:
    if not versions:
        output.say(f"{stage}  does not show it")
        return
    output.table(
        [stage, "record", "batch", "state", *(["file"] if lake_url else [])],
        [
            (
                v.table,
                None if v.record is None else str(v.record),
                v.batch,
                "current" if v.current else "deleted" if v.deleted else "superseded",
                *([f"{lake_url}/{v.file}"] if lake_url else []),
            )
            for v in versions
        ],
    )
    output.say()


def _values(values: Mapping[str, object]) -> None:
    width = max(map(len, values), default=0)
    for name, value in values.items():
        output.say(f"  {name.ljust(width)}  {output.shown(value)}")
