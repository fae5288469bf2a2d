"""What is to be captured, and what is to be told of a batch beside its manifest."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from etl_assets.cost import Cost
from etl_assets.raw.recent import Share
from etl_assets.source.catalog import LeftOut
from etl_assets.source.table import Table


@dataclass(frozen=True)
class CaptureRequest:
    """What to capture: `tables` of the source at `url`, for a run.

    `whole`: read and compare whole tables, whatever could be told from row versions.
    `deletion_brake` is the share of a table's rows above which deletions stop the batch, unless the table is in
    `allow_deletions`. `quarantine_limit` is the share of a table's rows above which values that don't fit
    their declared types stop it, unless the table is in `allow_misfits`. `wait_seconds`: how long another run that fills
    the same lake is waited for. `adopt`: go on with another database, or an older state of it. `one_history`: see `plan`.
    `share`: the part of each table that is swept. `project`: whose lake it is; one that another filled is refused, unless
    it is to be adopted.
    """

    url: str
    tables: Sequence[Table]
    run_id: str
    whole: bool = False
    deletion_brake: float = 0.2
    quarantine_limit: float = 0.05
    allow_deletions: frozenset[str] = frozenset()
    allow_misfits: frozenset[str] = frozenset()
    wait_seconds: float = 60.0
    adopt: bool = False
    one_history: bool = False
    share: Share | None = None
    project: str = ""


@dataclass
class Notes:
    """What is to be told of a batch beside its manifest: tables that were left out of it, and why; how many rows a sweep
    found that differed from what was held, though nothing said that they changed; what was damaged of that which is kept
    beside the batches, by table; what each table cost, and of those that were read whole the seconds of the COPY alone."""

    left_out: dict[str, LeftOut] = field(default_factory=dict)
    strays: dict[str, int] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    costs: dict[str, Cost] = field(default_factory=dict)
    copy_seconds: dict[str, float] = field(default_factory=dict)
