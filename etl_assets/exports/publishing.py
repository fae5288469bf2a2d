"""Where reports can go, and what whoever takes them must promise. The takers themselves are resources."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import dagster as dg

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class PublishResult:
    """What was published, and where. `unchanged`: the same content stood there already and was not touched."""

    where: str
    rows: int
    bytes: int | None
    unchanged: bool


@dataclass(frozen=True)
class Sheet:
    """A sheet of a workbook: `title` is 1 to 31 characters long, `frame` has Arrow types."""

    title: str
    description: str
    frame: "pd.DataFrame"


class ReportsWarehouse(Protocol):
    """Where reports are computed: it answers in exact types (Arrow's), or amounts would lose their cents."""

    def query(self, sql: str, params: Mapping[str, Any] | None = None) -> "pd.DataFrame":
        """The rows of a query, with Arrow types."""


class ReportTables(dg.ConfigurableResource, ABC):
    """A place for reporting tables. Readers see the old table whole or the new one whole."""

    @abstractmethod
    def publish(self, name: str, frame: "pd.DataFrame", description: str) -> PublishResult:
        """Replace the table by a frame with Arrow types, unless it holds the same already."""

    @abstractmethod
    def read(self, name: str) -> "pd.DataFrame":
        """The table as it was published, with Arrow types; its rows in any order."""

    @contextmanager
    def kept_open(self) -> Iterator[None]:
        """While the block runs, many reports are published and read: what it costs to open the place may be spent once."""
        yield

    def standing(self) -> str | None:
        """What identifies all that stands in the place: another text after any change of it. None where that can't be told
        cheaply, or at all."""
        return None


class Workbook(dg.ConfigurableResource, ABC):
    """A workbook for people. Readers see the old one whole or the new one whole."""

    @abstractmethod
    def publish(self, title: str, sheets: Sequence[Sheet]) -> PublishResult:
        """Replace the workbook, unless it holds the same already."""

    def standing(self) -> str | None:
        """What identifies the workbook as it stands there, as that of `ReportTables`."""
        return None
