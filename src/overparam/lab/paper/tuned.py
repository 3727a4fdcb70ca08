"""Is depth faster once every method has its best learning rate?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from overparam.lab.charts.study import loss_chart
from overparam.lab.methods import label_of
from overparam.lab.paper.claims import Claim, Evidence
from overparam.lab.paper.comparison import compare_tuned
from overparam.lab.paper.distances import tuned_distances
from overparam.lab.paper.results import ExperimentReport, StudyResult
from overparam.lab.paper.studies import DEPTHS
from overparam.lab.paper.tables import (
    distances_against_authors,
    grid_table,
    horizon_table,
    lr_section,
    tuned_by_horizon,
)
from overparam.lab.report.page import Section

STUDIES = ("l2-tuned", "l4-tuned")

AUTHORS_ITERATIONS = 1_000_000
_AUTHORS = {
    "l2": {"gd": "2.7e-3", "factors:2": "3.6e-3", "factors:3": "4.1e-3"},
    "l4": {"gd": "3.7e-2", "factors:2": "1.7e-2", "factors:3": "6e-3"},
}
_LAYERS = {"gd": "1 layer", "factors:2": "2 layers", "factors:3": "3 layers"}


def report(results: Mapping[str, StudyResult]) -> ExperimentReport:
    """The claims and the sections on the tuned runs for L2 and L4."""
    by_loss = {loss: results[f"{loss}-tuned"] for loss in ("l2", "l4")}
    iterations = by_loss["l4"].study.iterations
    what = f"distance after {iterations:,} iterations, tuned"
    layers = tuple(_LAYERS)
    deeper = layers[::-1]

    def evidence(loss: str, methods: Sequence[str]) -> tuple[Evidence, ...]:
        return compare_tuned(by_loss[loss], pairwise(methods), what, _LAYERS, AUTHORS_ITERATIONS)

    return ExperimentReport(
        "Every method at its best learning rate",
        (
            Claim(
                "On L2 depth makes gradient descent slower.",
                "1, 2, 3 layers after 1,000,000 iterations: 2.7e-3, 3.6e-3, 4.1e-3.",
                evidence("l2", layers),
                _order_earlier(by_loss["l2"], layers) + horizon_remark(iterations),
            ),
            Claim(
                "On L4 depth makes gradient descent faster, and more depth makes it faster still.",
                "1, 2, 3 layers after 1,000,000 iterations: 3.7e-2, 1.7e-2, 6e-3; depth leads "
                "after 200,000.",
                evidence("l4", deeper),
                _order_earlier(by_loss["l4"], deeper) + horizon_remark(iterations),
            ),
        ),
        tuple(section for loss, result in by_loss.items() for section in _sections(loss, result)),
    )


def _order_earlier(result: StudyResult, methods: Sequence[str]) -> str:
    """At which shorter horizons the medians have the claimed order."""
    found = tuned_by_horizon(result)
    found.pop(result.study.iterations)
    kept = [
        f"{horizon:,}"
        for horizon, distances in found.items()
        if all(distances[a].median < distances[b].median for a, b in pairwise(methods))
    ]
    which = f" ({'; '.join(kept)} iterations)" if kept else ""
    return (
        f"The medians have this order at {len(kept)} of {len(found)} shorter horizons{which}, each "
        "tuned separately. "
    )


def horizon_remark(iterations: int) -> str:
    """How long the runs are, compared with the authors'."""
    if iterations == AUTHORS_ITERATIONS:
        return "At the authors' horizon."
    return (
        f"After {iterations:,} iterations; the authors ran {AUTHORS_ITERATIONS:,} "
        "(overparam reproduce --paper)."
    )


def _sections(loss: str, result: StudyResult) -> tuple[Section, ...]:
    name, methods = loss.upper(), DEPTHS
    distances = tuned_distances(result.curves, result.optimum)
    rows = [(label_of(m), distances[m], _AUTHORS[loss].get(m, "not shown")) for m in methods]
    return (
        Section(
            f"{name}, tuned",
            distances_against_authors(rows, result.study.iterations, AUTHORS_ITERATIONS),
            loss_chart(result.curves, result.optimum),
            "Each method at its best learning rate: the one with the lowest median final loss "
            "among those at which no seed failed. Line: median. Band: smallest to largest over "
            "seeds.",
        ),
        lr_section(name, result, grid_table(result, methods)),
        Section(f"{name}, at shorter horizons", horizon_table(result, methods)),
    )
