"""What every error of ours has in common: one line that says what, where and what to do. Never a secret."""


class EtlError(Exception):
    """An error the user can act on. Its text is one line; subclasses stand beside what raises them."""


class SettingsError(EtlError):
    """A setting is missing or makes no sense."""


_LOG_FOLLOWS = "The end of "


def first_line(text: str) -> str:
    """The first line of an error's text, and where its log is if it has one."""
    lines = text.strip().splitlines() or ["no reason was given"]
    log = next((line for line in lines[1:] if line.startswith(_LOG_FOLLOWS)), None)
    return f"{lines[0]}; its log is {log.removeprefix(_LOG_FOLLOWS).rstrip(':')}" if log else lines[0]
