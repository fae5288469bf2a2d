"""Jobs in BigQuery, each carried out once: retries, waiting, and what to say when it does not work.

A job has an id that says what it does. Whoever asks for it again, after a cut connection or in a later run, finds out
what became of it instead of doing it twice.
"""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeVar

import requests.exceptions
from google.api_core.exceptions import Conflict, Forbidden, GoogleAPICallError, NotFound, RetryError
from google.api_core.retry import Retry
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, TransportError
from google.cloud import bigquery
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from etl_assets.errors import EtlError

Job = bigquery.LoadJob | bigquery.QueryJob
T = TypeVar("T")

# https://cloud.google.com/bigquery/docs/error-messages; quotaExceeded is not among them: it lasts till the next day
_TRANSIENT = {
    "rateLimitExceeded",
    "backendError",
    "internalError",
    "badGateway",
    "jobBackendError",
    "jobInternalError",
    "jobRateLimitExceeded",
}
_ABOUT_VALUES = {"invalid", "invalidQuery"}
_ABOUT_SCHEMAS = (
    "another load changed the warehouse",  # our own
    "Column ",
    "Field ",
    "Incompatible table partitioning",
    "Invalid schema",
    "No matching signature",
    "Not found",
    "Only temporary tables",
    "Provided Schema does not match",
    "Syntax error",
    "Table ",
    "Type not found",
    "Unrecognized name",
)
_VALUE = re.compile(r"""['"`“‘:]|(?<!\w)-?\d""")
_UNREACHED = (
    ConnectionError,
    requests.exceptions.ConnectionError,
    requests.exceptions.Timeout,
    requests.exceptions.ChunkedEncodingError,
    TransportError,
)
ONCE = Retry(predicate=lambda error: False)
"""For the client's calls, which by themselves would try again for ten minutes: who tries again is decided here."""
REFUSALS = (GoogleAPICallError, GoogleAuthError, *_UNREACHED)
"""What the client raises when the service does not do what it is asked."""


class BigQueryError(EtlError):
    """BigQuery can't be reached, or does not do what it is asked."""


@dataclass(frozen=True)
class RetryPolicy:
    """How often a request is tried, how long the first pause is, and how long a request and a job may take."""

    attempts: int
    pause_seconds: float
    request_seconds: float
    job_seconds: float

    def retrying(self, ask: Callable[[], T], also: tuple[type[Exception], ...] = ()) -> T:
        """What `ask` gives; asked again while the error is one that passes, or is one of `also`."""

        def passing(error: BaseException) -> bool:
            return isinstance(error, also) or _passes(error)

        return Retrying(
            retry=retry_if_exception(passing),
            wait=self._wait,
            stop=stop_after_attempt(self.attempts),
            reraise=True,
        )(ask)

    def paging(self) -> Retry:
        """The same for those of the client's calls that make several requests."""
        whole = sum(min(self.pause_seconds * 2**n, 30) for n in range(self.attempts))
        return Retry(_passes, initial=self.pause_seconds, maximum=30, timeout=whole)

    def _wait(self, state: RetryCallState) -> float:
        return wait_random_exponential(multiplier=self.pause_seconds, max=30)(state)


@dataclass(frozen=True)
class CompletedJob:
    """A job that succeeded. `already`: it had been submitted before it was asked for."""

    job: Job
    already: bool


def carry_out(
    client: bigquery.Client, name: str, location: str, patience: RetryPolicy, submit: Callable[[str], Job]
) -> CompletedJob:
    """The job of this name, done. `submit` is given its id and submits it, unless that was done before.

    A job that failed is submitted again under the next id: if it failed in an earlier run, or for a reason that passes.
    Raises what the client raises.
    """
    failures = 0
    for number in count(1):
        job_id = f"{name}_{number}"
        job, earlier = _submitted(client, job_id, location, patience, submit)
        job = wait(client, job, patience)
        if job.error_result is None:
            return CompletedJob(job, earlier)
        if earlier:
            continue
        error: Exception = job.exception()  # type: ignore[no-untyped-call]
        failures += 1
        if not _passes(error) or failures == patience.attempts:
            raise error
        time.sleep(patience.pause_seconds * failures)
    raise AssertionError


def _submitted(
    client: bigquery.Client, job_id: str, location: str, patience: RetryPolicy, submit: Callable[[str], Job]
) -> tuple[Job, bool]:
    """A job that is on its way or done, and whether somebody submitted it before."""
    tries = count(1)

    def attempt() -> tuple[Job, bool]:
        tried = next(tries)
        try:
            return submit(job_id), False
        except Conflict:
            # The service may know that the id is taken some time before it finds the job.
            return patience.retrying(
                lambda: look(client, job_id, location, patience), (NotFound,)
            ), tried == 1

    return patience.retrying(attempt)


def look(
    client: bigquery.Client,
    job_id: str,
    location: str,
    patience: RetryPolicy,
    also: tuple[type[Exception], ...] = (),
) -> Any:
    """A job as it stands. Raises `NotFound` if there is none."""
    return patience.retrying(
        lambda: client.get_job(job_id, location=location, retry=ONCE, timeout=patience.request_seconds), also
    )


def wait(client: bigquery.Client, job: Job, patience: RetryPolicy) -> Job:
    """A job, once it is done, however it ended."""
    deadline = time.monotonic() + patience.job_seconds
    pause = 0.05
    while job.state != "DONE":
        if time.monotonic() > deadline:
            raise BigQueryError(
                f"the job {job.job_id} is still {job.state.lower()} after {patience.job_seconds:.0f} seconds; "
                "run again: what it does is not done twice"
            )
        time.sleep(pause)
        pause = min(pause * 1.5, 5)
        job = look(client, str(job.job_id), str(job.location), patience)
    return job


@contextmanager
def explaining(what: str, columns: Sequence[str] = ()) -> Iterator[None]:
    """Let what the client raises come out as `BigQueryError`; it may name these columns."""
    try:
        yield
    except RetryError as error:
        raise explained(what, error.cause, columns) from None
    except REFUSALS as error:
        raise explained(what, error, columns) from None


def explained(what: str, error: Exception, columns: Sequence[str] = ()) -> BigQueryError:
    """An error of the client in one line, with what to do about it."""
    reasons = _reasons(error)
    message = _told(message_of(error), reasons, columns)
    if isinstance(error, DefaultCredentialsError):
        return BigQueryError(
            f"{what}: there are no Google credentials; set GOOGLE_APPLICATION_CREDENTIALS to a service account's file, "
            "or run `gcloud auth application-default login`"
        )
    if (
        isinstance(error, GoogleAuthError) and not isinstance(error, TransportError)
    ) or "authError" in reasons:
        return BigQueryError(
            f"{what}: Google does not accept the credentials (they may have expired or been revoked); renew them"
        )
    if isinstance(error, _UNREACHED):
        return BigQueryError(f"{what}: BigQuery can't be reached: {type(error).__name__}")
    if "quotaExceeded" in reasons:
        return BigQueryError(
            f"{what}: a quota of BigQuery is used up, trying again does not help today: {message}"
        )
    if isinstance(error, Forbidden) and not reasons & _TRANSIENT:
        return BigQueryError(
            f"{what}: not allowed: {message}; docs/bigquery.md lists the roles that are needed"
        )
    return BigQueryError(f"{what}: {message}")


def _told(message: str, reasons: set[str], columns: Sequence[str]) -> str:
    """What the service said. Where that may be about the value of a row, it ends before the first one, and names the
    columns that the rest names."""
    if not reasons & _ABOUT_VALUES or message.startswith(_ABOUT_SCHEMAS):
        return message
    kind = _VALUE.split(message, maxsplit=1)[0].strip()
    if kind == message:
        return message
    named = [name for name in columns if re.search(rf"\b{re.escape(name)}\b", message)]
    about = f" about {', '.join(named)}" if named else ""
    return f"{kind or 'it refuses'} …{about} (the job has the rest, which may quote a row)"


def message_of(error: Exception) -> str:
    """What the service said, in one line; the client's own text repeats the reason and shows the URL."""
    messages = [told["message"] for told in _details(error) if told.get("message")]
    return " ".join((messages[0] if messages else str(getattr(error, "message", error))).split())


def _passes(error: BaseException) -> bool:
    """Whether an error goes away by itself."""
    if isinstance(error, GoogleAPICallError):
        reasons = _reasons(error)
        return bool(reasons & _TRANSIENT) or (
            error.code in {429, 500, 502, 503, 504} and "quotaExceeded" not in reasons
        )
    if isinstance(error, _UNREACHED):
        return not isinstance(error, requests.exceptions.SSLError)
    return isinstance(error, GoogleAuthError) and bool(error.retryable)


def _reasons(error: BaseException) -> set[str]:
    return {str(told.get("reason")) for told in _details(error)}


def _details(error: BaseException) -> list[dict[str, str]]:
    """What the service said about an error, if it was the service."""
    return [said for said in getattr(error, "errors", None) or [] if isinstance(said, dict)]
