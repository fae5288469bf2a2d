"""A spreadsheet shows the old tabs whole or the new ones whole, whatever fails and whenever; numbers stay numbers, text
stays text. The real client talks to a server that keeps the service's limits and its all-or-nothing.
"""

import datetime as dt
import json
import math
import re
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from google.auth.exceptions import DefaultCredentialsError

from etl_assets.clients.sheets import SheetsError
from etl_assets.exports.publishing import Sheet
from etl_assets.exports.sheets import Sheets
from etl_assets.exports.sheets_page import MAX_CELLS
from etl_assets.stand_ins.sheets import InjectedFault, SheetsStandIn, serve_sheets
from etl_assets.stand_ins.sheets_books import Book, Grid

BOOK = "1AbC-dEf_0"
ATTEMPTS = 3
# Publishing NEW over OLD: see which tabs there are and what they hold, add hidden ones, write, read back, swap, see which
# tabs there are and what they hold.
PUBLISH_REQUESTS = 8
SWAP = 6


def sheet(title: str = "Cash", **columns: tuple[Sequence[Any], pa.DataType]) -> Sheet:
    table = pa.table({name: pa.array(values, type_) for name, (values, type_) in columns.items()})
    return Sheet(title, "One row is a test.", table.to_pandas(types_mapper=pd.ArrowDtype))


def sheets(*titles: str, amounts: Sequence[int]) -> list[Sheet]:
    return [sheet(title, amount=(amounts, pa.int64())) for title in titles]


OLD = sheets("Cash", "Sales", amounts=[1, 2, 3])
NEW = sheets("Cash", "Sales", "Costs", amounts=[4, 5, 6])
OLD_SEEN = {"Sheet1": [], **{title: [["amount"], [1], [2], [3]] for title in ("Cash", "Sales")}}
NEW_SEEN = {"Sheet1": [], **{title: [["amount"], [4], [5], [6]] for title in ("Cash", "Sales", "Costs")}}


@pytest.fixture
def api() -> Iterator[SheetsStandIn]:
    with serve_sheets() as stand_in:
        stand_in.books[BOOK] = Book()
        yield stand_in


@pytest.fixture
def target(api: SheetsStandIn) -> Sheets:
    return Sheets(spreadsheet=BOOK, endpoint=api.url, attempts=ATTEMPTS, first_wait_seconds=0)


@pytest.fixture
def book(api: SheetsStandIn) -> Book:
    return api.books[BOOK]


def column(book: Book, title: str = "Cash") -> list[Any]:
    """The values of a tab's first column, without its header."""
    return [row[0] if row else "" for row in book.titled(title).values[1:]]


def asked(api: SheetsStandIn, act: Callable[[], object]) -> int:
    """How many requests an action takes."""
    before = len(api.requests)
    act()
    return len(api.requests) - before


# -- what is in the cells --------------------------------------------------------------------------------------------

HOSTILE = [
    "=1+1", '=HYPERLINK("https://evil.example","x")', "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "＝1+1", "'=1", " =1", "'",
    "00123", "1e5", "TRUE", "2026-01-01", "12:30", "5%", "£3", "#REF!", "{=1}", "a\nb", "é😀", "null", " x ",
]  # fmt: skip


@pytest.mark.fault("F32")
@pytest.mark.parametrize("text", HOSTILE)
def test_text_stays_text(target: Sheets, book: Book, text: str) -> None:
    target.publish("T", [sheet("Cash", **{text: ([text], pa.string())})])
    assert book.titled("Cash").values == [[text], [text]]


def test_numbers_days_and_truth_values_are_typed_and_formatted(target: Sheets, book: Book) -> None:
    target.publish(
        "T",
        [
            sheet(
                amount=([Decimal("-1234567890123.45")], pa.decimal128(18, 2)),
                huge=([Decimal(10) ** 30], pa.decimal128(38, 0)),
                units=([12345], pa.int64()),
                staff_id=([12345], pa.int32()),
                day=([dt.date(2026, 3, 1)], pa.date32()),
                at=([dt.datetime(2026, 3, 1, 6)], pa.timestamp("us")),  # noqa: DTZ001
                zoned=([dt.datetime(2026, 3, 1, 6, tzinfo=dt.UTC)], pa.timestamp("us", "Asia/Tokyo")),
                clock=([dt.time(9, 0)], pa.time64("us")),
                paid=([True], pa.bool_()),
                ratio=([0.1], pa.float64()),
                name=(["1"], pa.string()),
            )
        ],
    )
    grid = book.titled("Cash")
    row = grid.values[1]
    assert row == [-1234567890123.45, 1e30, 12345, 12345, 46082, 46082.25, 46082.25, 0.375, True, 0.1, "1"]
    assert [type(value) for value in row] == [
        float,
        float,
        int,
        int,
        int,
        float,
        float,
        float,
        bool,
        float,
        str,
    ]
    formats = [grid.formats.get((1, position), {}).get("numberFormat") for position in range(11)]
    assert formats == [
        {"type": "NUMBER", "pattern": "#,##0.00"},
        {"type": "NUMBER", "pattern": "#,##0"},
        {"type": "NUMBER", "pattern": "#,##0"},
        {"type": "NUMBER", "pattern": "0"},
        {"type": "DATE", "pattern": "yyyy-mm-dd"},
        {"type": "DATE_TIME", "pattern": "yyyy-mm-dd hh:mm:ss"},
        {"type": "DATE_TIME", "pattern": 'yyyy-mm-dd hh:mm:ss "UTC"'},
        {"type": "TIME", "pattern": "hh:mm:ss.000"},
        None,
        None,
        {"type": "TEXT", "pattern": "@"},
    ]


def test_the_header_is_bold_and_frozen_on_new_tabs_and_old_ones(target: Sheets, book: Book) -> None:
    for amounts in ([1], [1, 2]):
        target.publish("T", sheets("Cash", amounts=amounts))
        grid = book.titled("Cash")
        assert grid.frozen_rows == 1
        assert grid.formats[0, 0]["textFormat"] == {"bold": True}
        assert "textFormat" not in grid.formats[1, 0]


def test_null_and_the_empty_text_are_empty_cells(target: Sheets, book: Book) -> None:
    rows = ([None, "", "x"], pa.string())
    target.publish("T", [sheet(a=rows, b=([1, None, None], pa.int64()))])
    assert book.titled("Cash").values == [["a", "b"], ["", 1], [], ["x"]]
    assert target.publish("T", [sheet(a=rows, b=([1, None, None], pa.int64()))]).unchanged


def test_a_report_without_rows_is_a_header(target: Sheets, book: Book) -> None:
    target.publish("T", sheets("Cash", amounts=[1, 2]))
    target.publish("T", sheets("Cash", amounts=[]))
    assert book.titled("Cash").values == [["amount"]]


def test_a_tab_has_the_size_of_its_report(target: Sheets, book: Book) -> None:
    for rows in (50, 3, 2000):
        target.publish("T", sheets("Sheet1", amounts=range(rows)))
        grid = book.titled("Sheet1")
        assert (grid.rows, grid.columns) == (rows + 1, 1)
        assert column(book, "Sheet1") == list(range(rows))


def test_more_than_a_request_carries_arrives_in_several(
    target: Sheets, api: SheetsStandIn, book: Book
) -> None:
    texts = [f"{number:05}" + "x" * 2_000 for number in range(1_200)]
    big = sheet("Big", text=(texts, pa.string()))
    target.publish("T", [sheet("Small", a=([1], pa.int8())), big, sheet("Last", a=([2], pa.int8()))])
    assert column(book, "Big") == texts
    assert (column(book, "Small"), column(book, "Last")) == ([1], [2])
    puts = [request for request in api.requests if request.path.endswith("/values:batchUpdate")]
    assert len(puts) == 3
    assert target.publish("T", [big]).unchanged


def test_titles_with_quotes_and_other_signs_are_found_again(target: Sheets, book: Book) -> None:
    title = "Bob's 'best'! A1:B2 — 50 %"
    target.write(title, pd.DataFrame({"a": [1]}), create=True)
    target.write(title.upper(), pd.DataFrame({"a": [2]}))  # Sheets takes them as the same
    assert book.visible()[title] == [["a"], [2]]


# -- what can't be held ----------------------------------------------------------------------------------------------


@pytest.mark.fault("F31")
@pytest.mark.parametrize(
    ("values", "type_", "said"),
    [
        (["x" * 50_001], pa.string(), "a text of 50,001 characters; Sheets holds 50,000"),
        (["😀" * 25_001], pa.string(), "a text of 50,002 characters"),
        ([Decimal("12345678901234.56")], pa.decimal128(18, 2), "more digits than the 15 that Sheets holds"),
        ([Decimal("1000000000000000000000000000001")], pa.decimal128(38, 0), "more digits"),
        ([2**53], pa.int64(), "more digits"),
        ([math.nan], pa.float64(), "nan is no number that Sheets holds"),
        ([math.inf], pa.float64(), "inf is no number"),
        ([dt.date(1899, 12, 29)], pa.date32(), "before 1899-12-30, where Sheets' calendar starts"),
        ([b"x"], pa.binary(), "a bytes can't be put into a cell"),
        ([[1]], pa.list_(pa.int8()), "a list can't be put into a cell"),
    ],
)
def test_what_sheets_would_cut_round_or_refuse_is_refused_before_anything_is_asked(
    target: Sheets, api: SheetsStandIn, values: list[Any], type_: pa.DataType, said: str
) -> None:
    with pytest.raises(SheetsError, match=r"^tab 'Cash', row 3, column 'a': ") as raised:
        target.publish("T", [sheet(a=([None, *values], type_))])
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
    assert api.requests == []


def test_the_longest_text_that_sheets_holds_is_written(target: Sheets, book: Book) -> None:
    target.publish("T", [sheet(a=(["x" * 50_000], pa.string()))])
    assert column(book) == ["x" * 50_000]


@pytest.mark.fault("F31")
def test_1001_cells_over_the_limit_are_refused_before_anything_is_written(
    target: Sheets, api: SheetsStandIn, book: Book
) -> None:
    """They are counted with the tabs that are there, and with the hidden copy that there is for a moment."""
    book.grids.append(Grid(7, "Archive", rows=MAX_CELLS - 26_000 - 1000, columns=1))
    with pytest.raises(SheetsError, match=r"would have 10,001,001 cells, 1,001 more than the 10,000,000"):
        target.publish("T", sheets("Cash", amounts=range(2000)))
    assert [request for request in api.requests if request.writes] == []
    target.publish("T", sheets("Cash", amounts=range(999)))
    assert sum(grid.rows * grid.columns for grid in book.grids) == MAX_CELLS
    with pytest.raises(SheetsError, match="1,000 more than"):
        target.publish("T", sheets("Cash", amounts=range(1, 1000)))


def test_a_frame_over_the_limit_is_refused_by_its_size_alone(target: Sheets, api: SheetsStandIn) -> None:
    wide = pd.DataFrame({str(number): range(2) for number in range(18_279)})
    with pytest.raises(SheetsError, match=r"18,279 columns; Sheets holds 18,278"):
        target.write("Cash", wide)
    with pytest.raises(SheetsError, match=r"10,000,001 cells, 1 more than"):
        target.write("Cash", pd.DataFrame({"a": pd.Series([0], dtype="int8").repeat(10_000_000)}))
    assert api.requests == []


@pytest.mark.parametrize("title", ["", "x" * 101, "etl unfinished 1"])
def test_titles_that_sheets_does_not_take_are_refused(target: Sheets, title: str) -> None:
    with pytest.raises(SheetsError, match="can't name a tab"):
        target.write(title, pd.DataFrame({"a": [1]}))


def test_two_tabs_of_one_name_are_refused(target: Sheets) -> None:
    with pytest.raises(SheetsError, match="several tabs"):
        target.publish("T", sheets("Cash", "CASH", amounts=[1]))


# -- old or new ------------------------------------------------------------------------------------------------------

FAULTS = [InjectedFault(0, status, after) for status in (429, 500, 503, None) for after in (False, True)]


def named(fault: InjectedFault) -> str:
    return f"{fault.status or 'cut'} {'after' if fault.after else 'before'}"


@pytest.fixture
def published(target: Sheets, api: SheetsStandIn, book: Book) -> Sheets:
    """A spreadsheet that shows OLD."""
    target.publish("T", OLD)
    assert book.visible() == OLD_SEEN
    api.requests.clear()
    return target


def test_a_publish_takes_that_many_requests(published: Sheets, api: SheetsStandIn) -> None:
    assert asked(api, lambda: published.publish("T", NEW)) == PUBLISH_REQUESTS


@pytest.mark.fault("F31", "F40")
@pytest.mark.parametrize("fault", FAULTS, ids=named)
def test_a_fault_at_any_one_request_is_overcome(
    published: Sheets, api: SheetsStandIn, book: Book, fault: InjectedFault
) -> None:
    for nth in range(1, PUBLISH_REQUESTS + 1):
        published.publish("T", OLD)
        book.grids[3:] = []  # Costs
        api.requests.clear()
        api.faults = [replace(fault, nth=nth)]
        published.publish("T", NEW)
        assert len(api.requests) > nth, "the fault never struck"
        assert book.visible() == NEW_SEEN
        assert len(book.grids) == 4, "a hidden tab is left"
        api.faults = []


@pytest.mark.fault("F31")
@pytest.mark.parametrize("fault", FAULTS, ids=named)
def test_when_nothing_works_any_more_from_some_request_on_the_old_tabs_are_whole_or_the_new_ones(
    published: Sheets, api: SheetsStandIn, book: Book, fault: InjectedFault
) -> None:
    seen = []
    for nth in range(1, PUBLISH_REQUESTS + 1):
        api.faults = []
        published.publish("T", OLD)
        book.grids[3:] = []
        api.requests.clear()
        api.faults = [replace(fault, nth=nth, lasting=True)]
        with pytest.raises(SheetsError) as raised:
            published.publish("T", NEW)
        assert "\n" not in str(raised.value)
        assert book.visible() in (OLD_SEEN, NEW_SEEN)
        seen.append(book.visible() == NEW_SEEN)
        assert len(api.requests) < nth + 2 * ATTEMPTS, "it goes on asking"
        # Running it again is all that it takes, and it takes away what was left.
        api.faults = []
        published.publish("T", NEW)
        assert book.visible() == NEW_SEEN
        assert len(book.grids) == 4
    assert seen == sorted(seen), "the old tabs came back"
    assert seen[0] is False
    assert seen[-1] is True


def test_a_swap_that_took_place_though_the_answer_was_lost_is_not_made_twice(
    published: Sheets, api: SheetsStandIn, book: Book
) -> None:
    api.faults = [InjectedFault(SWAP, None, after=True)]
    assert not published.publish("T", NEW).unchanged
    assert book.visible() == NEW_SEEN
    tried = [r for r in api.requests if any("copyPaste" in change for change in r.body.get("requests", []))]
    assert len(tried) == 2, "the second try is refused: the hidden tabs are gone"


def test_what_was_altered_before_the_swap_is_not_shown(
    published: Sheets, api: SheetsStandIn, book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that alters a value must not get it in front of people."""
    put = Book._put

    def altering(self: Book, range_: str, rows: Sequence[Sequence[Any]], *, raw: bool) -> None:
        put(self, range_, [[1 if value is True else value for value in row] for row in rows], raw=raw)

    monkeypatch.setattr(Book, "_put", altering)
    with pytest.raises(SheetsError, match=r"what it holds is not what was written.* stay as they were"):
        published.publish("T", [sheet(paid=([True], pa.bool_()))])
    assert book.visible() == OLD_SEEN


@pytest.mark.fault("F32")
def test_text_that_would_be_taken_for_a_formula_would_be_noticed(
    published: Sheets, book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = Book._put
    monkeypatch.setattr(Book, "_put", lambda self, range_, rows, *, raw: put(self, range_, rows, raw=False))
    with pytest.raises(SheetsError, match="what it holds is not what was written"):
        published.publish("T", [sheet(name=(["=1+1"], pa.string()))])
    assert book.visible() == OLD_SEEN


def test_what_a_killed_run_left_is_removed_by_the_next(
    published: Sheets, api: SheetsStandIn, book: Book
) -> None:
    book.grids.append(Grid(99, "etl unfinished 99", rows=5_000_000, columns=1, hidden=True))
    assert published.publish("T", OLD).unchanged
    assert [grid.title for grid in book.grids] == ["Sheet1", "Cash", "Sales"]
    # Its cells do not count: it goes first.
    book.grids.append(Grid(99, "etl unfinished 99", rows=9_970_000, columns=1, hidden=True))
    published.publish("T", NEW)
    assert book.visible() == NEW_SEEN


def test_an_unchanged_publish_writes_nothing(published: Sheets, api: SheetsStandIn) -> None:
    found = published.publish("T", OLD)
    assert found.unchanged
    assert (found.rows, found.where) == (6, f"https://docs.google.com/spreadsheets/d/{BOOK}")
    assert [request for request in api.requests if request.writes] == []


def test_only_the_tabs_that_differ_are_written(published: Sheets, api: SheetsStandIn, book: Book) -> None:
    published.publish("T", [OLD[0], *sheets("Sales", amounts=[9])])
    written = [
        d["range"] for r in api.requests if r.path.endswith("/values:batchUpdate") for d in r.body["data"]
    ]
    assert len(written) == 1
    assert (column(book), column(book, "Sales")) == ([1, 2, 3], [9])


@pytest.mark.fault("F31")
def test_what_a_person_changed_in_a_tab_is_put_right(published: Sheets, book: Book) -> None:
    book.titled("Cash").cells[2, 0] = 1_000_000
    book.titled("Sales").resize(20, 5)
    assert not published.publish("T", OLD).unchanged
    assert book.visible() == OLD_SEEN


def test_links_to_a_tab_its_place_and_other_tabs_survive(published: Sheets, book: Book) -> None:
    book.grids.insert(0, Grid(5, "Mine", cells={(0, 0): "notes"}))
    before = [(grid.id, grid.title) for grid in book.grids]
    published.publish("T", NEW)
    after = [(grid.id, grid.title) for grid in book.grids]
    assert after[: len(before)] == before
    assert book.visible()["Mine"] == [["notes"]]


# -- what is wrong, in one line --------------------------------------------------------------------------------------


def test_a_spreadsheet_that_is_not_there_is_named(target: Sheets) -> None:
    with pytest.raises(SheetsError, match=r"^there is no spreadsheet 1XyZ; check ETL_SHEET_ID"):
        target.write("Cash", pd.DataFrame({"a": [1]}), "1XyZ")


@pytest.mark.fault("F31")
@pytest.mark.parametrize("shared_for", ["nothing", "reading"])
def test_a_spreadsheet_that_is_not_shared_says_with_whom_to_share_it(
    target: Sheets, book: Book, shared_for: Any
) -> None:
    book.shared_for = shared_for
    with pytest.raises(
        SheetsError, match=r"is not open to anybody: share it with that address, as an editor"
    ):
        target.publish("T", OLD)


@pytest.mark.fault("F31")
def test_a_missing_tab_is_named_and_those_that_there_are(target: Sheets, api: SheetsStandIn) -> None:
    with pytest.raises(SheetsError, match=r"has no tab 'Cash'; it has Sheet1"):
        target.write("Cash", pd.DataFrame({"a": [1]}))
    assert [request for request in api.requests if request.writes] == []


@pytest.mark.fault("F31")
def test_a_quota_that_stays_used_up_is_called_so(target: Sheets, api: SheetsStandIn) -> None:
    api.faults = [InjectedFault(1, 429, lasting=True)]
    with pytest.raises(SheetsError, match=r"quota is used up .*; publish less often"):
        target.publish("T", OLD)
    assert len(api.requests) == ATTEMPTS


@pytest.mark.parametrize("asked_for", ["7", "date"])
def test_the_time_that_the_service_asks_for_is_waited(
    target: Sheets, api: SheetsStandIn, monkeypatch: pytest.MonkeyPatch, asked_for: str
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", slept.append)
    soon = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=7.9)
    header = soon.strftime("%a, %d %b %Y %H:%M:%S GMT") if asked_for == "date" else asked_for
    api.faults = [InjectedFault(1, 429, headers=(("Retry-After", header),))]
    target.publish("T", OLD)
    assert len(slept) == 1
    assert 5 < slept[0] <= 8


def test_waits_grow_and_end(api: SheetsStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", slept.append)
    api.faults = [
        InjectedFault(1, 503, lasting=True, headers=(("Retry-After", "99999"),)),
        InjectedFault(4, 503, lasting=True),
    ]
    patient = Sheets(spreadsheet=BOOK, endpoint=api.url, attempts=12)
    with pytest.raises(SheetsError, match="fails \\(503: The service is currently unavailable"):
        patient.publish("T", OLD)
    assert len(slept) == 11
    assert max(slept) == 64


def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(SheetsError, match=r"^127\.0\.0\.1:1 can't be reached"):
        Sheets(spreadsheet=BOOK, endpoint="http://127.0.0.1:1", attempts=1).publish("T", OLD)


@pytest.mark.parametrize(
    "endpoint", ["http://sheets.example.com", "ftp://127.0.0.1", "sheets.googleapis.com"]
)
def test_nothing_is_sent_unencrypted_to_another_machine(endpoint: str) -> None:
    with pytest.raises(SheetsError, match="is not https"):
        Sheets(spreadsheet=BOOK, endpoint=endpoint).publish("T", OLD)


def test_credentials_that_are_not_there_are_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "no-such-key.json"))
    with pytest.raises(SheetsError, match=r"no Google credentials: .*no-such-key.json") as raised:
        Sheets(spreadsheet=BOOK).publish("T", OLD)
    assert isinstance(raised.value.__cause__, DefaultCredentialsError)
    assert "\n" not in str(raised.value)


ACCOUNT = "etl@demo-project.iam.gserviceaccount.com"


@pytest.fixture
def tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, str]]]:
    """A service account's key file that the environment names, and what the place that gives tokens says: the first of
    these answers, refused if it is an error."""
    answers = [{"access_token": "token-1", "token_type": "Bearer", "expires_in": "3600"}]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = json.dumps(answers[0]).encode()
            self.send_response(400 if "error" in answers[0] else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        key = {
            "type": "service_account",
            "project_id": "demo-project",
            "private_key": PRIVATE_KEY.private_bytes(*PEM).decode(),
            "client_email": ACCOUNT,
            "token_uri": f"http://127.0.0.1:{server.server_port}/token",
        }
        (tmp_path / "key.json").write_text(json.dumps(key))
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
        try:
            yield answers
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """What a server needs to be 127.0.0.1, and clients trust it."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(PRIVATE_KEY.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(PRIVATE_KEY, hashes.SHA256())
    )
    (tmp_path / "server.pem").write_bytes(
        PRIVATE_KEY.private_bytes(*PEM) + made.public_bytes(serialization.Encoding.PEM)
    )
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "server.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    return context


PRIVATE_KEY = rsa.generate_private_key(65537, 2048)
PEM = (
    serialization.Encoding.PEM,
    serialization.PrivateFormat.PKCS8,
    serialization.NoEncryption(),
)


def test_a_service_account_is_let_in_by_its_key_file_and_named_when_it_is_not(
    tokens: list[dict[str, str]], certificate: ssl.SSLContext
) -> None:
    with serve_sheets(tls=certificate) as api:
        book = api.books[BOOK] = Book()
        target = Sheets(spreadsheet=BOOK, endpoint=api.url, attempts=1)
        target.publish("T", OLD)
        assert book.visible() == OLD_SEEN
        assert {request.headers["authorization"] for request in api.requests} == {"Bearer token-1"}
        book.shared_for = "reading"
        with pytest.raises(
            SheetsError, match=f"is not open to {re.escape(ACCOUNT)}: share it with that address"
        ):
            target.publish("T", NEW)


def test_a_key_that_was_deleted_is_called_so(tokens: list[dict[str, str]]) -> None:
    tokens[0] = {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
    with pytest.raises(
        SheetsError, match=f"^Google refuses the credentials of {re.escape(ACCOUNT)}: "
    ) as raised:
        Sheets(spreadsheet=BOOK).publish("T", OLD)
    assert "GOOGLE_APPLICATION_CREDENTIALS" in str(raised.value)
    assert "PRIVATE KEY" not in str(raised.value)


def test_no_token_is_sent_to_a_stand_in(target: Sheets, api: SheetsStandIn) -> None:
    target.publish("T", OLD)
    assert [name for request in api.requests for name in request.headers if name == "Authorization"] == []
