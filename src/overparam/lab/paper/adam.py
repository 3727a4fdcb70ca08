"""Does depth help Adam?"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from overparam.lab.paper.claims import Claim
from overparam.lab.paper.comparison import compare_tuned
from overparam.lab.paper.distances import tuned_distances
from overparam.lab.paper.results import ExperimentReport, StudyResult
from overparam.lab.paper.tables import distances_against_authors, lr_section, series, series_chart
from overparam.lab.report.page import Section

STUDIES = ("l4-adam",)

_AUTHORS_ITERATIONS = 200_000
_AUTHORS = {"adam": "1.15e-2", "adam+factors:2": "3.8e-3", "adam+factors:3": "2.9e-3"}
_LABELS = {
    "adam": "Adam, 1 layer",
    "adam+factors:2": "Adam, 2 layers",
    "adam+factors:3": "Adam, 3 layers",
}


def report(results: Mapping[str, StudyResult]) -> ExperimentReport:
    """The claim and the sections on Adam with depth."""
    result = results["l4-adam"]
    iterations = result.study.iterations
    distances = tuned_distances(result.curves, result.optimum)
    deeper = tuple(_LABELS)[::-1]
    lines = [series(result, method, label) for method, label in _LABELS.items()]
    rows = [(label, distances[method], _AUTHORS[method]) for method, label in _LABELS.items()]
    return ExperimentReport(
        "Adam on one, two and three layers",
        (
            Claim(
                "On L4 depth makes Adam faster too.",
                "Adam on 1, 2, 3 layers after 200,000 iterations: 1.15e-2, 3.8e-3, 2.9e-3.",
                compare_tuned(
                    result,
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
                    lines,
                    "L4 distance against iterations, Adam by depth.",
                ),
                "Line: median over seeds. Band: smallest to largest.",
            ),
            lr_section("Adam on L4", result),
        ),
    )
