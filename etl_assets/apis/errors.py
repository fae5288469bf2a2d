"""What goes wrong with an API: what is worth another attempt, what is not, and what has to wait. Not here: what is done about it."""

from etl_assets.errors import EtlError


class ApiError(EtlError):
    """An API can't be used, or does not answer as it is declared."""


class CallFailed(ApiError):
    """A call has no answer that can be used; another attempt may have one. `after_seconds`: when the server says so."""

    def __init__(self, message: str, after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.after_seconds = after_seconds


class Refused(ApiError):
    """A call was answered with a status that another attempt would not change."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class NotYet(ApiError):
    """No call is to be made for some `seconds`: what the API allows is used up, or it asked to be left alone."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds
