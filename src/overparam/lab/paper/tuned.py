"""Is depth faster once every method has its best learning rate?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from overparam.lab.charts.study import loss_chart, rate_chart
from overparam.lab.paper.chapter import Chapter, PartResult
from overparam.lab.paper.comparison import tuned_orders
from overparam.lab.paper.measurements import tuned_distances
from overparam.lab.paper.studies import DEPTHS
from overparam.lab.paper.tables import (
    distances_against_authors,
    grid_table,
    horizon_table,
    label_of,
    tuned_by_horizon,
)
from overparam.lab.paper.verdict import Claim, Finding
from overparam.lab.report.page import Section

PARTS = ("l2-tuned", "l4-tuned")

AUTHORS_ITERATIONS = 1_000_000
_AUTHORS = {
    "l2": {"gd": "2.7e-3", "factors:2": "3.6e-3", "factors:3": "4.1e-3"},
    "l4": {
        "gd": "3.7e-2",
        "factors:2": "1.7e-2",
        "factors:3": "6e-3",
    },
}
_LAYERS = {"gd": "1 layer", "factors:2": "2 layers", "factors:3": "3 layers"}


def chapter(results: Mapping[str, PartResult]) -> Chapter:
    """The claims and sections of the tuned runs on L2 and L4."""
    parts = {loss: results[f"{loss}-tuned"] for loss in ("l2", "l4")}
    iterations = parts["l4"].study.iterations
    what = f"distance after {iterations:,} iterations, tuned"
    layers = tuple(_LAYERS)
    deeper = layers[::-1]

    def orders(loss: str, methods: Sequence[str]) -> tuple[Finding, ...]:
        return tuned_orders(parts[loss], pairwise(methods), what, _LAYERS, AUTHORS_ITERATIONS)

    return Chapter(
        "Every method at its best learning rate",
        (
            Claim(
                "On L2 depth makes gradient descent slower.",
                "1, 2, 3 layers after 1,000,000 iterations: 2.7e-3, 3.6e-3, 4.1e-3.",
                orders("l2", layers),
                _order_earlier(parts["l2"], layers) + horizon_remark(iterations),
            ),
            Claim(
                "On L4 depth makes gradient descent faster, the more the deeper.",
                "1, 2, 3 layers after 1,000,000 iterations: 3.7e-2, 1.7e-2, 6e-3; depth leads "
                "after 200,000.",
                orders("l4", deeper),
                _order_earlier(parts["l4"], deeper) + horizon_remark(iterations),
            ),
        ),
        tuple(section for loss, part in parts.items() for section in _sections(loss, part)),
    )


def _order_earlier(part: PartResult, methods: Sequence[str]) -> str:
    """At which shorter horizons the medians have the order that is claimed for the last one."""
    found = tuned_by_horizon(part)
    found.pop(part.study.iterations)
    kept = [
        f"{horizon:,}"
        for horizon, distances in found.items()
        if all(distances[a].median < distances[b].median for a, b in pairwise(methods))
    ]
    return (
        f"Of {len(found)} shorter horizons, tuned anew, the medians have this order at "
        f"{len(kept)}{': ' * bool(kept)}{'; '.join(kept)}. "
    )


def horizon_remark(iterations: int) -> str:
    """Says how far the runs go beside those of the authors."""
    if iterations == AUTHORS_ITERATIONS:
        return "At the authors' horizon."
    return (
        f"After {iterations:,} iterations; the authors ran {AUTHORS_ITERATIONS:,} "
        "(overparam reproduce --paper)."
    )


def _sections(loss: str, part: PartResult) -> tuple[Section, ...]:
    name, methods = loss.upper(), DEPTHS
    distances = tuned_distances(part.curves, part.optimum)
    rows = [(label_of(m), distances[m], _AUTHORS[loss].get(m, "not shown")) for m in methods]
    return (
        Section(
            f"{name}, tuned",
            distances_against_authors(rows, part.study.iterations, AUTHORS_ITERATIONS),
            loss_chart(part.curves, part.optimum),
            "Each method at the rate with the lowest median final loss among those at which no "
            "seed failed. Line = median, band = smallest to largest over seeds.",
        ),
        Section(
            f"{name}, the whole learning-rate curve",
            grid_table(part, methods),
            rate_chart(part.curves, part.optimum),
            "Final distance at every rate. A cross below marks a rate at which some seed diverged "
            "or ended above its initial loss. The table: what tuning over the paper's half decades "
            "alone does to each method.",
        ),
        Section(f"{name}, at shorter horizons", horizon_table(part, methods)),
    )
