"""How far gradient descent moves factors away from balance."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import altair as alt
import torch
from torch import Tensor

from overparam.factors.balance import imbalance, near_zero_initialization
from overparam.factors.product import factor_product
from overparam.lab.charts.theme import INK
from overparam.lab.theory.check import (
    Point,
    Row,
    TheoryCheck,
    chart_rows,
    evidence_of,
    largest,
    power_law_exponent,
    smallest,
)
from overparam.lab.theory.theme import chosen, colour, lines, log_scaled
from overparam.theory.balance_along_descent import balance_gaps, balance_gaps_after_step
from overparam.theory.descent import descend_factors
from overparam.theory.emulation import rescaled_factors
from overparam.theory.losses import GradientOf, fit_to

_DEPTHS = (2, 3, 5)
_DECAY = 0.5


def check() -> TheoryCheck:
    """Follow the gaps along descent at falling learning rates, and under weight decay.

    Example:
        >>> print(check().verdict)
        yes
    """
    generator = torch.Generator().manual_seed(2)
    gradient_of = fit_to(torch.randn(3, 4, generator=generator, dtype=torch.float64))
    points: list[Point] = []
    lrs = [0.02 / 2**k for k in range(4)]
    per_step, whole_run, first, identity, decays = [], [], [], [], []
    for depth in _DEPTHS:
        start = near_zero_initialization(
            3, 4, depth, width=5, std=0.5, generator=generator, dtype=torch.float64
        )
        drifts = [_drifts(start, gradient_of, lr, round(1 / lr)) for lr in lrs]
        by_step, by_run, off = zip(*drifts, strict=True)
        per_step.append(power_law_exponent(lrs[-2:], by_step[-2:]))
        whole_run.append(power_law_exponent(lrs[-2:], by_run[-2:]))
        first.append(power_law_exponent(lrs[:2], by_run[:2]))
        points += [("one step", depth, *pair) for pair in zip(lrs, by_step, strict=True)]
        points += [("whole run", depth, *pair) for pair in zip(lrs, by_run, strict=True)]
        identity += off
        times, sizes = _decay(rescaled_factors(start, 0.5), gradient_of)
        decays.append(-math.log(sizes[-1]) / times[-1] / (2 * _DECAY))
        points += [("decay", depth, *pair) for pair in zip(times, sizes, strict=True)]
    measured = (
        _both_ends("exponent of lr in the largest change of a gap in one step", per_step, 2, 0.1)
        | _both_ends(
            "exponent of lr in the largest change over a run of lr * steps = 1", whole_run, 1, 0.1
        )
        | {
            "largest difference between a gap and the exact one-step formula (gaps of order 1)": (
                0,
                largest(identity),
                1e-12,
            )
        }
        | _both_ends(
            "rate at which weight decay shrinks the imbalance, over 2 * weight decay",
            decays,
            1,
            0.05,
        )
    )
    return TheoryCheck(
        name="balance",
        claim=(
            "Gradient descent changes the imbalance of the factors by O(lr^2) per step; weight "
            "decay shrinks it."
        ),
        source="Arora, Cohen, Hazan (2018), Theorem 1 and its proof",
        evidence=evidence_of(measured),
        rows=chart_rows(("panel", "depth", "x", "value"), points),
        notes=(
            "N = 2, 3, 5; factors with independent normal entries, hidden width 5. The exponents "
            f"are those between lr = {lrs[-2]:g} and {lrs[-1]:g}; over a run it tends to 1 from "
            + ", ".join(
                f"{exponent:.2f} at N = {depth}"
                for depth, exponent in zip(_DEPTHS, first, strict=True)
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
    one_step = largest(change(old, new) for old, new in itertools.pairwise(gaps))
    away = []
    for now, new in zip(path[:20], gaps[1:], strict=False):
        predicted = balance_gaps_after_step(now, gradient_of(factor_product(now)), lr)
        away.append(change(predicted, new))
    return one_step, largest(change(gaps[0], now) for now in gaps), largest(away)


def change(old: Sequence[Tensor], new: Sequence[Tensor]) -> float:
    """The largest change of a gap between neighbours."""
    return largest(torch.linalg.matrix_norm(b - a).item() for a, b in zip(old, new, strict=True))


def _decay(start: Sequence[Tensor], gradient_of: GradientOf) -> tuple[list[float], list[float]]:
    """Times, and the largest imbalance over its value at the start, under weight decay."""
    lr, every = 2e-3, 50
    path = descend_factors(start, gradient_of, lr, 1000, _DECAY)
    sizes = [imbalance(now).max().item() for now in path[::every]]
    return [lr * every * k for k in range(len(sizes))], [size / sizes[0] for size in sizes]


def _both_ends(
    what: str, values: Sequence[float], expected: float, tolerance: float
) -> dict[str, tuple[float, float, float]]:
    """The smallest and the largest of values that should all be as expected."""
    low, high = expected - tolerance, expected + tolerance
    ends = {"smallest": smallest(values), "largest": largest(values)}
    return {f"{end} {what}": (low, value, high) for end, value in ends.items()}


def chart(rows: Sequence[Row]) -> alt.HConcatChart:
    """Change of the gaps against the learning rate, and the imbalance under weight decay."""
    drifts = [row for row in rows if row["panel"] != "decay"]
    decay = chosen(rows, panel="decay")
    left = lines(drifts, "Drift: lr² in one step, lr over a run", size=50).encode(
        x=log_scaled(alt.X, "x", "Learning rate", drifts),
        y=log_scaled(alt.Y, "value", "Largest change of a gap", drifts),
        color=colour("depth", "Depth N"),
        shape=alt.Shape("depth:N", title="Depth N"),
        strokeDash=alt.StrokeDash(
            "panel:N",
            title="Change in",
            legend=alt.Legend(symbolStrokeColor=INK),
        ),
    )
    right = lines(decay, "Weight decay 0.5 removes the imbalance, at every depth").encode(
        x=alt.X("x:Q", title="Time, lr * steps"),
        y=log_scaled(alt.Y, "value", "Imbalance / imbalance at the start", decay),
        color=colour("depth", "Depth N"),
    )
    return alt.hconcat(left, right, spacing=40)
