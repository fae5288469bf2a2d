"""BigQuery, as tests talk to it."""

import pytest

from etl_assets.clients.bigquery import BigQuery
from etl_assets.stand_ins.bigquery import BigQueryStandIn

PROJECT = "demo-project"


@pytest.fixture
def resource(stand_in: BigQueryStandIn) -> BigQuery:
    """The resource, in a hurry."""
    return BigQuery(project=PROJECT, location="EU", pause_seconds=0.01)
