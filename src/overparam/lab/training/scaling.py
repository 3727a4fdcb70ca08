"""Gradients scaled by a number per run: simple methods to compare depth with."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

# Gradient (runs, m, n), loss of each run when called, power p -> scaled gradient (runs, m, n).
GradientScaling = Callable[[Tensor, Callable[[], Tensor], float], Tensor]


def by_norm(gradient: Tensor, loss: Callable[[], Tensor], power: float) -> Tensor:
    """``G / |G|_F`` for each run: a step as long as the learning rate, whatever the slope.

    Source: the normalized gradient method, Shor (1985), section 2.1. A zero gradient stays zero.

    Args:
        gradient: ``G``, ``(runs, m, n)``.
        loss: not needed.
        power: not needed.

    Returns:
        The unit gradients, ``(runs, m, n)``.

    Example:
        >>> import torch
        >>> by_norm(torch.tensor([[[3.0, 4.0]], [[0.0, 0.0]]]), lambda: torch.ones(2), 4.0).tolist()
        [[[0.6000000238418579, 0.800000011920929]], [[0.0, 0.0]]]
    """
    norm = gradient.flatten(1).norm(dim=1)[:, None, None]
    return gradient / norm.masked_fill(norm == 0, 1)


def by_loss(gradient: Tensor, loss: Callable[[], Tensor], power: float) -> Tensor:
    """``G / L^((p-2)/p)`` for each run: gradient descent whose step grows as the loss falls.

    Residuals that are c times as large make the loss ``L`` of power p ``c^p`` times as large and
    its second derivative ``c^(p-2)`` times: the largest stable step of gradient descent goes as
    ``L^(-(p-2)/p)``. This step takes that one dependence out, and nothing else that depth does.
    At p = 2 it is gradient descent. A loss of zero leaves the gradient, which is zero, alone.

    Args:
        gradient: ``G``, ``(runs, m, n)``.
        loss: gives ``L``, ``(runs,)``.
        power: ``p >= 2``.

    Returns:
        The scaled gradients, ``(runs, m, n)``.

    Example:
        >>> import torch
        >>> by_loss(torch.ones(1, 1, 1), lambda: torch.tensor([0.25]), 4.0).item()
        2.0
    """
    if power == 2:
        return gradient
    scale = loss() ** ((power - 2) / power)
    return gradient / scale.masked_fill(scale == 0, 1).to(gradient.dtype)[:, None, None]
