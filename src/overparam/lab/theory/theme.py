"""What the charts of the theory page share: sizes, colours, panels and axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import altair as alt

from overparam.lab.theory.check import Row

# Okabe and Ito's palette, which colour-blind readers can tell apart too.
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"]
WIDTH, HEIGHT = 320, 260


def themed(chart: Any) -> Any:
    """A chart in the fonts and colours of the page."""
    return (
        chart.configure_axis(labelFontSize=12, titleFontSize=13, gridColor="#e6e6e6")
        .configure_title(fontSize=14, anchor="start", offset=10)
        .configure_legend(labelFontSize=12, titleFontSize=12)
        .configure_header(labelFontSize=12, titleFontSize=13)
        .configure_view(stroke="#cccccc")
    )


def lines(rows: Sequence[Row], title: str = "", size: float = 0, **mark: Any) -> alt.Chart:
    """A panel of lines; a size above 0 adds a point of that size at each value."""
    point = alt.OverlayMarkDef(size=size) if size else False
    return (
        alt.Chart(alt.Data(values=rows), title=title)
        .mark_line(point=point, **{"strokeWidth": 2, **mark})
        .properties(width=WIDTH, height=HEIGHT)
    )


def chosen(rows: Sequence[Row], **wanted: Any) -> list[Row]:
    """The rows with the given entries."""
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def colour(name: str, title: str, **options: Any) -> alt.Color:
    """One colour of the palette for each name in a column."""
    return alt.Color(f"{name}:N", title=title, scale=alt.Scale(range=COLOURS), **options)


def log_axis(
    axis: type[alt.X] | type[alt.Y], name: str, title: str, rows: Sequence[Row], **options: Any
) -> Any:
    """A logarithmic axis whose labels do not collide.

    Args:
        axis: ``alt.X`` or ``alt.Y``.
        name: of the column.
        title: of the axis.
        rows: the data, all positive.
        **options: of the scale.
    """
    values = [row[name] for row in rows]
    low, high = options.get("domain", (min(values), max(values)))
    ticks = alt.Axis(format="~g" if low >= 1e-3 else ".0e", values=log_ticks(low, high))
    scale = {"type": "log", "nice": False, "padding": 8, **options}
    return axis(f"{name}:Q", title=title, axis=ticks).scale(**scale)


def log_ticks(low: float, high: float) -> list[float]:
    """At most eight round numbers between two positive ones, evenly spread on a log axis.

    Powers of ten if more than two lie between, else also 2 and 5 times powers of ten.

    Example:
        >>> log_ticks(0.02, 30.0), log_ticks(0.03, 0.5), log_ticks(0.6, 0.9)
        ([0.1, 1.0, 10.0], [0.05, 0.1, 0.2, 0.5], [0.6, 0.9])
        >>> log_ticks(1e-9, 1.0)
        [1e-08, 1e-06, 0.0001, 0.01, 1.0]
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for steps in ((1,), (1, 2, 5)):
        ticks = [
            number
            for power in range(first, last + 1)
            for step in steps
            if low * (1 - 1e-9) <= (number := float(f"{step}e{power}")) <= high * (1 + 1e-9)
        ]
        if len(ticks) > 2:
            every = math.ceil(len(ticks) / 8)
            return ticks[(len(ticks) - 1) % every :: every]
    return ticks if len(ticks) > 1 else [low, high]
