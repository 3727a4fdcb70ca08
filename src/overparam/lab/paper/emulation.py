"""Does the end-to-end rule train as explicit layers do, whatever their width?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import polars as pl

from overparam.lab.paper.chapter import Chapter, PartResult
from overparam.lab.paper.measurements import (
    above_round_off,
    curve_gap,
    has_left_start,
    is_near_start,
    largest_lags,
    seed_distances,
    tuned_distances,
)
from overparam.lab.paper.studies import FIXED_RATES, WIDE
from overparam.lab.paper.tables import distances_against_authors, series, series_chart
from overparam.lab.paper.verdict import Claim, Finding, order, within
from overparam.lab.report.page import Section

PARTS = ("l2-fixed", "l2-fixed-wide", "l4-fixed", "l4-fixed-wide")

_AUTHORS_ITERATIONS = 250_000
_AUTHORS = {
    "l2": {"gd": "not shown", "factors:2": "1.2e-2", "factors:3": "9e-3"},
    "l4": {"gd": "not shown", "factors:2": "0.21", "factors:3": "0.145"},
}
# Two curves within 10 % of each other are one curve to the eye, on the paper's axes too.
_SAME = 1.1


def chapter(results: Mapping[str, PartResult]) -> Chapter:
    """The claims and sections of the experiment at one learning rate."""
    rule, width, faster = [], [], []
    sections = []
    for loss in ("l2", "l4"):
        narrow, wide = results[f"{loss}-fixed"], results[f"{loss}-fixed-wide"]
        rule += _same(loss, narrow, "rule", narrow, "factors", "rule", "layers")
        width += _same(loss, wide, "factors", narrow, "factors", f"width {WIDE}", "width 1")
        faster += _faster(loss, narrow)
        sections.append(_section(loss, narrow, wide))
    step = "at one learning rate"
    return Chapter(
        "The rule, explicit layers and their width, at one learning rate",
        (
            Claim(
                f"The end-to-end rule trains as explicit layers of width 1 do, {step}.",
                "The curves of rule and layers lie on each other, for L2 and L4.",
                tuple(rule),
                "Rule and layers start at the same product of near-zero layers. Theorem 1 asks "
                "for balanced layers and a small rate; near-zero layers are balanced only nearly, "
                "which moves the moment at which the loss starts to fall.",
            ),
            Claim(
                f"Hidden width makes no difference: {WIDE} trains as 1, {step}.",
                "The curves of width 1 and 100 lie on each other.",
                tuple(width),
                f"Layers of width {WIDE} with the same entries start at a larger product, "
                "so that they leave the start earlier.",
            ),
            Claim(
                f"Deeper is faster {step}, for L2 and L4.",
                "L2: 2 layers 1.2e-2, 3 layers 9e-3; L4: 0.21 and 0.145, after 250,000 iterations.",
                tuple(faster),
                "One rate for all says little: a rate that suits depth 3 suits 1 layer less. L2 is "
                "run at the paper's 1e-3. On L4 every depth diverges there; L4 is run at "
                f"{FIXED_RATES['l4']:g}, a rate fitted to the authors' two values after "
                f"{_AUTHORS_ITERATIONS:,} iterations (docs/reproduction.md).",
            ),
        ),
        tuple(sections),
    )


def _same(
    loss: str, first: PartResult, engine: str, second: PartResult, other: str, *names: str
) -> list[Finding]:
    """How far apart two engines are at depths 2 and 3: at the end, and at worst."""
    found = []
    for depth in (2, 3):
        ours, theirs = (
            above_round_off(seed_distances(part.curves, part.optimum, f"{kind}:{depth}"))
            for part, kind in ((first, engine), (second, other))
        )
        where = f"{loss.upper()}, depth {depth}, {names[0]} over {names[1]}"
        last = first.study.iterations
        lost = [sum(c["step"][-1] < last for c in curves.values()) for curves in (ours, theirs)]
        if any(lost):
            counts = ", ".join(f"{n} of {name}" for n, name in zip(lost, names, strict=True))
            text = f"{where}: of {len(ours)} seeds each, {counts} diverge."
            found.append(Finding(text, False if sorted(lost) == [0, len(ours)] else None))
            continue
        if not all(map(has_left_start, (*ours.values(), *theirs.values()))):
            # Equal because nothing has happened yet, or one a little before the other.
            found.append(Finding(f"{where}: a seed is still near its start.", None))
            continue
        ends, largest = curve_gap(ours, theirs)
        found.append(within(f"{where}, last distance", ends, 1 / _SAME, _SAME))
        way = within(f"{where}, largest factor on the way", largest, 1, _SAME)
        found.append(Finding(f"{way.text}{_lag(ours, theirs, last)}", way.agrees))
    return found


def _lag(ours: dict[int, pl.DataFrame], theirs: dict[int, pl.DataFrame], iterations: int) -> str:
    """Where two curves part, by how much of the run: on a linear axis too little to see?"""
    lags = largest_lags(ours, theirs, _SAME)
    finite = [lag for lag in lags if lag < math.inf]
    if not any(lags):
        return ""
    text = " Where they are further apart, the higher one is as far down "
    if finite:
        ends = dict.fromkeys(f"{lag:,.0f}" for lag in (min(finite), max(finite)))
        text += f"{' to '.join(ends)} of {iterations:,} iterations later"
    if len(finite) < len(lags):
        text += f"{', ' * bool(finite)}in {len(lags) - len(finite)} of {len(lags)} seeds not at all"
    return f"{text}."


def _faster(loss: str, part: PartResult) -> list[Finding]:
    """Whether each depth is below the next smaller one, once all of its seeds have moved."""
    names = {"factors:3": "3 layers", "factors:2": "2 layers", "gd": "1 layer"}
    distances = tuned_distances(part.curves, part.optimum)
    what = f"{loss.upper()}, distance after {part.study.iterations:,} iterations"
    found = []
    for deeper, shallower in pairwise(names):
        pair = (names[deeper], distances[deeper], names[shallower], distances[shallower])
        if is_near_start(part.curves, part.optimum, deeper):
            text = f"{what}: a seed of {names[deeper]} is still near its start."
            found.append(Finding(text, None))
        else:
            found.append(order(*pair, what))
    return found


def _section(loss: str, narrow: PartResult, wide: PartResult) -> Section:
    lines = [series(narrow, "gd", "1 layer")]
    for depth in (2, 3):
        lines += [
            series(narrow, f"rule:{depth}", f"Rule of depth {depth}"),
            series(narrow, f"factors:{depth}", f"{depth} layers, width 1"),
            series(wide, f"factors:{depth}", f"{depth} layers, width {WIDE}"),
        ]
    distances = tuned_distances(narrow.curves, narrow.optimum)
    rows = [
        (str(line["label"][0]), distances[method], _AUTHORS[loss][method])
        for method, line in (("gd", lines[0]), ("factors:2", lines[2]), ("factors:3", lines[5]))
    ]
    chart = series_chart(
        lines,
        f"At the rate {FIXED_RATES[loss]:g}",
        f"{loss.upper()} distance from the optimum against iterations at one rate.",
        dashed=[str(line["label"][0]) for line in lines if "Rule" in line["label"][0]],
    )
    return Section(
        f"{loss.upper()} at the rate {FIXED_RATES[loss]:g}",
        distances_against_authors(rows, narrow.study.iterations, _AUTHORS_ITERATIONS),
        chart,
        "Line = median over seeds, band = smallest to largest. Both axes are logarithmic.",
    )
