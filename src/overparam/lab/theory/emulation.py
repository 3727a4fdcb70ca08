"""Theorem 1: gradient descent on balanced factors moves their product by the end-to-end rule."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import altair as alt
import torch
from torch import Tensor

from overparam.factors.balance import balanced_factors, imbalance
from overparam.factors.product import factor_product
from overparam.lab.theory.check import Point, Row, TheoryCheck, chart_rows, evidence_of, largest
from overparam.lab.theory.theme import apart, chosen, lines, log_scaled
from overparam.rule.unbalanced import Imbalance
from overparam.theory.descent import descend_factors
from overparam.theory.emulation import emulation_error, rescaled_factors, rotated_factors
from overparam.theory.losses import GradientOf, fit_to

_DEPTHS = (2, 3, 4, 8)
_SHAPES = ((3, 4), (4, 2))
_PROBLEMS = 3
_HORIZON = 0.4  # lr * steps of every run
_LRS = tuple(0.1 / 2**k for k in range(7))
_STRETCHES = (0.2, 0.1, 0.05, 0.025, 0.0125)


def check() -> TheoryCheck:
    """Compare explicit products with the rule over depth, learning rate, width and imbalance."""
    generator = torch.Generator().manual_seed(1)
    points: list[Point] = []
    in_lr, in_imbalance, stays, spreads = [], [], [], []
    for shape, depth in itertools.product(_SHAPES, _DEPTHS):
        start, target = torch.randn(2, _PROBLEMS, *shape, generator=generator, dtype=torch.float64)
        start, gradient_of = start / 2, fit_to(target, 0.5)
        names = [f"{shape[0]} x {shape[1]}, problem {k + 1}" for k in range(_PROBLEMS)]
        dense = rotated_factors(balanced_factors(start, depth), generator)
        errors = errors_at(_HORIZON, dense, gradient_of, _LRS)
        in_lr.append((errors[:-1] / errors[1:]).log2())
        spreads.append(_spread_over_widths(start, gradient_of, depth, generator))
        points += _lines("learning rate", depth, names, torch.tensor(_LRS), errors)
        points += _lines("exponent", depth, names, torch.tensor(_LRS[1:]), in_lr[-1])

        off = [rescaled_factors(dense, stretch) for stretch in _STRETCHES]
        gaps = torch.stack([imbalance(factors).amax(-1) for factors in off])
        stacked = [torch.stack(parts) for parts in zip(*off, strict=True)]
        missed = errors_at(_HORIZON, stacked, gradient_of, _LRS[-2:])  # (lrs, stretches, problems)
        added = _added_by_imbalance(dense, stacked, gradient_of)  # (stretches, problems)
        in_imbalance.append((added[:-1] / added[1:]).log() / (gaps[:-1] / gaps[1:]).log())
        stays.append((missed[0] / missed[1]).log2()[0])
        points += _lines("imbalance", depth, names, gaps, missed[-1])
    from_one = (torch.stack(in_lr) - 1).abs().amax((0, 2))  # one for each halving of lr
    off_one = (torch.stack(in_imbalance) - 1).abs().amax((0, 2))
    measured = {
        "largest distance from 1 of the exponent of lr in the relative error at fixed time, "
        f"between lr = {_LRS[-2]:g} and {_LRS[-1]:g}": (0, from_one[-1].item(), 0.1),
        "that distance over its value at twice the lr: 1/2 if the exponent tends to 1": (
            0.3,
            (from_one[-1] / from_one[-2]).item(),
            0.7,
        ),
        "largest relative spread of the product over hidden widths 1 to 10 x min(m, n)": (
            0,
            largest(spreads),
            1e-10,
        ),
        "unbalanced start: largest distance from 1 of the exponent of the imbalance in what it "
        "adds to the error, at the smallest imbalance": (0, off_one[-1].item(), 0.1),
        "that distance over its value at twice the imbalance": (
            0.3,
            (off_one[-1] / off_one[-2]).item(),
            0.7,
        ),
        "unbalanced start: largest exponent of lr in the error at the largest imbalance: 0 if "
        "the error stays, however small lr is": (0, torch.stack(stays).abs().max().item(), 0.1),
    }
    return TheoryCheck(
        name="emulation",
        claim=(
            "Gradient descent on N balanced factors moves their product as the end-to-end rule "
            "does, up to O(lr), whatever the hidden width; on unbalanced factors it does not."
        ),
        source="Arora, Cohen, Hazan (2018), Theorem 1",
        evidence=evidence_of(measured),
        rows=chart_rows(("panel", "depth", "run", "x", "value"), points),
        notes=(
            f"N = 2, 3, 4, 8; weights 3 x 4 and 4 x 2; {_PROBLEMS} random problems of each; every "
            f"run ends at lr * steps = {_HORIZON:g}.",
            "An exponent compares two runs, one at half the learning rate (or imbalance) of the "
            "other. Its largest distance from 1 falls with the learning rate: "
            + ", ".join(
                f"{value:.2g} at {lr:g}"
                for lr, value in zip(_LRS[1:], from_one.tolist(), strict=True)
            )
            + ". The theorem is about small learning rates; large ones have other exponents.",
            "Unbalanced: the first factor is multiplied by e^s and the last divided by it, s from "
            f"{_STRETCHES[-1]:g} to {_STRETCHES[0]:g}; the product at the start stays the same. "
            "What imbalance adds is the distance from the balanced run at the same lr.",
        ),
    )


def errors_at(
    time: float,
    factors: Sequence[Tensor],
    gradient_of: GradientOf,
    lrs: Sequence[float],
    imbalance: Imbalance = 0.0,
) -> Tensor:
    """Errors at a time ``lr * steps`` at every learning rate, ``(lrs, leading dimensions)``."""
    lr = torch.tensor(lrs, dtype=torch.float64).reshape(-1, *(1,) * (factors[0].ndim - 2))
    copies = [factor.expand(len(lrs), *factor.shape) for factor in factors]
    return emulation_error(copies, gradient_of, lr, (time / lr).round(), imbalance)


def _added_by_imbalance(
    balanced: Sequence[Tensor], unbalanced: Sequence[Tensor], gradient_of: GradientOf
) -> Tensor:
    """Largest relative distance between the two products over a run."""
    plain, other = (
        torch.stack([factor_product(now) for now in descend_factors(start, gradient_of, 0.01, 40)])
        for start in (balanced, unbalanced)
    )
    away = torch.linalg.matrix_norm(other - plain[:, None]).amax(0)
    return away / torch.linalg.matrix_norm(plain).amax(0)


def _spread_over_widths(
    start: Tensor, gradient_of: GradientOf, depth: int, generator: torch.Generator
) -> float:
    """Largest relative distance between products after 40 steps, over hidden widths."""
    least = min(start.shape[-2:])
    ends = []
    for times in (1, 2, 4, 10):
        wide = rotated_factors(balanced_factors(start, depth, least * times), generator)
        ends.append(factor_product(descend_factors(wide, gradient_of, 0.01, 40)[-1]))
    away = torch.stack(ends[1:]) - ends[0]
    return (torch.linalg.matrix_norm(away) / torch.linalg.matrix_norm(ends[0])).max().item()


def _lines(panel: str, depth: int, names: Sequence[str], x: Tensor, values: Tensor) -> list[Point]:
    """The points of one panel, a line for each column of ``values (points, problems)``."""
    pairs = torch.stack((x.reshape(len(x), -1).expand(values.shape), values), -1)
    named = zip(names, pairs.transpose(0, 1).tolist(), strict=True)
    return [(panel, depth, name, *pair) for name, line in named for pair in line]


def chart(rows: Sequence[Row]) -> alt.ConcatChart:
    """Distance from the rule against the learning rate and the imbalance, and its exponent."""
    by_lr, by_gap = chosen(rows, panel="learning rate"), chosen(rows, panel="imbalance")
    lr = log_scaled(alt.X, "x", "Learning rate", by_lr)
    gap = log_scaled(alt.X, "x", "Imbalance at the start", by_gap)
    small, missed = (
        log_scaled(alt.Y, "value", "Relative distance from the rule", data)
        for data in (by_lr, by_gap)
    )
    exponent = alt.Y("value:Q", title="Exponent of the learning rate").scale(zero=False)
    panels = (
        (by_lr, lr, small, "Balanced: the error falls as lr"),
        (chosen(rows, panel="exponent"), lr, exponent, "Balanced: the exponent tends to 1"),
        (by_gap, gap, missed, "Unbalanced: the error grows with the imbalance"),
    )
    parts = [
        lines(data, title, size=16, strokeWidth=1.2, opacity=0.8).encode(
            x=x, y=y, detail="run:N", **apart("depth", "Depth N")
        )
        for data, x, y, title in panels
    ]
    return alt.concat(*parts, columns=2, spacing=40)
