"""What can go wrong with a data set, each error with the remedy in its message."""

from __future__ import annotations


class DataError(ValueError):
    """A data set is unknown, broken or not the one it should be; the message has the remedy."""


class DataUnavailable(DataError):  # noqa: N818 - a state of the world, not a mistake
    """A data set is not on this machine and the network does not give it; a one-line message."""


class ContentError(ValueError):
    """What is wrong inside a file, without its path and remedy, which only the reader knows."""


def line_error(line: int, found: str, expected: str) -> ContentError:
    """The error for one line (counted from 1) of a text file.

    Example:
        >>> print(line_error(3, "an empty line", "129 fields"))
        line 3: found an empty line, expected 129 fields
    """
    return ContentError(f"line {line}: found {found}, expected {expected}")


def shorten(text: str, length: int = 40) -> str:
    """The text quoted for a message, cut where it is long.

    Example:
        >>> print(shorten("a" * 50, length=6))
        'aaaaaa...'
    """
    return repr(text if len(text) <= length else text[:length] + "...")
