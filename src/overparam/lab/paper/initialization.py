"""Do the gradients of 4 and 8 layers vanish near zero, and does the identity help?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import polars as pl

from overparam.lab.methods import label_of
from overparam.lab.paper.claims import Claim, Evidence, too_early, within
from overparam.lab.paper.comparison import TUNED, compare_tuned
from overparam.lab.paper.distances import (
    NEAR_START,
    at_rates,
    best_runs,
    interval,
    seed_distances,
    span,
)
from overparam.lab.paper.results import ExperimentReport, StudyResult
from overparam.lab.paper.tables import (
    beside_authors,
    distances_against_authors,
    lr_section,
    series,
    series_chart,
)
from overparam.lab.report.page import Section, html_table
from overparam.lab.summary import rate_curve

_AUTHORS_ITERATIONS = 100_000
_AUTHORS_FLAT = 66_000
_NEAR_ZERO = {
    "gd": "0.24",
    "factors:4": "4.5, flat until 66,000",
    "factors:8": "stuck at the start",
}
_IDENTITY = {"factors:4": "0.20", "factors:8": "0.16"}
_LAYERS = {"gd": "1 layer", "factors:4": "4 layers", "factors:8": "8 layers"}
STARTS = {
    "l4-near-zero": "near zero",
    "l4-residual": "identity, hidden layers of width 1",
    "l4-identity": "identity, as wide as the features",
}


def report(results: Mapping[str, StudyResult]) -> ExperimentReport:
    """The claims and the sections on depth 4 and 8 by initialization."""
    near_zero = results["l4-near-zero"]
    compare = partial(compare_tuned, what=f"L4 {TUNED}", authors_iterations=_AUTHORS_ITERATIONS)
    one_layer = near_zero.curves.filter(pl.col("method") == "gd")
    starts = {study: start for study, start in STARTS.items() if study in results}
    lines, rows, from_identity = [], [], []
    for study, start in starts.items():
        result, authors = results[study], _IDENTITY
        labels = {method: f"{label}, {start}" for method, label in _LAYERS.items()}
        if result is near_zero:
            authors = _NEAR_ZERO
        else:
            # The full identity is run at fewer lrs: 1 layer is compared at the same ones.
            curves = pl.concat([result.curves, at_rates(one_layer, result.study.rates)])
            pairs = [("factors:8", "factors:4"), ("factors:8", "gd"), ("factors:4", "gd")]
            names = labels | {"gd": "1 layer"}
            from_identity += compare(replace(result, curves=curves), pairs, labels=names)
        lines += [series(result, method, labels[method]) for method in authors]
        rows += beside_authors(result, authors, labels)
    return ExperimentReport(
        "Four and eight layers, near zero and near the identity",
        (
            Claim(
                "Near zero, 4 and 8 layers do not train: the gradient vanishes.",
                "1 layer 0.24 after 100,000 iterations; 4 layers flat until 66,000, then 4.5; 8 "
                "layers stuck.",
                (
                    *compare(near_zero, [("gd", "factors:4")], labels=_LAYERS),
                    _stuck(near_zero),
                    _plateau(near_zero),
                ),
                "Each depth is at its best learning rate, which means nothing if no learning rate "
                "moves it. " + _failures(near_zero),
            ),
            Claim(
                "From the identity, 4 and 8 layers train faster than 1, and 8 faster than 4.",
                "4 and 8 layers from the identity: 0.20 and 0.16 after 100,000 iterations.",
                tuple(from_identity),
                "The paper does not say what the identity means for a first layer of 1 x features. "
                "Here that layer is near zero and the hidden numbers start near 1"
                + (", or all layers are as wide as the features." if len(starts) > 2 else "."),
            ),
        ),
        (
            Section(
                "L4 with 4 and 8 layers, tuned",
                distances_against_authors(rows, near_zero, _AUTHORS_ITERATIONS)
                + _best_rates(results, starts),
                series_chart(
                    lines,
                    "L4 distance against iterations for 1, 4 and 8 layers by initialization.",
                    dashed=[f"{label}, near zero" for label in _LAYERS.values()],
                ),
                "Line: median over seeds. Band: smallest to largest. Dashed: near zero.",
            ),
            *(
                lr_section(f"L4 with 4 and 8 layers, {start}", results[study])
                for study, start in starts.items()
            ),
        ),
    )


def _stuck(result: StudyResult) -> Evidence:
    """Whether 8 layers end where they start, which counts only at the authors' horizon."""
    curves = seed_distances(best_runs(result.curves), result.optimum, "factors:8")
    left = interval([float(c["distance"][-1] / c["distance"][0]) for c in curves.values()])
    found = within("8 layers, last distance over the first", left, NEAR_START, 1 / NEAR_START)
    return _undecided_if_early(found, result, _AUTHORS_ITERATIONS)


def _undecided_if_early(evidence: Evidence, result: StudyResult, iterations: int) -> Evidence:
    """Standing still proves nothing at a horizon at which the authors' runs stood still too."""
    if evidence.agrees is False:
        return evidence
    return too_early(evidence, result.study.iterations, iterations)


def _failures(result: StudyResult) -> str:
    """The learning rate from which on every seed of 4 layers fails."""
    rates = rate_curve(result.curves.filter(pl.col("method") == "factors:4"))
    failed = rates.filter(pl.col("failed") == pl.col("seeds"))["rate"]
    if not len(failed):
        return f"Learning rates were tried up to {result.study.rates[-1]:g}."
    return f"At learning rates from {failed.min():g} on, no seed of 4 layers ends below its start."


def _plateau(result: StudyResult) -> Evidence:
    """Whether 4 layers wait for more than a tenth of the run until they lose a tenth."""
    waits, iterations = [], result.study.iterations
    for curve in seed_distances(best_runs(result.curves), result.optimum, "factors:4").values():
        fallen = curve.filter(pl.col("distance") < NEAR_START * curve["distance"][0])
        waits.append(float(fallen["step"][0] if len(fallen) else iterations))
    found = Evidence(
        "4 layers at their best lr lose less than a tenth of the distance in the first "
        f"{span(waits)} of {iterations:,} iterations; the claim needs more than a tenth of them.",
        min(waits) > 0.1 * iterations,
    )
    return _undecided_if_early(found, result, _AUTHORS_FLAT)


def _best_rates(results: Mapping[str, StudyResult], starts: Mapping[str, str]) -> str:
    rows = []
    for study, start in starts.items():
        best = best_runs(results[study].curves).select("method", "rate").unique(maintain_order=True)
        rows += [(label_of(method), start, f"{rate:.3g}") for method, rate in best.iter_rows()]
    return html_table(("Method", "Start", "Best lr"), rows)
