"""What the charts of the theory page share: sizes, panels and axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from overparam.lab.charts.theme import DASHES, PALETTE, log_axis
from overparam.lab.theory.check import Row

WIDTH, HEIGHT = 320, 260


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
    return alt.Color(f"{name}:N", title=title, scale=alt.Scale(range=list(PALETTE)), **options)


def apart(name: str, title: str, **options: Any) -> dict[str, Any]:
    """One colour and one dash for each name in a column, as encodings of lines."""
    scale = alt.Scale(range=list(DASHES))
    return {
        "color": colour(name, title, **options),
        "strokeDash": alt.StrokeDash(f"{name}:N", title=title, scale=scale, **options),
    }


def log_scaled(
    axis: type[alt.X] | type[alt.Y], name: str, title: str, rows: Sequence[Row], **options: Any
) -> Any:
    """A column along a logarithmic axis.

    Args:
        axis: ``alt.X`` or ``alt.Y``.
        name: of the column.
        title: of the axis.
        rows: the data, all positive.
        **options: of the scale.
    """
    values = [row[name] for row in rows]
    low, high = options.get("domain", (min(values), max(values)))
    scale = {"type": "log", "nice": False, "padding": 8, **options}
    return axis(f"{name}:Q", title=title, axis=log_axis(low, high)).scale(**scale)
