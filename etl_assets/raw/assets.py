"""The raw assets: one per source table, all read by one process in one snapshot."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from etl_assets.cost import FIRST, Cost, named
from etl_assets.engine.code_version import declared_version
from etl_assets.engine.duck import MAX_LINE_BYTES, header
from etl_assets.engine.scratch import sweep
from etl_assets.faults import without_values
from etl_assets.lake.batches import Batches
from etl_assets.lake.files import Files
from etl_assets.lake.manifest import Manifest, TableState, in_words
from etl_assets.lake.names import number
from etl_assets.lake.resource import RawLake
from etl_assets.notices import NOTICE
from etl_assets.presentation import DAILY, PLAIN, Naming, column
from etl_assets.progress import observer
from etl_assets.raw.copying import Progress
from etl_assets.raw.landing import take_batch
from etl_assets.raw.plan import schema_change
from etl_assets.raw.recent import Share
from etl_assets.raw.request import CaptureRequest, Notes
from etl_assets.raw.volume import CHECK as VOLUME
from etl_assets.raw.volume import HOW, judged, measures, plotted, recent
from etl_assets.raw.writing import Overtaken
from etl_assets.source.assets import declared_schema, source_key
from etl_assets.source.catalog import LeftOut
from etl_assets.source.connection import SourceInterrupted
from etl_assets.source.position import Position
from etl_assets.source.resource import PostgresSource
from etl_assets.source.snapshot import LakeClaimed
from etl_assets.source.table import Table

GROUP = "raw"
OF_COPY = "rows per second, of those of COPY alone"
"""Of a table that was read whole: the share of its seconds in which nothing but the COPY went on."""
CAPTURE = "capture"
"""The step, by which a run's configuration calls it."""
PARTS = 7
"""Into so many parts a table is divided for sweeps, which compare rows whatever their versions say."""
SWEPT = "sweep"
"""Tags a run with the part that it sweeps, from 1 on."""
STRAYS = "sweep/found"
"""Tags a run with what its sweep found: tables, and how many rows of each were not what the lake held."""
POSITION_TAG = ".dagster/source_position"  # too long to be shown: Dagster hides what begins like this
_PREVIEW_ROWS = 5
# For a source that went away for a moment. It is asked anew, from a new snapshot.
_AGAIN = dg.RetryPolicy(max_retries=2, delay=2, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)


def raw_key(name: str, naming: Naming = PLAIN) -> dg.AssetKey:
    """The asset key of a table that was landed."""
    return naming.key(GROUP, name)


def reads_all(naming: Naming = PLAIN) -> dict[str, str]:
    """The tag of a run that reads all tables of a project: it is found by it, and its position compared with now's."""
    # Dagster hides it: that a run read all tables says nothing of how it did.
    return {".dagster/source_read": " of ".join(["all tables", *filter(None, ["/".join(naming.prefix)])])}


class CaptureConfig(dg.Config):
    """What may be decided for a single run."""

    allow_deletions: list[str] = Field(
        default=[],
        description="Tables of which more may be deleted than the deletion brake lets through; all: every table.",
    )
    allow_misfits: list[str] = Field(
        default=[],
        description="Tables of which more rows may not fit their declared types than the quarantine limit lets through.",
    )
    whole: bool = Field(
        default=False,
        description="Read whole tables and compare them, instead of what has a recent row version.",
    )
    adopt: bool = Field(
        default=False,
        description="Go on with another database than the lake was filled from, or with an older state of it.",
    )
    sweep: int = Field(
        default=0,
        ge=0,
        le=PARTS,
        description=f"Compare the rows in this part of each table, of {PARTS}, whatever their versions say; 0: in none.",
    )


def raw_assets(tables: Sequence[Table], project: str, naming: Naming = PLAIN) -> dg.AssetsDefinition:
    """Capture of the tables, as one asset each; any of them can be left out of a run."""
    by_key = {raw_key(table.name, naming): table for table in tables}

    @dg.multi_asset(
        name=naming.name(CAPTURE),
        can_subset=True,
        specs=[
            dg.AssetSpec(
                key,
                deps=[source_key(table.name, naming)],
                description=f"{table.description} Every version of it, in batches, as the source wrote it.",
                group_name=naming.name(GROUP),
                kinds={"postgres", "csv"},
                owners=naming.owners,
                freshness_policy=DAILY,
                metadata={
                    "dagster/column_schema": declared_schema(table),
                    "dagster/column_lineage": _lineage(table, naming),
                },
                # What is landed does not depend on how it is landed.
                code_version=declared_version(
                    repr(replace(table, description="")),
                    *([repr(table.exclude)] if table.exclude else []),
                    *([table.source_name] if table.source_name != table.name else []),
                ),
            )
            for key, table in by_key.items()
        ],
        check_specs=[
            dg.AssetCheckSpec(
                VOLUME,
                asset=key,
                description="The batch brought about as many rows, and as much of each amount, as batches usually do. "
                + HOW,
            )
            for key in by_key
        ],
    )
    @naming.resources
    def capture(
        context: dg.AssetExecutionContext, config: CaptureConfig, source: PostgresSource, lake: RawLake
    ) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
        """Land what changed in the source, as one snapshot shows it."""
        selected = {key: table for key, table in by_key.items() if key in context.selected_asset_keys}
        read: dict[str, int] = {table.name: 0 for table in selected.values()}
        notes = Notes()
        share = Share(config.sweep - 1, PARTS) if config.sweep else None
        observe = observer()

        def progress(table: str, size: int) -> None:
            read[table] += size
            observe(table, size)

        batches = lake.batches()
        position: Position | None = None
        with _again_if_interrupted(context):
            if len(selected) == len(by_key):
                # Before the snapshot, so what is committed between them will be asked for again.
                position = source.position(list(selected.values()))
            run_id = context.run.run_id
            request = CaptureRequest(
                url=source.address(),
                tables=list(selected.values()),
                run_id=run_id,
                whole=config.whole,
                deletion_brake=source.deletion_brake,
                quarantine_limit=source.quarantine_limit,
                allow_deletions=frozenset(config.allow_deletions),
                allow_misfits=frozenset(config.allow_misfits),
                wait_seconds=source.wait_seconds,
                adopt=config.adopt,
                one_history=source.one_history,
                share=share,
                project=project,
            )
            manifest = _taken(request, batches, Path(source.scratch), progress, notes)
        if position:
            context.instance.add_run_tags(
                run_id, reads_all(naming) | {POSITION_TAG: position.model_dump_json()}
            )
        if notes.strays:
            found = ", ".join(f"{name} {strays:,}" for name, strays in notes.strays.items())
            context.instance.add_run_tags(run_id, {STRAYS: found})
        if manifest is None:
            context.log.info("nothing changed in the source: no batch was taken")
        else:
            context.log.debug(in_words(manifest, told=True))
        held = manifest or batches.latest()
        assert held  # noqa: S101  a run that lands nothing has found a batch
        before = next(iter(batches.before(manifest.batch)), None) if manifest else None
        compared = recent(batches, manifest) if manifest else []
        for key, table in selected.items():
            if table.name in notes.left_out:
                yield from _left_out(context, key, table.name, notes.left_out[table.name], batches, held)
                continue
            state = held.tables[table.name]
            yield dg.MaterializeResult(
                asset_key=key,
                data_version=dg.DataVersion(batches.content(table.name, held)[:16]),
                metadata=_metadata(
                    table,
                    held,
                    state,
                    before.tables.get(table.name) if before else None,
                    lake.files(),
                    read[table.name],
                    notes.costs.get(table.name, Cost()),
                    notes.copy_seconds.get(table.name, 0.0),
                    manifest is not None,
                )
                | _notice(table.name, state, held.batch if manifest else None, notes),
            )
            # A result costs Dagster more than all the arithmetic: there is none where nothing changed.
            check = dg.AssetCheckKey(key, VOLUME)
            if manifest and state.changes and check in context.selected_asset_check_keys:
                yield volume_check(key, table.name, compared)

    return capture


def _taken(
    request: CaptureRequest, batches: Batches, scratch: Path, progress: Progress, notes: Notes
) -> Manifest | None:
    scratch.mkdir(parents=True, exist_ok=True)
    sweep(scratch)
    with without_values():
        return take_batch(request, batches, scratch, progress, notes)


def _notice(table: str, state: TableState, batch: int | None, notes: Notes) -> dict[str, str]:
    """What is unusual about how a table was read, and what of it does not fit."""
    told = []
    if damaged := notes.damaged.get(table):
        told.append(
            f"{damaged} was damaged: it was not believed, the landed files were read in its place, and it is made again"
        )
    if state.read_in == batch and state.changes and state.changes.quarantined_rows:
        told.append(
            f"{state.changes.quarantined_rows:,} rows do not fit their declared types and are left out of the star: "
            "etl quarantine names them"
        )
    if strays := notes.strays.get(table, 0):
        told.append(
            f"{strays:,} rows were other than the lake held, though no row version said so; the table was read whole, and "
            "they are right now. What changes rows past the server: a restored file, a faulty disk, another program?"
        )
    elif state.unusual and state.read_in == batch:
        told.append(f"read whole: {state.why}")
    return {NOTICE: "; ".join(told)} if told else {}


def _left_out(
    context: dg.AssetExecutionContext,
    key: dg.AssetKey,
    table: str,
    why: LeftOut,
    batches: Batches,
    held: Manifest,
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    """A table that was not read. Its asset is told of all the same: what comes after would be skipped otherwise."""
    context.log.error(f"left out: {why}")
    content = batches.content(table, held)[:16] if table in held.tables else "left out"
    yield dg.MaterializeResult(
        asset_key=key,
        data_version=dg.DataVersion(content),
        metadata={"unchanged": True, "left out": str(why), NOTICE: f"left out: {why}"},
    )
    check = dg.AssetCheckKey(key, VOLUME)
    if check in context.selected_asset_check_keys:
        yield dg.AssetCheckResult(
            asset_key=key, check_name=VOLUME, passed=False, metadata={"left out": str(why)}
        )


def volume_check(asset: dg.AssetKey, table: str, manifests: Sequence[Manifest]) -> dg.AssetCheckResult:
    """The check of a table that the last of the manifests changed."""
    found = measures(table, manifests)
    usual, told = judged(found)
    return dg.AssetCheckResult(
        asset_key=asset,
        check_name=VOLUME,
        passed=usual,
        severity=dg.AssetCheckSeverity.WARN,
        description=told,
        metadata={name: number for measure in found for name, number in plotted(measure)},
    )


@contextmanager
def _again_if_interrupted(context: dg.AssetExecutionContext) -> Iterator[None]:
    """Have the step tried again when the source went away for a moment, or when pages of an API were loaded meanwhile, which
    took the number of its batch; whatever else goes wrong ends it."""
    try:
        yield
    except LakeClaimed:  # it was waited for
        raise
    except (SourceInterrupted, Overtaken) as error:
        attempt = context.retry_number + 1
        if attempt > _AGAIN.max_retries:
            raise
        context.log.warning(f"attempt {attempt} of {1 + _AGAIN.max_retries}: {error}")
        seconds = _AGAIN.calculate_delay(attempt)
        raise dg.RetryRequested(_AGAIN.max_retries, seconds) from error


def _metadata(
    table: Table,
    held: Manifest,
    state: TableState,
    before: TableState | None,
    files: Files,
    bytes_read: int,
    cost: Cost,
    copy_seconds: float,
    taken: bool,
) -> dict[str, Any]:
    changes = state.changes if taken else None
    metadata: dict[str, Any] = {
        "dagster/row_count": state.rows,
        "unchanged": changes is None,
        "batch": number(state.changed_in),
    }
    if changes is None:  # the history grows by whatever is said
        return metadata | {"bytes read": bytes_read}
    is_first = state.previous is None
    moved = changes.new + changes.changed + changes.deleted
    metadata |= {
        f"rows{FIRST}" if is_first else "rows new": changes.new,
        "rows changed": changes.changed,
        "rows deleted": changes.deleted,
        "rows quarantined": changes.quarantined_rows,
        **named(
            {
                "bytes read": bytes_read,
                "bytes landed": sum(file.bytes for file in (changes.rows, changes.deletions) if file),
                **cost.figures("processor seconds of its thread"),  # tables are read side by side
                **cost.rate(moved),
                **({OF_COPY: round(copy_seconds / cost.seconds, 3)} if copy_seconds and cost.seconds else {}),
            },
            is_first=is_first,
        ),
        "read": f"{state.read}: {state.why}",
        "source as of": dg.MetadataValue.timestamp(held.main.server_time),
    }
    other_columns = schema_change(before.columns, state.columns) if before else []
    if other_columns:
        metadata["columns changed"] = "; ".join(other_columns)
    if before is None or other_columns:  # else it is known what the star does not use and nobody declares
        metadata["dagster/column_schema"] = _columns(table, state)
    if changes.quarantined:
        metadata["quarantine"] = f"{files.url}/{changes.quarantined.path}"
    if landed := changes.rows:
        metadata["dagster/uri"] = f"{files.url}/{landed.path}"
        if not landed.longest_row:
            metadata["preview"] = dg.MetadataValue.md(_preview(files, landed.path))
    return metadata


def _lineage(table: Table, naming: Naming) -> dg.TableColumnLineage:
    """Each column is the source's."""
    source = source_key(table.name, naming)
    return dg.TableColumnLineage({name: [dg.TableColumnDep(source, name)] for name in table.columns})


def _columns(table: Table, state: TableState) -> dg.TableSchema:
    return dg.TableSchema(
        [
            column(
                one.name,
                one.type,
                f"The star takes it for: {table.types[one.name].name}."
                if one.name in table.columns
                else "Landed, not used by the star.",
                nullable=one.nullable,
                unique=(one.name,) == state.key,
            )
            for one in state.columns
        ]
    )


def _preview(files: Files, path: str) -> str:
    """The first rows of a landed file as a Markdown table."""
    import csv
    from itertools import islice

    from etl_assets.engine.preview import markdown

    local = files.local(path)
    csv.field_size_limit(MAX_LINE_BYTES)
    with local.open(newline="", encoding="utf-8") as lines:
        rows = [tuple(row) for row in islice(csv.reader(lines), 1, 1 + _PREVIEW_ROWS)]
    return markdown(header(local), rows)
