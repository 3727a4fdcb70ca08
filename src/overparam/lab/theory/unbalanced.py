"""The family of Theorem 1: descent on unbalanced factors moves their product by its own rule."""

from __future__ import annotations

import math
from collections.abc import Sequence

import altair as alt
import torch
from torch import Tensor

from overparam.factors.balance import balanced_factors
from overparam.lab.theory.balance import change
from overparam.lab.theory.check import (
    Point,
    Row,
    TheoryCheck,
    chart_rows,
    evidence_of,
    largest,
    power_law_exponent,
)
from overparam.lab.theory.emulation import errors_at
from overparam.lab.theory.theme import apart, chosen, lines, log_scaled
from overparam.rule.reference import end_to_end_update
from overparam.theory.balance_along_descent import balance_gaps
from overparam.theory.descent import descend_factors
from overparam.theory.emulation import emulation_error
from overparam.theory.losses import fit_to

_CASES = (
    ((3, 4), (0.0, 0.7)),
    ((3, 4), (0.7, 0.0)),
    ((4, 2), (0.7, 0.0)),
    ((3, 4), (0.0, 1.0, 0.5)),
    ((4, 2), (1.0, 0.0, 0.5)),
)
_HORIZON = 0.1  # lr * steps of every run
_LRS = (5e-2, 5e-3, 5e-4, 5e-5)
_SIZES = (1e1, 1e2, 1e3, 1e4)


def check() -> TheoryCheck:
    """Compare unbalanced factors with their rule, over learning rate, sign, depth and shape."""
    generator = torch.Generator().manual_seed(1)
    points: list[Point] = []
    slopes, balanced, drifts, limits = [], [], [], []
    for shape, offsets in _CASES:
        start, target = torch.randn(2, *shape, generator=generator, dtype=torch.float64) / 2
        gradient_of, depth = fit_to(target, 0.5), len(offsets)
        factors = balanced_factors(start, depth, imbalance=offsets)
        name = f"{shape[0]} x {shape[1]}, " + ", ".join(f"{offset:g}" for offset in offsets)
        errors = errors_at(_HORIZON, factors, gradient_of, _LRS, offsets).tolist()
        slopes.append(power_law_exponent(_LRS, errors))
        wrong = emulation_error(factors, gradient_of, _LRS[2], round(_HORIZON / _LRS[2]))
        balanced.append(wrong.item() / errors[2])
        points += [("learning rate", name, *pair) for pair in zip(_LRS, errors, strict=True)]
        steps = [descend_factors(factors, gradient_of, lr, 1) for lr in _LRS]
        drifts.append(power_law_exponent(_LRS, [change(*map(balance_gaps, s)) for s in steps]))
        if depth == 2:
            away = [_from_gradient(start, gradient_of(start), offsets, size) for size in _SIZES]
            limits.append(power_law_exponent(_SIZES, away))
            points += [("limit", name, *pair) for pair in zip(_SIZES, away, strict=True)]
    measured = {
        "largest distance from 1 of the exponent of lr in the relative error at fixed time, "
        "over three decades": (0, _farthest(slopes, 1), 0.1),
        f"smallest quotient at lr = {_LRS[2]:g} of the distance from the balanced rule "
        "and that from the unbalanced one": (10, min(balanced), math.inf),
        "largest distance from 2 of the exponent of lr in the change of the imbalance in one "
        "step": (0, _farthest(drifts, 2), 0.1),
        "largest distance from -2 of the exponent of lam in the distance of D / |lam| from the "
        "gradient": (0, _farthest(limits, -2), 0.1),
    }
    return TheoryCheck(
        name="imbalance",
        claim=(
            "Gradient descent on factors out of balance by multiples of the identity moves their "
            "product by the rule with that imbalance, up to O(lr)."
        ),
        source="Arora, Cohen, Hazan (2018), Theorem 1, for factors that are not balanced",
        evidence=evidence_of(measured),
        rows=chart_rows(("panel", "run", "x", "value"), points),
        notes=(
            "Offsets l_j in W_{j+1}^T W_{j+1} - W_j W_j^T = (l_{j+1} - l_j) I: N = 2 with both "
            f"signs and N = 3, wide and tall weights; every run ends at lr * steps = {_HORIZON:g}.",
        ),
    )


def _farthest(values: Sequence[float], expected: float) -> float:
    return largest(abs(value - expected) for value in values)


def _from_gradient(
    weight: Tensor, gradient: Tensor, offsets: Sequence[float], size: float
) -> float:
    """Relative distance of ``D / |lam|`` from the gradient at a large imbalance."""
    shifts = [size * (offset > 0) for offset in offsets]
    update = end_to_end_update(weight, gradient, len(shifts), imbalance=shifts) / size
    return ((update - gradient).norm() / gradient.norm()).item()


def chart(rows: Sequence[Row]) -> alt.HConcatChart:
    """Distance from the rule against the learning rate, and from the gradient against lam."""
    by_lr, by_size = chosen(rows, panel="learning rate"), chosen(rows, panel="limit")
    left = lines(by_lr, "The error falls as lr", size=30).encode(
        x=log_scaled(alt.X, "x", "Learning rate", by_lr),
        y=log_scaled(alt.Y, "value", "Relative distance from the rule", by_lr),
        **apart("run", "Weight, offsets"),
    )
    right = lines(by_size, "A large imbalance is gradient descent", size=30).encode(
        x=log_scaled(alt.X, "x", "Imbalance lam", by_size),
        y=log_scaled(alt.Y, "value", "Relative distance from the gradient", by_size),
        **apart("run", "Weight, offsets"),
    )
    return alt.hconcat(left, right, spacing=40)
