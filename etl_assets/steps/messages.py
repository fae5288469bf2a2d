"""A step that tells people: by e-mail, by a topic of SNS, or in the log."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from etl_assets.steps.contract import Made, Step
from etl_assets.steps.parameters import Parameter, placeholders, told
from etl_assets.steps.work import Notice, Work

ALERTS = "ETL_ALERTS_URL"
_CHANNEL = re.compile(r"[a-z][a-z0-9_]*")


def channel_setting(to: str) -> str:
    """The setting that has the address of a channel."""
    return f"ETL_CHANNEL_{to.upper()}" if to else ALERTS


@dataclass(frozen=True)
class Message(Step):
    """A message with a text and, unless it is for a topic whose readers need none, a subject, both maybe with `{parameters}`;
    or, with `of`, the text or JSON that another step made. It goes where alerts go (ETL_ALERTS_URL), or to the channel `to`, whose address ETL_CHANNEL_<NAME> has.

    It comes after all steps before it. With `always` it is sent whatever failed, and says what did.
    """

    subject: str = field(default="", kw_only=True)
    text: str = field(default="", kw_only=True)
    of: str = field(default="", kw_only=True)
    to: str = field(default="", kw_only=True)

    kinds: ClassVar[frozenset[str]] = frozenset({"message"})
    does_without: ClassVar[bool] = True

    def check(self) -> None:
        if bool(self.text.strip()) == bool(self.of):
            raise ValueError(f"{self.name}: a message has text=…, or of= a step that makes it")
        if self.to and not _CHANNEL.fullmatch(self.to):
            raise ValueError(f"{self.name}: {self.to!r} can't name a channel: write a word of small letters")
        for template in (self.subject, self.text):
            try:
                placeholders(template)
            except ValueError as error:
                raise ValueError(f"{self.name}: {error}") from None

    @property
    def inputs(self) -> Sequence[str]:
        return [self.of] if self.of else []

    @property
    def settings(self) -> Sequence[str]:
        return [channel_setting(self.to)] if self.to else []

    def mistakes(self, parameters: Mapping[str, Parameter]) -> Iterator[str]:
        for name in [*placeholders(self.subject), *placeholders(self.text)]:
            if name not in parameters:
                yield f"{{{name}}} names no parameter; there are {', '.join(parameters) or 'none'}"

    def make(self, work: Work) -> Made:
        exact = work.kinds.get(self.of) == "json" and self.of not in work.unmade
        text = self._said(work) if exact else "\n".join([self._said(work), *work.failures])
        notice = Notice(self.to, told(self.subject, work.values), text, good=not work.failures, exact=exact)
        return Made({"sent to": work.send(notice), "subject": notice.subject})

    def _said(self, work: Work) -> str:
        if not self.of:
            return told(self.text, work.values)
        if self.of in work.unmade:
            return f"{self.of} was not made."
        return work.keeping.raw(self.of, work.kinds[self.of]).decode()
