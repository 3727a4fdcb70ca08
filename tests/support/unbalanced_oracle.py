"""Explicit factors out of balance in fifty digits, and how their product moves.

Nothing here knows a kernel: factors are built from singular values found by bisection, and the
velocity of the product is the sum over factors of what the gradient of each does to it.
"""

from collections.abc import Sequence
from typing import Any

import mpmath

DIGITS = 50


def widths_of(m: int, n: int, offsets: Sequence[float]) -> list[int]:
    """All widths from the input: the factor with the smallest offset is the rectangular one."""
    at = list(offsets).index(min(offsets))
    return [n] * (at + 1) + [m] * (len(offsets) - at)


def exact_unbalanced_factors(weight: Any, offsets: Sequence[float]) -> list[Any]:
    """``W_1, ..., W_N`` with ``W_{j+1}^T W_{j+1} - W_j W_j^T = (l_{j+1} - l_j) I`` exactly."""
    m, n = weight.rows, weight.cols
    left, singular, right = mpmath.svd_r(weight, full_matrices=True)
    shifts = [mpmath.mpf(value) - mpmath.mpf(min(offsets)) for value in offsets]
    roots = [_root(s, shifts) for s in singular]
    sizes = widths_of(m, n, offsets)
    factors = []
    for j, shift in enumerate(shifts):
        middle = mpmath.zeros(sizes[j + 1], sizes[j])
        for r in range(min(sizes[j], sizes[j + 1])):
            middle[r, r] = mpmath.sqrt((roots[r] if r < len(roots) else 0) + shift)
        factors.append(middle)
    factors[0] = factors[0] * right
    factors[-1] = left * factors[-1]
    return factors


def _root(singular: Any, shifts: Sequence[Any]) -> Any:
    low, high = mpmath.mpf(0), mpmath.mpf(singular) ** (mpmath.mpf(2) / len(shifts))
    for _ in range(6 * DIGITS):
        middle = (low + high) / 2
        if mpmath.fprod(middle + shift for shift in shifts) < singular**2:
            low = middle
        else:
            high = middle
    return high


def exact_velocity(factors: Sequence[Any], gradient: Any) -> Any:
    """``D`` with ``dW/dt = -D`` under gradient flow on the factors, factor by factor."""
    total = gradient * 0
    for j in range(len(factors)):
        above = mpmath.eye(gradient.rows)
        for factor in reversed(factors[j + 1 :]):
            above = above * factor
        below = mpmath.eye(gradient.cols)
        for factor in factors[:j]:
            below = factor * below
        total += above * (above.T * gradient * below.T) * below
    return total
