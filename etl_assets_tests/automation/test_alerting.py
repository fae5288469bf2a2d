"""One alert per failed run and one on recovery: none lost, none doubled, none with a secret in it."""

import json
import logging
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import boto3
import dagster as dg
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP as Server
from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword, Session
from dagster._core.scheduler.instigation import SensorInstigatorData, TickStatus
from dagster._daemon.auto_run_reexecution.auto_run_reexecution import (
    consume_new_runs_for_automatic_reexecution,
)
from dagster._daemon.sensor import execute_sensor_iteration
from moto.server import ThreadedMotoServer

from etl_assets.automation.alerting import alerting
from etl_assets.clients.alerts import (
    Alert,
    AlertError,
    Alerts,
    EmailAlerts,
    LogAlerts,
    Mailbox,
    SnsAlerts,
    alerts,
)
from etl_assets.definitions import definitions
from etl_assets.errors import EtlError, SettingsError
from etl_assets.raw.assets import STRAYS, SWEPT
from etl_assets.settings import Settings
from etl_assets_tests.automation.shown import served
from etl_assets_tests.flow import Flow

SECRET = "pa55-w0rd"
QUERY = "?from=etl@example.com&to=ops@example.com,on+call@example.com"
RETRIES = {"run_retries": {"enabled": True, "max_retries": 1, "retry_on_asset_or_op_failure": False}}


# -- a mail server ---------------------------------------------------------------------------------------------------


@dataclass
class Mail:
    """What a mail server was given, and what it says to the next message."""

    port: int = 0
    envelopes: list[Envelope] = field(default_factory=list)
    logins: list[tuple[str, str]] = field(default_factory=list)
    encrypted: list[bool] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)

    async def handle_DATA(self, server: Server, session: Session, envelope: Envelope) -> str:
        answer = self.answers.pop(0) if self.answers else "250 taken"
        if answer.startswith("250"):
            self.envelopes.append(envelope)
            self.encrypted.append(session.ssl is not None)
        return answer

    async def handle_RCPT(
        self, server: Server, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address.startswith("unknown"):
            return "550 5.1.1 no such user here"
        envelope.rcpt_tos.append(address)
        return "250 fine"

    def authenticate(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.logins.append((data.login.decode(), data.password.decode()))
        return AuthResult(success=data.password.decode() == SECRET, handled=False)

    @property
    def messages(self) -> list[EmailMessage]:
        contents = [e.content for e in self.envelopes if isinstance(e.content, bytes)]
        return [message_from_bytes(content, policy=policy.default) for content in contents]

    @property
    def subjects(self) -> list[str]:
        return [message["Subject"] for message in self.messages]

    @property
    def url(self) -> str:
        return f"smtp://127.0.0.1:{self.port}/{QUERY}"

    @property
    def resource(self) -> EmailAlerts:
        return EmailAlerts(url=self.url)


def body(message: EmailMessage) -> str:
    return str(message.get_content()).replace("\r\n", "\n")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def serve() -> Iterator[Callable[..., Mail]]:
    """`serve(…)` starts a mail server with aiosmtpd's options."""
    running = []

    def start(**options: Any) -> Mail:
        mail = Mail(free_port())
        controller = Controller(
            mail, hostname="127.0.0.1", port=mail.port, authenticator=mail.authenticate, **options
        )
        controller.start()
        running.append(controller)
        return mail

    yield start
    for controller in running:
        controller.stop()


@pytest.fixture
def mail(serve: Callable[..., Mail]) -> Mail:
    return serve()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate of 127.0.0.1 and its key."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


@pytest.fixture
def tls(certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """What a server needs to be trusted by this process."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


# -- runs and ticks --------------------------------------------------------------------------------------------------


@dg.asset
def fragile(context: dg.AssetExecutionContext) -> None:
    if error := context.run.tags.get("error"):
        raise EtlError(error)


@dg.asset
def sturdy() -> None: ...


@dg.asset(deps=[fragile])
def behind() -> None: ...


ETL = dg.define_asset_job("etl", executor_def=dg.in_process_executor)
DEFS = dg.Definitions([fragile, sturdy, behind], jobs=[ETL])


@dataclass
class Watched:
    """An instance, and the sensor that watches it, ticking when told to."""

    instance: dg.DagsterInstance
    alerts: Alerts
    cursor: str | None = None

    def run(
        self, error: str | None = None, *selected: dg.AssetsDefinition, tags: Mapping[str, str] | None = None
    ) -> dg.ExecuteInProcessResult:
        """A run of the job, or ad hoc of some assets; it fails with the error if there is one."""
        name = "__ASSET_JOB" if selected else "etl"
        return DEFS.resolve_job_def(name).execute_in_process(
            instance=self.instance,
            tags={**({"error": error} if error else {}), **(tags or {})},
            asset_selection=[asset.key for asset in selected] or None,
            raise_on_error=False,
        )

    def tick(self) -> str:
        """One evaluation; what it says. As in the daemon, the cursor stays where it was if it raises."""
        with dg.build_sensor_context(
            self.instance, cursor=self.cursor, definitions=DEFS, resources={"alerts": self.alerts}
        ) as context:
            tick = alerting("http://127.0.0.1:3000").evaluate_tick(context)
        assert not tick.run_requests
        self.cursor = tick.cursor
        return tick.skip_message or ""


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def retrying(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance on disk, as a daemon and a code server share it."""
    home = tmp_path / "dagster"
    home.mkdir()
    with dg.instance_for_test(overrides=RETRIES, temp_dir=str(home)) as made:
        yield made


@pytest.fixture
def watched(instance: dg.DagsterInstance, mail: Mail) -> Watched:
    watched = Watched(instance, mail.resource)
    watched.tick()
    return watched


def test_a_failed_run_is_told_once_with_what_failed_why_when_and_where_to_look(
    watched: Watched, mail: Mail
) -> None:
    result = watched.run("the well is dry; dig deeper")
    said = watched.tick()
    assert "sent: etl-assets: etl failed: the well is dry; dig deeper" in said
    watched.tick()
    (message,) = mail.messages
    assert message["Subject"] == "etl-assets: etl failed: the well is dry; dig deeper"
    assert (message["From"], message["To"]) == (
        "etl@example.com",
        "ops@example.com, on+call@example.com",
    )
    text = body(message)
    assert "failed: fragile\nerror: the well is dry; dig deeper\n" in text
    assert "started: 20" in text
    assert " UTC, after " in text
    assert f"http://127.0.0.1:3000/runs/{result.run_id}" in text.splitlines()


def test_every_failed_run_is_told_and_the_first_success_after_them(watched: Watched, mail: Mail) -> None:
    for error in (None, "one", "two", None, None, "three", None):
        watched.run(error)
        watched.tick()
    assert mail.subjects == [
        "etl-assets: etl failed: one",
        "etl-assets: etl failed: two",
        "etl-assets: etl succeeds again",
        "etl-assets: etl failed: three",
        "etl-assets: etl succeeds again",
    ]
    recoveries = [body(m) for m in mail.messages if "again" in m["Subject"]]
    assert "2 runs had failed, since 20" in recoveries[0]
    assert "the last error: two" in recoveries[0]
    assert "the run before had failed" in recoveries[1]


def test_what_a_sweep_found_is_told_though_its_run_succeeded(watched: Watched, mail: Mail) -> None:
    watched.run(tags={SWEPT: "3"})
    watched.run("the well is dry")
    watched.run(tags={SWEPT: "4", STRAYS: "staff 2, design 1"})
    watched.tick()
    found = "etl-assets: the sweep found rows that were other than the lake held: staff 2, design 1"
    assert [message["Subject"] for message in mail.messages][1:] == [found]
    assert "the run before had failed; this one succeeded" in body(mail.messages[1])


def test_what_happened_between_two_ticks_is_told_in_its_order(watched: Watched, mail: Mail) -> None:
    for error in ("one", None, "two"):
        watched.run(error)
    watched.tick()
    assert [subject.removeprefix("etl-assets: etl ") for subject in mail.subjects] == [
        "failed: one", "succeeds again", "failed: two",
    ]  # fmt: skip


def test_what_ended_before_the_sensor_was_switched_on_is_not_told(
    instance: dg.DagsterInstance, mail: Mail
) -> None:
    watched = Watched(instance, mail.resource)
    watched.run("of old")
    watched.tick()
    watched.run("of now")
    watched.tick()
    assert mail.subjects == ["etl-assets: etl failed: of now"]


def test_an_ad_hoc_run_recovers_by_one_of_the_same_assets_only(watched: Watched, mail: Mail) -> None:
    watched.run("broken", fragile, behind)
    watched.run(None, sturdy)
    watched.run(None)
    watched.tick()
    assert mail.subjects == ["etl-assets: ad-hoc run of behind and 1 more failed: broken"]
    watched.run(None, fragile, behind)
    watched.tick()
    assert mail.subjects[1:] == ["etl-assets: ad-hoc run of behind and 1 more succeeds again"]


def test_a_cancelled_run_is_no_failure(watched: Watched, mail: Mail) -> None:
    run = watched.instance.create_run_for_job(DEFS.resolve_job_def("etl"))
    watched.instance.report_run_canceling(run)
    watched.instance.report_run_canceled(run)
    watched.tick()
    assert mail.subjects == []


def test_what_is_older_than_a_day_is_no_news(
    watched: Watched, mail: Mail, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.run("yesterday")
    monkeypatch.setattr("etl_assets.automation.alerting._NEWS_SECONDS", 0.0)
    watched.tick()
    monkeypatch.undo()
    watched.run("today")
    watched.tick()
    assert mail.subjects == ["etl-assets: etl failed: today"]


# -- delivery that fails ---------------------------------------------------------------------------------------------


def test_an_alert_that_is_refused_shows_in_the_tick_and_is_sent_by_a_later_one(
    watched: Watched, mail: Mail
) -> None:
    watched.run("one")
    mail.answers = ["550 5.7.1 not today", "451 try later"]
    for reason in ("550 5.7.1 not today", "451 try later"):
        with pytest.raises(AlertError, match=rf"can't send an alert by 127\.0\.0\.1:\d+: {reason}; check"):
            watched.tick()
    assert mail.subjects == []
    watched.tick()
    watched.tick()
    assert mail.subjects == ["etl-assets: etl failed: one"]


def test_of_several_alerts_none_is_doubled_when_a_later_one_is_refused(watched: Watched, mail: Mail) -> None:
    for error in ("one", "two", "three"):
        watched.run(error)
    mail.answers = ["250 taken", "550 no more"]
    watched.tick()
    assert mail.subjects == ["etl-assets: etl failed: one"]
    watched.tick()
    watched.tick()
    assert mail.subjects == [f"etl-assets: etl failed: {error}" for error in ("one", "two", "three")]


def test_a_mail_server_that_is_down_is_an_error_in_one_line(watched: Watched) -> None:
    watched.alerts = EmailAlerts(url=f"smtp://etl:{SECRET}@127.0.0.1:{free_port()}/{QUERY}")
    watched.run("one")
    with pytest.raises(AlertError, match="Connection refused") as raised:
        watched.tick()
    assert SECRET not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_recipients_that_are_all_unknown_are_an_error_and_one_that_is_known_is_enough(mail: Mail) -> None:
    sent = Alert("etl failed", "why", "http://127.0.0.1:3000", "1")
    with pytest.raises(AlertError, match=r"unknown@example\.com: 550 5\.1\.1 no such user here"):
        EmailAlerts(url=f"smtp://127.0.0.1:{mail.port}?from=a@b.c&to=unknown@example.com").send(sent)
    EmailAlerts(url=f"smtp://127.0.0.1:{mail.port}?from=a@b.c&to=unknown@example.com,ops@example.com").send(
        sent
    )
    assert [envelope.rcpt_tos for envelope in mail.envelopes] == [["ops@example.com"]]


# -- encryption and passwords ----------------------------------------------------------------------------------------


def test_a_password_goes_only_through_an_encrypted_connection(
    serve: Callable[..., Mail], tls: ssl.SSLContext
) -> None:
    alert = Alert("etl failed", "why", "http://127.0.0.1:3000", "1")
    starttls = serve(tls_context=tls, require_starttls=True)
    EmailAlerts(url=f"smtp://etl:{SECRET}@127.0.0.1:{starttls.port}{QUERY}").send(alert)
    encrypted = serve(ssl_context=tls, auth_require_tls=False)
    EmailAlerts(url=f"smtps://etl:{SECRET}@127.0.0.1:{encrypted.port}{QUERY}").send(alert)
    assert starttls.encrypted == [True]
    for server in (starttls, encrypted):
        assert server.logins == [("etl", SECRET)]
        assert server.subjects == ["etl failed"]
    plain = serve(auth_require_tls=False)
    with pytest.raises(AlertError, match="it offers no STARTTLS, so no password is sent"):
        EmailAlerts(url=f"smtp://etl:{SECRET}@127.0.0.1:{plain.port}{QUERY}").send(alert)
    assert (plain.logins, plain.envelopes) == ([], [])


def test_a_server_with_a_certificate_that_nobody_vouches_for_gets_nothing(
    serve: Callable[..., Mail], tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(tls_context=tls)
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(AlertError, match=r"CERTIFICATE_VERIFY_FAILED|certificate verify failed"):
        EmailAlerts(url=f"smtp://etl:{SECRET}@127.0.0.1:{server.port}{QUERY}").send(
            Alert("etl failed", "why", "", "1")
        )
    assert (server.logins, server.envelopes) == ([], [])


def test_a_wrong_password_is_an_error_that_does_not_show_it(
    serve: Callable[..., Mail], tls: ssl.SSLContext
) -> None:
    server = serve(tls_context=tls)
    with pytest.raises(AlertError, match="535") as raised:
        EmailAlerts(url=f"smtp://etl:wrong-{SECRET}@127.0.0.1:{server.port}{QUERY}").send(
            Alert("etl failed", "why", "", "1")
        )
    assert SECRET not in str(raised.value)
    assert raised.value.__suppress_context__


@pytest.mark.parametrize(
    "nasty",
    [
        "harmless\r\nBcc: everybody@example.com\r\n\r\nbuy this",
        "harmless\nBcc: everybody@example.com",
        "harmless\x00\x1b[31m\u2028Bcc: everybody@example.com \udc80",
    ],
)
def test_no_text_can_add_a_header_or_a_recipient(mail: Mail, nasty: str) -> None:
    mail.resource.send(Alert(nasty, nasty, "http://127.0.0.1:3000", "1"))
    ((message, envelope),) = zip(mail.messages, mail.envelopes, strict=True)
    assert message["Bcc"] is None
    assert message["Subject"].startswith("harmless ")
    assert "Bcc: everybody" in message["Subject"]
    assert envelope.rcpt_tos == ["ops@example.com", "on+call@example.com"]


def test_credentials_in_an_error_of_others_do_not_leave_the_house(
    watched: Watched, mail: Mail, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever form a library repeats them in: what is looked for is what the settings hold."""
    monkeypatch.setenv("ETL_SOURCE_URL", f"host=db password = '{SECRET} x'")
    watched.run(f"can't reach db with password = {SECRET} x, that is {SECRET}%20x")
    watched.tick()
    (message,) = mail.messages
    assert "can't reach db with password = …, that is …" in message["Subject"]
    assert SECRET not in message.as_string()


def test_a_failed_run_of_the_real_flow_is_told_without_the_password_of_its_source(
    tmp_path: Path, instance: dg.DagsterInstance, mail: Mail, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = Flow(
        f"postgresql://etl:{SECRET}@127.0.0.1:{free_port()}/x", tmp_path, {"ETL_ALERTS_URL": mail.url}
    )
    for name, value in flow.environment.items():
        monkeypatch.setenv(name, value)
    defs = flow.definitions()
    sensor = defs.resolve_sensor_def("alert_on_failure_and_recovery")
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
    result = defs.resolve_job_def("etl").execute_in_process(instance=instance, raise_on_error=False)
    assert not result.success
    resources = {"alerts": (defs.resources or {})["alerts"]}
    with dg.build_sensor_context(instance, cursor="-1", definitions=defs, resources=resources) as context:
        sensor.evaluate_tick(context)
    (message,) = mail.messages
    assert "etl failed: can't connect to postgresql://etl@127.0.0.1" in message["Subject"]
    assert "failed: capture (raw/bike and 3 more)" in body(message)
    assert SECRET not in message.as_string()


# -- runs that Dagster retries by itself -----------------------------------------------------------------------------


def died(instance: dg.DagsterInstance) -> dg.DagsterRun:
    """A run whose worker died, reported as the daemon's monitoring does."""
    run = instance.create_run_for_job(DEFS.resolve_job_def("etl"))
    instance.report_run_failed(run, "the worker has died")
    return instance.get_run_by_id(run.run_id) or run


def test_a_run_that_may_be_retried_is_waited_for_and_told_if_nobody_retries_it(
    retrying: dg.DagsterInstance, mail: Mail, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(retrying, mail.resource)
    watched.tick()
    assert died(retrying).tags["dagster/will_retry"] == "true"
    watched.tick()
    assert mail.subjects == []
    monkeypatch.setattr("etl_assets.automation.alerting._RETRY_SECONDS", 0.0)
    watched.tick()
    watched.tick()
    assert mail.subjects == ["etl-assets: etl failed: the worker has died"]


def test_a_run_that_can_not_be_retried_is_told_at_once(retrying: dg.DagsterInstance, mail: Mail) -> None:
    watched = Watched(retrying, mail.resource)
    watched.tick()
    run = died(retrying)
    watched.run("an error of a step is not retried")
    retrying.add_run_tags(run.run_id, {"dagster/will_retry": "false"})  # as when the retry can't be started
    watched.tick()
    assert [subject.partition("failed: ")[2] for subject in mail.subjects] == [
        "the worker has died", "an error of a step is not retried",
    ]  # fmt: skip


MODULE = """
import dagster as dg
from etl_assets.automation.alerting import alerting
from etl_assets.clients.alerts import EmailAlerts
from etl_assets_tests.automation.test_alerting import ETL, behind, fragile, sturdy

defs = dg.Definitions(
    [behind, fragile, sturdy],
    jobs=[ETL],
    sensors=[alerting("http://127.0.0.1:3000")],
    resources={"alerts": EmailAlerts(url=dg.EnvVar("ETL_ALERTS_URL"))},
)
"""


def test_in_the_daemon_a_failure_with_its_automatic_retry_is_told_once_and_a_refused_alert_is_sent_again(
    retrying: dg.DagsterInstance, mail: Mail, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETL_ALERTS_URL", mail.url)
    module = tmp_path / "module.py"
    module.write_text(MODULE)
    log = logging.getLogger("test")
    with served(retrying, module) as workspace:
        (location,) = workspace.create_request_context().code_locations
        (sensor,) = location.get_repository("__repository__").get_sensors()
        (job,) = (j for j in location.get_repository("__repository__").get_all_jobs() if j.name == "etl")

        def tick() -> TickStatus:
            stored = retrying.get_instigator_state(sensor.get_remote_origin_id(), sensor.selector_id)
            if stored:  # as if its interval were over
                data = stored.instigator_data
                assert isinstance(data, SensorInstigatorData)
                retrying.update_instigator_state(
                    stored.with_data(data._replace(last_tick_timestamp=0.0, last_tick_start_timestamp=0.0))
                )
            list(execute_sensor_iteration(workspace, log, None, None))
            ticks = retrying.get_ticks(sensor.get_remote_origin_id(), sensor.selector_id, limit=1)
            return ticks[0].status

        def ended() -> None:
            list(consume_new_runs_for_automatic_reexecution(workspace, retrying.get_run_records(), log))

        assert tick() == TickStatus.SKIPPED
        first = retrying.create_run_for_job(
            DEFS.resolve_job_def("etl"),
            remote_job_origin=job.get_remote_origin(),
            job_code_origin=job.get_python_origin(),
        )
        retrying.report_run_failed(first, "the first worker has died")
        tick()
        ended()
        tick()
        assert mail.subjects == []
        retry = next(r for r in retrying.get_runs() if r.root_run_id == first.run_id)
        retrying.report_run_failed(retry, "the second worker has died")
        ended()
        mail.answers = ["550 not now"]
        assert tick() == TickStatus.FAILURE
        assert tick() == TickStatus.SKIPPED
        tick()
    assert mail.subjects == ["etl-assets: etl failed: the second worker has died"]
    assert f"it is automatic retry 1 of run {first.run_id}" in body(mail.messages[0])


# -- Amazon SNS ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def aws() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", port=free_port(), verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def queue(aws: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """The messages of a queue that is subscribed to the topic `etl`."""
    environment = {
        "AWS_ENDPOINT_URL": aws,
        "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    topics, queues = boto3.client("sns", "eu-west-2"), boto3.client("sqs", "eu-west-2")
    topic = topics.create_topic(Name="etl")["TopicArn"]
    url = queues.create_queue(QueueName=f"alerts-{time.monotonic_ns()}")["QueueUrl"]
    arn = queues.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    topics.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
    yield lambda: [
        json.loads(message["Body"])
        for message in queues.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
    ]
    topics.close()
    queues.close()


TOPIC = "sns:arn:aws:sns:eu-west-2:123456789012:etl"


def test_an_alert_reaches_whoever_subscribed_to_the_topic(
    instance: dg.DagsterInstance, queue: Callable[[], list[dict[str, Any]]]
) -> None:
    watched = Watched(instance, SnsAlerts(url=TOPIC))
    watched.tick()
    result = watched.run("der Brunnen wäre leer — " + "Eimer " * 40)
    watched.tick()
    (message,) = queue()
    assert message["Subject"].startswith("etl-assets: etl failed: der Brunnen w?re leer ? Eimer")
    assert len(message["Subject"]) == 100
    assert "error: der Brunnen wäre leer — Eimer" in message["Message"]
    assert f"http://127.0.0.1:3000/runs/{result.run_id}" in message["Message"].splitlines()


def test_a_topic_that_is_missing_is_an_error_that_names_it(
    queue: Callable[[], list[dict[str, Any]]],
) -> None:
    alert = Alert("etl failed", "why", "http://127.0.0.1:3000", "1")
    with pytest.raises(
        AlertError, match=r"arn:aws:sns:eu-west-2:123456789012:gone: NotFound; check"
    ) as raised:
        SnsAlerts(url=TOPIC.replace(":etl", ":gone")).send(alert)
    assert "\n" not in str(raised.value)


def test_an_endpoint_that_is_down_or_no_credentials_are_an_error_in_one_line(
    queue: Callable[[], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    alert = Alert("etl failed", "why", "http://127.0.0.1:3000", "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(AlertError, match="Could not connect to the endpoint"):
        SnsAlerts(url=TOPIC).send(alert)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(AlertError, match="Unable to locate credentials"):
        SnsAlerts(url=TOPIC).send(alert)


# -- the setting -----------------------------------------------------------------------------------------------------


def test_one_setting_chooses_the_form() -> None:
    assert isinstance(alerts(None), LogAlerts)
    assert isinstance(alerts(f"smtp://mail.example.com{QUERY}"), EmailAlerts)
    assert isinstance(alerts(f"smtps://u:p@mail.example.com{QUERY}"), EmailAlerts)
    assert isinstance(alerts(TOPIC), SnsAlerts)


def test_an_address_is_read_as_it_is_meant() -> None:
    mailbox = Mailbox.parse(f"smtps://u%40x:p%3A%2F%3F%23%25+@mail.example.com{QUERY}")
    assert (mailbox.user, mailbox.password) == ("u@x", "p:/?#%+")
    assert (mailbox.host, mailbox.port, mailbox.tls) == ("mail.example.com", 465, True)
    assert mailbox.recipients == ("ops@example.com", "on+call@example.com")
    assert Mailbox.parse(f"smtp://mail.example.com{QUERY}").port == 587
    assert SECRET not in repr(Mailbox.parse(f"smtp://u:{SECRET}@mail.example.com{QUERY}"))


@pytest.mark.parametrize(
    "url",
    [
        f"http://u:{SECRET}@example.com{QUERY}",
        f"u:{SECRET}@example.com",
        f"smtp://u:{SECRET}@{QUERY}",
        f"smtp://u:{SECRET}@example.com:no-port{QUERY}",
        f"smtp://u:{SECRET}@example.com",
        f"smtp://u:{SECRET}@example.com?from=a@b.c",
        f"smtp://u:{SECRET}@example.com?to=a@b.c",
        f"smtp://u:{SECRET}@example.com?from=a@b.c&to=a@b.c,",
        f"smtp://u:{SECRET}@example.com?from=a@b.c&to=a%0D%0ABcc:x@b.c",
        f"smtp://u:{SECRET}@example.com{QUERY}&starttls=no",
        f"smtp://u:{SECRET}ä@example.com{QUERY}",
        f"smtp://{SECRET}@example.com{QUERY}",
        f"smtp://[{SECRET}{QUERY}",
        f"sns:{SECRET}",
        "sns:arn:aws:sns:eu-west-2:123456789012:etl.fifo",
        "sns:arn:aws:sqs:eu-west-2:123456789012:etl",
    ],
)
def test_a_setting_that_can_not_be_read_is_refused_at_load_with_the_forms_and_without_its_value(
    url: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=r"^ETL_ALERTS_URL can't be read: write smtp://user") as raised:
        definitions(Settings.read({"ETL_DATA": str(tmp_path), "ETL_ALERTS_URL": url}))
    assert SECRET not in str(raised.value)
    assert raised.value.__suppress_context__ or raised.value.__context__ is None
    assert "\n" not in str(raised.value)


def test_the_setting_is_shown_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"smtp://u:{SECRET}@mail.example.com{QUERY}"
    monkeypatch.setenv("ETL_ALERTS_URL", url)
    settings = Settings.read({"ETL_DATA": str(tmp_path), "ETL_ALERTS_URL": url})
    defs = definitions(settings)
    shown = repr(settings) + repr(defs.resources) + str(defs.get_repository_def().get_top_level_resources())
    assert SECRET not in shown


def test_by_default_an_alert_is_an_error_in_the_log_and_good_news_is_not(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dg.get_dagster_logger("alerts"), "propagate", True)
    with caplog.at_level(logging.INFO):
        LogAlerts().send(Alert("etl failed: why", "text", "http://127.0.0.1:3000/runs/1", "1"))
        LogAlerts().send(Alert("etl succeeds again", "text", "http://127.0.0.1:3000/runs/2", "2", good=True))
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]
    assert caplog.messages[0].splitlines()[0] == "etl failed: why"
    assert "http://127.0.0.1:3000/runs/1" in caplog.messages[0]
