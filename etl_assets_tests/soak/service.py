"""A REST API whose sales are loaded into the same lake, and what it said: which rows of it the lake may hold can be told.

What it says of a sale changes now and then. Each record says in which edition of the service it was told, so that a row tells
by itself what the rest of it has to be.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

from etl_assets.apis.declaration import Api, Limits, Rate, Retry
from etl_assets.apis.due import due
from etl_assets.apis.fetching import Fetch
from etl_assets.apis.loading import Load, load_pages
from etl_assets.apis.paging import PageNumber
from etl_assets.apis.takes import LOADED, take_to_fetch, takes
from etl_assets.apis.windows import Windows
from etl_assets.lake.batches import Batches
from etl_assets.stand_ins.web_api import Behaviour, Record, WebApiStandIn, sales

SALE = Api(
    "sale",
    "One row is a sale of a card.",
    "http://127.0.0.1",
    columns={"id": "bigint", "edition": "int", "price": "numeric(10,2)"},
    fields={"id": "sale_id", "edition": "quantity"},
    key=("id",),
    records="data",
    total="meta.total",
    paging=PageNumber("page", size="per_page", records=20),
    windows=Windows("day", since="2024-01-01", parameters={"from": "{start}", "to": "{end}"}),
    rate=Rate(1_000),
    concurrency=2,
    retry=Retry(attempts=3, pause_seconds=0.01),
    limits=Limits(seconds=10),
)
COLUMNS = ("id", "edition", "price")
Sales = Mapping[int, tuple[int, Decimal]]
"""Of each sale the edition in which it was told, and its price."""
FAULTS: Mapping[str, Behaviour] = {
    "moody": Behaviour(refused=0.2, broken=0.2, cut=0.2, garbled=0.2),
    "down": Behaviour(lasting=503, retry_after_seconds=None),
    "over its limit": Behaviour(lasting=429, retry_after_seconds=0),
    "slow": Behaviour(seconds=0.7),
    "drifting": Behaviour(duplicates=3),
}
"""What may be wrong with it. None of it changes what a sale is."""


@dataclass
class Service:
    """`edition`: which one it tells now."""

    edition: int = 1
    stand_in: WebApiStandIn = field(default_factory=WebApiStandIn)

    @contextmanager
    def serve(self) -> Iterator[str]:
        """Serve it; gives its address."""
        self.stand_in.day_of = self._day
        with self.stand_in.serve() as url:
            yield f"{url}/sales"

    def correct(self) -> None:
        """Say something else of every sale from now on."""
        self.edition += 1
        self.stand_in.forget()

    def _day(self, day: date) -> list[Record]:
        return [
            {**one, "quantity": self.edition, "price": float(price_of(one, self.edition))}
            for one in sales(day)
        ]

    def wrong(self, held: Sales, before: Sales, windows: Collection[str]) -> str | None:
        """What is wrong with the sales that a batch holds, when the batch before held others and these windows were loaded;
        None if nothing is. A sale that was told in an edition is never one of an earlier edition again."""
        told = {one["sale_id"]: one for window in windows for one in sales(date.fromisoformat(window))}
        if held.keys() != told.keys():
            return (
                f"{len(held.keys() - told.keys())} sales too many, {len(told.keys() - held.keys())} missing"
            )
        for key, (edition, price) in held.items():
            if not 1 <= edition <= self.edition or price != price_of(told[key], edition):
                return f"sale {key} is {price} in edition {edition} of {self.edition}"
            if key in before and edition < before[key][0]:
                return f"sale {key} is of edition {edition} again, after {before[key][0]}"
        return None


def price_of(sale: Record, edition: int) -> Decimal:
    """The price of a sale as an edition of the service has it."""
    return Decimal(str(sale["price"])) + edition


def fetch(url: str, batches: Batches, scratch: Path, chance: int) -> None:
    """Land the pages of a window: the first that is due by this machine's clock, or, by chance, one that was loaded once more.
    Raises `EtlError`."""
    loaded = [take.window for take in takes(batches.files, SALE.name) if take.state == LOADED]
    window = loaded[chance % len(loaded)] if loaded and chance % 3 == 0 else _due(batches)
    take = take_to_fetch(batches.files, SALE.name, window) if window else None
    if take is not None and SALE.windows:
        told = SALE.windows.told(SALE.windows.named(take.window))
        Fetch(SALE, take, url, lambda _: "", told, lambda *_: None, scratch).run()


def _due(batches: Batches) -> str | None:
    return next(due(SALE, batches.files, datetime.now(UTC)), None)


def load(batches: Batches, scratch: Path) -> int | None:
    """Load the pages that have landed; the batch that has them, if there was anything new. Raises `EtlError`."""
    outcome = load_pages(Load([SALE], "a machine's"), batches, scratch)
    for failure in outcome.failures.values():
        raise failure
    return outcome.manifest.batch if outcome.manifest else None
