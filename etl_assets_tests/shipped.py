"""The project that ships, as the tests of the flow over ToteSys use it."""

from etl_assets.project import SHIPPED, load
from etl_assets.star.schema import StarTable

PROJECT = load(SHIPPED)
INPUTS = PROJECT.inputs
TABLES = list(PROJECT.tables.values())
REPORTS = list(PROJECT.reports.values())
SCHEMAS: dict[str, StarTable] = {name: made.schema for name, made in PROJECT.star.items()}
