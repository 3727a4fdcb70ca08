"""Charts and tables that several experiments share."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl

from overparam.lab.charts.study import distance_chart, labelled_colour, labelled_dash
from overparam.lab.methods import parse_method
from overparam.lab.paper.chapter import PartResult
from overparam.lab.paper.measurements import Interval, at_horizon, at_rates, tuned_distances
from overparam.lab.paper.scale import PAPER_RATES
from overparam.lab.report.page import html_table
from overparam.lab.summary import tuned, tuned_curves


def label_of(method: str) -> str:
    """The name of a method for people."""
    return parse_method(method).label


def joined(*parts: PartResult) -> PartResult:
    """Parts on the same loss that hold different methods, as one set of curves."""
    curves = pl.concat([part.curves for part in parts])
    return PartResult(parts[0].study, curves, parts[0].optimum)


def series(part: PartResult, method: str, label: str) -> pl.DataFrame:
    """The distances of a method at its best rate, over seeds, as one line of a chart.

    Columns: ``label, rate, step, median, low, high``.
    """
    one = tuned_curves(part.curves.filter(pl.col("method") == method))
    columns = ("median", "low", "high")
    return one.select(
        pl.lit(label).alias("label"),
        "rate",
        "step",
        *((pl.col(name) - part.optimum).alias(name) for name in columns),
    )


def series_chart(
    lines: Sequence[pl.DataFrame], title: str, description: str, dashed: Sequence[str] = ()
) -> alt.TopLevelMixin:
    """A chart of lines made by :func:`series`, in this order.

    Args:
        lines: one table each.
        title: of the legend.
        description: one sentence for who cannot see the chart.
        dashed: labels of dashed lines.
    """
    labels = [str(line["label"][0]) for line in lines]
    return distance_chart(
        pl.concat(lines),
        labelled_colour(labels, title),
        labelled_dash(labels, title, dashed),
        description,
    )


def distances_against_authors(
    rows: Sequence[tuple[str, Interval, str]], iterations: int, authors_iterations: int
) -> str:
    """A table of distances beside the authors' values, read by eye from their figures.

    Args:
        rows: name, distance here, the authors' value as text.
        iterations: of the distances here.
        authors_iterations: of theirs.
    """
    note = (
        ""
        if iterations == authors_iterations
        else f"<p class='note'>Not to be compared: the runs here have {iterations:,} iterations, "
        f"those of the authors {authors_iterations:,}.</p>"
    )
    header = (
        "Method",
        f"Distance here, {iterations:,} iterations",
        f"Authors' figure, {authors_iterations:,}",
    )
    return note + html_table(header, [(name, str(value), theirs) for name, value, theirs in rows])


def tuned_by_horizon(part: PartResult) -> dict[int, dict[str, Interval]]:
    """Distances at a hundredth, a tenth, a fifth, a half and the whole of the iterations."""
    last = part.study.iterations
    return {
        horizon: tuned_distances(at_horizon(part.curves, horizon), part.optimum)
        for horizon in (last // 100, last // 10, last // 5, last // 2, last)
    }


def horizon_table(part: PartResult, methods: Sequence[str]) -> str:
    """Distances of tuned methods at several horizons, each tuned anew for its horizon."""
    found = tuned_by_horizon(part)
    horizons, columns = list(found), list(found.values())
    rows = [[label_of(method), *(str(column[method]) for column in columns)] for method in methods]
    header = ["Method", *(f"{horizon:,} iterations" for horizon in horizons)]
    return (
        "<p class='note'>Distance from the optimum, median over seeds and range, at the last "
        "step recorded up to each horizon; every method is tuned anew for it, over the same rates."
        "</p>" + html_table(header, rows)
    )


def grid_table(part: PartResult, methods: Sequence[str]) -> str:
    """What the grid does to the result: all rates against the paper's half decades alone."""
    whole = tuned_distances(part.curves, part.optimum)
    coarse = tuned_distances(at_rates(part.curves, PAPER_RATES), part.optimum)
    best = {row["method"]: row for row in tuned(part.curves).to_dicts()}
    rows = []
    for method in methods:
        fine = whole[method].median
        factor = f"{coarse[method].median / fine:.2f}" if fine else "-"
        edge = " (edge of the grid)" if best[method]["edge"] else ""
        rows.append(
            [
                label_of(method),
                f"{best[method]['rate']:.3g}{edge}",
                str(whole[method]),
                str(coarse[method]),
                factor,
            ]
        )
    count = len(part.study.rates)
    header = ["Method", "Best rate", f"Distance, all {count} rates", "The paper's 10", "Factor"]
    return html_table(header, rows)
