"""What every error of ours has in common: one line that says what, where and what to do. Never a secret."""


class EtlError(Exception):
    """An error the user can act on. Its text is one line; subclasses stand beside what raises them."""
