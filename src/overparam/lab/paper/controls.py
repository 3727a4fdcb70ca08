"""What the paper did not compare with: simple methods that might do what depth does."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from overparam.lab.charts.study import loss_chart, rate_chart
from overparam.lab.paper.chapter import Chapter, PartResult
from overparam.lab.paper.comparison import tuned_orders
from overparam.lab.paper.measurements import Interval, tuned_distances
from overparam.lab.paper.second_order import BFGS, NEWTON
from overparam.lab.paper.studies import CONTROLS, DEPTHS
from overparam.lab.paper.tables import grid_table, joined, label_of
from overparam.lab.paper.verdict import Claim
from overparam.lab.report.page import Section, html_table
from overparam.lab.summary import iterations_by_target, targets

KINDS = ("tuned", "adaptive", "controls")
PARTS = tuple(f"{loss}-{kind}" for loss in ("l2", "l4") for kind in KINDS)


def chapter(
    results: Mapping[str, PartResult],
    floors: Mapping[str, pl.DataFrame],
    seconds: Mapping[str, Mapping[str, float]],
) -> Chapter:
    """The claims and sections of the controls.

    Args:
        results: by part.
        floors: curves of :func:`overparam.lab.paper.second_order.second_order_curves` by loss.
        seconds: per iteration, by loss and method.
    """
    claims, sections = [], []
    for loss in ("l4", "l2"):
        part = joined(*(results[f"{loss}-{kind}"] for kind in KINDS))
        distances = tuned_distances(part.curves, part.optimum)
        depth = min(DEPTHS[1:], key=lambda method: distances[method].median)
        claims.append(_claim(loss, part, distances, depth))
        chart = loss_chart(part.curves, part.optimum)
        sections += [
            Section(
                f"{loss.upper()}, every control",
                _distances(distances),
                chart,
                "Each method at its best rate. Line = median, band = range over seeds.",
            ),
            Section(
                f"{loss.upper()}, every control, the whole learning-rate curve",
                grid_table(part, list(distances)),
                rate_chart(part.curves, part.optimum),
                "Final distance at every rate, median over seeds. A cross below marks a rate at "
                "which some seed diverged or ended above its initial loss.",
            ),
            Section(
                f"{loss.upper()}, iterations and seconds to each loss",
                _targets(part, floors[loss], seconds.get(loss, {})),
            ),
        ]
    return Chapter("Controls that the paper lacks", tuple(claims), tuple(sections))


def _claim(loss: str, part: PartResult, distances: Mapping[str, Interval], depth: str) -> Claim:
    iterations = part.study.iterations
    what = f"distance after {iterations:,} iterations, tuned"
    others = [method for method in CONTROLS if method in distances]
    return Claim(
        f"On {loss.upper()} gradient descent with depth beats simple methods on the plain weight.",
        "Not compared; a question of ours.",
        tuned_orders(
            part,
            [(depth, method) for method in others],
            what,
            {method: label_of(method) for method in (depth, *others)},
            0,  # no horizon of the authors: what waits at its start is behind
        ),
        f"The best of four kinds of depth ({label_of(depth)}) against each method, which favours "
        "depth a little. Momentum is 0.9 everywhere, and rates are the only thing tuned.",
    )


def _distances(distances: Mapping[str, Interval]) -> str:
    ordered = sorted(distances.items(), key=lambda pair: pair[1].median)
    return html_table(
        ("Method", "Distance from the optimum"),
        [(label_of(method), str(value)) for method, value in ordered],
    )


def _targets(part: PartResult, floor: pl.DataFrame, seconds: Mapping[str, float]) -> str:
    """Iterations, and seconds where they were measured, to each loss."""
    levels = targets(part.curves, part.optimum)
    found = iterations_by_target(part.curves, levels)
    rows = []
    for method in dict.fromkeys(part.curves["method"]):
        cells = [_cell(found[method, level], seconds.get(method)) for level in levels]
        rows.append([label_of(method), *cells])
    for method in (NEWTON, BFGS):
        curve = floor.filter(pl.col("method") == method)
        if curve.is_empty():
            continue  # Newton, where there are several outputs
        reached = [curve.filter(pl.col("loss") <= level)["step"].min() for level in levels]
        cells = [_cell(step, seconds.get(method)) for step in reached]  # pyright: ignore
        rows.append([f"{method} (floor)", *cells])
    header = ["Method", *(f"loss ≤ {level:g}" for level in levels)]
    note = (
        "<p class='note'>Iterations at the rate that gets there first, median over seeds; behind "
        "them seconds of one run alone on one thread of the machine that wrote this page. Newton "
        "starts at the least-squares solution; BFGS at zero.</p>"
    )
    return note + html_table(header, rows)


def _cell(iterations: float | None, seconds: float | None) -> str:
    if iterations is None:
        return "not reached"
    spent = f" · {iterations * seconds:.2g} s" if seconds is not None else ""
    return f"{iterations:,.0f}{spent}"
