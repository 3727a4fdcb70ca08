"""The derivative of the unbalanced end-to-end update with respect to the weight.

Notation, for ``m <= n``: ``P = W W^T = U diag(p) U^T``, ``C = G W^T``. With the factors
``a_j(x) = prod_{i>j} (x + l_i)`` and ``b_j(x) = prod_{i<j} (x + l_i)`` of the kernel and
``prod_j (x + l_j) = p`` the rule is

    D = sum_j a_j(P) (b_j(0) G + C h_j(P) W),    h_j = (b_j - b_j(0)) / p.

All are smooth functions of P as long as a single offset is the smallest, and their derivatives are
divided differences (Daleckii and Krein). As polynomials of x with coefficients of one sign, and
their quotients, these are computed without a subtraction of values at two points.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from overparam.rule.decomposition import thin_decomposition
from overparam.rule.engine import scaled_offsets
from overparam.rule.kernel import finite_slots, join_scale, split_scale
from overparam.rule.unbalanced import Offsets, excess_squares


class _Function(NamedTuple):
    """A function of x at r points: its values ``(..., r, 1)``, its divided differences."""

    value: Tensor
    difference: Tensor

    def shifted(self, by: float | Tensor) -> _Function:
        return _Function(self.value + by, self.difference)

    def times(self, other: _Function) -> _Function:
        value, difference = self.value * other.value, self.difference * other.value.mT
        return _Function(value, difference + self.value * other.difference)

    def over(self, other: _Function) -> _Function:
        value = self.value / other.value
        return _Function(value, (self.difference - other.difference * value.mT) / other.value)


def unbalanced_weight_vjp(
    weight: Tensor, gradient: Tensor, offsets: Offsets, cotangent: Tensor
) -> Tensor:
    """Gradient of ``<H, D(W, G)>`` with respect to ``W``.

    Args:
        weight: ``W``, ``(..., m, n)`` with ``m <= n``.
        gradient: ``G``, ``(..., m, n)``.
        offsets: ``l_1, ..., l_N``, the smallest 0.
        cotangent: ``H``, ``(..., m, n)``.

    Returns:
        The gradient, of the broadcast shape ``(..., m, n)``. NaN for a matrix with a non-finite
        entry, and where several offsets are the smallest for one without full row rank.
    """
    finite = finite_slots(weight, trailing=2)
    scaled, weight_exponent = split_scale(torch.where(finite, weight, 0.0), trailing=2)
    slope, slope_exponent = split_scale(gradient, trailing=2)
    upper, upper_exponent = split_scale(cotangent, trailing=2)
    depth = len(offsets)
    shifts = scaled_offsets(offsets, weight_exponent)
    left, singular, _ = thin_decomposition(scaled, weight.dtype, 1 / depth)
    rows, slope, upper = (left.mT @ matrix for matrix in (scaled, slope, upper))
    c, m_bar = slope @ rows.mT, upper @ rows.mT
    total, c_bar, to_p = (torch.zeros_like(x) for x in (upper + slope, m_bar + c, m_bar + c))
    for a, h, at_zero in _parts(excess_squares(singular[..., None], shifts), shifts):
        inner = h.value.mT
        to_p = to_p + a.difference * (at_zero * (upper @ slope.mT) + (m_bar * inner) @ c.mT)
        to_p = to_p + h.difference * (c.mT @ (a.value * m_bar))
        c_bar = c_bar + a.value * m_bar * inner
        total = total + h.value * (c.mT @ (a.value * upper))
    total = total + c_bar.mT @ slope + (to_p + to_p.mT) @ rows
    exponent = weight_exponent * (1 - 2 / depth) + slope_exponent + upper_exponent
    result = join_scale(left @ total, exponent, weight.dtype)
    smooth = finite & ((singular > 0).all(-1)[..., None, None] | (offsets.count(0.0) == 1))
    return torch.where(smooth, result, torch.nan)


def _parts(
    squares: Tensor, offsets: Sequence[Tensor]
) -> list[tuple[_Function, _Function, Tensor | float]]:
    """``a_j`` and ``h_j`` as functions of p, and ``b_j(0)``, for every factor."""
    at = min(range(len(offsets)), key=lambda j: float(offsets[j].max()))
    one, flat = torch.ones_like(squares), torch.zeros_like(squares * squares.mT)
    constant, x = _Function(one, flat), _Function(squares, flat + 1)
    others = constant  # p / x
    for j, offset in enumerate(offsets):
        others = others if j == at else others.times(x.shifted(offset))
    stretch = x.times(others).difference  # of p over that of x
    above = [constant]
    for offset in reversed(offsets[1:]):
        above.append(above[-1].times(x.shifted(offset)))
    below, quotient, at_zero = constant, _Function(one * 0, flat), 1.0
    parts = []
    for a, offset in zip(reversed(above), offsets, strict=True):
        h = quotient.over(others)
        functions = (_Function(f.value, f.difference / stretch) for f in (a, h))
        parts.append((*functions, at_zero))
        # (b_{j+1} - b_{j+1}(0)) / x = b_j + l_j (b_j - b_j(0)) / x
        quotient = _Function(
            below.value + offset * quotient.value, below.difference + offset * quotient.difference
        )
        below, at_zero = below.times(x.shifted(offset)), at_zero * offset
    return parts
