"""Does depth help Adam?"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from overparam.lab.charts.study import rate_chart
from overparam.lab.paper.chapter import Chapter, PartResult
from overparam.lab.paper.comparison import tuned_orders
from overparam.lab.paper.measurements import tuned_distances
from overparam.lab.paper.tables import distances_against_authors, series, series_chart
from overparam.lab.paper.verdict import Claim
from overparam.lab.report.page import Section

PARTS = ("l4-adam",)

_AUTHORS_ITERATIONS = 200_000
_AUTHORS = {"adam": "1.15e-2", "adam+factors:2": "3.8e-3", "adam+factors:3": "2.9e-3"}
_LABELS = {
    "adam": "Adam, 1 layer",
    "adam+factors:2": "Adam, 2 layers",
    "adam+factors:3": "Adam, 3 layers",
}


def chapter(results: Mapping[str, PartResult]) -> Chapter:
    """The claims and sections of Adam on deeper weights."""
    part = results["l4-adam"]
    iterations = part.study.iterations
    distances = tuned_distances(part.curves, part.optimum)
    deeper = tuple(_LABELS)[::-1]
    lines = [series(part, method, label) for method, label in _LABELS.items()]
    rows = [(label, distances[method], _AUTHORS[method]) for method, label in _LABELS.items()]
    return Chapter(
        "Adam on one, two and three layers",
        (
            Claim(
                "On L4 depth makes Adam faster too.",
                "Adam on 1, 2, 3 layers after 200,000 iterations: 1.15e-2, 3.8e-3, 2.9e-3.",
                tuned_orders(
                    part,
                    pairwise(deeper),
                    f"distance after {iterations:,} iterations, tuned",
                    _LABELS,
                    _AUTHORS_ITERATIONS,
                ),
                ""
                if iterations == _AUTHORS_ITERATIONS
                else f"After {iterations:,} iterations; the authors ran {_AUTHORS_ITERATIONS:,}.",
            ),
        ),
        (
            Section(
                "Adam on L4, tuned",
                distances_against_authors(rows, iterations, _AUTHORS_ITERATIONS),
                series_chart(
                    lines, "At the best rate", "L4 distance against iterations, Adam by depth."
                ),
                "Line = median over seeds, band = smallest to largest.",
            ),
            Section(
                "Adam on L4, the whole learning-rate curve",
                chart=rate_chart(part.curves, part.optimum),
                caption="Final distance at every rate, median over seeds.",
            ),
        ),
    )
