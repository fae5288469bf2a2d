"""Where an alert or a message of a step goes: the log, an e-mail, or a topic of Amazon SNS. Not here: what is worth one, and when.

`ETL_ALERTS_URL` chooses the form. It may hold a password, so the resource knows the variable's name, the value is
read when an alert is sent, and no error quotes it.
"""

import os
import re
import unicodedata
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import dagster as dg
from pydantic import Field

from etl_assets import addresses
from etl_assets.clients.secrets import SecretError, names_secret, resolved
from etl_assets.errors import EtlError, SettingsError
from etl_assets.preflight import CheckResult, probed

if TYPE_CHECKING:
    import smtplib

VARIABLE = "ETL_ALERTS_URL"
_VARIABLE = dg.EnvVar(VARIABLE)
_LOGGER = "alerts"
_FORMS = (
    f"{VARIABLE} can't be read: write smtp://user:password@host:587/?from=a@b&to=c@d,e@f (or smtps://…:465), with "
    "special characters in user and password as %40 for @, %3A for :, %2F for /; or "
    "sns:arn:aws:sns:region:account:topic; or leave it unset: alerts then go to the log"
)
_DEFAULT_PORTS = {"smtp": 587, "smtps": 465}
_ADDRESS = re.compile(r"[^\s@,<>]+@[^\s@,<>]+")
_TOPIC = re.compile(r"sns:(?P<arn>arn:aws[a-z-]*:sns:(?P<region>[a-z0-9-]+):\d{12}:[\w-]{1,256})", re.ASCII)
_TIMEOUT_SECONDS = 15  # a sensor's tick has 60
_SUBJECT_LIMIT = 200
_JOINER = "\u200d"
_SNS_SUBJECT_LIMIT = 100


class AlertError(EtlError):
    """An alert could not be delivered."""


@dataclass(frozen=True)
class Alert:
    """What people are told about a run. Whatever it is made from, its subject is one line, maybe an empty one, neither subject
    nor text has a control character, and both are without what the settings hold as secrets."""

    subject: str
    text: str
    link: str
    run_id: str
    good: bool = False
    """All is well again."""
    exact: bool = False
    """A program reads the text: each character stays, beside those of secrets."""

    def __post_init__(self) -> None:
        one_line = " ".join(_printable(self.subject).split())
        object.__setattr__(self, "subject", _without_secrets(one_line)[:_SUBJECT_LIMIT])
        lines = [_printable(line).rstrip() for line in self.text.splitlines()]
        text = self.text if self.exact else "\n".join(lines)
        object.__setattr__(self, "text", _without_secrets(text))

    @property
    def body(self) -> str:
        return f"{self.text}\n\n{self.link}\n" if self.link else self.text


def _printable(text: str) -> str:
    # Spaces of other widths are kept, and what joins emoji: they look as they were written.
    return "".join(
        c if c.isprintable() or unicodedata.category(c) == "Zs" or c == _JOINER else " " for c in text
    )


def _without_secrets(text: str) -> str:
    """What a foreign library's error may quote. Our own errors hold no secret to begin with."""
    return addresses.without_secrets(text, os.environ)


class Alerts(dg.ConfigurableResource):
    """Delivers alerts. Nothing is opened before one is sent."""

    @property
    @abstractmethod
    def where(self) -> str:
        """Where alerts go, without anybody's address."""

    @abstractmethod
    def send(self, alert: Alert) -> None:
        """Deliver one alert. Raises `AlertError`, in one line, if nobody got it."""


class LogAlerts(Alerts):
    """Writes alerts to the log of the process that evaluates the sensor."""

    logger: str = Field(default=_LOGGER, description="Name of the logger.")

    @property
    def where(self) -> str:
        return "the log"

    def send(self, alert: Alert) -> None:
        logger = dg.get_dagster_logger(self.logger)
        (logger.info if alert.good else logger.error)(f"{alert.subject}\n{alert.body}".lstrip("\n"))

    def check(self) -> Iterator[CheckResult]:
        yield CheckResult("log", f"{VARIABLE} is not set: alerts go to the log")


@dataclass(frozen=True)
class Mailbox:
    """What an smtp:// or smtps:// URL says."""

    tls: bool
    """Encrypted from the first byte. Else STARTTLS is used where the server offers it."""
    host: str
    port: int
    user: str
    password: str = field(repr=False)
    sender: str
    recipients: tuple[str, ...]

    @classmethod
    def parse(cls, url: str) -> "Mailbox":
        """Raises `SettingsError`, which does not quote the URL."""
        try:
            parts = urlsplit(url.strip())
            # Not parse_qs: it makes a space of the + in an address.
            options = {k: unquote(v) for k, _, v in (o.partition("=") for o in parts.query.split("&"))}
            recipients = tuple(options.pop("to", "").split(","))
            mailbox = cls(
                tls=parts.scheme == "smtps",
                host=parts.hostname or "",
                port=parts.port or _DEFAULT_PORTS[parts.scheme],
                user=unquote(parts.username or ""),
                password=unquote(parts.password or ""),
                sender=options.pop("from", ""),
                recipients=recipients,
            )
        except (ValueError, KeyError):  # no port, no known scheme
            raise SettingsError(_FORMS) from None
        addresses = (mailbox.sender, *recipients)
        texts = (mailbox.host, mailbox.user, mailbox.password, *addresses)
        if (
            options
            or not mailbox.host
            or parts.path not in ("", "/")
            or bool(mailbox.user) != bool(mailbox.password)
            or not all(_ADDRESS.fullmatch(address) for address in addresses)
            or not all(text.isascii() and (text.isprintable() or not text) for text in texts)
        ):
            raise SettingsError(_FORMS)
        return mailbox


class EmailAlerts(Alerts):
    """Sends alerts by SMTP."""

    url: str = Field(json_schema_extra={"dagster__is_secret": True}, description="smtp:// or smtps:// URL.")

    @property
    def where(self) -> str:
        return f"e-mail by {self._mailbox().host}"

    def send(self, alert: Alert) -> None:
        import smtplib
        from email.message import EmailMessage
        from email.utils import formatdate, make_msgid

        mailbox = self._mailbox()
        message = EmailMessage()
        if alert.subject:
            message["Subject"] = alert.subject
        message["From"] = mailbox.sender
        message["To"] = ", ".join(mailbox.recipients)
        message["Date"] = formatdate(usegmt=True)
        message["Message-ID"] = make_msgid(domain=mailbox.sender.rpartition("@")[2])
        message.set_content(alert.body)
        try:
            with closing(_connection(mailbox)) as server:
                if mailbox.user:
                    server.login(mailbox.user, mailbox.password)
                refused = server.send_message(message)
                # The server has it: how the goodbye goes must not make anybody send it again.
                with suppress(smtplib.SMTPException, OSError):
                    server.quit()
        except smtplib.SMTPRecipientsRefused as error:
            raise _undelivered(mailbox, _refusals(error.recipients)) from None
        except smtplib.SMTPResponseException as error:
            raise _undelivered(mailbox, f"{error.smtp_code} {_decoded(error.smtp_error)}") from None
        except (smtplib.SMTPException, OSError) as error:  # TLS errors too are OSErrors
            raise _undelivered(mailbox, str(error) or type(error).__name__) from None
        if refused:  # others got it, so it is not sent again
            dg.get_dagster_logger(_LOGGER).warning(f"{mailbox.host} refused {_refusals(refused)}")

    def check(self) -> Iterator[CheckResult]:
        """See whether the server lets us in; no message is given to it."""
        yield probed("mail server", self._greeted)

    def _greeted(self) -> str:
        import smtplib

        mailbox = self._mailbox()
        try:
            with closing(_connection(mailbox)) as server:
                if mailbox.user:
                    server.login(mailbox.user, mailbox.password)
        except smtplib.SMTPResponseException as error:
            raise _undelivered(mailbox, f"{error.smtp_code} {_decoded(error.smtp_error)}") from None
        except (smtplib.SMTPException, OSError) as error:
            raise _undelivered(mailbox, str(error) or type(error).__name__) from None
        return f"{mailbox.host}:{mailbox.port}, to {', '.join(mailbox.recipients)}"

    def _mailbox(self) -> Mailbox:
        """Raises `AlertError` for a secret that can't be had, or holds no such URL."""
        try:
            return Mailbox.parse(resolved(self.url, VARIABLE))
        except (SecretError, SettingsError) as error:
            raise AlertError(str(error)) from None


def _connection(mailbox: Mailbox) -> "smtplib.SMTP":
    """A connection that may be trusted with the password."""
    import smtplib
    import ssl

    context = ssl.create_default_context()
    if mailbox.tls:
        return smtplib.SMTP_SSL(mailbox.host, mailbox.port, timeout=_TIMEOUT_SECONDS, context=context)
    server = smtplib.SMTP(mailbox.host, mailbox.port, timeout=_TIMEOUT_SECONDS)
    try:
        server.ehlo_or_helo_if_needed()
        if server.has_extn("starttls"):
            server.starttls(context=context)
        elif mailbox.user:
            raise smtplib.SMTPException("it offers no STARTTLS, so no password is sent to it; use smtps://")
    except (smtplib.SMTPException, OSError):
        server.close()
        raise
    return server


def _undelivered(mailbox: Mailbox, reason: str) -> AlertError:
    told = " ".join(_printable(reason).split())
    if mailbox.password:
        told = told.replace(mailbox.password, "***")
    return AlertError(
        f"can't send an alert by {mailbox.host}:{mailbox.port}: {told}; check {VARIABLE} and the mail server"
    )


def _refusals(recipients: dict[str, tuple[int, bytes]]) -> str:
    return ", ".join(f"{address}: {code} {_decoded(text)}" for address, (code, text) in recipients.items())


def _decoded(reply: bytes | str) -> str:
    return reply.decode(errors="replace") if isinstance(reply, bytes) else reply


class SnsAlerts(Alerts):
    """Publishes alerts to a topic of Amazon SNS, with whatever credentials boto3 finds."""

    url: str = Field(json_schema_extra={"dagster__is_secret": True}, description="sns: and the topic's ARN.")

    @property
    def where(self) -> str:
        return _topic(self.url)["arn"]

    def send(self, alert: Alert) -> None:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import (
            BotoCoreError,
            ClientError,
            EndpointConnectionError,
            NoCredentialsError,
        )

        topic = _topic(self.url)
        arn = topic["arn"]
        patience = Config(connect_timeout=5, read_timeout=_TIMEOUT_SECONDS, retries={"total_max_attempts": 2})
        try:
            client = boto3.Session().client("sns", region_name=topic["region"], config=patience)
            subject = alert.subject.encode("ascii", "replace").decode()[:_SNS_SUBJECT_LIMIT]
            client.publish(TopicArn=arn, Message=alert.body, **({"Subject": subject} if subject else {}))
        except ClientError as error:
            # Only its code: the text of a signature error quotes the request, session token and all.
            code = error.response["Error"]["Code"]
            raise AlertError(
                f"can't publish an alert to {arn}: {code}; check the topic, and that the role may sns:Publish to it"
            ) from None
        except EndpointConnectionError:
            where = addresses.service(client.meta.endpoint_url)
            raise AlertError(
                f"can't publish an alert to {arn}: Could not connect to the endpoint {where}"
            ) from None
        except NoCredentialsError as error:
            raise AlertError(f"can't publish an alert to {arn}: {error}") from None
        except BotoCoreError as error:
            # Its text repeats the address of the service, or what a program told that has the credentials.
            raise AlertError(
                f"can't publish an alert to {arn}: the AWS client failed ({type(error).__name__}); see the AWS_… variables"
            ) from None
        except ValueError:
            raise AlertError(f"can't publish an alert to {arn}: AWS_ENDPOINT_URL can't be read") from None

    def check(self) -> Iterator[CheckResult]:
        """Whether one may publish is known only once one does."""
        yield CheckResult("topic", f"{self.url}: etl doctor --send-test-alert tries it")


def _topic(url: str) -> re.Match[str]:
    topic = _TOPIC.fullmatch(url.strip())
    if topic is None:
        raise SettingsError(_FORMS)
    return topic


def alerts(url: str | None, variable: dg.EnvVar = _VARIABLE) -> Alerts:
    """The form that the value of ETL_ALERTS_URL, held by an environment variable, stands for. Raises `SettingsError` for one
    that can't be read."""
    if url is None:
        return LogAlerts()
    if url.startswith("sns:"):
        _topic(url)
        return SnsAlerts(url=variable)
    if not names_secret(url):  # what a secret holds is seen when it is needed
        Mailbox.parse(url)
    return EmailAlerts(url=variable)


def channel(url: str, setting: str) -> Alerts:
    """The form that the value of a setting like ETL_ALERTS_URL stands for, ready to send. Raises `SettingsError` for one that
    can't be read, `SecretError` for a secret that can't be had."""
    address = resolved(url, setting)
    try:
        if address.startswith("sns:"):
            _topic(address)
            return SnsAlerts(url=address)
        Mailbox.parse(address)
    except SettingsError as error:
        raise SettingsError(str(error).replace(VARIABLE, setting)) from None
    return EmailAlerts(url=address)
