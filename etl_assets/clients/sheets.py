"""A Google spreadsheet over its API: the four calls an export needs, repeated where that is safe, refusals in one line.

Google's own session (google-auth, which dagster-gcp brings) speaks to the API directly. gspread looks for a maintainer,
fixes the address in its code and does not repeat a 429; Google's discovery client reads 111 MB of documents for this.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlsplit

import google.auth
import requests
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, RefreshError
from google.auth.transport.requests import AuthorizedSession
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_random_exponential

from etl_assets import addresses
from etl_assets.clients.waiting import retry_after
from etl_assets.errors import EtlError

ENDPOINT = "https://sheets.googleapis.com"
_SCOPES = ["https://www.googleapis.com/auth/spreadsheets"]
_THIS_MACHINE = {"127.0.0.1", "localhost", "::1"}
# The API gives up on a request after 180 seconds. Its quotas are per minute.
_TIMEOUT_SECONDS = (10, 190)
_LONGEST_WAIT_SECONDS = 64.0
_FIELDS = (
    "sheets.properties(sheetId,title,sheetType,hidden,gridProperties(rowCount,columnCount,frozenRowCount))"
)

Json = dict[str, Any]


class SheetsError(EtlError):
    """A spreadsheet can't be reached, read or written, or can't hold what it is given."""


class _Passing(SheetsError):
    """What may go by. Whether the request took effect is not known. `after_seconds`: when to ask again."""

    def __init__(self, line: str, after_seconds: float = 0) -> None:
        super().__init__(line)
        self.after_seconds = after_seconds


@dataclass(frozen=True)
class Tab:
    """A tab as the spreadsheet describes it. One that is no grid (a chart) has no cells."""

    id: int
    title: str
    hidden: bool
    grid: bool
    rows: int
    columns: int
    frozen_rows: int

    @property
    def cells(self) -> int:
        return self.rows * self.columns


class Spreadsheet:
    """A spreadsheet. Nothing is asked of it before a method is called."""

    def __init__(
        self,
        spreadsheet_id: str,
        endpoint: str = ENDPOINT,
        *,
        attempts: int = 8,
        first_wait_seconds: float = 1.0,
    ) -> None:
        self.id = spreadsheet_id
        self._url = f"{endpoint.rstrip('/')}/v4/spreadsheets/{quote(spreadsheet_id, safe='')}"
        self._session, self._account = _session(endpoint)
        self._attempts = attempts
        self._backoff = wait_random_exponential(multiplier=first_wait_seconds, max=_LONGEST_WAIT_SECONDS)

    def __enter__(self) -> "Spreadsheet":
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def tabs(self) -> list[Tab]:
        """Its tabs, in their order."""
        answer = self._send("GET", "", params={"fields": _FIELDS})
        return [_tab(sheet["properties"]) for sheet in answer["sheets"]]

    def read(self, ranges: Sequence[str]) -> list[list[list[Any]]]:
        """The values of ranges, row by row, untyped JSON: numbers, texts, truth values; days as serial numbers.
        Empty cells at the end of a row and empty rows at the end of a range are left out."""
        answer = self._send(
            "GET",
            "/values:batchGet",
            params={
                "ranges": list(ranges),
                "valueRenderOption": "UNFORMATTED_VALUE",
                "dateTimeRenderOption": "SERIAL_NUMBER",
            },
        )
        return [found.get("values", []) for found in answer["valueRanges"]]

    def put(self, values: Sequence[tuple[str, Sequence[Sequence[Any]]]]) -> None:
        """Write values into ranges as they are: RAW, so that no text is ever taken for a formula, number or date."""
        data = [{"range": range_, "values": rows} for range_, rows in values]
        self._send("POST", "/values:batchUpdate", json={"valueInputOption": "RAW", "data": data})

    def change(self, changes: Sequence[Json], done: Callable[[], bool]) -> None:
        """Make changes, all of them at one moment or none. They must be such that making them again changes nothing or
        is refused: a try whose answer is lost may have made them. So when they fail, `done` has the last word."""
        try:
            self._send("POST", ":batchUpdate", json={"requests": list(changes)})
        except SheetsError:
            if not done():
                raise

    def _send(self, method: str, path: str, **arguments: Any) -> Any:
        tries = Retrying(
            retry=retry_if_exception_type(_Passing),
            stop=stop_after_attempt(self._attempts),
            wait=self._wait,
            reraise=True,
        )
        return tries(self._once, method, path, arguments)

    def _wait(self, state: RetryCallState) -> float:
        """As long as the service asks for, or a random time that grows with every try."""
        failure = state.outcome.exception() if state.outcome else None
        asked = failure.after_seconds if isinstance(failure, _Passing) else 0
        return min(max(asked, self._backoff(state)), _LONGEST_WAIT_SECONDS)

    def _once(self, method: str, path: str, arguments: Json) -> Any:
        host = addresses.place(self._url)
        try:
            answer = self._session.request(method, self._url + path, timeout=_TIMEOUT_SECONDS, **arguments)
            if answer.ok:
                return answer.json()
        except RefreshError as error:
            raise SheetsError(
                f"Google refuses the credentials of {self._account}: {_line(error)}; check "
                "GOOGLE_APPLICATION_CREDENTIALS (the key may have been deleted, or this machine's clock be wrong)"
            ) from error
        except (requests.RequestException, GoogleAuthError) as error:
            raise _Passing(
                f"{host} can't be reached, or hung up ({type(error).__name__}); check the network, then run it again"
            ) from error
        raise self._refusal(answer)

    def _refusal(self, answer: requests.Response) -> SheetsError:
        """What a status other than 2xx means, and what to do."""
        status, said = answer.status_code, _said(answer)
        if status == 429:
            return _Passing(
                f"the Google Sheets API's quota is used up ({said}); publish less often, or have it raised",
                _retry_after(answer),
            )
        if status >= 500:
            return _Passing(
                f"the Google Sheets API fails ({status}: {said}); try again later",
                _retry_after(answer),
            )
        if status == 404:
            return SheetsError(
                f"there is no spreadsheet {self.id}; check ETL_SHEET_ID: the part of its address between /d/ and /edit"
            )
        if status == 401:
            return SheetsError(
                f"Google does not accept the credentials of {self._account}: {said}; check GOOGLE_APPLICATION_CREDENTIALS"
            )
        if status == 403 and ("disabled" in said or "not been used" in said):
            return SheetsError(f"the Google Sheets API is not enabled in the credentials' project: {said}")
        if status == 403 and "scope" in said:
            return SheetsError(
                f"the credentials of {self._account} were not made for spreadsheets: {said}; use a service account's"
            )
        if status == 403:
            return SheetsError(
                f"spreadsheet {self.id} is not open to {self._account}: share it with that address, as an editor, and "
                f"see that no protected range keeps it out ({said})"
            )
        return SheetsError(f"spreadsheet {self.id}: the Google Sheets API refuses ({status}): {said}")


def _session(endpoint: str) -> tuple[requests.Session, str]:
    """A session, and the name of the account that it acts for. No token ever goes out unencrypted: to a stand-in on
    this machine none goes at all."""
    try:
        parts = urlsplit(endpoint)
        _ = parts.port
    except ValueError:  # its text repeats the address
        raise SheetsError("ETL_SHEETS_ENDPOINT can't be read: write https://host:port") from None
    if parts.query or parts.fragment or "@" in parts.path:
        raise SheetsError("ETL_SHEETS_ENDPOINT has more than a host and a path: write https://host:port")
    if parts.scheme == "http" and parts.hostname in _THIS_MACHINE:
        session = requests.Session()
        session.trust_env = False  # no proxy, no .netrc
        return session, "anybody"
    if parts.scheme != "https":
        raise SheetsError(
            f"ETL_SHEETS_ENDPOINT: {addresses.service(endpoint)} is not https://, and not http:// on this machine"
        )
    try:
        credentials, _ = google.auth.default(scopes=_SCOPES)
    except DefaultCredentialsError as error:
        raise SheetsError(
            f"no Google credentials: {_line(error)} Set GOOGLE_APPLICATION_CREDENTIALS to a service account's key file"
        ) from error
    account = getattr(credentials, "service_account_email", None) or "the account of the credentials"
    return AuthorizedSession(credentials), account  # type: ignore[no-untyped-call]


def _tab(properties: Json) -> Tab:
    grid = properties.get("gridProperties", {})
    return Tab(
        properties["sheetId"],
        properties["title"],
        properties.get("hidden", False),
        properties.get("sheetType", "GRID") == "GRID",
        grid.get("rowCount", 0),
        grid.get("columnCount", 0),
        grid.get("frozenRowCount", 0),
    )


def _said(answer: requests.Response) -> str:
    """The message of an error answer, in one line."""
    try:
        message = answer.json()["error"]["message"]
    except (requests.JSONDecodeError, KeyError, TypeError):  # a proxy's page
        message = answer.reason
    return " ".join(str(message).split())[:300]


def _retry_after(answer: requests.Response) -> float:
    """The seconds that an answer asks to wait; 0 if it says nothing."""
    return retry_after(answer.headers.get("Retry-After"), datetime.now(UTC)) or 0.0


def _line(error: Exception) -> str:
    return " ".join(str(error.args[0] if error.args else error).split())
