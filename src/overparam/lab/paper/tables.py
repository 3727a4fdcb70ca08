"""Charts and tables that several experiments share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import altair as alt
import polars as pl

from overparam.lab.charts.study import distance_chart, rate_chart
from overparam.lab.charts.theme import DASHES, look_of, looks_apart
from overparam.lab.methods import label_of
from overparam.lab.paper.distances import Interval, at_horizon, at_rates, tuned_distances
from overparam.lab.paper.results import StudyResult
from overparam.lab.paper.scale import PAPER_RATES
from overparam.lab.report.page import Section, html_table
from overparam.lab.summary import tuned, tuned_curves


def joined(*results: StudyResult) -> StudyResult:
    """Studies of different methods on the same loss, as one result."""
    curves = pl.concat([result.curves for result in results])
    return StudyResult(results[0].study, curves, results[0].optimum)


def series(result: StudyResult, method: str, label: str) -> pl.DataFrame:
    """The distances of a method at its best lr, over seeds, as one line of a chart.

    Columns: ``label, method, rate, step, median, low, high``.
    """
    one = tuned_curves(result.curves.filter(pl.col("method") == method))
    distances = pl.col("median", "low", "high") - result.optimum
    return one.select(pl.lit(label).alias("label"), "method", "rate", "step", distances)


def series_chart(
    lines: Sequence[pl.DataFrame], description: str, dashed: Sequence[str] = ()
) -> alt.TopLevelMixin:
    """A chart of lines made by :func:`series`, in this order.

    Args:
        lines: one table for each line.
        description: one sentence for readers who cannot see the chart.
        dashed: labels of lines with dashes of their own.
    """
    looks = {str(line["label"][0]): look_of(str(line["method"][0])) for line in lines}
    for label in dashed:
        looks[label] = replace(looks[label], dash=DASHES[5])
    return distance_chart(pl.concat(lines), looks_apart(looks), description)


def lr_section(title: str, result: StudyResult, body_html: str = "") -> Section:
    """A section with the final distance of every method at every learning rate."""
    return Section(
        f"{title}, every learning rate",
        body_html,
        rate_chart(result.curves, result.optimum),
        "Final distance at every learning rate, median over seeds. A cross below marks a learning "
        "rate at which some seed diverged or ended above its initial loss.",
    )


def beside_authors(
    result: StudyResult, authors: Mapping[str, str], labels: Mapping[str, str] = {}
) -> list[tuple[str, str, str]]:
    """Rows of name, our distance and the authors' value.

    Args:
        result: the curves.
        authors: their value as text, by method.
        labels: names of methods for people, where they differ from those of the lab.
    """
    ours = tuned_distances(result.curves, result.optimum)
    return [(labels.get(m, label_of(m)), str(ours[m]), theirs) for m, theirs in authors.items()]


def distances_against_authors(
    rows: Sequence[tuple[str, str, str]], result: StudyResult, authors_iterations: int
) -> str:
    """A table of distances beside the authors' values, which are read by eye from their figures.

    Args:
        rows: from :func:`beside_authors`.
        result: one of the studies in the rows, which have one length.
        authors_iterations: length of the authors' runs.
    """
    ours, theirs = f"{result.study.iterations:,}", f"{authors_iterations:,}"
    header = ("Method", f"Distance here, {ours} iterations", f"Authors' figure, {theirs}")
    differ = f"our runs have {ours} iterations, the authors' {theirs}"
    note = f"<p class='note'>Not comparable: {differ}.</p>" if ours != theirs else ""
    return note + html_table(header, rows)


def tuned_by_horizon(result: StudyResult) -> dict[int, dict[str, Interval]]:
    """Distances at a hundredth, a tenth, a fifth, a half and the whole of the iterations."""
    last = result.study.iterations
    return {
        horizon: tuned_distances(at_horizon(result.curves, horizon), result.optimum)
        for horizon in (last // 100, last // 10, last // 5, last // 2, last)
    }


def horizon_table(result: StudyResult, methods: Sequence[str]) -> str:
    """Distances of tuned methods at several horizons, tuned separately for each horizon."""
    found = tuned_by_horizon(result)
    header = ["Method", *(f"{horizon:,} iterations" for horizon in found)]
    rows = [[label_of(m), *(str(column[m]) for column in found.values())] for m in methods]
    return (
        "<p class='note'>Distance from the optimum (median over seeds, with the range) at the last "
        "recorded step up to each horizon. Every method is tuned separately for each horizon, over "
        "the same learning rates.</p>" + html_table(header, rows)
    )


def grid_table(result: StudyResult, methods: Sequence[str]) -> str:
    """How the result depends on the grid: all learning rates against the paper's half decades."""
    whole = tuned_distances(result.curves, result.optimum)
    coarse = tuned_distances(at_rates(result.curves, PAPER_RATES), result.optimum)
    best = {row["method"]: row for row in tuned(result.curves).to_dicts()}
    rows = []
    for method in methods:
        fine, rough, at = whole[method], coarse[method], best[method]
        rate = f"{at['rate']:.3g}" + " (edge of the grid)" * at["edge"]
        factor = f"{rough.median / fine.median:.2f}" if fine.median else "-"
        rows.append([label_of(method), rate, str(fine), str(rough), factor])
    count = len(result.study.rates)
    header = ["Method", "Best lr", f"Distance, all {count} lrs", "Paper's 10 lrs", "Factor"]
    return (
        "<p class='note'>What each method loses if it is tuned over the paper's half decades only."
        "</p>" + html_table(header, rows)
    )
