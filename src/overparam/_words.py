"""Help with names that were not typed right."""

from __future__ import annotations

import difflib
import sys
import warnings
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A question that names the nearest known word, with a space before it, or nothing.

    Example:
        >>> did_you_mean("adm", ("gd", "adam")), did_you_mean("xyz", ("gd", "adam"))
        (" Did you mean 'adam'?", '')
    """
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def warn_user(message: str) -> None:
    """Warn at the line that called into this package, through torch or not."""
    frame, level = sys._getframe(1), 3
    while frame.f_back is not None and _is_ours(frame.f_back.f_globals.get("__name__", "")):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] in ("overparam", "torch")
