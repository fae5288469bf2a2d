"""Every place where a lake can be kept, for claims that hold in all of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from etl_assets.lake.files import Files
from etl_assets.stand_ins import gcs
from etl_assets_tests import object_stores
from etl_assets_tests.object_stores import Proxy, Store, on_google, on_s3


@pytest.fixture(scope="session")
def s3_service() -> Iterator[Proxy]:
    with object_stores.moto() as proxy:
        yield proxy


@pytest.fixture(scope="session")
def gcs_service() -> Iterator[tuple[Proxy, gcs.Service]]:
    with object_stores.google() as service:
        yield service


def made(kind: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Store:
    if kind == "folder":
        return Store("folder", str(tmp_path / "lake"), tmp_path / "cache")
    if kind == "s3":
        store = on_s3(request.getfixturevalue("s3_service"), tmp_path / "cache")
    else:
        proxy, service = request.getfixturevalue("gcs_service")
        store = on_google(proxy, service, tmp_path / "cache")
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    return store


@pytest.fixture(params=["folder", "s3", "gs"])
def store(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Store:
    return made(request.param, tmp_path, request, monkeypatch)


@pytest.fixture(params=["s3", "gs"])
def bucket(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Store:
    """As `store`, for what only object stores have: requests that fail, and local copies."""
    return made(request.param, tmp_path, request, monkeypatch)


@pytest.fixture
def s3(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Store:
    return made("s3", tmp_path, request, monkeypatch)


@pytest.fixture
def google(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Store:
    return made("gs", tmp_path, request, monkeypatch)


@pytest.fixture
def files(store: Store) -> Files:
    return store.open()
