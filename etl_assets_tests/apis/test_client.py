"""A call carries its secret, and nothing that is kept, logged or raised does."""

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from etl_assets.apis.declaration import Credential, Retry
from etl_assets.apis.errors import ApiError
from etl_assets.apis.paging import Link
from etl_assets.apis.redirects import is_public
from etl_assets.clients.waiting import retry_after
from etl_assets.stand_ins.web_api import ReceivedCall
from etl_assets_tests.apis.service import Client, service

SECRET = "sesame-open-7781"


@pytest.mark.parametrize("how", ["header", "parameter", "link"])
def test_a_secret_goes_with_the_call_and_nowhere_else(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    credential = Credential("SALES_KEY") if how == "header" else Credential("SALES_KEY", parameter="key")
    changed: dict[str, Any] = (
        {"paging": Link(size="per_page", records=50), "parameters": {"by": "link"}} if how == "link" else {}
    )
    with service(key=SECRET) as stand_in:
        client = Client(tmp_path, stand_in, credential=credential, **changed)
        client.fetch(secret=SECRET)
        client.load()
        assert len(client.rows()) == 280
        stand_in.behaviour.cut = 1.0
        with pytest.raises(ApiError) as told:
            Client(tmp_path / "cut", stand_in, credential=credential, retry=Retry(2, 0.01)).fetch(
                secret=SECRET
            )
        with pytest.raises(ApiError, match="answered 401: see the credential in SALES_KEY") as refused:
            Client(tmp_path / "wrong", stand_in, credential=credential).fetch(secret="other")
    assert all(SECRET.encode() not in content for content in client.files_below().values())
    assert SECRET not in caplog.text
    assert SECRET not in f"{told.value!r} {refused.value!r} {client.api!r}"


def test_a_secret_is_asked_once_and_again_when_it_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be renewed while pages come."""
    asked: list[str] = []

    def secret() -> str:
        asked.append("renewed" if stand_in.behaviour.key == "renewed" else "old")
        return asked[-1]

    with service(key="old") as stand_in:
        fault = stand_in.fault

        def renewing(call: ReceivedCall) -> int | None:
            stand_in.behaviour.key = "renewed" if len(stand_in.calls) > 20 else "old"
            return fault(call)

        monkeypatch.setattr(stand_in, "fault", renewing)
        client = Client(tmp_path, stand_in, credential=Credential("SALES_KEY"))
        client.fetch(secret=secret)
        assert asked == ["old"]
        assert client.fetch("2024-01-08", secret=secret)
        assert asked == ["old", "old", "renewed"]
        assert stand_in.answered[401] == 1


@pytest.mark.fault("F37")
def test_retry_after_is_read_in_both_its_forms() -> None:
    now = datetime(2024, 1, 1, 12, tzinfo=UTC)
    assert retry_after("7", now) == 7
    assert retry_after("Mon, 01 Jan 2024 12:01:30 GMT", now) == 90
    assert retry_after("Mon, 01 Jan 2024 11:00:00 GMT", now) == 0
    assert retry_after("soon", now) is None
    assert retry_after(None, now) is None


@pytest.mark.fault("F37")
def test_a_wait_that_is_too_long_ends_the_run(tmp_path: Path) -> None:
    with service(lasting=429, retry_after_seconds=3600) as stand_in:
        with pytest.raises(ApiError, match="it asks to wait 3,600 s, longer than the longest pause"):
            Client(tmp_path, stand_in).fetch()
        assert len(stand_in.calls) == 1


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),  # noqa: S104
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:127.0.0.1", False),
        ("2002:7f00:1::", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("64:ff9b::808:808", True),
        ("64:ff9b:1::808:808", False),
        ("::7f00:1", False),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", False),
    ],
)
def test_which_addresses_are_of_the_internet(address: str, public: bool) -> None:
    assert is_public(address) is public
