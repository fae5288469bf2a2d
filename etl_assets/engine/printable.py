"""Text as it may be shown: nothing in it moves a cursor, changes a colour, hides or turns around what stands beside it."""

import unicodedata

# Controls, formats (which reorder or hide), halves of characters, what nobody has defined, and ends of lines.
_ACTING = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_JOINERS = "\u200c\u200d"  # of scripts and emoji


def printable(text: str) -> str:
    """A text in which such characters are shown as Python writes them: \\x1b, \\n, \\u202e."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if _is_shown(c) else c.encode("unicode_escape").decode() for c in text)


def _is_shown(character: str) -> bool:
    return character in _JOINERS or unicodedata.category(character) not in _ACTING
