"""Does depth beat AdaGrad and AdaDelta on the plain weight?"""

from __future__ import annotations

from collections.abc import Mapping

from overparam.lab.charts.study import loss_chart, rate_chart
from overparam.lab.paper.chapter import Chapter, PartResult
from overparam.lab.paper.comparison import tuned_orders
from overparam.lab.paper.measurements import tuned_distances
from overparam.lab.paper.studies import ADAPTIVE
from overparam.lab.paper.tables import (
    distances_against_authors,
    grid_table,
    horizon_table,
    joined,
    label_of,
)
from overparam.lab.paper.tuned import AUTHORS_ITERATIONS, horizon_remark
from overparam.lab.paper.verdict import Claim
from overparam.lab.report.page import Section

PARTS = ("l4-tuned", "l4-adaptive")

_AUTHORS = {"adagrad": "5.8e-2", "adadelta": "2.05e-2", "factors:3": "6e-3"}


def chapter(results: Mapping[str, PartResult]) -> Chapter:
    """The claims and sections of depth 3 against adaptive methods."""
    part = joined(results["l4-tuned"], results["l4-adaptive"])
    distances = tuned_distances(part.curves, part.optimum)
    iterations = part.study.iterations
    what = f"L4 distance after {iterations:,} iterations, tuned"
    rows = [(label_of(method), distances[method], theirs) for method, theirs in _AUTHORS.items()]
    return Chapter(
        "Depth against AdaGrad and AdaDelta",
        (
            Claim(
                "On L4 three layers beat AdaGrad and AdaDelta on the plain weight.",
                "AdaGrad 5.8e-2, AdaDelta 2.05e-2, 3 layers 6e-3 after 1,000,000 iterations.",
                tuned_orders(
                    part,
                    [("factors:3", method) for method in ADAPTIVE],
                    what,
                    {"factors:3": "3 layers"} | {m: label_of(m) for m in ADAPTIVE},
                    AUTHORS_ITERATIONS,
                ),
                "Both here are PyTorch's. AdaGrad starts its sums at 0, TensorFlow's at 0.1; "
                "AdaDelta has rho 0.9 and eps 1e-6, TensorFlow's 0.95 and 1e-8. "
                + horizon_remark(iterations),
            ),
        ),
        (
            Section(
                "L4, adaptive methods, tuned",
                distances_against_authors(rows, iterations, AUTHORS_ITERATIONS)
                + grid_table(part, ADAPTIVE),
                loss_chart(part.curves, part.optimum),
                "Each method at its best rate. Line = median, band = range over seeds.",
            ),
            Section(
                "L4, adaptive methods, the whole learning-rate curve",
                horizon_table(part, ADAPTIVE),
                rate_chart(part.curves, part.optimum),
                "Final distance at every rate, median over seeds.",
            ),
        ),
    )
