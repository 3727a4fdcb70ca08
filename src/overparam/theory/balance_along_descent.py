"""How far gradient descent moves factors away from balance."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from overparam._checks import check_factors
from overparam.factors.balance import imbalance, near_zero_initialization
from overparam.factors.product import factor_product, factor_product_vjp
from overparam.theory._fit import local_exponents
from overparam.theory._table import Row, columns
from overparam.theory.check import Measurement, TheoryCheck, largest, smallest
from overparam.theory.descent import descend_factors
from overparam.theory.emulation import rescaled_factors
from overparam.theory.losses import GradientOf, fit_to


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


_DEPTHS = (2, 3, 5)
_DECAY = 0.5


def check() -> TheoryCheck:
    """Follow the gaps along descent at falling learning rates, and under weight decay.

    Example:
        >>> check().verdict
        'holds'
    """
    generator = torch.Generator().manual_seed(2)
    gradient_of = fit_to(torch.randn(3, 4, generator=generator, dtype=torch.float64))
    rows: list[Row] = []
    lrs = [0.02 / 2**k for k in range(4)]
    per_step, whole_run, identity, rates = [], [], [], []
    for depth in _DEPTHS:
        start = near_zero_initialization(
            3, 4, depth, width=5, std=0.5, generator=generator, dtype=torch.float64
        )
        drifts = [_drifts(start, gradient_of, lr, round(1 / lr)) for lr in lrs]
        by_step, by_run, off = zip(*drifts, strict=True)
        per_step.append(local_exponents(lrs, by_step))
        whole_run.append(local_exponents(lrs, by_run))
        rows += [("one step", depth, *pair) for pair in zip(lrs, by_step, strict=True)]
        rows += [("whole run", depth, *pair) for pair in zip(lrs, by_run, strict=True)]
        identity += off
        times, sizes = _decay(rescaled_factors(start, 0.5), gradient_of)
        rates.append(-math.log(sizes[-1]) / times[-1] / (2 * _DECAY))
        rows += [("decay", depth, *pair) for pair in zip(times, sizes, strict=True)]
    return TheoryCheck(
        name="balance",
        statement=(
            "Gradient descent moves the imbalance of the factors by O(lr^2) per step; weight "
            "decay makes it decay."
        ),
        source="Arora, Cohen, Hazan (2018), Theorem 1 and its proof",
        measurements=(
            *_both_ends(
                "exponent of lr in the largest change of a gap in one step",
                [exponents[-1] for exponents in per_step],
                2,
                0.1,
            ),
            *_both_ends(
                "exponent of lr in the largest change over a run of lr * steps = 1",
                [exponents[-1] for exponents in whole_run],
                1,
                0.1,
            ),
            Measurement(
                "largest deviation of a gap from the exact one-step formula (gaps of order 1)",
                largest(identity),
                0.0,
                1e-12,
            ),
            *_both_ends(
                "rate at which weight decay shrinks the imbalance, over 2 * weight decay",
                rates,
                1,
                0.05,
            ),
        ),
        table=columns(("panel", "depth", "x", "value"), rows),
        notes=(
            "N = 2, 3, 5; factors of independent normal entries, of hidden width 5. An exponent is "
            f"that between lr = {lrs[-2]:g} and {lrs[-1]:g}; over a run it tends to 1 from "
            + ", ".join(
                f"{exponents[0]:.2f} at N = {depth}"
                for depth, exponents in zip(_DEPTHS, whole_run, strict=True)
            )
            + f" between lr = {lrs[0]:g} and {lrs[1]:g}.",
        ),
    )


def _drifts(
    start: Sequence[Tensor], gradient_of: GradientOf, lr: float, steps: int
) -> tuple[float, float, float]:
    """Largest change of a gap in one step and over the run, and distance from the formula."""
    path = descend_factors(start, gradient_of, lr, steps)
    gaps = [balance_gaps(now) for now in path]
    one_step = largest(_change(old, new) for old, new in itertools.pairwise(gaps))
    away = []
    for now, new in zip(path[:20], gaps[1:], strict=False):
        predicted = balance_gaps_after_step(now, gradient_of(factor_product(now)), lr)
        away.append(_change(predicted, new))
    return one_step, largest(_change(gaps[0], now) for now in gaps), largest(away)


def _change(old: Sequence[Tensor], new: Sequence[Tensor]) -> float:
    return largest(torch.linalg.matrix_norm(b - a).item() for a, b in zip(old, new, strict=True))


def _decay(start: Sequence[Tensor], gradient_of: GradientOf) -> tuple[list[float], list[float]]:
    """Times, and the largest imbalance over that at the start, under weight decay."""
    lr, every = 2e-3, 50
    path = descend_factors(start, gradient_of, lr, 1000, _DECAY)
    sizes = [imbalance(now).max().item() for now in path[::every]]
    return [lr * every * k for k in range(len(sizes))], [size / sizes[0] for size in sizes]


def _both_ends(
    what: str, values: Sequence[float], expected: float, tolerance: float
) -> tuple[Measurement, Measurement]:
    """The smallest and the largest of values that should all be as expected."""
    low, high = expected - tolerance, expected + tolerance
    return (
        Measurement(f"smallest {what}", smallest(values), low, high),
        Measurement(f"largest {what}", largest(values), low, high),
    )
