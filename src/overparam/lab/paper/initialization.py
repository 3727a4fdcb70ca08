"""Do 4 and 8 layers vanish near zero, and does the identity bring them back?"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from overparam.lab.charts.study import rate_chart
from overparam.lab.paper.chapter import Chapter, PartResult
from overparam.lab.paper.comparison import tuned_orders
from overparam.lab.paper.measurements import (
    NEAR_START,
    at_rates,
    best_runs,
    interval,
    seed_distances,
    tuned_distances,
)
from overparam.lab.paper.tables import (
    distances_against_authors,
    label_of,
    series,
    series_chart,
)
from overparam.lab.paper.verdict import Claim, Finding, too_early, within
from overparam.lab.report.page import Section, html_table
from overparam.lab.summary import rate_curve

PARTS = ("l4-near-zero", "l4-residual")
OPTIONAL_PARTS = ("l4-identity",)

_AUTHORS_ITERATIONS = 100_000
_AUTHORS_FLAT = 66_000
_LAYERS = {"gd": "1 layer", "factors:4": "4 layers"}


def chapter(results: Mapping[str, PartResult]) -> Chapter:
    """The claims and sections of depth 4 and 8 by initialization."""
    near_zero = results["l4-near-zero"]
    iterations = near_zero.study.iterations
    near = tuned_distances(near_zero.curves, near_zero.optimum)
    what = f"L4 distance after {iterations:,} iterations, tuned"
    names = {
        "l4-residual": "identity, hidden layers of width 1",
        "l4-identity": "identity, as wide as the features",
    }
    identities = {part: name for part, name in names.items() if part in results}
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
    mended = []
    for part, name in identities.items():
        result = results[part]
        distances = tuned_distances(result.curves, result.optimum)
        # The full identity has fewer rates: 1 layer gets the same ones.
        plain = at_rates(near_zero.curves.filter(pl.col("method") == "gd"), result.study.rates)
        curves = pl.concat([result.curves, plain])
        mended += tuned_orders(
            PartResult(result.study, curves, result.optimum),
            [("factors:8", "factors:4"), ("factors:8", "gd"), ("factors:4", "gd")],
            what,
            {"gd": "1 layer"} | {f"factors:{depth}": f"{depth} layers, {name}" for depth in (4, 8)},
            _AUTHORS_ITERATIONS,
        )
        for depth, theirs in ((4, "0.20"), (8, "0.16")):
            label = f"{depth} layers, {name}"
            lines.append(series(result, f"factors:{depth}", label))
            rows.append((label, distances[f"factors:{depth}"], theirs))
    return Chapter(
        "Four and eight layers, near zero and near the identity",
        (
            Claim(
                "Near zero, 4 and 8 layers do not train: the gradient vanishes.",
                "1 layer 0.24 after 100,000 iterations; 4 layers flat until 66,000, then 4.5; 8 "
                "layers stuck.",
                (
                    *tuned_orders(
                        near_zero, [("gd", "factors:4")], what, _LAYERS, _AUTHORS_ITERATIONS
                    ),
                    _stuck(near_zero),
                    _plateau(near_zero),
                ),
                "The best of all rates for each depth; where nothing moves, the best rate means "
                "nothing. " + _failures(near_zero),
            ),
            Claim(
                "From the identity, 4 and 8 layers train faster than 1, and 8 faster than 4.",
                "4 and 8 layers from the identity: 0.20 and 0.16 after 100,000 iterations.",
                tuple(mended),
                "The paper does not say how a first layer of 1 x features gets an identity: "
                "here it is near zero and the hidden numbers start at 1"
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
                    "At the best rate",
                    "L4 distance against iterations for 1, 4 and 8 layers by initialization.",
                    dashed=[str(line["label"][0]) for line in lines[:3]],
                ),
                "Line = median over seeds, band = smallest to largest. Dashed: near zero.",
            ),
            *(
                Section(
                    f"L4 with 4 and 8 layers, {name}, the whole learning-rate curve",
                    chart=rate_chart(results[part].curves, results[part].optimum),
                    caption="Final distance at every rate, median over seeds.",
                )
                for part, name in {"l4-near-zero": "near zero", **identities}.items()
            ),
        ),
    )


def _stuck(part: PartResult) -> Finding:
    """Whether 8 layers end where they start; evidence only at the authors' horizon."""
    curves = seed_distances(best_runs(part.curves), part.optimum, "factors:8")
    left = interval([float(c["distance"][-1] / c["distance"][0]) for c in curves.values()])
    found = within("8 layers, last distance over the first", left, NEAR_START, 1 / NEAR_START)
    return _unless_moved(found, part, _AUTHORS_ITERATIONS)


def _unless_moved(finding: Finding, part: PartResult, iterations: int) -> Finding:
    """Standing still proves nothing in a run in which the authors' stood still too."""
    if finding.agrees is False:
        return finding
    return too_early(finding, part.study.iterations, iterations)


def _failures(part: PartResult) -> str:
    """From which rate on every seed of 4 layers diverges."""
    rates = rate_curve(part.curves.filter(pl.col("method") == "factors:4"))
    lost = rates.filter(pl.col("failed") == pl.col("seeds"))["rate"]
    if not len(lost):
        return f"Rates were tried up to {part.study.rates[-1]:g}."
    return f"At rates from {lost.min():g} on no seed of 4 layers ends below its start."


def _plateau(part: PartResult) -> Finding:
    """How long 4 layers wait before the distance falls by a tenth: a tenth of the run counts."""
    waits = []
    for curve in seed_distances(best_runs(part.curves), part.optimum, "factors:4").values():
        fallen = curve.filter(pl.col("distance") < NEAR_START * curve["distance"][0])
        waits.append(float(fallen["step"][0] if len(fallen) else part.study.iterations))
    wait, iterations = interval(waits), part.study.iterations
    waited = " to ".join(dict.fromkeys(f"{value:,.0f}" for value in (wait.low, wait.high)))
    text = (
        "4 layers at their best rate lose less than a tenth of the distance for "
        f"{waited} of {iterations:,} iterations, more than a tenth of them would agree"
    )
    return _unless_moved(Finding(f"{text}.", wait.low > 0.1 * iterations), part, _AUTHORS_FLAT)


def _best_rates(results: Mapping[str, PartResult], identities: Mapping[str, str]) -> str:
    rows = []
    for part, name in {"l4-near-zero": "near zero", **identities}.items():
        best = best_runs(results[part].curves).select("method", "rate").unique(maintain_order=True)
        rows += [(label_of(method), name, f"{rate:.3g}") for method, rate in best.iter_rows()]
    return html_table(("Method", "Start", "Best rate"), rows)
