"""Section 6: the vector field of the end-to-end rule."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from overparam._checks import check_depth
from overparam.rule.reference import end_to_end_update, single_output_update
from overparam.theory.losses import GradientOf

Field = Callable[[Tensor], Tensor]
"""A vector at every point: ``(..., d) -> (..., d)``."""


def end_to_end_field(
    gradient_of: GradientOf, depth: float, shape: tuple[int, int] | None = None
) -> Field:
    """The field ``w -> D(w, dL/dw)`` that depth adds to a loss.

    Source: Arora, Cohen, Hazan (2018), section 6.

    Args:
        gradient_of: gradient of any loss, ``(..., d) -> (..., d)``.
        depth: ``N >= 1``, real.
        shape: ``(m, n)`` with ``m n = d`` for a matrix flattened row by row; by default a
            single output, ``(1, d)``.

    Returns:
        The field, ``(..., d) -> (..., d)``.

    Raises:
        TypeError: depth is not a number.
        ValueError: depth is below 1.

    Example:
        >>> import torch
        >>> end_to_end_field(lambda w: w, depth=2)(torch.tensor([3.0, 4.0]))
        tensor([30., 40.])
    """
    check_depth(depth)

    def field(points: Tensor) -> Tensor:
        slopes = gradient_of(points).expand_as(points)
        if shape is None:
            return single_output_update(points, slopes, depth)
        update = end_to_end_update(points.unflatten(-1, shape), slopes.unflatten(-1, shape), depth)
        return update.flatten(-2)

    return field
