"""Whether what was read of pages may be loaded: all records that the API says there are, and few that can't be used."""

import duckdb

from etl_assets.apis.errors import ApiError
from etl_assets.apis.reading import TAKE, Counts, PagesRead
from etl_assets.apis.records import MOST_SHOWN
from etl_assets.apis.takes import LOADED
from etl_assets.engine import duck
from etl_assets.engine.duck import identifier, listing
from etl_assets.raw.brakes import FEW_ROWS, TooManyMisfits


def check_whole(read: PagesRead, connection: duckdb.DuckDBPyConnection) -> None:
    """Count the duplicates in each take, and compare what it has with what the API said. Raises `ApiError`, and the take is
    rejected."""
    key = listing(read.relation.key)
    for place, counts in enumerate(read.counts):
        (distinct,) = duck.one(
            connection,
            f"SELECT count(*) FROM (SELECT DISTINCT {key} FROM {read.rows} WHERE {TAKE} = {place})",
        )
        counts.duplicates = counts.records - counts.bad - distinct
        total = counts.summary.total
        if total is None or counts.lacking:
            continue
        if counts.fell and counts.take.state != LOADED:
            before, after = counts.fell
            _reject(
                read,
                counts,
                f"it said that there are {before:,} records, and on a later page {after:,}: some went while they were read, "
                "and others may have slipped through between two pages",
            )
        here = distinct + _kept_aside(read, place, connection)
        if not here <= total <= here + counts.perhaps_again:
            _reject(
                read,
                counts,
                f"it says that there are {total:,} records, and gave {here:,} different ones: they changed while they were "
                "read, or its pages leave some out",
            )


def check_misfits(read: PagesRead) -> None:
    """Raises `TooManyMisfits` if more records can't be used than the declaration lets pass."""
    limit = max(read.api.limits.bad_share * read.records, FEW_ROWS)
    if read.bad > limit:
        raise TooManyMisfits(
            read.api.name,
            f"{read.bad:,} of {read.records:,} records of {read.api.name} can't be used (the first: {read.first_bad}), "
            f"more than {read.api.limits.bad_share:.0%}: nothing was committed, and their pages stay. Mend its declaration "
            f"({read.api.where}) and run again, which costs no call; or let them be kept aside: etl run --allow-misfits "
            f"{read.api.name}",
            "--allow-misfits",
        )


def _kept_aside(read: PagesRead, place: int, connection: duckdb.DuckDBPyConnection) -> int:
    """How many different records of a take can't be used, beside those whose key another one has that can."""
    texts = ", ".join(_as_told(name, len(read.relation.key)) for name in read.relation.key)
    known = f"SELECT array_to_string([{texts}], ',') AS key FROM {read.rows} WHERE {TAKE} = {place}"
    (aside,) = duck.one(
        connection,
        f"SELECT count(DISTINCT key) FROM {duck.csv_rows([read.report])} ANTI JOIN ({known}) USING (key) "
        f"WHERE {TAKE} = '{place}'",
    )
    return int(aside)


def _as_told(column: str, parts: int) -> str:
    """A column of a key as text, as the report of records that are kept aside has it."""
    text = f"left(CAST({identifier(column)} AS VARCHAR), {MOST_SHOWN})"
    if parts == 1:
        return text
    quoted = f"""'"' || replace({text}, '"', '""') || '"'"""
    return f"""CASE WHEN contains({text}, ',') OR contains({text}, '"') THEN {quoted} ELSE {text} END"""


def _reject(read: PagesRead, counts: Counts, what: str) -> None:
    why = f"{read.api.name}: for {counts.take.window} {what}"
    counts.take.reject(why)
    window = f" --window {counts.take.window}" if read.api.windows else ""
    raise ApiError(
        f"{why}; nothing of it was loaded, etl fetch {read.api.name}{window} fetches it anew. If its total counts "
        f"something else, take it out of the declaration ({read.api.where})"
    )
