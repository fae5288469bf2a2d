"""The databases that steps are tried on, each as a URL."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from etl_assets_tests.steps import databases


@pytest.fixture(scope="session")
def mariadb_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if not Path(databases.INSTALLED).exists():
        pytest.skip(databases.NOT_THERE)
    with databases.mariadb(tmp_path_factory.mktemp("mariadb")) as url:
        yield url


@pytest.fixture(params=["postgresql", "sqlite", "mariadb"])
def shop(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database that steps know as `shop`: its URL."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'shop.sqlite'}"
    elif request.param == "postgresql":
        create: Callable[[], str] = request.getfixturevalue("database")
        url = create()
    else:
        url = databases.emptied(request.getfixturevalue("mariadb_url"))
    monkeypatch.setenv("ETL_DATABASE_SHOP", url)
    return url
