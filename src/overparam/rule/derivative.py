"""The derivative of the end-to-end update with respect to the weight.

Notation, for ``m <= n`` and W of full rank: ``P = W W^T = U diag(l) U^T``, ``C = G W^T``,
``q = 1 - 1/N``, ``r = 1/N``. The rule is

    D = P^q G + [h o C] W,    h(l, u) = u^(r-1) (l^q - u^q) / (l^r - u^r),

where ``[h o C] = U (h(l_i, l_k) (U^T C U)_ik) U^T``. Only P is decomposed, whose matrix functions
are smooth as long as it is positive definite: their derivatives are divided differences
(Daleckii and Krein), which stay finite where singular values repeat.
"""

from __future__ import annotations

import torch
from torch import Tensor

from overparam.rule.kernel import clear_round_off, finite_slots, join_scale, split_scale

# Relative gap of two eigenvalues below which a divided difference is replaced by the derivative
# at their midpoint: balances the round-off eps/gap against the truncation gap^2.
_CLOSE = 1e-5
# Largest number of entries of one three-index block of divided differences.
_BLOCK_ENTRIES = 2**22


def end_to_end_weight_vjp(
    weight: Tensor, gradient: Tensor, inverse: Tensor, cotangent: Tensor
) -> Tensor:
    """Gradient of ``<H, D(W, G)>`` with respect to ``W``.

    Source: product and chain rule on the form above. Cost: one singular value decomposition and
    ``O(m^3 + m^2 n)`` operations, in blocks of bounded memory.

    Args:
        weight: ``W``, ``(..., m, n)`` with ``m <= n``.
        gradient: ``G``, ``(..., m, n)``.
        inverse: ``1/N`` in float64, ``(..., 1, 1)``.
        cotangent: ``H``, ``(..., m, n)``.

    Returns:
        The gradient, of the broadcast shape ``(..., m, n)``. NaN for a matrix without full row
        rank (the rule has a kink there) or with a non-finite entry, and zero where N = 1.
    """
    # A non-finite matrix would stop the decomposition of the whole batch; zero has no full rank.
    clean = torch.where(finite_slots(weight, trailing=2), weight, 0.0)
    scaled, weight_exponent = split_scale(clean, trailing=2)
    slope, slope_exponent = split_scale(gradient, trailing=2)
    upper, upper_exponent = split_scale(cotangent, trailing=2)
    left, singular, right = torch.linalg.svd(scaled, full_matrices=False)
    shape = (weight.shape[-2], weight.shape[-1])
    singular = clear_round_off(singular, shape, weight.dtype)
    full_rank = (singular > 0).all(dim=-1)[..., None, None]
    singular = torch.where(full_rank[..., 0], singular, 1.0)
    values = singular**2
    # Rows of U^T W, from the decomposition itself: exactly orthogonal.
    weight_rows = singular[..., :, None] * right
    slope_rows, upper_rows = left.mT @ slope, left.mT @ upper
    c, m_bar = slope_rows @ weight_rows.mT, upper_rows @ weight_rows.mT
    h = _side_kernel(values[..., :, None], values[..., None, :], inverse)
    to_p = _power_difference(values, inverse) * (upper_rows @ slope_rows.mT)
    to_p = to_p + _first_argument(values, inverse, m_bar, c)
    to_p = to_p + _second_argument(values, inverse, m_bar, c)
    rows = (h * c).mT @ upper_rows + (h * m_bar).mT @ slope_rows + (to_p + to_p.mT) @ weight_rows
    exponent = weight_exponent * (1 - 2 * inverse) + slope_exponent + upper_exponent
    result = join_scale(left @ rows, exponent, weight.dtype)
    result = torch.where(full_rank, result, torch.nan)
    return torch.where(inverse == 1, 0.0, result)


def _sinhc(x: Tensor) -> Tensor:
    """``sinh(x) / x``, 1 at 0."""
    return torch.where(x == 0, 1.0, torch.sinh(x) / torch.where(x == 0, 1.0, x))


def _langevin(x: Tensor) -> Tensor:
    """``coth(x) - 1/x``, the logarithmic derivative of ``sinh(x)/x``."""
    small = x.abs() < 0.05
    safe = torch.where(small, 1.0, x)
    series = x * (1 / 3 - x**2 * (1 / 45 - x**2 * (2 / 945 - x**2 / 4725)))
    return torch.where(small, series, 1 / torch.tanh(safe) - 1 / safe)


def _side_kernel(first: Tensor, second: Tensor, inverse: Tensor) -> Tensor:
    """``h(l, u)``, over N where N is infinite, as a quotient of hyperbolic sines."""
    q, log_ratio = 1 - inverse, torch.log(first / second)
    size = torch.where(inverse == 0, 1.0, 1 / inverse) * q * second ** (inverse - 1)
    mean = (first * second) ** ((q - inverse) / 2)
    return size * mean * _sinhc(q * log_ratio / 2) / _sinhc(inverse * log_ratio / 2)


def _side_kernel_slope(first: Tensor, second: Tensor, inverse: Tensor) -> Tensor:
    """``d h / d l``. As h has degree ``-1/N``, ``u dh/du = -h/N - l dh/dl``."""
    q, log_ratio = 1 - inverse, torch.log(first / second)
    curved = q * _langevin(q * log_ratio / 2) - inverse * _langevin(inverse * log_ratio / 2)
    return _side_kernel(first, second, inverse) * (q - inverse + curved) / 2 / first


def _power_difference(values: Tensor, inverse: Tensor) -> Tensor:
    """Divided difference of ``l^q``, ``(l^q - u^q) / (l - u)``; zero (over N) at infinite N."""
    first, second = values[..., :, None], values[..., None, :]
    q, log_ratio = 1 - inverse, torch.log(first / second)
    difference = q * (first * second) ** ((q - 1) / 2) * _sinhc(q * log_ratio / 2)
    return difference / _sinhc(log_ratio / 2) * (inverse > 0)


def _first_argument(values: Tensor, inverse: Tensor, m_bar: Tensor, c: Tensor) -> Tensor:
    """``sum_k (h(l_i, l_k) - h(l_a, l_k)) / (l_i - l_a) * M_ik C_ak``, shape (..., i, a)."""
    inverse = inverse[..., None]
    row, other = values[..., :, None, None], values[..., None, :, None]
    total = torch.zeros_like(c)
    for block in _blocks(m_bar):
        fixed = values[..., None, None, block]
        slope = _side_kernel_slope((row + other) / 2, fixed, inverse)
        change = _side_kernel(row, fixed, inverse) - _side_kernel(other, fixed, inverse)
        quotient = _quotient(change, row, other, slope)
        total = total + (quotient * m_bar[..., :, None, block] * c[..., None, :, block]).sum(-1)
    return total


def _second_argument(values: Tensor, inverse: Tensor, m_bar: Tensor, c: Tensor) -> Tensor:
    """``sum_i (h(l_i, l_b) - h(l_i, l_k)) / (l_b - l_k) * M_ik C_ib``, shape (..., b, k)."""
    inverse = inverse[..., None]
    row, other = values[..., None, :, None], values[..., None, None, :]
    middle = (row + other) / 2
    total = torch.zeros_like(c)
    for block in _blocks(m_bar):
        fixed = values[..., block, None, None]
        along = fixed * _side_kernel_slope(fixed, middle, inverse)
        slope = (-inverse * _side_kernel(fixed, middle, inverse) - along) / middle
        change = _side_kernel(fixed, row, inverse) - _side_kernel(fixed, other, inverse)
        quotient = _quotient(change, row, other, slope)
        total = total + (quotient * m_bar[..., block, None, :] * c[..., block, :, None]).sum(-3)
    return total


def _quotient(change: Tensor, row: Tensor, other: Tensor, slope: Tensor) -> Tensor:
    """``change / (row - other)``, or ``slope`` where the two points are close."""
    gap = row - other
    close = gap.abs() <= _CLOSE * torch.maximum(row, other)
    return torch.where(close, slope, change / torch.where(close, 1.0, gap))


def _blocks(pairs: Tensor) -> list[slice]:
    """Slices of the fixed index such that one block (entries of ``pairs`` x slice) stays small."""
    size = pairs.shape[-1]
    width = max(1, _BLOCK_ENTRIES // max(1, pairs.numel()))
    return [slice(start, start + width) for start in range(0, size, width)]
