"""Theorem 1: gradient descent on balanced factors moves their product by the end-to-end rule."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from overparam.factors.product import factor_product
from overparam.rule.unbalanced import Imbalance
from overparam.theory.descent import descend_end_to_end, descend_factors
from overparam.theory.losses import GradientOf


def rotated_factors(
    factors: Sequence[Tensor], generator: torch.Generator | None = None
) -> tuple[Tensor, ...]:
    """Rotate every hidden layer at random: ``W_j <- Q_j W_j Q_{j-1}^T`` with orthogonal ``Q``.

    Product and balance stay the same; the zero padding of wide hidden layers becomes dense.
    Source: the symmetry behind Arora, Cohen, Hazan (2018), Theorem 1.

    Args:
        factors: ``(W_1, ..., W_N)``, ``W_j`` of shape ``(..., d_j, d_{j-1})``.
        generator: source of random numbers, on the device of the factors.

    Returns:
        As many factors of the same shapes.

    Example:
        >>> import torch
        >>> factors = (torch.ones(1, 2), torch.ones(3, 1))
        >>> torch.allclose(factor_product(rotated_factors(factors)), torch.ones(3, 2))
        True
    """
    rotated = list(factors)
    for j in range(len(factors) - 1):
        *leading, width, _ = factors[j].shape
        noise = factors[j].new_empty(*leading, width, width).normal_(generator=generator)
        rotation = torch.linalg.qr(noise).Q
        rotated[j] = rotation @ rotated[j]
        rotated[j + 1] = rotated[j + 1] @ rotation.mT
    return tuple(rotated)


def rescaled_factors(factors: Sequence[Tensor], stretch: float) -> tuple[Tensor, ...]:
    """Multiply the first factor by ``exp(stretch)`` and divide the last by it.

    The product stays the same; the larger ``stretch``, the farther the factors are from balance.

    Args:
        factors: ``(W_1, ..., W_N)`` with N >= 2.
        stretch: a real number; 0 changes nothing.

    Returns:
        The factors.

    Raises:
        ValueError: fewer than two factors.

    Example:
        >>> import torch
        >>> [f.item() for f in rescaled_factors((torch.ones(1, 1), torch.ones(1, 1)), 0.0)]
        [1.0, 1.0]
    """
    if len(factors) < 2:
        raise ValueError(f"factors has {len(factors)} factor(s); pass at least 2 to rescale.")
    by = math.exp(stretch)
    return (factors[0] * by, *factors[1:-1], factors[-1] / by)


def emulation_error(
    factors: Sequence[Tensor],
    gradient_of: GradientOf,
    lr: float | Tensor,
    steps: int | Tensor,
    imbalance: Imbalance = 0.0,
) -> Tensor:
    """Largest distance, over a run, between the product of factors and the end-to-end rule.

    ``max_t |W_factors(t) - W_rule(t)|_F / max_t |W_rule(t)|_F``, both from the same start.
    For balanced factors, and for others whose imbalance the rule has, it is ``O(lr)`` at fixed
    ``lr * steps``. Source: Arora, Cohen, Hazan
    (2018), Theorem 1.

    Args:
        factors: ``(W_1, ..., W_N)``, balanced or not; leading dimensions are separate runs.
        gradient_of: gradient of the loss at the product; see
            :func:`overparam.theory.loss_gradient` for any loss.
        lr: learning rate, or one per run.
        steps: number of steps, or one per run.
        imbalance: that of the rule, as in :func:`overparam.end_to_end_update`.

    Returns:
        The relative distance of every run, in the shape of the leading dimensions; NaN where a
        run overflowed.

    Example:
        >>> import torch
        >>> from overparam import balanced_factors
        >>> from overparam.theory import fit_to
        >>> factors = balanced_factors(torch.eye(2, dtype=torch.float64), depth=3)
        >>> gradient_of = fit_to(torch.diag(torch.tensor([2.0, 3.0], dtype=torch.float64)))
        >>> bool(emulation_error(factors, gradient_of, lr=1e-4, steps=100) < 1e-3)
        True
    """
    last = torch.as_tensor(steps, device=factors[0].device)
    longest = int(last.max())
    explicit = torch.stack(
        [factor_product(now) for now in descend_factors(factors, gradient_of, lr, longest)]
    )
    rule = descend_end_to_end(
        explicit[0], gradient_of, len(factors), lr, longest, imbalance=imbalance
    )
    times = torch.arange(longest + 1, device=last.device)
    beyond = times.reshape(-1, *(1,) * (rule.ndim - 3)) > last
    distance = torch.linalg.matrix_norm(explicit - rule).masked_fill(beyond, 0.0)
    size = torch.linalg.matrix_norm(rule).masked_fill(beyond, 0.0)
    return distance.amax(0) / size.amax(0)
