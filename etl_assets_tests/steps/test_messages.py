"""B6: messages to a topic of SNS and by e-mail, a text or JSON, with a subject."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest

from etl_assets.project import Message, Parameter, Steps, step
from etl_assets.stand_ins.s3 import serve_s3
from etl_assets_tests.automation.test_alerting import Mail, body, serve
from etl_assets_tests.steps.playing import play

__all__ = ["serve"]


WORDS = "größer: a\u2028b\u00a0c\u0085d\u200de\r\n \t"  # what is a line's end, or no sign, for some


@step()
def report() -> str:
    """A text."""
    return "Sales rose by 3 %.\nCosts did not."


@step()
def figures() -> dict[str, object]:
    """What a program reads."""
    return {"sales": 3, "words": WORDS}


GROUP = Steps(
    "lot", "Messages.",
    [
        report, figures,
        Message("words", "To the team.", subject="Sales of {month}", of="report", to="team"),
        Message("data", "To a program.", subject="Figures of {month}", of="figures", to="team"),
        Message("bare", "To a topic that wants no subject.", text="50\u00a0%", to="team"),
    ],
    [Parameter("month", "text", default="May")],
)  # fmt: skip


@pytest.fixture
def topic(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[dict[str, str]]]]:
    """A topic that a queue listens to; called, what arrived there."""
    with serve_s3("none") as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        arn = boto3.client("sns").create_topic(Name="team")["TopicArn"]
        sqs = boto3.client("sqs")
        queue = sqs.create_queue(QueueName="team")["QueueUrl"]
        queue_arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"][
            "QueueArn"
        ]
        boto3.client("sns").subscribe(TopicArn=arn, Protocol="sqs", Endpoint=queue_arn)
        monkeypatch.setenv("ETL_CHANNEL_TEAM", f"sns:{arn}")

        def arrived() -> list[dict[str, str]]:
            found = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", [])
            return [json.loads(one["Body"]) for one in found]

        yield arrived


def test_b6_a_text_and_json_reach_a_topic_with_their_subjects(
    topic: Callable[[], list[dict[str, str]]], tmp_path: Path
) -> None:
    ran = play(GROUP, tmp_path / "data")
    assert ran.success, ran.failure
    found = {one.get("Subject", ""): one["Message"] for one in topic()}
    assert set(found) == {"Sales of May", "Figures of May", ""}
    assert found[""].startswith("50\u00a0%")
    assert found["Sales of May"].startswith("Sales rose by 3 %.\nCosts did not.")
    assert f"/runs/{ran.result.run_id}" in found["Sales of May"]
    assert json.loads(found["Figures of May"]) == {"sales": 3, "words": WORDS}
    assert ran.told("words")["sent to"].endswith(":team")


def test_b6_a_text_reaches_a_mailbox_with_its_subject(
    serve: Callable[..., Mail], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mail = serve()
    monkeypatch.setenv("ETL_CHANNEL_TEAM", mail.url)
    ran = play(GROUP, tmp_path / "data", config={"month": "June\r\nBcc: all@example.com"})
    assert ran.success, ran.failure
    words, data, bare = mail.messages
    assert bare["Subject"] is None
    assert words["Subject"] == "Sales of June Bcc: all@example.com"
    assert words["Bcc"] is None
    assert body(words).startswith("Sales rose by 3 %.")
    assert json.loads(body(data)) == {"sales": 3, "words": WORDS}
    assert "@" not in ran.told("words")["sent to"]


def test_b6_what_json_cant_say_is_not_sent(tmp_path: Path) -> None:
    @step()
    def no_number() -> dict[str, float]:
        """What no JSON has."""
        return {"n": float("nan")}

    group = Steps("lot", "One.", [no_number, Message("told", "Told.", of="no_number")])
    assert "no_number: it gives what JSON can't say" in play(group, tmp_path / "data").failure


def test_b6_without_a_setting_it_is_in_the_log(tmp_path: Path) -> None:
    group = Steps("lot", "One.", [Message("told", "Told.", subject="S", text="T")])
    assert play(group, tmp_path / "data").told("told")["sent to"] == "the log"


@pytest.mark.parametrize("url", ["sns:nonsense", "smtp://host", "https://host/hook?token=s3cr3t"])
def test_b6_a_channel_that_cant_be_read_is_told_by_its_setting(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETL_CHANNEL_TEAM", url)
    ran = play(GROUP, tmp_path / "data")
    assert "ETL_CHANNEL_TEAM can't be read" in ran.failure
    assert "s3cr3t" not in ran.failure
