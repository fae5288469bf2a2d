"""An API of card sales at a stand-in, and what tests do with it: fetch a window, load what waits."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from etl_assets.apis.declaration import Api, Limits, Rate, Retry
from etl_assets.apis.fetching import Fetch
from etl_assets.apis.loading import Load, Outcome, load_pages
from etl_assets.apis.paging import PageNumber
from etl_assets.apis.takes import Summary, take_to_fetch
from etl_assets.apis.windows import Windows
from etl_assets.cards.apis import CARD_SALE
from etl_assets.engine import duck
from etl_assets.lake.batches import Batches
from etl_assets.lake.current import DELETED, Current
from etl_assets.lake.folder import LocalFiles
from etl_assets.stand_ins.web_api import Behaviour, Record, WebApiStandIn, sales

WEEKS = Windows("week", since="2024-01-01", parameters={"from": "{start}", "to": "{end}"})
SALE = replace(
    CARD_SALE,
    url_setting="",
    credential=None,
    windows=WEEKS,
    paging=PageNumber("page", size="per_page", records=20),
    rate=Rate(1_000),
    concurrency=1,
    retry=Retry(attempts=6, pause_seconds=0.01),
    limits=Limits(),
)
FIRST = WEEKS.first.name


@contextmanager
def service(**behaviour: Any) -> Iterator[WebApiStandIn]:
    stand_in = WebApiStandIn(Behaviour(**behaviour))
    with stand_in.serve():
        yield stand_in


def correcting(stand_in: WebApiStandIn) -> dict[int, float]:
    """Sale -> price that the stand-in tells from now on instead of its own; empty at first."""
    corrected: dict[int, float] = {}

    def day_of(day: date) -> list[Record]:
        return [{**one, "price": corrected.get(one["sale_id"], one["price"])} for one in sales(day)]

    stand_in.day_of = day_of
    return corrected


class Client:
    """A lake that an API of a stand-in is fetched into."""

    def __init__(self, folder: Path, stand_in: WebApiStandIn, api: Api = SALE, **changed: Any) -> None:
        self.api = replace(api, **changed)
        self.stand_in = stand_in
        self.files = LocalFiles(folder / "lake")
        self.scratch = folder

    def fetch(
        self,
        window: str = FIRST,
        *,
        again: bool = False,
        secret: str | Callable[[], str] = "",
        path: str = "/sales",
    ) -> Summary | None:
        take = take_to_fetch(self.files, self.api.name, window, again=again)
        if take is None:
            return None
        windows = self.api.windows
        told = windows.told(windows.named(window)) if windows else {}
        url, ask = self.stand_in.url + path, secret if callable(secret) else lambda: secret
        return Fetch(self.api, take, url, lambda _: ask(), told, lambda *_: None, self.scratch).run()

    def load(self, **options: Any) -> Outcome:
        return load_pages(Load([self.api], "run", **options), Batches(self.files), self.scratch)

    def rows(self) -> list[tuple[Any, ...]]:
        """The rows that the lake holds, as text, by key."""
        batches = Batches(self.files)
        manifest = batches.latest()
        assert manifest
        with duck.connect(self.scratch) as connection:
            fold = Current(batches, connection).fold(self.api.name, manifest)
            return (
                fold.relation.filter(f"NOT {DELETED}")
                .project(f"* EXCLUDE ({DELETED})")
                .order("ALL")
                .fetchall()
            )

    def batches(self) -> list[int]:
        return Batches(self.files).numbers()

    def files_below(self) -> dict[str, bytes]:
        return {
            str(p.relative_to(self.files.root)): p.read_bytes()
            for p in self.files.root.rglob("*")
            if p.is_file()
        }


def as_row(record: Record) -> tuple[Any, ...]:
    """A record as the lake has it, told by hand."""
    return (
        record["sale_id"],
        record["card"]["name"],
        record["card"]["grade"],
        f"{record['price']:.2f}",
        record["currency"],
        record["quantity"],
        record["sold_at"].replace("T", " ").replace("Z", "+00"),
    )
