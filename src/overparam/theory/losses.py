"""Losses, given by their gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

GradientOf = Callable[[Tensor], Tensor]
"""Maps a weight to the gradient of a loss, of the same shape; leading dimensions are a batch."""


def loss_gradient(loss: Callable[[Tensor], Tensor], dims: int = 1) -> GradientOf:
    """The gradient of any loss by autograd, at one weight or at many.

    The gradient can be differentiated again, as
    :func:`overparam.theory.antisymmetric_jacobian` does.

    Args:
        loss: maps one weight to a scalar, by operations that ``torch.func`` supports.
        dims: dimensions of one weight: 1 for a vector ``(d,)``, 2 for a matrix ``(m, n)``.

    Returns:
        The gradient, ``(..., d) -> (..., d)`` or ``(..., m, n) -> (..., m, n)``.

    Raises:
        ValueError: (by the gradient) the weight has fewer dimensions than ``dims``.

    Example:
        >>> import torch
        >>> gradient_of = loss_gradient(lambda weight: (weight - 1).pow(4).sum())
        >>> gradient_of(torch.tensor([[1.0, 2.0], [3.0, 1.0]]))
        tensor([[ 0.,  4.],
                [32.,  0.]])
    """
    slope = torch.func.vmap(torch.func.grad(loss))

    def gradient_of(weight: Tensor) -> Tensor:
        if weight.ndim < dims:
            raise ValueError(
                f"weight has shape {tuple(weight.shape)}; this loss takes weights of {dims} "
                "dimension(s): reshape it, or pass another dims to loss_gradient."
            )
        one = weight.shape[weight.ndim - dims :]
        return slope(weight.reshape(-1, *one)).reshape(weight.shape)

    return gradient_of


def fit_to(target: Tensor, scale: Tensor | float = 1.0) -> GradientOf:
    """Gradient ``scale * (W - target)`` of the loss ``1/2 <W - target, scale * (W - target)>``.

    With a mask of zeros and ones as ``scale`` this is matrix completion.

    Args:
        target: ``(..., m, n)``.
        scale: curvature per entry, broadcasts with ``target``.

    Returns:
        The gradient as a function of the weight.

    Example:
        >>> import torch
        >>> fit_to(torch.ones(1, 2), 3.0)(torch.zeros(1, 2))
        tensor([[-3., -3.]])
    """
    return lambda weight: scale * (weight - target)
