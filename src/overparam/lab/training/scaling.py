"""Gradients scaled by one number per run, for simple methods to compare depth with."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

# Gradient (runs, m, n), loss of each run when called, power p -> scaled gradient (runs, m, n).
GradientScaling = Callable[[Tensor, Callable[[], Tensor], float], Tensor]


def by_norm(gradient: Tensor, loss: Callable[[], Tensor], power: float) -> Tensor:
    """``G / |G|_F`` for each run, so that the length of each step is the learning rate.

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
    """``G / L^((p-2)/p)`` for each run: gradient descent with a step that grows as the loss falls.

    If the residuals are c times as large, the loss ``L`` is ``c^p`` times as large and its second
    derivative ``c^(p-2)`` times, so the largest stable step of gradient descent is proportional to
    ``L^(-(p-2)/p)``. This method removes that dependence and does nothing else that depth does. At
    p = 2 it is gradient descent. At a loss of zero the gradient is zero and is left unchanged.

    Args:
        gradient: ``G``, ``(runs, m, n)``.
        loss: returns ``L``, ``(runs,)``.
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
