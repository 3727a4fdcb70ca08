"""What every check of a paper result returns: a claim with the evidence that decides it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from overparam.lab.verdicts import Verdict, verdict_of

Row = dict[str, Any]
"""One point of a chart: its columns by name, plain Python values."""

Point = tuple[float | str, ...]
"""The values of a row, without their names."""


@dataclass(frozen=True)
class Evidence:
    """One measured number and the bounds that decide whether it agrees with the claim.

    Attributes:
        what: what was measured, in words, with its unit.
        value: the number.
        low: the smallest value that agrees with the claim.
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
    """A claim of the paper and the evidence for or against it.

    Attributes:
        name: short name, as in the command's table.
        claim: one sentence.
        source: where the paper states it.
        evidence: the numbers that decide, at least one.
        rows: the data of the chart.
        notes: remarks for the reader, such as what a number does not show.
    """

    name: str
    claim: str
    source: str
    evidence: tuple[Evidence, ...]
    rows: Sequence[Row] = ()
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """What all numbers say, see :func:`overparam.lab.verdicts.verdict_of`."""
        return verdict_of(number.agrees for number in self.evidence)


def chart_rows(names: Sequence[str], points: Iterable[Point]) -> list[Row]:
    """Rows, from the names of the columns and the values of each.

    Example:
        >>> chart_rows(("x", "y"), [(1.0, "a"), (2.0, "b")])
        [{'x': 1.0, 'y': 'a'}, {'x': 2.0, 'y': 'b'}]
    """
    return [dict(zip(names, point, strict=True)) for point in points]


def evidence_of(measured: Mapping[str, tuple[float, float, float]]) -> tuple[Evidence, ...]:
    """Evidence, from what was measured: the smallest value that agrees, the value, the largest.

    Example:
        >>> evidence_of({"error": (0.0, 0.002, 0.001)})
        (Evidence(what='error', value=0.002, low=0.0, high=0.001),)
    """
    return tuple(Evidence(what, value, low, high) for what, (low, value, high) in measured.items())


def largest(values: Iterable[float]) -> float:
    """The largest of some numbers; NaN if one of them is, which Python's ``max`` can miss.

    Example:
        >>> largest([1.0, 3.0]), largest([1.0, math.nan])
        (3.0, nan)
    """
    return float(np.max(list(values)))


def smallest(values: Iterable[float]) -> float:
    """The smallest of some numbers; NaN if one of them is.

    Example:
        >>> smallest([1.0, 3.0]), smallest([1.0, math.nan])
        (1.0, nan)
    """
    return float(np.min(list(values)))


def power_law_exponent(sizes: Sequence[float], errors: Sequence[float]) -> float:
    """Least-squares slope of ``log(error)`` against ``log(size)``.

    Args:
        sizes: positive numbers, at least two different ones.
        errors: as many positive numbers; a zero, infinity or NaN among them gives NaN.

    Example:
        >>> round(power_law_exponent([1.0, 2.0, 4.0], [3.0, 12.0, 48.0]), 6)
        2.0
    """
    if not all(0 < error < math.inf for error in errors):
        return math.nan
    return float(np.polyfit(np.log(sizes), np.log(errors), 1)[0])
