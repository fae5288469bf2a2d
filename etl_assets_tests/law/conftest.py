"""Sources with a star, for tests of the models that people have."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from etl_assets.source.table import Table
from etl_assets.star.definition import Inputs
from etl_assets.star.function import StarFunction
from etl_assets_tests.direct import Direct
from etl_assets_tests.flow import execute
from etl_assets_tests.law.cases import Make


@pytest.fixture
def make(database: Callable[[], str], tmp_path: Path) -> Make:
    """A source made by SQL, and its star after the first batch."""

    def made(source: str, tables: Sequence[Table], *star: StarFunction) -> Direct:
        inputs = Inputs({table.name: table for table in tables}, {one.name: one for one in star}, {})
        flow = Direct(database(), tmp_path, inputs)
        execute(flow.url, source)
        flow.run()
        return flow

    return made
