"""Gradient descent on explicit factors and by the end-to-end rule, with every step recorded."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from overparam.factors.product import factor_product, factor_product_vjp
from overparam.rule.reference import end_to_end_update
from overparam.rule.unbalanced import Imbalance
from overparam.theory.losses import GradientOf


def descend_factors(
    factors: Sequence[Tensor],
    gradient_of: GradientOf,
    lr: float | Tensor,
    steps: int,
    weight_decay: float = 0.0,
) -> list[tuple[Tensor, ...]]:
    """Gradient descent on all factors of a product at the same time.

    ``W_j <- (1 - lr*wd) W_j - lr * dL/dW_j``. Source: Arora, Cohen, Hazan (2018), section 4.

    Args:
        factors: ``(W_1, ..., W_N)``, ``W_j`` of shape ``(..., d_j, d_{j-1})``.
        gradient_of: gradient of the loss at the product.
        lr: learning rate; a tensor of the leading dimensions gives each run its own.
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
    lr = _per_matrix(lr, factors[0])
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
    lr: float | Tensor,
    steps: int,
    weight_decay: float = 0.0,
    imbalance: Imbalance = 0.0,
) -> Tensor:
    """Descent by the end-to-end rule: ``W <- (1 - lr*wd*N) W - lr * D(W, G)``.

    Source: Arora, Cohen, Hazan (2018), Theorem 1. The depth may be any real number; a
    tensor of depths runs one descent per entry.

    Args:
        weight: ``W``, ``(..., m, n)``.
        gradient_of: gradient of the loss at the weight.
        depth: ``N``, a number or a tensor of the leading dimensions of ``weight``.
        lr: learning rate; a tensor of the leading dimensions gives each run its own.
        steps: number of steps.
        weight_decay: ``wd``, of each of the N factors.
        imbalance: of the factors, as in :func:`overparam.end_to_end_update`. Decay would shrink
            it, which is not followed here.

    Returns:
        The weights before the first step and after each, ``(steps + 1, ..., m, n)``.

    Example:
        >>> import torch
        >>> path = descend_end_to_end(torch.ones(1, 1), lambda weight: weight, 2, lr=0.1, steps=2)
        >>> path.flatten()
        tensor([1.0000, 0.8000, 0.6720])
    """
    lr = _per_matrix(lr, weight)
    shrink = 1 - lr * weight_decay * _per_matrix(depth, weight)
    path = [weight]
    for _ in range(steps):
        update = end_to_end_update(weight, gradient_of(weight), depth, imbalance=imbalance)
        weight = shrink * weight - lr * update
        path.append(weight)
    return torch.stack(torch.broadcast_tensors(*path))


def _per_matrix(value: float | Tensor, like: Tensor) -> Tensor:
    """One number, or one per run, in a shape that multiplies matrices."""
    return torch.as_tensor(value, dtype=like.dtype, device=like.device)[..., None, None]
