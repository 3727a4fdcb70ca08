"""Errors of data sets; their messages say what to do."""

from __future__ import annotations

import importlib
from types import ModuleType


class DataError(ValueError):
    """A data set is unknown or broken, or not the expected one; the message says what to do."""


class DataUnavailable(DataError):  # noqa: N818 - a state of the world, not a mistake
    """A data set is not on this machine and cannot be downloaded; the message has one line."""


class ContentError(ValueError):
    """The content of a file is wrong; the code that reads the file adds its path and a remedy."""


def line_error(line: int, found: str, expected: str) -> ContentError:
    """The error for a line (counted from 1) of a text file.

    Example:
        >>> print(line_error(3, "an empty line", "129 fields"))
        line 3: found an empty line, expected 129 fields
    """
    return ContentError(f"line {line}: found {found}, expected {expected}")


def shorten(text: str) -> str:
    """The text in quotes for a message, shortened if it is long.

    Example:
        >>> print(shorten("a" * 50))
        'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa...'
    """
    return repr(text if len(text) <= 40 else text[:40] + "...")


def import_extra(module: str) -> ModuleType:
    """Import a module of the ``lab`` extra.

    Raises:
        ModuleNotFoundError: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"this data set needs the package {error.name!r}, which is not installed; "
            'run: pip install "overparam[lab]"',
            name=error.name,
        ) from error
