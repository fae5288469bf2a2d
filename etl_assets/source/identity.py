"""Whether the source is the one that the lake was filled from, and no older than the lake has seen it.

A server says which one it is (system identifier), which history of it it goes on with (timeline), how far its log and its
transaction ids have come; a database has a name and an OID. A database that was renamed keeps its OID; one that was dropped
and made again, as a clone is every night, keeps its name. What has neither is another database.
"""

from etl_assets.lake.manifest import Manifest, SourceIdentity
from etl_assets.lake.names import number
from etl_assets.source.connection import SourceError, SourceInterrupted
from etl_assets.source.snapshot import Instant

_ADOPT = (
    "if that is meant, etl run --adopt reads every table whole and lands what is different; nothing was read"
)


class OtherSource(SourceError):
    """The source is another database than the lake was filled from, or an older state of it."""


class LaggingReplica(SourceInterrupted):
    """A replica has not come as far yet as the lake has."""


def check_identity(latest: Manifest, instant: Instant) -> None:
    """Raises `OtherSource`, or `LaggingReplica`, if the newest batch can't be carried on with what an instant shows."""
    if latest.database is None:
        return  # only APIs were read so far
    was, now = latest.source, instant.source
    if is_another(was, now):
        raise OtherSource(
            f"the lake was filled from {_told(was)} (batch {number(latest.batch)}), and ETL_SOURCE_URL leads to "
            f"{_told(now)}: another database; {_ADOPT}"
        )
    if older := older_by(latest, instant):
        if instant.in_recovery:
            raise LaggingReplica(
                f"the replica that ETL_SOURCE_URL leads to lags behind the lake: {older}; run again when it has caught up"
            )
        raise OtherSource(
            f"{_told(now)} stands behind what the lake holds of it: {older}; it was restored to an older state, or "
            f"failed over and lost what came later; {_ADOPT}"
        )


def older_by(latest: Manifest, instant: Instant) -> str | None:
    """In what a server stands behind a batch; None if it does not, as far as it says."""
    batch = f"batch {number(latest.batch)}"
    was, now = latest.source, instant.source
    if was.timeline and now.timeline and now.timeline < was.timeline:
        return f"it is on timeline {now.timeline}, {batch} was read on {was.timeline}"
    if 0 < lsn(instant.lsn) < lsn(latest.lsn):
        return f"its log stands at {instant.lsn}, {batch} was read at {latest.lsn}"
    # Ids that were given out and never written are given out again after a crash; none of those is below the horizon.
    if instant.next_transaction < latest.horizon:
        return f"its next transaction is {instant.next_transaction}, {batch} was read at {latest.next_transaction}"
    return None


def lsn(text: str) -> int:
    """A WAL position (`16/B374D848`) as a number of bytes."""
    high, _, low = text.partition("/")
    return (int(high, 16) << 32) + int(low, 16)


def is_another(was: SourceIdentity, now: SourceIdentity) -> bool:
    """Whether two are different databases for sure."""
    if was.system_identifier and now.system_identifier and was.system_identifier != now.system_identifier:
        return True
    same_place = None not in (was.database_oid, now.database_oid) and was.database_oid == now.database_oid
    return was.database != now.database and not same_place


def _told(source: SourceIdentity) -> str:
    server = (
        f"server {source.system_identifier}"
        if source.system_identifier
        else "a server that does not say which"
    )
    timeline = f", timeline {source.timeline}" if source.timeline else ""
    return f"the database {source.database} ({server}{timeline})"
