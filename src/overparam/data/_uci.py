"""Reads the lines of UCI 270: ``class;concentration 1:v 2:v ... 128:v``."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from overparam.data.errors import line_error, shorten

GASES = range(1, 7)
FEATURES = 128

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_PREFIXES = tuple(f"{index}:" for index in range(1, FEATURES + 1))


class UciRow(NamedTuple):
    """One measurement: its line number and text, gas class, concentration (ppmv), features."""

    line: int
    text: str
    gas: int
    concentration: float
    features: list[float]


def parse_uci(lines: Iterable[str]) -> Iterator[UciRow]:
    """Read lines of the form ``class;concentration 1:v 2:v ... 128:v``.

    The gas class is 1 to 6, the indices run from 1 to 128 in order, all numbers are finite.

    Raises:
        ContentError: a line has another form; the message says which, and what was expected.

    Example:
        >>> text = "1;10.5 " + " ".join(f"{index}:{index / 2}" for index in range(1, 129))
        >>> [row] = parse_uci([text])
        >>> row.gas, row.concentration, row.features[:3]
        (1, 10.5, [0.5, 1.0, 1.5])
    """
    for line, text in enumerate(lines, start=1):
        head, *fields = text.split() or [""]
        gas, _, concentration = head.partition(";")
        value = finite_number(concentration)
        if gas not in map(str, GASES) or value is None:
            raise line_error(line, shorten(head), "'class;concentration' with a class of 1 to 6")
        if len(fields) != FEATURES:
            raise line_error(line, f"{len(fields)} features", f"{FEATURES}")
        features = []
        for prefix, entry in zip(_PREFIXES, fields, strict=True):
            feature = finite_number(entry[len(prefix) :])
            if feature is None or not entry.startswith(prefix):
                raise line_error(line, shorten(entry), f"'{prefix}' and a finite number")
            features.append(feature)
        yield UciRow(line, text, int(gas), value, features)


def finite_number(text: str) -> float | None:
    """The finite decimal number that a text spells in ASCII, or None.

    Stricter than ``float``: no blanks, underscores, infinities or non-ASCII digits.

    Example:
        >>> finite_number("-1.5e3"), finite_number("1_0"), finite_number("nan")
        (-1500.0, None, None)
    """
    if not _NUMBER.fullmatch(text):
        return None
    value = float(text)
    return value if math.isfinite(value) else None
