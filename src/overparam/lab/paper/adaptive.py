"""Does depth beat AdaGrad and AdaDelta on the plain weight?"""

from __future__ import annotations

from collections.abc import Mapping

from overparam.lab.charts.study import loss_chart
from overparam.lab.methods import label_of
from overparam.lab.paper.claims import Claim
from overparam.lab.paper.comparison import compare_tuned
from overparam.lab.paper.distances import tuned_distances
from overparam.lab.paper.results import ExperimentReport, StudyResult
from overparam.lab.paper.studies import ADAPTIVE
from overparam.lab.paper.tables import (
    distances_against_authors,
    grid_table,
    horizon_table,
    joined,
    lr_section,
)
from overparam.lab.paper.tuned import AUTHORS_ITERATIONS, horizon_remark
from overparam.lab.report.page import Section

STUDIES = ("l4-tuned", "l4-adaptive")

_AUTHORS = {"adagrad": "5.8e-2", "adadelta": "2.05e-2", "factors:3": "6e-3"}


def report(results: Mapping[str, StudyResult]) -> ExperimentReport:
    """The claim and the sections on depth 3 against adaptive methods."""
    result = joined(results["l4-tuned"], results["l4-adaptive"])
    distances = tuned_distances(result.curves, result.optimum)
    iterations = result.study.iterations
    what = f"L4 distance after {iterations:,} iterations, tuned"
    rows = [(label_of(method), distances[method], theirs) for method, theirs in _AUTHORS.items()]
    return ExperimentReport(
        "Depth against AdaGrad and AdaDelta",
        (
            Claim(
                "On L4 three layers beat AdaGrad and AdaDelta on the plain weight.",
                "AdaGrad 5.8e-2, AdaDelta 2.05e-2, 3 layers 6e-3 after 1,000,000 iterations.",
                compare_tuned(
                    result,
                    [("factors:3", method) for method in ADAPTIVE],
                    what,
                    {"factors:3": "3 layers"} | {m: label_of(m) for m in ADAPTIVE},
                    AUTHORS_ITERATIONS,
                ),
                "Both methods are PyTorch's. Its AdaGrad starts the sums of squares at 0, "
                "TensorFlow's at 0.1; its AdaDelta has rho 0.9 and eps 1e-6, TensorFlow's 0.95 and "
                "1e-8. " + horizon_remark(iterations),
            ),
        ),
        (
            Section(
                "L4, adaptive methods, tuned",
                distances_against_authors(rows, iterations, AUTHORS_ITERATIONS)
                + grid_table(result, ADAPTIVE),
                loss_chart(result.curves, result.optimum),
                "Each method at its best learning rate. Line: median. Band: range over seeds.",
            ),
            lr_section("L4, adaptive methods", result, horizon_table(result, ADAPTIVE)),
        ),
    )
