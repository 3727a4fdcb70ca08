"""The tuned runs of the paper: depth for gradient descent and Adam, and against other methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from overparam.lab.charts.study import loss_chart
from overparam.lab.paper.claims import Claim
from overparam.lab.paper.comparison import TUNED, compare_tuned
from overparam.lab.paper.results import ExperimentReport, StudyResult
from overparam.lab.paper.studies import ADAPTIVE, DEPTHS
from overparam.lab.paper.tables import (
    beside_authors,
    distances_against_authors,
    grid_table,
    horizon_table,
    joined,
    lr_section,
    series,
    series_chart,
    tuned_by_horizon,
)
from overparam.lab.report.page import Section

STUDIES = ("l2-tuned", "l4-tuned")
ADAPTIVE_STUDIES = ("l4-tuned", "l4-adaptive")

_ITERATIONS, _ADAM_ITERATIONS = 1_000_000, 200_000
# After these iterations; read by eye from the figures, as all numbers of the authors.
_NOT_SHOWN = {"rule:2": "not shown", "rule:3": "not shown"}
_AUTHORS = {
    "l2": {"gd": "2.7e-3", "factors:2": "3.6e-3", "factors:3": "4.1e-3", **_NOT_SHOWN},
    "l4": {"gd": "3.7e-2", "factors:2": "1.7e-2", "factors:3": "6e-3", **_NOT_SHOWN},
    "adaptive": {"adagrad": "5.8e-2", "adadelta": "2.05e-2", "factors:3": "6e-3"},
    "adam": {"adam": "1.15e-2", "adam+factors:2": "3.8e-3", "adam+factors:3": "2.9e-3"},
}
_LAYERS = {"gd": "1 layer", "factors:2": "2 layers", "factors:3": "3 layers"}
_ADAM_LAYERS = {
    "adam": "Adam, 1 layer",
    "adam+factors:2": "Adam, 2 layers",
    "adam+factors:3": "Adam, 3 layers",
}


def report(results: Mapping[str, StudyResult]) -> ExperimentReport:
    """Whether depth is faster for L2 and L4 once every method has its best learning rate."""
    l2, l4 = (results[name] for name in STUDIES)
    layers = tuple(_LAYERS)
    return ExperimentReport(
        "Every method at its best learning rate",
        (
            _order_claim(
                "On L2 depth makes gradient descent slower.",
                "1, 2, 3 layers after 1,000,000 iterations: 2.7e-3, 3.6e-3, 4.1e-3.",
                l2,
                layers,
            ),
            _order_claim(
                "On L4 depth makes gradient descent faster, and more depth makes it faster still.",
                "1, 2, 3 layers after 1,000,000 iterations: 3.7e-2, 1.7e-2, 6e-3; depth leads "
                "after 200,000.",
                l4,
                layers[::-1],
            ),
        ),
        (*_sections("l2", l2), *_sections("l4", l4)),
    )


def _order_claim(
    statement: str, authors: str, result: StudyResult, methods: Sequence[str]
) -> Claim:
    """The methods are ordered from the lowest distance on, at the end and at shorter horizons."""
    evidence = compare_tuned(
        result, pairwise(methods), labels=_LAYERS, authors_iterations=_ITERATIONS
    )
    found = tuned_by_horizon(result)
    found.pop(result.study.iterations)
    kept = [
        f"{horizon:,}"
        for horizon, distances in found.items()
        if all(distances[a].median < distances[b].median for a, b in pairwise(methods))
    ]
    which = f" ({'; '.join(kept)} iterations)" if kept else ""
    why = (
        f"The medians have this order at {len(kept)} of {len(found)} shorter horizons{which}, each "
        "tuned separately. "
    )
    return Claim(statement, authors, evidence, why + _horizon_remark(result.study.iterations))


def _horizon_remark(iterations: int) -> str:
    """How long the runs are, compared with the authors'."""
    if iterations == _ITERATIONS:
        return "At the authors' horizon."
    return (
        f"After {iterations:,} iterations; the authors ran {_ITERATIONS:,} "
        "(overparam reproduce --paper)."
    )


def _sections(loss: str, result: StudyResult) -> tuple[Section, ...]:
    name = loss.upper()
    return (
        Section(
            f"{name}, tuned",
            distances_against_authors(beside_authors(result, _AUTHORS[loss]), result, _ITERATIONS),
            loss_chart(result.curves, result.optimum),
            "Each method at its best learning rate: the one with the lowest median final loss "
            "among those at which no seed failed. Line: median. Band: smallest to largest over "
            "seeds.",
        ),
        lr_section(name, result, grid_table(result, DEPTHS)),
        Section(f"{name}, at shorter horizons", horizon_table(result, DEPTHS)),
    )


def adaptive_report(results: Mapping[str, StudyResult]) -> ExperimentReport:
    """Whether depth 3 beats AdaGrad and AdaDelta on the plain weight."""
    result = joined(*(results[name] for name in ADAPTIVE_STUDIES))
    rows = beside_authors(result, _AUTHORS["adaptive"])
    claim = Claim(
        "On L4 three layers beat AdaGrad and AdaDelta on the plain weight.",
        "AdaGrad 5.8e-2, AdaDelta 2.05e-2, 3 layers 6e-3 after 1,000,000 iterations.",
        compare_tuned(
            result,
            [("factors:3", method) for method in ADAPTIVE],
            f"L4 {TUNED}",
            labels=_LAYERS,
            authors_iterations=_ITERATIONS,
        ),
        "Both methods are PyTorch's. Its AdaGrad starts the sums of squares at 0, TensorFlow's at "
        "0.1; its AdaDelta has rho 0.9 and eps 1e-6, TensorFlow's 0.95 and 1e-8. "
        + _horizon_remark(result.study.iterations),
    )
    section = Section(
        "L4, adaptive methods, tuned",
        distances_against_authors(rows, result, _ITERATIONS) + grid_table(result, ADAPTIVE),
        loss_chart(result.curves, result.optimum),
        "Each method at its best learning rate. Line: median. Band: range over seeds.",
    )
    rates = lr_section("L4, adaptive methods", result, horizon_table(result, ADAPTIVE))
    return ExperimentReport("Depth against AdaGrad and AdaDelta", (claim,), (section, rates))


def adam_report(results: Mapping[str, StudyResult]) -> ExperimentReport:
    """Whether depth helps Adam."""
    result = results["l4-adam"]
    iterations = result.study.iterations
    claim = Claim(
        "On L4 depth makes Adam faster too.",
        "Adam on 1, 2, 3 layers after 200,000 iterations: 1.15e-2, 3.8e-3, 2.9e-3.",
        compare_tuned(
            result,
            pairwise(tuple(_ADAM_LAYERS)[::-1]),
            labels=_ADAM_LAYERS,
            authors_iterations=_ADAM_ITERATIONS,
        ),
        ""
        if iterations == _ADAM_ITERATIONS
        else f"After {iterations:,} iterations; the authors ran {_ADAM_ITERATIONS:,}.",
    )
    rows = beside_authors(result, _AUTHORS["adam"], _ADAM_LAYERS)
    section = Section(
        "Adam on L4, tuned",
        distances_against_authors(rows, result, _ADAM_ITERATIONS),
        series_chart(
            [series(result, method, label) for method, label in _ADAM_LAYERS.items()],
            "L4 distance against iterations, Adam by depth.",
        ),
        "Line: median over seeds. Band: smallest to largest.",
    )
    return ExperimentReport(
        "Adam on one, two and three layers", (claim,), (section, lr_section("Adam on L4", result))
    )
