"""Figures of the site: Altair charts as inline SVG, drawn for light and dark, wide and narrow.

Colours, dashes and ticks are those of the lab's pages. The SVG holds the colours of light pages;
``theme.css``, which ``conf.py`` writes from the theme, maps each to its dark partner.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import altair as alt
import vl_convert
from IPython.display import HTML

from overparam.lab.charts.theme import (
    AMBER,
    BLACK,
    BLUE,
    DASHES,
    GREEN,
    GRID,
    INK,
    LOG_LABEL,
    ORANGE,
    PALETTE,
    PINK,
    SKY,
    SOFT,
    log_ticks,
)

__all__ = ["AMBER", "BLACK", "BLUE", "GREEN", "ORANGE", "PINK", "SKY", "figure", "lines", "themed"]

Row = Mapping[str, Any]

WIDTH, HEIGHT = 330, 230
LABEL = 13  # size of text, and the least distance of labels
_numbers = itertools.count(1)


def figure(*charts: alt.TopLevelMixin, alt_text: str, caption: str = "") -> HTML:
    """Charts side by side, below each other where the page is narrow.

    Args:
        *charts: of the functions below, or any other.
        alt_text: what one sees, for readers who do not.
        caption: a sentence below.
    """
    drawings = "".join(f'<div class="panel">{_svg(chart)}</div>' for chart in charts)
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    kind = "one" if len(charts) == 1 else "many"
    return HTML(
        f'<figure class="drawn {kind}" role="group" aria-label="{escape(alt_text)}">'
        f'<div class="panels">{drawings}</div>{below}</figure>'
    )


def lines(
    rows: Sequence[Row],
    x: str,
    y: str,
    by: str | None = None,
    *,
    title: str = "",
    x_title: str = "",
    y_title: str = "",
    log: str = "",
    points: bool = False,
    x_domain: tuple[float, float] | None = None,
    y_domain: tuple[float, float] | None = None,
    label_at: str = "end",
) -> alt.LayerChart:
    """Lines with their names at their ends, each with a colour and a dash of its own.

    Args:
        rows: the data, one line per value of ``by`` in order of appearance.
        x: column.
        y: column.
        by: column; None for a single line.
        title: of the panel.
        x_title: of the axis.
        y_title: of the axis, written above the panel.
        log: axes on a logarithmic scale: "", "x", "y" or "xy".
        points: mark the data on the lines.
        x_domain: range of the axis; by default that of the data.
        y_domain: range of the axis.
        label_at: "end", or "none" where a caption tells the lines apart.
    """
    table = [{**row, "_by": "" if by is None else str(row[by])} for row in rows]
    names = list(dict.fromkeys(row["_by"] for row in table))
    x_axis = _axis(alt.X, x, x_title, table, "x" in log, x_domain)
    y_axis = _axis(alt.Y, y, "", table, "y" in log, y_domain)
    colour = alt.Color("_by:N", legend=None, sort=names).scale(domain=names, range=list(PALETTE))
    dash = alt.StrokeDash("_by:N", legend=None).scale(domain=names, range=list(DASHES))
    line = alt.Chart(alt.Data(values=table)).mark_line(
        strokeWidth=2.2, clip=True, point=alt.OverlayMarkDef(size=34) if points else False
    )
    layers: list[Any] = [line.encode(x_axis, y_axis, colour, dash)]
    if by is not None and label_at == "end":
        ends = _ends(table, x, y, names, "y" in log, y_domain)
        text = alt.Chart(alt.Data(values=ends)).mark_text(
            align="left", dx=7, fontSize=LABEL, fontWeight=600
        )
        layers.append(
            text.encode(alt.X(f"{x}:Q"), alt.Y(f"{y}:Q"), color=colour, text=alt.Text("_by:N"))
        )
    heading = [title] if title else []
    return (
        alt.layer(*layers)
        .properties(width=WIDTH, height=HEIGHT)
        .properties(title=alt.TitleParams(heading, subtitle=[y_title] if y_title else []))
    )


def _axis(
    kind: Any,
    name: str,
    title: str,
    rows: Sequence[Row],
    log: bool,
    domain: tuple[float, float] | None,
) -> Any:
    low, high = domain or _domain([float(row[name]) for row in rows], log, kind is alt.Y)
    scale: dict[str, Any] = {"nice": False, "domain": [low, high]}
    if not log:
        return kind(f"{name}:Q", title=title).scale(**scale, zero=False)
    ticks = alt.Axis(values=log_ticks(low, high), labelExpr=LOG_LABEL)
    return kind(f"{name}:Q", title=title, axis=ticks).scale(**scale, type="log")


def _domain(values: Sequence[float], log: bool, padded: bool) -> tuple[float, float]:
    """The range of the data, with some air above and below them."""
    low, high = min(values), max(values)
    if not padded:
        return low, high
    if log:
        air = (high / low) ** 0.04
        return low / air, high * air
    return low - 0.04 * (high - low), high + 0.04 * (high - low)


def _ends(
    rows: Sequence[Row],
    x: str,
    y: str,
    names: Sequence[str],
    log: bool,
    domain: tuple[float, float] | None,
) -> list[dict[str, Any]]:
    """A label for the last point of each line inside the panel, moved apart where they collide."""
    low, high = domain or _domain([float(row[y]) for row in rows], log, padded=True)

    def to_pixel(value: float) -> float:
        bend = math.log if log else float
        return HEIGHT * (1 - (bend(value) - bend(low)) / (bend(high) - bend(low)))

    def to_value(pixel: float) -> float:
        part = 1 - pixel / HEIGHT
        return low * (high / low) ** part if log else low + (high - low) * part

    ends = []
    for name in names:
        inside = [r for r in rows if r["_by"] == name and low <= float(r[y]) <= high]
        last = max(inside, key=lambda row: float(row[x]))
        ends.append({"_by": name, x: last[x], "pixel": to_pixel(float(last[y]))})
    ends.sort(key=lambda end: end["pixel"])
    for _ in range(50):
        for above, below in itertools.pairwise(ends):
            missing = LABEL + 2 - (below["pixel"] - above["pixel"])
            if missing > 0 and abs(above[x] - below[x]) < 0.2 * _span(rows, x):
                above["pixel"] -= missing / 2
                below["pixel"] += missing / 2
    return [{"_by": end["_by"], x: end[x], y: to_value(end["pixel"])} for end in ends]


def _span(rows: Sequence[Row], x: str) -> float:
    values = [float(row[x]) for row in rows]
    return max(values) - min(values)


def themed(chart: Any) -> Any:
    """A chart in the fonts and colours of the site."""
    text = {"labelColor": SOFT, "titleColor": SOFT, "labelFontSize": 12, "titleFontSize": 12}
    return (
        chart.configure(background="transparent", font="sans-serif", padding=4)
        .configure_axis(
            **text, gridColor=GRID, domainColor=GRID, tickColor=GRID, titleFontWeight=400
        )
        .configure_title(
            anchor="start",
            frame="group",
            fontSize=14,
            color=INK,
            subtitleColor=SOFT,
            subtitleFontSize=12,
            offset=8,
        )
        .configure_view(stroke=None)
        .configure_legend(**text, titleFontWeight=400)
        .configure_text(color=INK)
    )


def _svg(chart: Any) -> str:
    """SVG without a size of its own, whose names do not collide with those of other drawings."""
    drawn = vl_convert.vegalite_to_svg(themed(chart).to_dict())
    mark = f"f{next(_numbers)}-{abs(hash(drawn)) % 10**8}"
    drawn = re.sub(r'\b(id="|url\(#|href="#)', rf"\1{mark}-", drawn)
    # The first tag alone: its size becomes that of the page.
    head, _, rest = drawn.partition(">")
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    return f'{head} role="img" aria-hidden="true">{rest}'
