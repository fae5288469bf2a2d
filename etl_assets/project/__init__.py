"""What a user declares: the one import that a project needs, and how a project is found and read.

    from etl_assets.project import Column, Table, calendar, dimension, fact, report, ReportColumn
    from etl_assets.project import Message, Parameter, SqlQuery, SqlWrite, Steps, Upload, step
    from etl_assets.project import Api, Credential, Cursor, Header, Limits, Link, Offset, PageNumber, Rate, Retry, Windows

A project is a package, or a folder with an `__init__.py`, that anybody keeps wherever they like. Everything that its modules
declare belongs to it, and every CSV file beside them is a reference file: nothing is listed twice. `ETL_PROJECT` names it;
else a folder `etl_project` where the command is started is meant, else ToteSys, which ships.
"""

from pathlib import Path

from etl_assets.apis.declaration import Api, Batch, Credential, Limits, Rate, Retry
from etl_assets.apis.paging import Cursor, Header, Link, Offset, OnePage, PageNumber
from etl_assets.apis.windows import Windows
from etl_assets.exports.contract import ReportColumn, report
from etl_assets.project.contract import Options, Project, ProjectError, Slip
from etl_assets.project.declared import read
from etl_assets.project.finding import SHIPPED, hidden_by, place
from etl_assets.source.table import Table
from etl_assets.star.calendar import calendar
from etl_assets.star.function import dimension, fact, star_table
from etl_assets.star.schema import Column, Dimension, Fact
from etl_assets.steps.contract import Picture, StepError, StepResult
from etl_assets.steps.functions import step
from etl_assets.steps.group import Steps
from etl_assets.steps.messages import Message
from etl_assets.steps.objects import CsvFile, Download, Listing, Upload
from etl_assets.steps.parameters import Parameter, Partitions
from etl_assets.steps.sql import SqlExecute, SqlQuery, SqlWrite

__all__ = [
    "SHIPPED",
    "Api",
    "Batch",
    "Column",
    "Credential",
    "CsvFile",
    "Cursor",
    "Dimension",
    "Download",
    "Fact",
    "Header",
    "Limits",
    "Link",
    "Listing",
    "Message",
    "Offset",
    "OnePage",
    "Options",
    "PageNumber",
    "Parameter",
    "Partitions",
    "Picture",
    "Project",
    "ProjectError",
    "Rate",
    "ReportColumn",
    "Retry",
    "Slip",
    "SqlExecute",
    "SqlQuery",
    "SqlWrite",
    "StepError",
    "StepResult",
    "Steps",
    "Table",
    "Upload",
    "Windows",
    "calendar",
    "dimension",
    "fact",
    "hidden_by",
    "load",
    "place",
    "read",
    "report",
    "star_table",
    "step",
]

_known: dict[str, Project] = {}


def load(setting: str | None = None, folder: Path | None = None) -> Project:
    """The project that a setting names: a package or a folder; None: the one in the folder, else the one that ships. It is
    read once in a process. Raises `ProjectError`."""
    where = place(setting, folder)
    if str(where) not in _known:
        _known[str(where)] = read(where)
    return _known[str(where)]
