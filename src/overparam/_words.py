"""Help with names that were not typed right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A question that names the nearest known word, with a space before it, or nothing.

    Example:
        >>> did_you_mean("adm", ("gd", "adam")), did_you_mean("xyz", ("gd", "adam"))
        (" Did you mean 'adam'?", '')
    """
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
