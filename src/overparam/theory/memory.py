"""Depth 2 with a scalar: the step at time t is a weighted sum of all past gradients.

Model ``w = w1 * omega2`` with a vector ``w1`` and a scalar ``omega2``, both trained by gradient
descent. Source of all: Arora, Cohen, Hazan (2018), section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from overparam.theory._fit import power_law_exponent
from overparam.theory._table import Row, columns
from overparam.theory.check import Measurement, TheoryCheck, largest


class ScalarRun(NamedTuple):
    """A recorded run of depth 2 with a scalar; T steps, time is the first dimension.

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
    gradient_of: Callable[[Tensor], Tensor], inner: Tensor, outer: float, lr: float, steps: int
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


def adaptive_rates(run: ScalarRun) -> Tensor:
    """``rho_t = lr omega2_t^2``, the learning rate that the current gradient meets.

    Source: Arora, Cohen, Hazan (2018), section 3.

    Returns:
        ``(T,)``.

    Example:
        >>> import torch
        >>> run = run_with_scalar(lambda w: w - 1, torch.ones(1), 0.5, lr=0.1, steps=1)
        >>> adaptive_rates(run)
        tensor([0.0250])
    """
    return run.lr * run.outer[:-1] ** 2


def shrink_rates(run: ScalarRun) -> Tensor:
    """``gamma_t = lr (dL/domega2) / omega2``, by which the current weight shrinks.

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


def memory_weights(rates: Tensor, shrink: Tensor) -> Tensor:
    r"""Coefficient of the past gradient ``g_tau`` in the step at time t.

    .. math::
        \mu_{t,\tau} = -\gamma_t \, \rho_\tau \prod_{s=\tau+1}^{t-1} (1 - \gamma_s),
        \qquad \tau < t.

    Source: Arora, Cohen, Hazan (2018), section 3.

    Args:
        rates: ``rho``, ``(T,)``.
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
    carried = torch.zeros_like(rates)  # rho_tau times the product up to s = t - 1
    rows = []
    for t in range(len(rates)):
        rows.append(-shrink[t] * carried)
        carried = (1 - shrink[t]) * carried
        carried[t] = rates[t]
    return torch.stack(rows)


def weights_from_gradients(
    gradients: Tensor, rates: Tensor, shrink: Tensor, start: Tensor | None = None
) -> Tensor:
    r"""Reconstruct the trajectory from past gradients alone.

    .. math::
        w_{t+1} = w_t - \rho_t g_t - \sum_{\tau < t} \mu_{t,\tau} g_\tau
                  - \gamma_t \prod_{s<t} (1 - \gamma_s) \, w_0.

    The last term vanishes with the initialization; without ``start`` it is dropped, and so is
    ``w_0``. Source: Arora, Cohen, Hazan (2018), section 3.

    Args:
        gradients: ``g``, ``(T, d)``.
        rates: ``rho``, ``(T,)``.
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
    steps = rates[:, None] * gradients + memory_weights(rates, shrink) @ gradients
    first = torch.zeros_like(gradients[0]) if start is None else start
    before = torch.cat((torch.ones_like(shrink[:1]), torch.cumprod(1 - shrink, 0)[:-1]))
    steps = steps + (shrink * before)[:, None] * first
    return torch.cat((first[None], first - torch.cumsum(steps, 0)))


def check() -> TheoryCheck:
    """Run depth 2 with a scalar at falling learning rates and rebuild each run.

    Example:
        >>> check().verdict
        'holds'
    """
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(20, 4, generator=generator, dtype=torch.float64)
    labels = features @ torch.tensor([1.0, -0.5, 0.25, 2.0], dtype=torch.float64)
    direction = torch.randn(4, generator=generator, dtype=torch.float64)
    inner = 0.01 * direction

    def gradient_of(weight: Tensor) -> Tensor:
        return features.mT @ (features @ weight - labels) / len(labels)

    lrs = [0.04 / 2**k for k in range(5)]
    step_errors, path_errors, exact = [], [], []
    rows: list[Row] = []
    for lr in lrs:
        run = run_with_scalar(gradient_of, inner, 0.1, lr, steps=round(8 / lr))
        rates, shrink, weights = adaptive_rates(run), shrink_rates(run), run.weights
        predicted = weights[:-1] - rates[:, None] * run.gradients - shrink[:, None] * weights[:-1]
        step_errors.append((weights[1:] - predicted).norm(dim=-1).max().item())
        rebuilt = weights_from_gradients(run.gradients, rates, shrink, weights[0])
        away = (rebuilt - weights).norm(dim=-1).max() / weights.norm(dim=-1).max()
        path_errors.append(away.item())
        recursion = [weights[0]]
        for rate, gradient, gamma in zip(rates, run.gradients, shrink, strict=True):
            recursion.append(recursion[-1] - rate * gradient - gamma * recursion[-1])
        exact.append((rebuilt - torch.stack(recursion)).abs().max().item())
        for panel, error in (("one step", step_errors[-1]), ("whole run", path_errors[-1])):
            rows.append((panel, lr, error, 0.0))
    scales, dropped = [0.1 / 2**k for k in range(5)], []
    for scale in scales:
        run = run_with_scalar(gradient_of, scale * direction, scale, 0.02, steps=800)
        given = (run.gradients, adaptive_rates(run), shrink_rates(run))
        carried = weights_from_gradients(*given, run.weights[0]) - weights_from_gradients(*given)
        dropped.append((carried[-1].norm() / run.weights[-1].norm()).item())
    run = run_with_scalar(gradient_of, inner, 0.1, lrs[0], steps=round(4 / lrs[0]))
    mu = memory_weights(adaptive_rates(run), shrink_rates(run))
    # In units of lr^2, at which the coefficients have a limit.
    scaled = (mu / lrs[0] ** 2).tolist()
    rows += [
        ("mu", float(tau), float(t), scaled[t][tau])
        for t in range(0, len(mu), 2)
        for tau in range(0, t, 2)
    ]
    return TheoryCheck(
        name="memory",
        statement=(
            "With depth 2 and a scalar, each step is a weighted sum of past gradients, up to "
            "O(lr^2) per step and a term that vanishes with the initialization."
        ),
        source="Arora, Cohen, Hazan (2018), section 3",
        measurements=(
            Measurement(
                "exponent of lr in the error of one step",
                power_law_exponent(lrs, step_errors),
                1.9,
                2.1,
            ),
            Measurement(
                "exponent of lr in the relative error of the run rebuilt from its gradients, rho, "
                "gamma and first weight",
                power_law_exponent(lrs, path_errors),
                0.8,
                1.2,
            ),
            Measurement(
                "largest difference of the sum over past gradients from the step-by-step "
                "recursion (weights are of order 1)",
                largest(exact),
                0.0,
                1e-10,
            ),
            Measurement(
                "exponent of the scale of the first weights in the share of the last weight that "
                "comes from them and not from gradients",
                power_law_exponent(scales, dropped),
                0.9,
                1.1,
            ),
        ),
        table=columns(("panel", "x", "y", "value"), rows),
        notes=(
            "Without the first weight, from past gradients alone, the last weight is off by "
            + ", ".join(
                f"{share:.2g} of its length at scale {scale:.2g}"
                for scale, share in zip(scales, dropped, strict=True)
            )
            + " (w1 and omega2 at the start are of that scale).",
        ),
    )
