"""Section 7: why depth speeds up L_p regression for p > 2, on two orthonormal points.

In the loss ``1/p sum_i |w_i - y_i|^p`` each of the two coordinates has its own curvature. The
learning rate of gradient descent is limited by the steeper one, so the other moves slowly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from overparam.lab.theory.acceleration_chart import chart
from overparam.lab.theory.check import Point, TheoryCheck, chart_rows, evidence_of, largest
from overparam.lab.theory.jump_runs import measured_acceleration, window_of_jump
from overparam.lab.theory.tuning import (
    DEPTHS,
    best_of_depths,
    starts,
    steady_counts,
    tuned_iterations,
)
from overparam.lab.theory.two_point_runs import HOLD, MAX_STEPS, late_rate, measured_threshold
from overparam.theory.acceleration_bound import acceleration_bound
from overparam.theory.two_points import curvature, divergence_threshold

__all__ = ["chart", "check"]

_NAMES = ("GD", *(f"N = {depth:g}" for depth in DEPTHS[1:]), "AdaGrad", "Adam")  # of the methods
_POWERS = (2.0, 4.0, 6.0, 8.0)
_RATIOS = (1.25, 1.5, 2.0, 2.5)
_LRS_PER_DECADE = 8
# The largest learning rate of the cautious comparison at p = 2, as a share of 1 / curvature.
_CAUTION = 0.5
_SHARES = (0.25, 0.5, 0.75)
# The starts, depths, ratios and steps of the comparison that is repeated from other starts.
_LENGTHS, _TURNS = (0.001, 0.01, 0.1), (25.0, 70.0)
_FEW_DEPTHS, _FEW_RATIOS, _FEW_STEPS = (1.0, 1.5, 2.0, 3.0), (1.25, 2.5), 800
# Appendix B: the large target, and the first coordinate at the start.
_BOUND_CASES = ((100.0, 0.02), (100.0, 0.05), (1000.0, 0.005))


def check() -> TheoryCheck:
    """Find divergence thresholds, tune every method and map the speed-up; repeat from other starts.

    Example:
        The map in small: depth 1.5 is faster than gradient descent at p = 6 and slower at p = 2,
        each at its best of nine learning rates.

        >>> lrs = torch.logspace(-2, 0, 9)
        >>> methods = [(0.0, 1.0), (0.0, 1.5)]
        >>> curves = tuned_iterations(lrs, (2, 6), (2.5,), methods, max_steps=300)
        >>> (best_of_depths(curves) > 1).flatten()
        tensor([False,  True])
    """
    errors = []
    for power in _POWERS:
        for y in (0.5, 1.0, 2.0, 3.0):
            expected = divergence_threshold(y, power)
            errors.append(abs(measured_threshold(y, power) / expected - 1))
    lrs = torch.logspace(-3, 2, 5 * _LRS_PER_DECADE + 1, dtype=torch.float64)
    curves = tuned_iterations(lrs, _POWERS, _RATIOS)
    repeated = _from_other_starts(lrs)
    over_starts = best_of_depths(repeated)  # (starts, powers, ratios)
    bound = [
        abs(measured_acceleration(*case) / acceleration_bound(*case) - 1) for case in _BOUND_CASES
    ]
    tuned, deep = best_of_depths(curves[:, :, : len(DEPTHS)]), curves[0, :, : len(DEPTHS)]
    late = largest(
        _late_speed_up(depth, ratio, share=share)
        for depth in DEPTHS[1:]
        for ratio in _RATIOS
        for share in _SHARES
    )
    cautious = largest(_cautious_speed_up(each, lrs, _CAUTION) for each in (deep, repeated[:, 0]))
    measured = {
        "largest relative error of 2 / y^(p-2) as the divergence threshold, p = 2 to 8": (
            0,
            largest(errors),
            1e-5,
        ),
        "appendix B (p = 4, N = 2): largest relative difference between y1 / (4 eps1) and the "
        "learning rate of y2 over gradient descent's threshold": (0, largest(bound), 0.02),
        "p = 2: largest speed-up of the best depth, at tuned lr, any y1/y2, all starts": (
            0,
            largest((tuned[0].max().item(), over_starts[:, 0].max().item())),
            1,
        ),
        "p = 2 near the optimum, in log loss per step: largest speed-up of any depth, each "
        f"method at the same share of 1 / its own curvature ({_words(_SHARES)}), any "
        "y1/y2": (0, late, 1),
        f"p = 2, learning rates up to {_CAUTION:g} / curvature of gradient descent: largest "
        "speed-up of any depth above 1 in iterations, any y1/y2, all starts": (0, cautious, 1.05),
        **{
            f"p = {power:g}, y1/y2 = {_FEW_RATIOS[-1]:g}: speed-up of the best depth, at tuned lr, "
            "smallest over all starts": (1.1, over_starts[:, i, -1].min().item(), math.inf)
            for i, power in enumerate(_POWERS[1:], start=1)
        },
        "p = 4, 6, 8: smallest over y1/y2 of the best depth's speed-up, at tuned lr": (
            1,
            tuned[1:].min().item(),
            math.inf,
        ),
    }
    return TheoryCheck(
        name="acceleration",
        claim=(
            "On two orthonormal points, gradient descent diverges above 2 / y^(p-2), and depth "
            "speeds up training for p > 2 but not for p = 2."
        ),
        source="Arora, Cohen, Hazan (2018), section 7 and appendix B",
        evidence=evidence_of(measured),
        rows=chart_rows(
            ("panel", "power", "ratio", "method", "lr", "value"),
            [*_map_points(lrs, curves), *_start_points(over_starts)],
        ),
        notes=_notes(lrs, curves, over_starts),
    )


def _from_other_starts(lrs: Tensor) -> Tensor:
    """Curves of gradient descent and few depths, ``(starts, powers, ratios, methods, lrs)``.

    Slow runs are cut off where that cannot change which method is best, or by how much.
    """
    methods = [(0.0, depth) for depth in _FEW_DEPTHS]
    begin = torch.stack([starts(length, turn) for length in _LENGTHS for turn in _TURNS])
    by_power = []
    for power in _POWERS:
        for steps in (_FEW_STEPS, MAX_STEPS):
            curves = tuned_iterations(lrs, [power], _FEW_RATIOS, methods, begin, steps)
            best = steady_counts(curves).amin(-1)
            slowest = torch.maximum(best[..., 0], best[..., 1:].amin(-1)).max()
            # A learning rate at which one start was cut off has a larger mean than this.
            if slowest <= steps / begin.shape[-2]:
                break
        by_power.append(curves)
    return torch.cat(by_power, dim=1)


def _map_points(lrs: Tensor, curves: Tensor) -> list[Point]:
    """Speed-ups of every method over gradient descent, 0 if it did not arrive; and its curves."""
    best = steady_counts(curves).amin(-1)
    speed_up = best[:, :, :1] / best
    speed_up = torch.where(speed_up.isfinite(), speed_up, 0.0)
    points: list[Point] = []
    for i, power in enumerate(_POWERS):
        for k, name in enumerate(_NAMES):
            for j, ratio in enumerate(_RATIOS):
                points.append(("map", power, ratio, name, 0.0, speed_up[i, j, k].item()))
            pairs = zip(lrs.tolist(), curves[i, -1, k].tolist(), strict=True)
            points += [
                ("curve", power, _RATIOS[-1], name, lr, count)
                for lr, count in pairs
                if math.isfinite(count)
            ]
    return points


def _start_points(over_starts: Tensor) -> list[Point]:
    """The best depth's speed-up from every set of starts."""
    names = [f"length {length:g}, turned by {turn:g}" for length in _LENGTHS for turn in _TURNS]
    return [
        ("starts", power, ratio, name, 0.0, over_starts[k, i, j].item())
        for k, name in enumerate(names)
        for i, power in enumerate(_POWERS)
        for j, ratio in enumerate(_FEW_RATIOS)
    ]


def _cautious_speed_up(curves: Tensor, lrs: Tensor, highest: float) -> float:
    """Largest speed-up of a depth above 1, with learning rates up to the highest."""
    steady = steady_counts(curves)
    best = steady[..., lrs <= highest * (1 + 1e-9)].amin(-1)
    return (best[..., :1] / best[..., 1:]).max().item()


def _late_speed_up(depth: float, ratio: float, share: float = 0.0, lr: float = 0.0) -> float:
    """Late rate of a depth over gradient descent's, each at ``lr + share / its curvature``."""
    targets = torch.tensor([ratio, 1.0], dtype=torch.float64)
    deep, plain = (late_rate(n, lr + share / curvature(n, targets), targets) for n in (depth, 1.0))
    return deep / plain


def _words(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)


def _notes(lrs: Tensor, curves: Tensor, over_starts: Tensor) -> tuple[str, ...]:
    best = steady_counts(curves).amin(-1)
    notes = [
        f"Every method is tuned over the same {len(lrs)} learning rates, {lrs[0]:g} to "
        f"{lrs[-1]:g}, so a speed-up is accurate to about {lrs[1] / lrs[0] - 1:.0%}. The count at "
        "a learning rate is the mean over 4 starts of length 0.01 in different directions, or that "
        "of a neighbour on the grid if it is worse: a single lucky learning rate does not count. "
        "The target is the loss of missing the smaller y by half.",
        f"A run arrives at the first step from which its loss stays at or below the target for "
        f"{HOLD} steps; touching the target and leaving does not count. That step must be within "
        f"{MAX_STEPS}: grey cells and 'inf' mean that no learning rate and its neighbours did so, "
        "not that none ever would with more steps.",
        _note_on_starts(over_starts),
        _note_on_the_bound(),
        *_notes_on_two(curves, lrs),
    ]
    for i, power in enumerate(_POWERS):
        counts = ", ".join(
            f"{name}: {count:.4g}" for name, count in zip(_NAMES, best[i, -1].tolist(), strict=True)
        )
        notes.append(
            f"p = {power:g}, y1/y2 = {_RATIOS[-1]:g}, iterations at tuned learning rates: {counts}."
        )
    compared = (best[1:, :, :1] / best[1:])[:, :, 1 : len(DEPTHS)]
    late = (compared == 0).double().mean().item()
    slower = ((compared < 1) & (compared > 0)).double().mean().item()
    notes.append(
        f"For p > 2, {slower:.0%} of the depths' cells show a slow-down and {late:.0%} did not "
        f"arrive within {MAX_STEPS} steps."
    )
    return tuple(notes)


def _note_on_starts(over_starts: Tensor) -> str:
    ranges, changing = [], []
    for i, power in enumerate(_POWERS):
        for j, ratio in enumerate(_FEW_RATIOS):
            low, high = over_starts[:, i, j].aminmax()
            case = f"p = {power:g}, y1/y2 = {ratio:g}"
            ranges.append(f"{case}: {low:.2g} to {high:.2g}")
            if low < 1 < high:
                changing.append(case)
    return (
        "The starts of the map were chosen after the first runs. So the comparison of gradient "
        f"descent with depths {_words(_FEW_DEPTHS[1:])} was repeated from starts of length "
        f"{_words(_LENGTHS)}, each in two sets of directions. The best depth's speed-up, smallest "
        f"to largest: {'; '.join(ranges)}. Its size depends on the start; whether it is above 1 "
        + (f"does too at {'; '.join(changing)}." if changing else "does not, in any of these.")
    )


def _note_on_the_bound() -> str:
    target, start = _BOUND_CASES[1]
    return (
        "Appendix B: its learning rate takes the first coordinate to y1 in a single step. At y1 = "
        f"{target:g} and eps1 = {start:g}, the run leaves y1 again if that learning rate is raised "
        f"by {window_of_jump(target, start):.1%} (sqrt(2 eps1 / y1) is "
        f"{math.sqrt(2 * start / target):.1%}): the bound holds in a narrow range of learning "
        "rates."
    )


def _notes_on_two(curves: Tensor, lrs: Tensor) -> tuple[str, str]:
    plain = curves[0, :, : len(DEPTHS)]
    own, small = (_cautious_speed_up(plain, lrs, highest) for highest in (_CAUTION, 0.1))
    same = _late_speed_up(2.0, _RATIOS[-1], lr=0.1)
    return (
        "p = 2 at tuned learning rates: on orthonormal points, gradient descent at learning rate 1 "
        "is exact after one step, so hardly anything could be faster. Near the optimum it has one "
        "curvature, and depth N spreads that by a factor of N.",
        "p = 2 with the same bound on the learning rates of all methods: the result depends on the "
        f"bound and the start. Up to {_CAUTION:g} / curvature of gradient descent, the largest "
        f"speed-up from the map's starts is {own:.3g}; up to 0.1 / curvature it is {small:.3g}. "
        f"Near the optimum, both at learning rate 0.1 and y1/y2 = {_RATIOS[-1]:g}, depth 2 "
        f"decreases the log loss per step {same:.3g} times as fast as gradient descent. There its "
        "factor |w|^(2-2/N) acts as a larger learning rate, which tuning gives every method.",
    )
