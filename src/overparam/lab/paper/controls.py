"""What the paper did not compare with: simple methods that might do what depth does."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from overparam.lab.charts.study import loss_chart
from overparam.lab.methods import label_of
from overparam.lab.paper.claims import Claim
from overparam.lab.paper.comparison import compare_tuned
from overparam.lab.paper.distances import Interval, tuned_distances
from overparam.lab.paper.results import ExperimentReport, StudyResult
from overparam.lab.paper.second_order import BFGS, NEWTON
from overparam.lab.paper.studies import CONTROLS, DEPTHS
from overparam.lab.paper.tables import grid_table, joined, lr_section
from overparam.lab.report.page import Section, html_table
from overparam.lab.summary import iterations_by_target, targets

KINDS = ("tuned", "adaptive", "controls")


def report(
    results: Mapping[str, StudyResult],
    baselines: Mapping[str, pl.DataFrame],
    seconds: Mapping[str, Mapping[str, float]],
) -> ExperimentReport:
    """The claims and the sections on the controls.

    Args:
        results: studies by name.
        baselines: curves from :func:`overparam.lab.paper.second_order.second_order_curves`, by
            loss.
        seconds: seconds per iteration, by loss and method.
    """
    claims, sections = [], []
    for loss in ("l4", "l2"):
        result, name = joined(*(results[f"{loss}-{kind}"] for kind in KINDS)), loss.upper()
        distances = tuned_distances(result.curves, result.optimum)
        claims.append(_claim(name, result, distances))
        best_first = sorted(distances, key=lambda method: distances[method].median)
        ordered = [(label_of(method), str(distances[method])) for method in best_first]
        sections += [
            Section(
                f"{name}, every control",
                html_table(("Method", "Distance from the optimum"), ordered),
                loss_chart(result.curves, result.optimum),
                "Each method at its best learning rate. Line: median. Band: range over seeds.",
            ),
            lr_section(f"{name}, every control", result, grid_table(result, list(distances))),
            Section(
                f"{name}, iterations and seconds to each loss",
                _targets(result, baselines[loss], seconds.get(loss, {})),
            ),
        ]
    return ExperimentReport("Controls that the paper lacks", tuple(claims), tuple(sections))


def _claim(loss: str, result: StudyResult, distances: Mapping[str, Interval]) -> Claim:
    depth = min(DEPTHS[1:], key=lambda method: distances[method].median)
    return Claim(
        f"On {loss} gradient descent with depth beats simple methods on the plain weight.",
        "Not compared; a question of ours.",
        compare_tuned(result, [(depth, method) for method in CONTROLS if method in distances]),
        f"The best of four kinds of depth ({label_of(depth)}) is compared with each method, which "
        "favours depth a little. Momentum is 0.9 everywhere; only the learning rate is tuned.",
    )


def _targets(result: StudyResult, baseline: pl.DataFrame, seconds: Mapping[str, float]) -> str:
    """Iterations to each loss, and seconds for the methods that were timed."""
    levels = targets(result.curves, result.optimum)
    others = baseline.with_columns(rate=pl.lit(0.0), seed=pl.lit(0, pl.Int64))
    found = iterations_by_target(pl.concat([result.curves, others], how="diagonal"), levels)
    names = {method: label_of(method) for method in dict.fromkeys(result.curves["method"])}
    for method in (NEWTON, BFGS):
        if method in set(baseline["method"]):  # Newton is not, with several outputs
            names[method] = f"{method} (second-order baseline)"
    rows = [
        [name, *(_cell(found[method, level], seconds.get(method)) for level in levels)]
        for method, name in names.items()
    ]
    header = ["Method", *(f"loss ≤ {level:g}" for level in levels)]
    note = (
        "<p class='note'>Iterations at the learning rate that gets there first, median over seeds, "
        "followed by the seconds of a single run on one thread of the machine that wrote this "
        "page. Newton starts at the least-squares solution, BFGS at zero.</p>"
    )
    return note + html_table(header, rows)


def _cell(iterations: float | None, seconds: float | None) -> str:
    if iterations is None:
        return "not reached"
    spent = f" · {iterations * seconds:.2g} s" if seconds is not None else ""
    return f"{iterations:,.0f}{spent}"
