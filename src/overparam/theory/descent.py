"""Gradient descent on explicit factors and by the end-to-end rule, recorded step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from overparam.product import factor_product, factor_product_vjp
from overparam.rule import end_to_end_update

GradientOf = Callable[[Tensor], Tensor]
"""The gradient of a loss at a weight: ``W (..., m, n) -> G (..., m, n)``."""


def descend_factors(
    factors: Sequence[Tensor],
    gradient_of: GradientOf,
    lr: float,
    steps: int,
    weight_decay: float = 0.0,
) -> list[tuple[Tensor, ...]]:
    """Gradient descent on every factor of a product, all at once.

    ``W_j <- (1 - lr*wd) W_j - lr * dL/dW_j``. Source: Arora, Cohen, Hazan (2018), section 4.

    Args:
        factors: ``(W_1, ..., W_N)``, ``W_j`` of shape ``(..., d_j, d_{j-1})``.
        gradient_of: gradient of the loss at the product.
        lr: learning rate.
        steps: number of steps.
        weight_decay: ``wd``, of each factor.

    Returns:
        The factors before the first step and after each: ``steps + 1`` tuples.

    Example:
        >>> import torch
        >>> one = torch.ones(1, 1)
        >>> path = descend_factors((2 * one, one), lambda weight: weight, lr=0.1, steps=1)
        >>> [round(factor.item(), 3) for factor in path[1]]
        [1.8, 0.6]
    """
    path = [tuple(factors)]
    for _ in range(steps):
        current = path[-1]
        slopes = factor_product_vjp(current, gradient_of(factor_product(current)))
        pairs = zip(current, slopes, strict=True)
        path.append(tuple((1 - lr * weight_decay) * w - lr * slope for w, slope in pairs))
    return path


def descend_end_to_end(
    weight: Tensor,
    gradient_of: GradientOf,
    depth: float | Tensor,
    lr: float,
    steps: int,
    weight_decay: float = 0.0,
) -> Tensor:
    """Descent by the end-to-end rule: ``W <- (1 - lr*wd*N) W - lr * D(W, G)``.

    Source: Arora, Cohen, Hazan (2018), Theorem 1. Real depths are allowed; a tensor of depths
    runs one descent per entry.

    Args:
        weight: ``W``, ``(..., m, n)``.
        gradient_of: gradient of the loss at the weight.
        depth: ``N``, a number or a tensor of the leading dimensions of ``weight``.
        lr: learning rate.
        steps: number of steps.
        weight_decay: ``wd``, that of each of the N factors.

    Returns:
        The weights before the first step and after each, ``(steps + 1, ..., m, n)``.

    Example:
        >>> import torch
        >>> path = descend_end_to_end(torch.ones(1, 1), lambda weight: weight, 2, lr=0.1, steps=2)
        >>> path.flatten()
        tensor([1.0000, 0.8000, 0.6720])
    """
    shrink = 1 - lr * weight_decay * torch.as_tensor(depth, dtype=weight.dtype)[..., None, None]
    path = [weight]
    for _ in range(steps):
        weight = shrink * weight - lr * end_to_end_update(weight, gradient_of(weight), depth)
        path.append(weight)
    return torch.stack(torch.broadcast_tensors(*path))


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
