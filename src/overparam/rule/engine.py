"""The end-to-end rule in float64 for any kernel: one decomposition and four matrix products."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from overparam.rule.decomposition import thin_decomposition
from overparam.rule.kernel import (
    is_moderate,
    join_scale,
    kernel_matrix,
    null_power,
    size_of,
    split_scale,
)
from overparam.rule.unbalanced import Offsets, excess_squares, unbalanced_kernel


def update_of_wide(
    weight: Tensor, gradient: Tensor, inverse: Tensor, offsets: Offsets = ()
) -> Tensor:
    """The end-to-end update of matrices with ``m <= n``; see :func:`overparam.end_to_end_update`.

    Args:
        weight: ``W``, ``(..., m, n)``.
        gradient: ``G``, ``(..., m, n)``.
        inverse: ``1/N`` in float64, ``(..., 1, 1)``.
        offsets: of N unbalanced factors; empty for balanced ones.

    Returns:
        ``D``, in the dtype of ``weight``; NaN for a matrix with a non-finite entry.
    """
    if is_moderate(weight) and is_moderate(gradient):
        update = _update(weight.double(), gradient.double(), inverse, offsets, weight.dtype)
        return update.to(weight.dtype)
    finite = size_of(weight).isfinite()
    scaled, weight_exponent = split_scale(torch.where(finite, weight, 0.0), trailing=2)
    finite = finite & size_of(gradient).isfinite()
    slope, slope_exponent = split_scale(gradient, trailing=2)
    shifts = scaled_offsets(offsets, weight_exponent)
    update = _update(scaled, slope, inverse, shifts, weight.dtype)
    exponent = weight_exponent * (2 - 2 * inverse) + slope_exponent
    return join_scale(torch.where(finite, update, torch.nan), exponent, weight.dtype)


def scaled_offsets(offsets: Offsets, exponent: Tensor) -> tuple[Tensor, ...]:
    """Offsets of a weight divided by ``2^exponent``: squared singular values of its factors."""
    scale = torch.exp2(-2 * exponent / len(offsets)) if offsets else exponent
    return tuple(offset * scale for offset in offsets)


def _update(
    weight: Tensor,
    gradient: Tensor,
    inverse: Tensor,
    offsets: Sequence[float | Tensor],
    stored: torch.dtype,
) -> Tensor:
    """The update in float64 of numbers in range."""
    left, singular, right = thin_decomposition(weight, stored, float(inverse.min()))
    singular = singular[..., :, None]
    if offsets:
        squares = excess_squares(singular, offsets)
        outside = unbalanced_kernel(squares, 0.0, offsets)
        inside = unbalanced_kernel(squares, squares.mT, offsets).sub_(outside)
    else:
        outside = null_power(singular, inverse)
        inside = kernel_matrix(singular, singular.mT, inverse).sub_(outside)
    turned = left.mT @ gradient
    inside = inside * (turned @ right.mT)
    # Each product overwrites what is needed no more: fresh memory costs more than arithmetic.
    return left @ (inside @ right).addcmul_(outside, turned)
