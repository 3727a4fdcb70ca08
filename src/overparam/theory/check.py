"""What every check of a paper result returns: a verdict with the numbers behind it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

HOLDS, IN_PART, FAILS = "holds", "holds in part", "does not hold"


@dataclass(frozen=True)
class Measurement:
    """One number that was measured, against the bound that decides.

    Attributes:
        what: what was measured, in words, with its unit.
        value: the number.
        low: the smallest value that agrees with the statement.
        high: the largest.
    """

    what: str
    value: float
    low: float
    high: float

    @property
    def agrees(self) -> bool:
        """Whether the number lies within its bounds; a NaN does not."""
        return self.low <= self.value <= self.high


@dataclass(frozen=True)
class TheoryCheck:
    """A statement of the paper and what was measured of it.

    Attributes:
        name: short name, as in the command's table.
        statement: the statement, one sentence.
        source: where the paper states it.
        measurements: the numbers that decide, at least one.
        table: columns of equal length for the figure, plain Python values.
        notes: remarks for the reader, such as what a number does not show.
    """

    name: str
    statement: str
    source: str
    measurements: tuple[Measurement, ...]
    table: Mapping[str, Sequence[float | str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """``holds`` where every number agrees, ``holds in part`` where some do."""
        agreeing = sum(measurement.agrees for measurement in self.measurements)
        if agreeing == len(self.measurements) > 0:
            return HOLDS
        return IN_PART if agreeing else FAILS


def largest(values: Iterable[float]) -> float:
    """The largest of numbers; NaN if one of them is, which Python's ``max`` may pass over.

    Example:
        >>> largest([1.0, 3.0]), largest([1.0, math.nan])
        (3.0, nan)
    """
    numbers = list(values)
    return math.nan if any(map(math.isnan, numbers)) else max(numbers)


def smallest(values: Iterable[float]) -> float:
    """The smallest of numbers; NaN if one of them is.

    Example:
        >>> smallest([1.0, 3.0]), smallest([1.0, math.nan])
        (1.0, nan)
    """
    return -largest(-value for value in values)
