"""Exponents of power laws, by which most checks decide."""

from __future__ import annotations

import math
from collections.abc import Sequence


def power_law_exponent(sizes: Sequence[float], errors: Sequence[float]) -> float:
    """Least-squares slope of ``log(error)`` against ``log(size)``.

    Args:
        sizes: positive numbers, at least two different ones.
        errors: as many positive numbers; a zero or NaN among them gives NaN.

    Example:
        >>> round(power_law_exponent([1.0, 2.0, 4.0], [3.0, 12.0, 48.0]), 6)
        2.0
    """
    if not all(error > 0 for error in errors):
        return math.nan
    x, y = [math.log(size) for size in sizes], [math.log(error) for error in errors]
    x_mean, y_mean = sum(x) / len(x), sum(y) / len(y)
    above = sum((a - x_mean) * (b - y_mean) for a, b in zip(x, y, strict=True))
    return above / sum((a - x_mean) ** 2 for a in x)


def local_exponents(sizes: Sequence[float], errors: Sequence[float]) -> list[float]:
    """The exponent between each size and the next: constant where the errors are a power law.

    Example:
        >>> [round(value, 6) for value in local_exponents([4.0, 2.0, 1.0], [32.0, 8.0, 4.0])]
        [2.0, 1.0]
    """
    return [power_law_exponent(sizes[k : k + 2], errors[k : k + 2]) for k in range(len(sizes) - 1)]
