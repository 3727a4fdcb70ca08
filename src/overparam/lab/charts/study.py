"""The charts of a study's report, from its curves."""

from __future__ import annotations

import math
from collections.abc import Mapping

import altair as alt
import polars as pl

from overparam.lab.charts.theme import (
    Look,
    end_labels,
    label_heights,
    labels_fit,
    line_encodings,
    log_axis,
    look_of,
    looks_apart,
    shapes,
    styled,
)
from overparam.lab.methods import OPTIMIZERS, label_of, parse_method
from overparam.lab.summary import rate_curve, tuned, tuned_curves

_WIDTH, _HEIGHT = 600, 400


def loss_chart(curves: pl.DataFrame, optimum: float) -> alt.TopLevelMixin:
    """Distance from the optimum against iterations, one line per method at its best lr."""
    return distance_chart(
        _above_optimum(_named(tuned_curves(curves)), optimum),
        _looks(tuned(curves)["method"].to_list()),
        "Loss above the optimum against iterations, each method at its best learning rate.",
    )


def distance_chart(
    table: pl.DataFrame, looks: Mapping[str, Look], description: str
) -> alt.TopLevelMixin:
    """Lines of distances against iterations, with a band over seeds if there are several.

    Args:
        table: columns ``label, method, rate, step, median, low, high``; steps and distances that a
            logarithmic axis cannot show are left out.
        looks: of the lines, by label.
        description: one sentence for readers who cannot see the chart.
    """
    # Zeros, and the infinite losses of a run that overflowed before it diverged.
    shown = (pl.col("step") > 0) & pl.col("high").is_finite() & (pl.col("low") > 0)
    distance = table.filter(shown)
    several_seeds = (distance["high"] > distance["low"]).any()
    # Clicking a line, or a name in the legend, singles out a method.
    highlight = alt.selection_point(fields=["label"])
    opacity = alt.condition(highlight, alt.value(1.0), alt.value(0.12))
    steps = _range(distance, "step")
    direct = labels_fit(len(looks), _HEIGHT)
    lines = line_encodings(looks, None if direct else alt.Legend(title="Method, best first"))
    base = alt.Chart(rounded(distance)).encode(
        x=alt.X(
            "step:Q",
            title="Iteration",
            scale=alt.Scale(type="log", nice=False, domain=steps),
            axis=log_axis(*steps),
        ),
        color=lines["color"],
        opacity=opacity,
    )
    y = log_y("median:Q", "Loss above the optimum", distance, "low", "high")
    drawn = base.mark_line().add_params(highlight)
    drawn = drawn.encode(
        y=y,
        strokeDash=lines["strokeDash"],
        strokeWidth=lines["strokeWidth"],
        tooltip=[
            alt.Tooltip("label:N", title="Method"),
            alt.Tooltip("rate:Q", title="Learning rate", format=".3g"),
            alt.Tooltip("step:Q", title="Iteration", format=","),
            alt.Tooltip("median:Q", title="Above the optimum", format=".4g"),
        ],
    )
    bands = base.mark_area(fillOpacity=0.15, strokeWidth=0).encode(y="low:Q", y2="high:Q")
    layers = [bands, drawn] if several_seeds else [drawn]
    optimizers = _optimizers(distance)
    if len(optimizers) > 1:
        marks = alt.Chart(rounded(_spread(distance, steps))).mark_point(filled=True, size=48)
        layers.append(
            marks.encode(
                x="step:Q",
                y="median:Q",
                color=lines["color"],
                opacity=opacity,
                shape=shapes(optimizers),
            )
        )
    if direct and len(distance):
        last = distance.sort("step").group_by("label", maintain_order=True).last()
        ends = dict(last.select("label", "median").iter_rows())
        heights = label_heights(ends, _padded(distance, "low", "high"), _HEIGHT, log=True)
        layers.append(end_labels(heights, "step", steps[1], "median", looks))
    chart = alt.layer(*layers).properties(width=_WIDTH, height=_HEIGHT)
    return styled(chart, description, direct)


def rate_chart(curves: pl.DataFrame, optimum: float) -> alt.TopLevelMixin:
    """Final loss against the lr, and below it the lrs at which runs failed."""
    order = tuned(curves)["method"].to_list()
    looks = _looks(order)
    sensitivity = _named(rate_curve(curves)).drop("low", "high")
    # If most seeds diverged, the median is infinite and cannot be shown.
    worked = sensitivity.filter(pl.col("median").is_finite() & (pl.col("failed") < pl.col("seeds")))
    worked = _above_optimum(worked, optimum)
    failed = sensitivity.filter(pl.col("failed") > 0).drop("median")
    highlight = alt.selection_point(fields=["label"], bind="legend")
    rates = _range(sensitivity, "rate")
    scale = alt.Scale(type="log", nice=False, domain=rates)
    opacity = alt.condition(highlight, alt.value(1.0), alt.value(0.12))
    legend = alt.Legend(title="Method, best first", symbolType="stroke")
    drawn = line_encodings(looks, legend)
    tooltip = [
        alt.Tooltip("label:N", title="Method"),
        alt.Tooltip("rate:Q", title="Learning rate", format=".3g"),
        alt.Tooltip("failed:Q", title="Seeds that failed"),
        alt.Tooltip("seeds:Q", title="Seeds"),
    ]
    optimizers = _optimizers(sensitivity)
    marked = alt.Chart(rounded(_with_optimizer(worked))).mark_line(
        point=alt.OverlayMarkDef(size=42, filled=True)
    )
    lines = marked.encode(
        x=alt.X("rate:Q", title=None, scale=scale, axis=log_axis(*rates)),
        y=log_y("median:Q", "Final loss above the optimum", worked, "median"),
        opacity=opacity,
        tooltip=[*tooltip, alt.Tooltip("median:Q", title="Above the optimum", format=".4g")],
        **drawn,
    )
    if len(optimizers) > 1:
        lines = lines.encode(shape=shapes(optimizers))
    panel = alt.layer(lines).properties(width=_WIDTH, height=_HEIGHT)
    hidden = alt.Axis(labels=False, ticks=False, domain=False, grid=True)
    crosses = (
        alt.Chart(rounded(failed))
        .mark_point(shape="cross", angle=45, size=40, filled=True)
        .encode(
            x=alt.X("rate:Q", title="Learning rate", scale=scale, axis=log_axis(*rates)),
            y=alt.Y("label:N", title="Failed", scale=alt.Scale(domain=list(looks)), axis=hidden),
            color=drawn["color"],
            opacity=opacity,
            tooltip=tooltip,
        )
        .properties(width=_WIDTH, height=13 * len(order))
    )
    description = "Final loss above the optimum and failures, against the learning rate."
    return styled(alt.vconcat(panel.add_params(highlight), crosses, spacing=12), description)


def _named(table: pl.DataFrame) -> pl.DataFrame:
    labels = {name: label_of(name) for name in table["method"].unique()}
    return table.with_columns(label=pl.col("method").replace_strict(labels))


def _above_optimum(table: pl.DataFrame, optimum: float) -> pl.DataFrame:
    """Losses minus the optimum, kept above zero because the axis is logarithmic."""
    columns = [name for name in ("median", "low", "high") if name in table.columns]
    return table.with_columns((pl.col(columns) - optimum).clip(lower_bound=optimum * 1e-15))


def rounded(table: pl.DataFrame) -> pl.DataFrame:
    """Numbers rounded to five digits, which is more than a chart shows and keeps the page small."""
    return table.with_columns(pl.col(pl.Float64).round_sig_figs(5))


def log_y(field: str, title: str, table: pl.DataFrame, *columns: str) -> alt.Y:
    """A logarithmic y axis with even ticks.

    Args:
        field: the column, with its type.
        title: of the axis.
        table: what is shown.
        *columns: whose values the axis spans.
    """
    domain = _padded(table, *columns)
    scale = alt.Scale(type="log", nice=False, domain=domain)
    return alt.Y(field, title=title, scale=scale, axis=log_axis(*domain))


def _padded(table: pl.DataFrame, *columns: str) -> tuple[float, float]:
    """The range of some columns on a logarithmic axis, with some air."""
    low, high = _range(table, *columns)
    air = (high / low) ** 0.03
    return low / air, high * air


def _range(table: pl.DataFrame, *columns: str) -> tuple[float, float]:
    """The smallest and the largest positive number of some columns, apart from each other."""
    found = pl.concat([table[name].cast(pl.Float64).rename("x") for name in columns])
    found = found.filter(found.is_finite() & (found > 0))
    if not len(found):
        return 1.0, 10.0
    low, high = float(found.min()), float(found.max())  # pyright: ignore[reportArgumentType]
    return (low, high) if low < high else (low / 2, high * 2)


def _optimizers(table: pl.DataFrame) -> dict[str, str]:
    """The name of each optimizer in the column ``method``, by its label."""
    names = (parse_method(name).optimizer for name in dict.fromkeys(table["method"]))
    return {OPTIMIZERS[name].label: name for name in names}


def _with_optimizer(table: pl.DataFrame) -> pl.DataFrame:
    labels = {n: OPTIMIZERS[parse_method(n).optimizer].label for n in table["method"].unique()}
    return table.with_columns(pl.col("method").replace_strict(labels).alias("optimizer"))


def _spread(table: pl.DataFrame, steps: tuple[float, float]) -> pl.DataFrame:
    """A few points of each line, evenly spread on the axis and shifted from line to line."""
    count, parts = len(table["label"].unique()), []
    for i, (_, line) in enumerate(table.group_by("label", maintain_order=True)):
        shares = [(k + (i + 0.5) / count) / 5 for k in range(5)]
        wanted = [steps[0] * (steps[1] / steps[0]) ** share for share in shares]
        nearest = [(line["step"].log() - math.log(step)).abs().arg_min() for step in wanted]
        parts.append(line[sorted({k for k in nearest if k is not None})])
    return _with_optimizer(pl.concat(parts))


def _looks(order: list[str]) -> dict[str, Look]:
    return looks_apart({label_of(name): look_of(name) for name in order})
