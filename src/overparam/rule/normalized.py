"""The rule over the largest eigenvalue of its preconditioner, differentiable, from the reference.

:mod:`overparam.rule.fast` is the same at speed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from overparam.rule.reference import end_to_end_update
from overparam.rule.unbalanced import Offsets, excess_squares, unbalanced_kernel


def reference_update(
    weight: Tensor, gradient: Tensor, depth: float, offsets: Offsets, normalize: bool
) -> Tensor:
    """The end-to-end update of each matrix, over its largest eigenvalue if asked for.

    Args:
        weight: ``W``, ``(..., m, n)``.
        gradient: ``G``, ``(..., m, n)``.
        depth: ``N``, a number of at least 1, or infinity.
        offsets: of N unbalanced factors; empty for balanced ones.
        normalize: divide by the largest eigenvalue of the preconditioner.

    Returns:
        ``D``, ``(..., m, n)``.
    """
    update = end_to_end_update(weight, gradient, depth, imbalance=offsets or 0.0)
    largest = torch.linalg.matrix_norm(weight.double(), ord=2, keepdim=True)
    return _over(update, largest, depth, offsets) if normalize else update


def reference_update_of_rows(
    weight: Tensor, gradient: Tensor, depth: float, offsets: Offsets, normalize: bool
) -> Tensor:
    """The same for each row ``(..., r, d)`` as a matrix of its own, over the largest of all."""
    rows = weight[..., None, :], gradient[..., None, :]
    update = end_to_end_update(*rows, depth, imbalance=offsets or 0.0)[..., 0, :]
    largest = torch.linalg.vector_norm(weight.double(), dim=-1, keepdim=True)
    largest = largest.amax(-2, keepdim=True)
    return _over(update, largest, depth, offsets) if normalize else update


def _over(update: Tensor, largest: Tensor, depth: float, offsets: Offsets) -> Tensor:
    """Divide by the eigenvalue of the dominant direction, ``(..., 1, 1)``.

    A weight whose kernel vanishes stays as it is.

    Args:
        update: ``D``.
        largest: the largest singular value in float64, ``(..., 1, 1)``.
        depth: ``N``.
        offsets: of the factors.
    """
    if offsets:
        squares = excess_squares(largest, offsets)
        eigenvalue = unbalanced_kernel(squares, squares, offsets)
    else:
        eigenvalue = (1.0 if math.isinf(depth) else depth) * largest ** (2 - 2 / depth)
    return update / eigenvalue.to(update.dtype).clamp_min(torch.finfo(update.dtype).tiny)
