"""How far gradient descent moves factors away from balance."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from overparam._checks import check_factors
from overparam.balance import imbalance, near_zero_initialization
from overparam.product import factor_product, factor_product_vjp
from overparam.theory._fit import power_law_exponent
from overparam.theory._table import Row, columns
from overparam.theory.check import Measurement, TheoryCheck
from overparam.theory.descent import descend_factors, fit_to
from overparam.theory.emulation import rescaled_factors


def balance_gaps(factors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """``W_{j+1}^T W_{j+1} - W_j W_j^T`` for j = 1, ..., N - 1: zero where balanced.

    Source: Arora, Cohen, Hazan (2018), Theorem 1.

    Args:
        factors: ``(W_1, ..., W_N)``, ``W_j`` of shape ``(..., d_j, d_{j-1})``.

    Returns:
        ``N - 1`` symmetric matrices ``(..., d_j, d_j)``.

    Raises:
        TypeError: a factor is not a floating-point tensor, or dtypes differ.
        ValueError: no factors, or two neighbours whose shapes do not fit.

    Example:
        >>> import torch
        >>> balance_gaps((torch.tensor([[3.0]]), torch.tensor([[2.0]])))
        (tensor([[-5.]]),)
    """
    check_factors(factors)
    return tuple(high.mT @ high - low @ low.mT for low, high in itertools.pairwise(factors))


def balance_gaps_after_step(
    factors: Sequence[Tensor], gradient: Tensor, lr: float, weight_decay: float = 0.0
) -> tuple[Tensor, ...]:
    r"""What one step of gradient descent makes of the gaps, exactly.

    .. math::
        \Delta_j' = (1 - \eta\lambda)^2 \Delta_j
            + \eta^2 \left( G_{j+1}^T G_{j+1} - G_j G_j^T \right),

    with ``G_j = dL/dW_j``. The terms of first order cancel, since
    ``W_{j+1}^T G_{j+1} = G_j W_j^T``: so the flow conserves the gap, a step of descent moves it
    by ``O(lr^2)``, and weight decay shrinks it. Source: derived here from the proof of Arora,
    Cohen, Hazan (2018), Theorem 1.

    Args:
        factors: ``(W_1, ..., W_N)``, all with the same leading dimensions.
        gradient: ``dL/dW`` at the product.
        lr: learning rate.
        weight_decay: ``lambda``, of each factor.

    Returns:
        ``N - 1`` symmetric matrices ``(..., d_j, d_j)``.

    Raises:
        TypeError: a tensor is not floating point, or dtypes differ.
        ValueError: shapes do not fit.

    Example:
        >>> import torch
        >>> pair = (torch.tensor([[3.0]]), torch.tensor([[2.0]]))
        >>> balance_gaps_after_step(pair, torch.tensor([[1.0]]), lr=0.1)
        (tensor([[-4.9500]]),)
    """
    slopes = factor_product_vjp(factors, gradient)
    kept = (1 - lr * weight_decay) ** 2
    pairs = zip(balance_gaps(factors), balance_gaps(slopes), strict=True)
    return tuple(kept * gap + lr**2 * drift for gap, drift in pairs)


def check() -> TheoryCheck:
    """Follow the gaps along descent at falling learning rates, and under weight decay."""
    generator = torch.Generator().manual_seed(2)
    start = near_zero_initialization(
        3, 4, 3, width=5, std=0.5, generator=generator, dtype=torch.float64
    )
    gradient_of = fit_to(torch.randn(3, 4, generator=generator, dtype=torch.float64))
    rows: list[Row] = []
    lrs = [0.02 / 2**k for k in range(5)]
    step_drifts, total_drifts, identity = [], [], []
    for lr in lrs:
        path = descend_factors(start, gradient_of, lr, round(1 / lr))
        gaps = [balance_gaps(now) for now in path]
        moves = [
            max(torch.linalg.matrix_norm(b - a).item() for a, b in zip(old, new, strict=True))
            for old, new in itertools.pairwise(gaps)
        ]
        step_drifts.append(max(moves))
        total_drifts.append(
            max(
                torch.linalg.matrix_norm(b - a).item()
                for a, b in zip(gaps[0], gaps[-1], strict=True)
            )
        )
        for now, new in zip(path[:20], gaps[1:21], strict=True):
            predicted = balance_gaps_after_step(now, gradient_of(factor_product(now)), lr)
            identity += [(p - q).abs().max().item() for p, q in zip(predicted, new, strict=True)]
        rows += [("per step", lr, step_drifts[-1]), ("at fixed time", lr, total_drifts[-1])]

    decay, lr, steps = 0.5, 1e-3, 4000
    path = descend_factors(rescaled_factors(start, 0.5), gradient_of, lr, steps, decay)
    sizes = [imbalance(now).max().item() for now in path[::100]]
    times = [lr * 100 * k for k in range(len(sizes))]
    rate = -torch.tensor(sizes[-1] / sizes[0]).log().item() / times[-1]
    rows += [("decay", t, size / sizes[0]) for t, size in zip(times, sizes, strict=True)]
    return TheoryCheck(
        name="balance",
        statement=(
            "Gradient descent moves the imbalance of the factors by O(lr^2) per step; weight "
            "decay makes it decay."
        ),
        source="Arora, Cohen, Hazan (2018), Theorem 1 and its proof",
        measurements=(
            Measurement(
                "exponent of lr in the largest change of a gap in one step",
                power_law_exponent(lrs, step_drifts),
                1.9,
                2.1,
            ),
            Measurement(
                "exponent of lr in the change at fixed time lr * steps = 1",
                power_law_exponent(lrs, total_drifts),
                0.8,
                1.2,
            ),
            Measurement(
                "largest deviation of a gap from the exact one-step formula (gaps of order 1)",
                max(identity),
                0.0,
                1e-12,
            ),
            Measurement(
                "rate at which weight decay shrinks the imbalance, over 2 * weight decay",
                rate / (2 * decay),
                0.95,
                1.05,
            ),
        ),
        table=columns(("panel", "x", "value"), rows),
    )
