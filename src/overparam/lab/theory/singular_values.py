"""Singular values under depth: the larger ones grow faster."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import torch

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
from overparam.lab.theory.theme import apart, chosen, lines, log_scaled
from overparam.rule.reference import end_to_end_update
from overparam.theory.descent import descend_end_to_end
from overparam.theory.losses import fit_to
from overparam.theory.singular_values import singular_value_velocity, velocity_error

_VELOCITY_DEPTHS = (1.0, 1.5, 2.0, 3.0, 4.0)
_EVERY = 30  # steps between two points of the chart
_ByCase = dict[tuple[float, float], float]


def check() -> TheoryCheck:
    """Check the velocity along runs, and complete a matrix of rank 2 at several depths."""
    generator = torch.Generator().manual_seed(5)
    start = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    gradient_of = fit_to(torch.randn(3, 4, generator=generator, dtype=torch.float64))
    lrs, depth = [0.01 / 2**k for k in range(4)], torch.tensor(_VELOCITY_DEPTHS).double()
    errors = torch.stack(
        [velocity_error(start, gradient_of, depth, lr, round(0.2 / lr)) for lr in lrs]
    )
    exponents = [power_law_exponent(lrs, line) for line in errors.mT.tolist()]
    gradient, h = gradient_of(start), 1e-6
    move = h * end_to_end_update(start, gradient, depth)
    ahead, behind = torch.linalg.svdvals(start - move), torch.linalg.svdvals(start + move)
    predicted = singular_value_velocity(start, gradient, depth)
    away = (ahead - behind) / (2 * h) - predicted
    exact = (away.abs().amax(-1) / predicted.abs().amax(-1)).max().item()
    depths, scales = (1.0, 2.0, 3.0), (1e-1, 1e-3)
    points, ratios, fitted, recovered = _completion(depths, scales, generator)
    measured = {
        "largest relative difference between the formula and central differences": (0, exact, 1e-6),
        "smallest exponent of lr in the error along a run, N = 1 to 4": (
            0.8,
            smallest(exponents),
            1.2,
        ),
        "largest exponent of lr, same runs": (0.8, largest(exponents), 1.2),
        "completing a matrix of rank 2 from scale 0.001: ratio of third to first singular value "
        "at N = 3, over that at N = 1": (0, ratios[3.0, 1e-3] / ratios[1.0, 1e-3], 0.5),
        "that ratio at N = 3 from scale 0.001, over the ratio from scale 0.1": (
            0,
            ratios[3.0, 1e-3] / ratios[3.0, 1e-1],
            0.5,
        ),
        # Without this, a run that has not learned anything yet would count as one of low rank.
        "largest relative error on the observed entries at the end of these runs": (
            0,
            largest(fitted.values()),
            0.05,
        ),
    }
    return TheoryCheck(
        name="singular values",
        claim=(
            "Under the end-to-end flow a singular value moves at -N sigma^(2-2/N) <G, u v^T>: "
            "large ones grow faster, so depth and small initialization lower the rank."
        ),
        source="Arora, Cohen, Hu, Luo (2019), Theorem 3",
        evidence=evidence_of(measured),
        rows=chart_rows(("depth", "scale", "time", "rank", "value"), points),
        notes=(
            "Relative error on the entries that were not observed, at the end from scale 0.001: "
            + ", ".join(f"{recovered[depth, 1e-3]:.2g} at N = {depth:g}" for depth in depths)
            + ".",
        ),
    )


def _completion(
    depths: Sequence[float], scales: Sequence[float], generator: torch.Generator
) -> tuple[list[Point], _ByCase, _ByCase, _ByCase]:
    """Complete a 10 x 10 matrix of rank 2 from 60 % of its entries, all runs as one batch.

    Returns the points of the chart and, by (depth, scale), at the end: third over first singular
    value, relative error on the observed entries, relative error on the others.
    """
    size, rank, lr, steps = 10, 2, 0.2, 1500
    thin = torch.randn(2, size, rank, generator=generator, dtype=torch.float64)
    target = thin[0] @ thin[1].mT
    target = target / torch.linalg.matrix_norm(target, 2)
    seen = (torch.rand(size, size, generator=generator, dtype=torch.float64) < 0.6).double()
    noise = torch.randn(size, size, generator=generator, dtype=torch.float64) / size**0.5
    cases = [(depth, scale) for depth in depths for scale in scales]
    start = torch.stack([scale * noise for _, scale in cases])
    depth = torch.tensor([depth for depth, _ in cases], dtype=torch.float64)
    # The loss is divided by N, so that a singular value of 1 moves equally fast at every depth.
    path = descend_end_to_end(start, fit_to(target, seen / depth[:, None, None]), depth, lr, steps)
    singular = torch.linalg.svdvals(path[::_EVERY])  # (times, cases, size)
    points: list[Point] = []
    ratios, fitted, missed = {}, {}, {}
    for number, case in enumerate(cases):
        ratios[case] = (singular[-1, number, 2] / singular[-1, number, 0]).item()
        for errors, mask in ((fitted, seen), (missed, 1 - seen)):
            away = mask * (path[-1, number] - target)
            errors[case] = (away.norm() / (mask * target).norm()).item()
        for time, values in enumerate(singular[:, number, :5].clamp(min=1e-8).tolist()):
            points += [(*case, time * _EVERY * lr, r, value) for r, value in enumerate(values, 1)]
    return points, ratios, fitted, missed


def chart(rows: Sequence[Row]) -> alt.ConcatChart:
    """Singular values against time, a panel for each run."""
    parts = []
    for scale in sorted({row["scale"] for row in rows}, reverse=True):
        for depth in sorted({row["depth"] for row in rows}):
            run = chosen(rows, scale=scale, depth=depth)
            panel = lines(run, f"N = {depth:g}, start {scale:g}").encode(
                x=alt.X("time:Q", title="Time, lr * steps", axis=alt.Axis(tickCount=4)),
                y=log_scaled(alt.Y, "value", "Singular value", run, domain=[1e-4, 2], clamp=True),
                **apart("rank", "Rank r"),
            )
            parts.append(panel.properties(width=210, height=150))
    return alt.concat(*parts, columns=3).properties(
        title="Depth and a small start widen the gap below the target's rank of 2"
    )
