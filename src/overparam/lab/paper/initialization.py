"""Do the gradients of 4 and 8 layers vanish near zero, and does the identity help?"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from overparam.lab.methods import label_of
from overparam.lab.paper.claims import Claim, Evidence, too_early, within
from overparam.lab.paper.comparison import compare_tuned
from overparam.lab.paper.distances import (
    NEAR_START,
    at_rates,
    best_runs,
    interval,
    seed_distances,
    tuned_distances,
)
from overparam.lab.paper.results import ExperimentReport, StudyResult
from overparam.lab.paper.tables import distances_against_authors, lr_section, series, series_chart
from overparam.lab.report.page import Section, html_table
from overparam.lab.summary import rate_curve

STUDIES = ("l4-near-zero", "l4-residual")
OPTIONAL_STUDIES = ("l4-identity",)

_AUTHORS_ITERATIONS = 100_000
_AUTHORS_FLAT = 66_000
_LAYERS = {"gd": "1 layer", "factors:4": "4 layers"}


def report(results: Mapping[str, StudyResult]) -> ExperimentReport:
    """The claims and the sections on depth 4 and 8 by initialization."""
    near_zero = results["l4-near-zero"]
    iterations = near_zero.study.iterations
    near = tuned_distances(near_zero.curves, near_zero.optimum)
    what = f"L4 distance after {iterations:,} iterations, tuned"
    starts = {
        "l4-residual": "identity, hidden layers of width 1",
        "l4-identity": "identity, as wide as the features",
    }
    identities = {study: start for study, start in starts.items() if study in results}
    lines = [
        series(near_zero, "gd", "1 layer, near zero"),
        series(near_zero, "factors:4", "4 layers, near zero"),
        series(near_zero, "factors:8", "8 layers, near zero"),
    ]
    rows = [
        ("1 layer, near zero", near["gd"], "0.24"),
        ("4 layers, near zero", near["factors:4"], "4.5, flat until 66,000"),
        ("8 layers, near zero", near["factors:8"], "stuck at the start"),
    ]
    from_identity: list[Evidence] = []
    for study, start in identities.items():
        result = results[study]
        distances = tuned_distances(result.curves, result.optimum)
        # The full identity is run at fewer learning rates: 1 layer is compared at the same ones.
        plain = at_rates(near_zero.curves.filter(pl.col("method") == "gd"), result.study.rates)
        curves = pl.concat([result.curves, plain])
        from_identity += compare_tuned(
            StudyResult(result.study, curves, result.optimum),
            [("factors:8", "factors:4"), ("factors:8", "gd"), ("factors:4", "gd")],
            what,
            {"gd": "1 layer"}
            | {f"factors:{depth}": f"{depth} layers, {start}" for depth in (4, 8)},
            _AUTHORS_ITERATIONS,
        )
        for depth, theirs in ((4, "0.20"), (8, "0.16")):
            label = f"{depth} layers, {start}"
            lines.append(series(result, f"factors:{depth}", label))
            rows.append((label, distances[f"factors:{depth}"], theirs))
    return ExperimentReport(
        "Four and eight layers, near zero and near the identity",
        (
            Claim(
                "Near zero, 4 and 8 layers do not train: the gradient vanishes.",
                "1 layer 0.24 after 100,000 iterations; 4 layers flat until 66,000, then 4.5; 8 "
                "layers stuck.",
                (
                    *compare_tuned(
                        near_zero, [("gd", "factors:4")], what, _LAYERS, _AUTHORS_ITERATIONS
                    ),
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
                + (", or all layers are as wide as the features." if len(identities) > 1 else "."),
            ),
        ),
        (
            Section(
                "L4 with 4 and 8 layers, tuned",
                distances_against_authors(rows, iterations, _AUTHORS_ITERATIONS)
                + _best_rates(results, identities),
                series_chart(
                    lines,
                    "L4 distance against iterations for 1, 4 and 8 layers by initialization.",
                    dashed=[str(line["label"][0]) for line in lines[:3]],
                ),
                "Line: median over seeds. Band: smallest to largest. Dashed: near zero.",
            ),
            *(
                lr_section(f"L4 with 4 and 8 layers, {start}", results[study])
                for study, start in {"l4-near-zero": "near zero", **identities}.items()
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
    waits = []
    for curve in seed_distances(best_runs(result.curves), result.optimum, "factors:4").values():
        fallen = curve.filter(pl.col("distance") < NEAR_START * curve["distance"][0])
        waits.append(float(fallen["step"][0] if len(fallen) else result.study.iterations))
    wait, iterations = interval(waits), result.study.iterations
    waited = " to ".join(dict.fromkeys(f"{value:,.0f}" for value in (wait.low, wait.high)))
    text = (
        "4 layers at their best lr lose less than a tenth of the distance in the first "
        f"{waited} of {iterations:,} iterations; the claim needs more than a tenth of them"
    )
    found = Evidence(f"{text}.", wait.low > 0.1 * iterations)
    return _undecided_if_early(found, result, _AUTHORS_FLAT)


def _best_rates(results: Mapping[str, StudyResult], identities: Mapping[str, str]) -> str:
    rows = []
    for study, start in {"l4-near-zero": "near zero", **identities}.items():
        best = best_runs(results[study].curves).select("method", "rate").unique(maintain_order=True)
        rows += [(label_of(method), start, f"{rate:.3g}") for method, rate in best.iter_rows()]
    return html_table(("Method", "Start", "Best lr"), rows)
