"""Section 3: with depth 2 and a scalar, each step is a weighted sum of all past gradients.

The quantities ``rho`` and ``gamma`` are :func:`overparam.theory.adaptive_lr` and
:func:`overparam.theory.shrink_rates` of a run.
"""

from __future__ import annotations

import torch
from torch import Tensor


def memory_weights(lrs: Tensor, shrink: Tensor) -> Tensor:
    r"""Coefficients of the past gradients ``g_tau`` in the step at time t.

    .. math::
        \mu_{t,\tau} = -\gamma_t \, \rho_\tau \prod_{s=\tau+1}^{t-1} (1 - \gamma_s),
        \qquad \tau < t.

    Source: Arora, Cohen, Hazan (2018), section 3.

    Args:
        lrs: ``rho``, ``(T,)``.
        shrink: ``gamma``, ``(T,)``.

    Returns:
        ``mu``, ``(T, T)``, entry ``(t, tau)``; zero for ``tau >= t``.

    Example:
        >>> import torch
        >>> memory_weights(torch.tensor([0.1, 0.1, 0.1]), torch.tensor([-0.5, -0.5, -0.5]))
        tensor([[0.0000, 0.0000, 0.0000],
                [0.0500, 0.0000, 0.0000],
                [0.0750, 0.0500, 0.0000]])
    """
    carried = torch.zeros_like(lrs)  # rho_tau times the product up to s = t - 1
    rows = []
    for t in range(len(lrs)):
        rows.append(-shrink[t] * carried)
        carried = (1 - shrink[t]) * carried
        carried[t] = lrs[t]
    return torch.stack(rows)


def weights_from_gradients(
    gradients: Tensor, lrs: Tensor, shrink: Tensor, start: Tensor | None = None
) -> Tensor:
    r"""Reconstruct the trajectory from past gradients alone.

    .. math::
        w_{t+1} = w_t - \rho_t g_t - \sum_{\tau < t} \mu_{t,\tau} g_\tau
                  - \gamma_t \prod_{s<t} (1 - \gamma_s) \, w_0.

    The last term vanishes with the initialization. Without ``start``, that term and ``w_0`` are
    dropped. Source: Arora, Cohen, Hazan (2018), section 3.

    Args:
        gradients: ``g``, ``(T, d)``.
        lrs: ``rho``, ``(T,)``.
        shrink: ``gamma``, ``(T,)``.
        start: ``w_0``, ``(d,)``.

    Returns:
        ``(T + 1, d)``.

    Example:
        >>> import torch
        >>> ones, half = torch.ones(2, 1), torch.full((2,), 0.5)
        >>> weights_from_gradients(ones, 0.2 * half, -half).flatten()
        tensor([ 0.0000, -0.1000, -0.2500])
    """
    steps = lrs[:, None] * gradients + memory_weights(lrs, shrink) @ gradients
    first = torch.zeros_like(gradients[0]) if start is None else start
    before = torch.cat((torch.ones_like(shrink[:1]), torch.cumprod(1 - shrink, 0)[:-1]))
    steps = steps + (shrink * before)[:, None] * first
    return torch.cat((first[None], first - torch.cumsum(steps, 0)))
