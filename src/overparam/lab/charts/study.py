"""The charts of a study's report, from its curves."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import altair as alt
import polars as pl

from overparam.lab.methods import label_of, parse_method
from overparam.lab.summary import rate_curve, tuned, tuned_curves

# Okabe and Ito's palette, which colour-blind readers can distinguish too. Depth is blue, and darker
# the deeper.
_OPTIMIZER_COLOURS = {
    "gd": "#000000",
    "momentum": "#e69f00",
    "nesterov": "#b8860b",
    "adagrad": "#009e73",
    "adadelta": "#cc79a7",
    "adam": "#d55e00",
    "normalized": "#999999",
    "loss_scaled": "#7a3e9d",
}
# For lines that differ in something other than their method.
PALETTE = ("#000000", "#e69f00", "#56b4e9", "#0072b2", "#08306b", "#009e73", "#cc79a7", "#d55e00")
_DEPTH_COLOURS = ("#56b4e9", "#0072b2", "#08306b")
_BEST_FIRST = "Method, best first"
_WIDTH, _HEIGHT = 660, 420


def loss_chart(curves: pl.DataFrame, optimum: float) -> alt.TopLevelMixin:
    """Distance from the optimum against iterations, one line per method at its best lr."""
    order = tuned(curves)["method"].to_list()
    return distance_chart(
        _above_optimum(_named(tuned_curves(curves)), optimum),
        _colour(order),
        _dash(order),
        "Loss above the optimum against iterations, each method at its best learning rate.",
    )


def distance_chart(
    table: pl.DataFrame, colour: alt.Color, dash: alt.StrokeDash, description: str
) -> alt.TopLevelMixin:
    """Lines of distances against iterations, with a band over seeds if there are several.

    Args:
        table: columns ``label, rate, step, median, low, high``; steps and distances that a
            logarithmic axis cannot show are left out.
        colour: colours of the labels.
        dash: dashes of the labels.
        description: one sentence for readers who cannot see the chart.
    """
    # Zeros, and the infinite losses of a run that overflowed before it diverged.
    shown = (pl.col("step") > 0) & pl.col("high").is_finite() & (pl.col("low") > 0)
    distance = table.filter(shown)
    several_seeds = (distance["high"] > distance["low"]).any()
    highlight = _highlight()
    base = alt.Chart(rounded(distance)).encode(
        x=alt.X(
            "step:Q", title="Iteration", scale=alt.Scale(type="log", nice=False), axis=log_axis()
        ),
        color=colour,
        opacity=alt.condition(highlight, alt.value(1.0), alt.value(0.12)),
    )
    lines = base.mark_line(strokeWidth=2).encode(
        y=log_y("median:Q", "Loss above the optimum"),
        strokeDash=dash,
        tooltip=[
            alt.Tooltip("label:N", title="Method"),
            alt.Tooltip("rate:Q", title="Learning rate", format=".3g"),
            alt.Tooltip("step:Q", title="Iteration", format=","),
            alt.Tooltip("median:Q", title="Above the optimum", format=".4g"),
        ],
    )
    bands = base.mark_area(fillOpacity=0.15, strokeWidth=0).encode(y="low:Q", y2="high:Q")
    layers = [bands, lines] if several_seeds else [lines]
    chart = alt.layer(*layers).properties(width=_WIDTH, height=_HEIGHT)
    return styled(chart.add_params(highlight), description)


def labelled_colour(labels: list[str], title: str, colours: Sequence[str] = PALETTE) -> alt.Color:
    """Colours for the lines with these labels, in this order."""
    scale = alt.Scale(domain=labels, range=[colours[i % len(colours)] for i in range(len(labels))])
    return alt.Color("label:N", scale=scale, legend=alt.Legend(title=title))


def labelled_dash(
    labels: list[str], title: str, dashed: Collection[str] = (), dotted: Collection[str] = ()
) -> alt.StrokeDash:
    """Dashed and dotted lines for the labels named, solid lines for the others."""
    dashes = [
        [5, 3] if label in dashed else [2, 2] if label in dotted else [1, 0] for label in labels
    ]
    scale = alt.Scale(domain=labels, range=dashes)
    return alt.StrokeDash("label:N", scale=scale, legend=alt.Legend(title=title))


def rate_chart(curves: pl.DataFrame, optimum: float) -> alt.TopLevelMixin:
    """Final loss against the lr, and below it the lrs at which runs failed."""
    order = tuned(curves)["method"].to_list()
    labels = [label_of(name) for name in order]
    sensitivity = _named(rate_curve(curves)).drop("low", "high")
    # If most seeds diverged, the median is infinite and cannot be shown.
    worked = sensitivity.filter(pl.col("median").is_finite() & (pl.col("failed") < pl.col("seeds")))
    failed = sensitivity.filter(pl.col("failed") > 0).drop("median")
    highlight = _highlight()
    tried = sensitivity["rate"].sort().to_list()
    rates = alt.Scale(type="log", nice=False, domain=[tried[0], tried[-1]])
    opacity = alt.condition(highlight, alt.value(1.0), alt.value(0.12))
    tooltip = [
        alt.Tooltip("label:N", title="Method"),
        alt.Tooltip("rate:Q", title="Learning rate", format=".3g"),
        alt.Tooltip("failed:Q", title="Seeds that failed"),
        alt.Tooltip("seeds:Q", title="Seeds"),
    ]
    lines = (
        alt.Chart(rounded(_above_optimum(worked, optimum)))
        .mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=30, filled=True))
        .encode(
            x=alt.X("rate:Q", title=None, scale=rates, axis=log_axis()),
            y=log_y("median:Q", "Final loss above the optimum"),
            color=_colour(order),
            strokeDash=_dash(order),
            opacity=opacity,
            tooltip=[*tooltip, alt.Tooltip("median:Q", title="Above the optimum", format=".4g")],
        )
        .properties(width=_WIDTH, height=_HEIGHT)
        .add_params(highlight)
    )
    hidden = alt.Axis(labels=False, ticks=False, domain=False, grid=True)
    crosses = (
        alt.Chart(rounded(failed))
        .mark_point(shape="cross", angle=45, size=40, filled=True)
        .encode(
            x=alt.X("rate:Q", title="Learning rate", scale=rates, axis=log_axis()),
            y=alt.Y("label:N", title="Failed", scale=alt.Scale(domain=labels), axis=hidden),
            color=_colour(order),
            opacity=opacity,
            tooltip=tooltip,
        )
        .properties(width=_WIDTH, height=13 * len(order))
    )
    description = "Final loss above the optimum and failures, against the learning rate."
    return styled(alt.vconcat(lines, crosses, spacing=12), description)


def styled(
    chart: alt.LayerChart | alt.VConcatChart | alt.HConcatChart | alt.FacetChart, description: str
) -> alt.TopLevelMixin:
    """The chart in the style of all charts, readable from the back of a room."""
    return (
        chart.properties(description=description)
        .configure(font="system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif")
        .configure_axis(
            labelFontSize=12,
            titleFontSize=13,
            titleFontWeight=500,
            titlePadding=10,
            gridColor="#ececec",
            domainColor="#8a8a8a",
            tickColor="#8a8a8a",
        )
        .configure_legend(
            labelFontSize=12.5,
            titleFontSize=12.5,
            titleFontWeight=500,
            symbolType="stroke",
            symbolSize=260,
            symbolStrokeWidth=3,
            rowPadding=4,
            labelLimit=260,
        )
        .configure_view(stroke=None)
    )


def _named(table: pl.DataFrame) -> pl.DataFrame:
    labels = {name: label_of(name) for name in table["method"].unique()}
    return table.with_columns(pl.col("method").replace_strict(labels).alias("label"))


def _above_optimum(table: pl.DataFrame, optimum: float) -> pl.DataFrame:
    """Losses minus the optimum, kept above zero because the axis is logarithmic."""
    columns = [name for name in ("median", "low", "high") if name in table.columns]
    least = optimum * 1e-15
    return table.with_columns(
        *((pl.col(name) - optimum).clip(lower_bound=least).alias(name) for name in columns)
    )


def rounded(table: pl.DataFrame) -> pl.DataFrame:
    """Numbers rounded to five digits, which is more than a chart shows and keeps the page small."""
    floats = [name for name, kind in table.schema.items() if kind == pl.Float64]
    return table.with_columns(pl.col(floats).round_sig_figs(5))


def _highlight() -> alt.Parameter:
    return alt.selection_point(fields=["label"], bind="legend")


def log_y(field: str, title: str) -> alt.Y:
    """A logarithmic y axis."""
    scale = alt.Scale(type="log", nice=False, padding=8)
    return alt.Y(field, title=title, scale=scale, axis=log_axis())


def log_axis() -> alt.Axis:
    """A logarithmic axis whose labels have no trailing zeros."""
    return alt.Axis(format="~g", labelOverlap=True, labelSeparation=8)


def _colour(order: list[str]) -> alt.Color:
    labels = [label_of(name) for name in order]
    return labelled_colour(labels, _BEST_FIRST, [_method_colour(name) for name in order])


def _dash(order: list[str]) -> alt.StrokeDash:
    methods = [parse_method(name) for name in order]
    dashed = {method.label for method in methods if method.depth_kind == "factors"}
    dotted = {method.label for method in methods if method.depth_kind == "rule_normalized"}
    return labelled_dash([method.label for method in methods], _BEST_FIRST, dashed, dotted)


def _method_colour(name: str) -> str:
    method = parse_method(name)
    if method.optimizer != "gd" or method.depth_kind == "plain":
        return _OPTIMIZER_COLOURS[method.optimizer]
    return _DEPTH_COLOURS[min(2, max(0, round(method.depth) - 2))]
