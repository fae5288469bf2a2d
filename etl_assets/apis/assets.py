"""APIs as assets: their pages, a partition for each window, and the tables that are made of them.

`source/<api>` is the API: to materialize a partition of it is to land the pages of a window. `raw/<api>` is the table: to
materialize it is to load what pages have landed, whichever windows they are of. So a load that fails asks nothing again.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from etl_assets import addresses
from etl_assets.apis.declaration import Api
from etl_assets.apis.due import due
from etl_assets.apis.errors import CallFailed, NotYet
from etl_assets.apis.loading import Load, Outcome, load_pages
from etl_assets.apis.paging import Followed, in_words
from etl_assets.apis.reading import layout_of
from etl_assets.apis.resource import Apis
from etl_assets.apis.takes import Summary, take_to_fetch
from etl_assets.apis.windows import WHOLE, Windows
from etl_assets.engine.code_version import declared_version
from etl_assets.errors import EtlError
from etl_assets.faults import without_values
from etl_assets.lake.batches import Batches
from etl_assets.lake.manifest import Manifest, TakeState
from etl_assets.lake.names import number
from etl_assets.lake.resource import RawLake
from etl_assets.notices import NOTICE
from etl_assets.presentation import PLAIN, Naming, time_partitions
from etl_assets.progress import observer
from etl_assets.raw.assets import GROUP as RAW
from etl_assets.raw.assets import raw_key
from etl_assets.source.assets import source_key

GROUP = "apis"
LOAD_PAGES = "load_pages"
"""The step that loads the pages that have landed."""
LOADED_FROM_PAGES = {"loaded_from": "pages"}
"""Tags the tables that are made of pages."""
GOES_ON_TAG = "etl/goes_on"
"""Tags a run that ended since it has to wait for what the API allows, and did not fail: when the next one may go on."""
# A run that found an API out of order is tried again, later than its calls were.
_AGAIN = dg.RetryPolicy(max_retries=2, delay=5, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)


class FetchConfig(dg.Config):
    """What may be decided for a single run."""

    again: bool = Field(
        default=False,
        description="Fetch the window anew, though all its pages have landed and wait to be loaded.",
    )


class LoadPagesConfig(dg.Config):
    """What may be decided for a single run."""

    allow_misfits: list[str] = Field(
        default=[],
        description="APIs of which more records may be kept aside than their limit says; all: every API.",
    )


def partitions(windows: Windows) -> dg.TimeWindowPartitionsDefinition:
    """The windows of an API as partitions, each named by its first day."""
    return time_partitions(windows.every, date.fromisoformat(windows.first.name))


def api_assets(apis: Sequence[Api], naming: Naming = PLAIN) -> list[dg.AssetsDefinition]:
    """One asset for the pages of each API."""
    return [_pages_asset(api, naming) for api in apis]


def _pages_asset(api: Api, naming: Naming) -> dg.AssetsDefinition:
    @dg.asset(
        key=source_key(api.name, naming),
        description=f"{api.description} The pages of the API, as it gave them.",
        group_name=naming.name(GROUP),
        kinds={"api", "json"},
        owners=naming.source_owners,
        partitions_def=partitions(api.windows) if api.windows else None,
        code_version=_asked_version(api),
        metadata={
            "url": addresses.service(api.url),
            "rate": f"{api.rate.calls} calls in {api.rate.per_seconds:g} s",
        },
    )
    @naming.resources
    def fetch(
        context: dg.AssetExecutionContext, config: FetchConfig, lake: RawLake, apis: Apis
    ) -> dg.MaterializeResult:
        """Land the pages of a window that have not landed yet."""
        from etl_assets.apis.fetching import (
            Fetch,
        )  # with the client of HTTP, which a project without APIs never needs

        window = context.partition_key if context.has_partition_key else WHOLE
        take = take_to_fetch(lake.files(), api.name, window, again=config.again)
        if take is None:
            context.log.info(f"all pages of {window} have landed and wait to be loaded: no call was made")
            return dg.MaterializeResult(metadata={"unchanged": True, "window": window})
        told = api.windows.told(api.windows.named(window)) if api.windows else {}
        observe, started = observer(), time.monotonic()

        def progress(pages: int, records: int, failed: int) -> None:
            seconds = max(time.monotonic() - started, 0.001)
            context.log.info(
                f"{window}: {pages:,} pages, {records:,} records, {failed:,} failed calls, {pages / seconds:.1f} pages/s"
            )
            observe(api.name, 0)

        try:
            fetching = Fetch(api, take, apis.url(api), apis.secret, told, progress, Path(apis.scratch))
            summary = fetching.run()
        except EtlError as error:
            cause = error if isinstance(error, CallFailed | NotYet) else error.__cause__
            if isinstance(cause, CallFailed):
                _retry(context, error)
            if isinstance(cause, NotYet):
                at = datetime.fromtimestamp(time.time() + cause.seconds, UTC)
                context.instance.add_run_tags(context.run.run_id, {GOES_ON_TAG: at.isoformat()})
            raise dg.Failure(str(error), allow_retries=False) from error
        return dg.MaterializeResult(
            data_version=dg.DataVersion(summary.sha256[:16]),
            metadata=_fetched(
                window, summary, time.monotonic() - started, f"{lake.files().url}/{fetching.take.folder}"
            ),
        )

    return fetch


def _retry(context: dg.AssetExecutionContext, error: EtlError) -> None:
    """Have the step tried again, as long as it was not tried often enough; what has landed is not asked for again."""
    attempt = context.retry_number + 1
    if attempt <= _AGAIN.max_retries:
        context.log.warning(f"attempt {attempt} of {1 + _AGAIN.max_retries}: {error}")
        raise dg.RetryRequested(_AGAIN.max_retries, _AGAIN.calculate_delay(attempt)) from error


def _fetched(window: str, summary: Summary, seconds: float, folder: str) -> dict[str, Any]:
    return {
        "dagster/row_count": summary.records,
        "dagster/uri": folder,
        "unchanged": False,
        "window": window,
        "pages": summary.pages,
        "calls": summary.calls,
        "failed calls": summary.failed_calls,
        "waited seconds": summary.waited_seconds,
        "records the API says": summary.total if summary.total is not None else "it does not say",
        "seconds": round(seconds, 3),
        "records per second": round(summary.records / seconds) if seconds else 0,
    }


def _asked_version(api: Api) -> str:
    """What decides what is asked of an API."""
    body = [] if api.body is None else [repr(api.body)]
    return declared_version(api.url, repr(api.parameters), repr(api.paging), repr(api.windows), *body)


def api_tables(apis: Sequence[Api], project: str, naming: Naming = PLAIN) -> dg.AssetsDefinition:
    """The tables that are made of pages, as one asset each; one batch brings what is new in all of them."""
    by_key = {raw_key(api.name, naming): api for api in apis}

    @dg.multi_asset(
        name=naming.name(LOAD_PAGES),
        can_subset=True,
        specs=[
            dg.AssetSpec(
                key,
                deps=[source_key(api.name, naming)],
                description=f"{api.description} Every version of it, in batches, as the API said it.",
                group_name=naming.name(RAW),
                kinds={"api", "csv"},
                owners=naming.owners,
                tags=LOADED_FROM_PAGES,
                code_version=declared_version(repr(replace(api, description="").table), layout_of(api)),
            )
            for key, api in by_key.items()
        ],
    )
    @naming.resources
    def load(
        context: dg.AssetExecutionContext, config: LoadPagesConfig, lake: RawLake, apis: Apis
    ) -> Iterator[dg.MaterializeResult]:
        """Load the pages that have landed."""
        chosen = [api for key, api in by_key.items() if key in context.selected_asset_keys]
        scratch = Path(apis.scratch)
        scratch.mkdir(parents=True, exist_ok=True)
        batches = lake.batches()
        with without_values():
            outcome = load_pages(
                Load(chosen, context.run.run_id, project, frozenset(config.allow_misfits)), batches, scratch
            )
        held = outcome.manifest or batches.latest()
        for api in chosen:
            yield dg.MaterializeResult(
                asset_key=raw_key(api.name, naming),
                data_version=dg.DataVersion(_content(api, batches, held)),
                metadata=_loaded(api, lake, held, outcome),
            )
        if outcome.failures:
            raise dg.Failure("; ".join(map(str, outcome.failures.values())), allow_retries=False)

    return load


def _content(api: Api, batches: Batches, held: Manifest | None) -> str:
    return batches.content(api.name, held)[:16] if held and api.name in held.tables else "nothing landed yet"


def _loaded(api: Api, lake: RawLake, held: Manifest | None, outcome: Outcome) -> dict[str, Any]:
    """What became of the table of an API."""
    taken = outcome.takes.get(api.name, ())
    state = held.tables.get(api.name) if held else None
    changes = (
        state.changes if state and outcome.manifest and state.read_in == outcome.manifest.batch else None
    )
    notices = list(_notices(api, lake, outcome, taken))
    metadata: dict[str, Any] = {
        "dagster/row_count": state.rows if state else 0,
        "unchanged": changes is None,
        "rows new": changes.new if changes else 0,
        "rows changed": changes.changed if changes else 0,
        "rows deleted": changes.deleted if changes else 0,
        "rows quarantined": sum(take.quarantined for take in taken),
        "windows": ", ".join(take.window for take in taken) or "none",
        "pages": sum(take.pages for take in taken),
        "calls": sum(take.calls for take in taken),
        "failed calls": sum(take.failed_calls for take in taken),
        "records": sum(take.records for take in taken),
        "duplicates": sum(take.duplicates for take in taken),
        "waited seconds": round(sum(take.waited_seconds for take in taken), 3),
        "bytes landed": sum(file.bytes for file in changes.files) if changes else 0,
        "seconds": round(outcome.seconds.get(api.name, 0.0), 3),
        **({NOTICE: "; ".join(notices)} if notices else {}),
    }
    if state:
        metadata["batch"] = number(state.changed_in)
        metadata["dagster/column_schema"] = dg.TableSchema(
            [
                dg.TableColumn(c.name, c.type, constraints=dg.TableColumnConstraints(nullable=c.nullable))
                for c in state.columns
            ]
        )
    if changes and changes.rows:
        metadata["dagster/uri"] = f"{lake.files().url}/{changes.rows.path}"
    if changes and changes.quarantined:
        metadata["quarantine"] = f"{lake.files().url}/{changes.quarantined.path}"
    return metadata


def _notices(api: Api, lake: RawLake, outcome: Outcome, taken: Sequence[TakeState]) -> Iterator[str]:
    """What is out of the ordinary about the table of an API."""
    if error := outcome.failures.get(api.name):
        yield f"left out: {error}"
    if aside := sum(take.quarantined for take in taken):
        yield f"{aside:,} records can't be used and are left out of the star: etl quarantine names them"
    if not api.total and (twice := sum(take.duplicates for take in taken)):
        yield (
            f"{twice:,} records came twice: they moved to another page while they were read. Nothing tells whether others "
            "were left out, since no total is declared"
        )
    paging = api.paging
    if isinstance(paging, Followed) and paging.size and not api.total:
        for take in taken:
            if take.pages == 1 and take.records >= paging.records:
                where = in_words(paging.next) if paging.next else "the header Link"
                yield (
                    f"the only page of {take.window} has {take.records:,} records, as many as are asked for, and names no other: see "
                    f"that {where} is where it would"
                )
                break
    if unknown := outcome.unknown.get(api.name):
        yield f"its records have {', '.join(unknown)}, which nothing is declared for"
    if waiting := len(list(due(api, lake.files(), datetime.now(UTC)))):
        yield f"{waiting:,} {'window is' if waiting == 1 else 'windows are'} due: etl fetch"
