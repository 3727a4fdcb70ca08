"""Section 3: depth 2 with a scalar, ``w = w1 * omega2``, trained by gradient descent."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from overparam.theory.losses import GradientOf


class ScalarRun(NamedTuple):
    """A recorded run of T steps; time is the first dimension.

    Attributes:
        inner: ``w1`` before each step and after the last, ``(T + 1, d)``.
        outer: ``omega2``, ``(T + 1,)``.
        gradients: of the loss at ``w = w1 * omega2`` before each step, ``(T, d)``.
        lr: learning rate.
    """

    inner: Tensor
    outer: Tensor
    gradients: Tensor
    lr: float

    @property
    def weights(self) -> Tensor:
        """``w = w1 * omega2``, ``(T + 1, d)``."""
        return self.inner * self.outer[:, None]


def run_with_scalar(
    gradient_of: GradientOf, inner: Tensor, outer: float, lr: float, steps: int
) -> ScalarRun:
    """Train ``w = w1 * omega2`` by gradient descent and record it.

    ``w1 <- w1 - lr omega2 g`` and ``omega2 <- omega2 - lr <w1, g>`` with ``g = dL/dw``. Source:
    Arora, Cohen, Hazan (2018), section 3.

    Args:
        gradient_of: ``w (d,) -> dL/dw (d,)``.
        inner: ``w1`` at the start, ``(d,)``.
        outer: ``omega2`` at the start.
        lr: learning rate.
        steps: number of steps.

    Returns:
        The record.

    Example:
        >>> import torch
        >>> run = run_with_scalar(lambda w: w - 1, torch.ones(1), 0.5, lr=0.1, steps=1)
        >>> run.weights.flatten()
        tensor([0.5000, 0.5638])
    """
    inners, outers, gradients = [inner], [torch.as_tensor(outer, dtype=inner.dtype)], []
    for _ in range(steps):
        inner, scalar = inners[-1], outers[-1]
        gradients.append(gradient_of(inner * scalar))
        inners.append(inner - lr * scalar * gradients[-1])
        outers.append(scalar - lr * inner @ gradients[-1])
    return ScalarRun(torch.stack(inners), torch.stack(outers), torch.stack(gradients), lr)


def adaptive_lr(run: ScalarRun) -> Tensor:
    """``rho_t = lr omega2_t^2``, the learning rate of the current gradient.

    Source: Arora, Cohen, Hazan (2018), section 3.

    Returns:
        ``(T,)``.

    Example:
        >>> import torch
        >>> run = run_with_scalar(lambda w: w - 1, torch.ones(1), 0.5, lr=0.1, steps=1)
        >>> adaptive_lr(run)
        tensor([0.0250])
    """
    return run.lr * run.outer[:-1] ** 2


def shrink_rates(run: ScalarRun) -> Tensor:
    """``gamma_t = lr (dL/domega2) / omega2``, the share by which the current weight shrinks.

    Up to a term of order ``lr^2``, ``w_{t+1} = w_t - rho_t g_t - gamma_t w_t``. A negative value
    means growth. Source: Arora, Cohen, Hazan (2018), section 3.

    Returns:
        ``(T,)``.

    Example:
        >>> import torch
        >>> run = run_with_scalar(lambda w: w - 1, torch.ones(1), 0.5, lr=0.1, steps=1)
        >>> shrink_rates(run)
        tensor([-0.1000])
    """
    slope = (run.inner[:-1] * run.gradients).sum(-1)
    return run.lr * slope / run.outer[:-1]
