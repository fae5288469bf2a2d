"""Pages of an API into the lake, beside plain `streamable` that writes the same records as JSON lines; and the memory it takes.

    python -m benchmarks.apis [pages]

One service for both, in a process of its own, without a rate. CPU and wall seconds of the client; they take turns. Then a tenth of
a million records and a million (or as many as `pages` of 100 have), fetched and loaded in a process of its own, and its largest
resident set.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import httpx2
from streamable import stream

from etl_assets.apis.declaration import Batch, Limits, Rate
from etl_assets.apis.fetching import Fetch
from etl_assets.apis.loading import Load, load_pages
from etl_assets.apis.takes import Take
from etl_assets.cards.apis import CARD_SALE
from etl_assets.lake.batches import Batches
from etl_assets.lake.folder import LocalFiles
from etl_assets.stand_ins.web_api import ReceivedCall, Record, WebApiStandIn, sales

SALE = replace(
    CARD_SALE,
    url_setting="",
    windows=None,
    credential=None,
    rate=Rate(1_000_000),
    batch=Batch(pages=50),
    limits=Limits(pages=1_000_000, seconds=36_000),
)
DAY = {"from": "2024-01-01", "to": "2024-01-02"}


class Large(WebApiStandIn):
    """The service with as many records as a call says that there are pages for, none of which it keeps."""

    def page(self, call: ReceivedCall) -> tuple[dict[str, Any], str | None]:
        (first, *_), begin = sales(date(2024, 1, 1), 1), 100 * (int(call.query["page"]) - 1)
        self.calls.clear()
        data = [{**first, "sale_id": n, "price": n / 4} for n in range(begin, begin + 100)]
        return {"data": data, "meta": {"total": 100 * int(call.query["pages"])}}, None


def serve() -> None:
    """The service, until it is killed."""
    with Large().serve() as url:
        sys.stdout.write(f"{url}\n")
        sys.stdout.flush()
        time.sleep(36_000)


def plain(url: str, folder: Path, pages: int) -> None:
    """`streamable` and an HTTP client, and nothing else."""
    with httpx2.Client() as client, (folder / "plain.jsonl").open("w") as lines:

        def page(number: int) -> list[Record]:
            answer = client.get(
                f"{url}/sales", params={**DAY, "pages": pages, "page": number, "per_page": 100}
            )
            answer.raise_for_status()
            found: list[Record] = answer.json()["data"]
            return found

        for record in stream(range(1, pages + 1)).map(page, concurrency=4).flatten():
            lines.write(json.dumps(record) + "\n")


def ours(url: str, folder: Path, pages: int) -> None:
    """The pages in the lake."""
    take = Take(LocalFiles(folder / "lake"), SALE.name, "2024-01-01", 1)
    window = {**DAY, "pages": str(pages)}
    Fetch(SALE, take, f"{url}/sales", lambda _: "", window, lambda *_: None, folder).run()


def timed(way: str, url: str, pages: int) -> tuple[float, float]:
    """CPU and wall seconds of a way in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.apis", way, url, folder, str(pages)],
            check=True,
            capture_output=True,
            text=True,
        )
    told = json.loads(done.stdout)
    return told["cpu"], told["wall"]


def once(way: str, url: str, folder: Path, pages: int) -> None:
    """Do it, and say what it took."""
    began, before = time.monotonic(), time.process_time()
    {"plain": plain, "ours": ours}.get(way, ours)(url, folder, pages)
    told = {"cpu": time.process_time() - before, "wall": time.monotonic() - began}
    if way == "whole":
        told["fetched_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        before = time.process_time()
        outcome = load_pages(Load([SALE], "run"), Batches(LocalFiles(folder / "lake")), folder)
        assert outcome.manifest, outcome.failures
        told["load_cpu"] = time.process_time() - before
        told["loaded_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        told["rows"] = outcome.manifest.tables[SALE.name].rows
    print(json.dumps(told))


def main(pages: int) -> None:
    """Compare, and measure."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.apis", "serve"], stdout=subprocess.PIPE, text=True
    ) as service:
        try:
            assert service.stdout
            url, some = service.stdout.readline().strip(), min(pages, 1_000)
            pairs = []
            for turn in range(6):
                ways = ("plain", "ours") if turn % 2 else ("ours", "plain")
                took = {way: timed(way, url, some) for way in ways}
                pairs.append((took["plain"], took["ours"]))
            for at, what in ((0, "CPU"), (1, "wall")):
                plain, ours = (median(pair[way][at] for pair in pairs) for way in (0, 1))
                ratio = median(pair[1][at] / pair[0][at] for pair in pairs)
                print(
                    f"{what}: plain {100 * some / plain:,.0f} records/s, ours {100 * some / ours:,.0f}, ours / plain {ratio:.2f}"
                )
            for many in (max(pages // 10, 1), pages):
                with tempfile.TemporaryDirectory() as folder:
                    once_more = [sys.executable, "-m", "benchmarks.apis", "whole", url, folder, str(many)]
                    print(subprocess.run(once_more, check=True, capture_output=True, text=True).stdout)
        finally:
            service.kill()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve"]:
            serve()
        case [way, url, folder, pages]:
            once(way, url, Path(folder), int(pages))
        case [pages]:
            main(int(pages))
        case _:
            main(10_000)
