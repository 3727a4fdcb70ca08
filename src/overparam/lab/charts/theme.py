"""The one theme of every chart: colours, dashes, ticks, labels at line ends, the scale of maps.

A colour stands for an optimizer, a dash for a kind of depth, a width for how much depth there is,
and a shape for the optimizer again: no two of these are told apart by colour alone. Charts are
drawn in the colours of light pages; a page maps each to its partner in :data:`DARK`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any
from zlib import crc32

import altair as alt

INK, SOFT, GRID = "#1f2933", "#52606d", "#e1e6eb"
# After Okabe and Ito, for colour-blind readers too; dark enough for text on white.
BLUE, ORANGE, GREEN, PINK = "#0072b2", "#c85200", "#00845f", "#b85c94"
AMBER, SKY, BLACK, GREY, VIOLET = "#b97a00", "#2f8fc9", "#000000", "#7b8794", "#7a3e9d"
PALETTE = (BLUE, ORANGE, GREEN, PINK, AMBER, SKY, BLACK, VIOLET, GREY)
"""For lines that differ in something other than their method."""

# From a loss to a gain, in steps of a factor of 2 that begin at 1/4 and end at 4.
MAP_COLOURS = ("#d97b2b", "#eba972", "#f7d9bd", "#eef0f2", "#c4def0", "#7fbbe0", "#52a3d6")
MAP_BOUNDS = (0.25, 0.5, 0.8, 1.25, 2, 4)

DARK = {
    INK: "#e6eaee", SOFT: "#a9b4bf", GRID: "#353c45", BLUE: "#62b6f0", ORANGE: "#ff9350",
    GREEN: "#3fd0a4", PINK: "#eba3d0", AMBER: "#f4bf4f", SKY: "#9ad4ff", BLACK: "#e9edf0",
    GREY: "#98a4b0", VIOLET: "#c9a3ea", "#003f6b": "#3d7fd0",
    **dict(zip(MAP_COLOURS, ("#b0561a", "#7d4218", "#4b3020", "#2b3138", "#1f3f58", "#1f5f8c",
                             "#166ca6"), strict=True)),
}  # fmt: skip
"""The partner of each colour on a dark page."""

DASHES = ([1, 0], [7, 3], [2, 2], [8, 3, 2, 3], [12, 4], [4, 2], [1, 4])
_OPTIMIZERS = {
    "gd": (BLACK, "circle"),
    "sgd": (BLACK, "circle"),
    "momentum": (AMBER, "square"),
    "nesterov": (GREEN, "triangle-up"),
    "adam": (ORANGE, "diamond"),
    "adamw": (ORANGE, "diamond"),
    "adagrad": (VIOLET, "cross"),
    "adadelta": (PINK, "triangle-down"),
    "normalized": (GREY, "triangle-left"),
    "loss_scaled": (GREEN, "triangle-right"),
    "muon": (PINK, "cross"),
}
_KIND_DASH = {
    "plain": 0, "rule": 1, "factors": 2, "model": 2, "radial": 3, "rule_normalized": 4, "norm": 5,
    "metric": 6,
}  # fmt: skip
_DEPTHS = (SKY, BLUE, "#003f6b")  # under gradient descent: darker the deeper
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
_TEXT = 12.5
_GAP = 16  # the least distance of two labels


@dataclass(frozen=True)
class Look:
    """How a line is drawn.

    Attributes:
        colour: of the theme.
        dash: lengths of strokes and gaps.
        width: of the stroke.
        shape: of its points.
    """

    colour: str
    dash: Sequence[int] = (1, 0)
    width: float = 2.0
    shape: str = "circle"


def look_of(method: str) -> Look:
    """How a method is drawn, everywhere.

    Args:
        method: a name of the lab, such as ``rule:2`` or ``adamw(weight_decay=0.1)+factors:3``.

    Example:
        >>> look_of("adam").colour == look_of("adam+factors:2").colour
        True
        >>> look_of("adam").dash == look_of("adam+factors:2").dash
        False
    """
    head, _, depth = method.rpartition("+") if "+" in method else ("", "", method)
    if ":" not in depth:
        head, depth = method, ""
    base = re.sub(r"\(.*", "", head) or "gd"
    if base == "sgd" and "momentum" in head:
        base = "momentum"
    kind, _, number = depth.partition(":")
    colour, shape = _OPTIMIZERS.get(base, (PALETTE[crc32(base.encode()) % 6], "circle"))
    if not kind:
        return Look(colour, DASHES[0], 2.0, shape)
    found = re.match(r"[\d.]+", number)
    much = float(found[0]) if found else 2.0
    if colour == BLACK:
        colour = _DEPTHS[min(2, max(0, round(much) - 2))]
    return Look(colour, DASHES[_KIND_DASH.get(kind, 1)], 1.1 + min(much, 5) * 0.5, shape)


def looks_apart(looks: Mapping[str, Look]) -> dict[str, Look]:
    """The looks, with another dash for each that would be drawn like one before it."""
    apart: dict[str, Look] = {}
    for label, look in looks.items():
        taken = {(other.colour, tuple(other.dash)) for other in apart.values()}
        free = [dash for dash in (look.dash, *DASHES) if (look.colour, tuple(dash)) not in taken]
        apart[label] = replace(look, dash=free[0]) if free else look
    return apart


def line_encodings(
    looks: Mapping[str, Look], legend: alt.Legend | None, field: str = "label"
) -> dict[str, Any]:
    """Colour, dash and width of the lines with these labels, as encodings.

    Args:
        looks: by label, in the order of the legend.
        legend: None where labels stand at the ends of lines.
        field: the column of labels.
    """
    labels, name = list(looks), f"{field}:N"

    def shown(values: Iterable[Any]) -> dict[str, Any]:
        return {"scale": alt.Scale(domain=labels, range=list(values)), "legend": legend}

    drawn = looks.values()
    widths = shown(look.width for look in drawn)
    return {
        "color": alt.Color(name, **shown(look.colour for look in drawn)),
        "strokeDash": alt.StrokeDash(name, **shown(list(look.dash) for look in drawn)),
        # An ordinal field, because widths have an order.
        "strokeWidth": alt.StrokeWidth(f"{field}:O", sort=labels, **widths),
    }


def shapes(optimizers: Mapping[str, str]) -> alt.Shape:
    """One shape for each optimizer, with a legend below the chart.

    Args:
        optimizers: names of methods by the label of their optimizer, the column ``optimizer``.
    """
    marks = [look_of(method).shape for method in optimizers.values()]
    scale = alt.Scale(domain=list(optimizers), range=marks)
    legend = alt.Legend(
        title="Optimizer", orient="bottom", columns=5, symbolSize=70, symbolStrokeWidth=1
    )
    return alt.Shape("optimizer:N", scale=scale, legend=legend)


def labels_fit(count: int, height: float) -> bool:
    """Whether so many labels fit at the ends of lines in a panel of this height."""
    return count * _GAP <= height + _GAP


def label_heights(
    ends: Mapping[str, float], domain: tuple[float, float], height: float, log: bool
) -> dict[str, float]:
    """Where the labels of lines stand: at their last values, moved apart where they collide.

    Args:
        ends: the last value of each line.
        domain: of the axis.
        height: of the panel.
        log: whether the axis is logarithmic.

    Returns:
        A value of the axis for each label.

    Example:
        >>> label_heights({"a": 1.0, "b": 10.0}, (1.0, 100.0), 300, True)
        {'b': 10.0, 'a': 1.0}
    """
    bend, unbend = (math.log, math.exp) if log else (float, float)
    low, high = map(bend, domain)
    span = high - low or 1.0
    order = sorted(ends, key=lambda name: -ends[name])
    pixels = [height * (1 - (min(max(bend(ends[name]), low), high) - low) / span) for name in order]
    for _ in range(200):
        for i, (above, below) in enumerate(pairwise(list(pixels))):
            if (missing := _GAP - (below - above)) > 1e-9:
                pixels[i] -= missing / 2
                pixels[i + 1] += missing / 2
        pixels = [min(max(pixel, 0), height) for pixel in pixels]
    return {
        name: float(f"{unbend(high - span * pixel / height):.12g}")
        for name, pixel in zip(order, pixels, strict=True)
    }


def end_labels(
    heights: Mapping[str, float],
    x: str,
    at: float,
    y: str,
    looks: Mapping[str, Look],
    field: str = "label",
) -> alt.Chart:
    """The names of lines at their ends; a narrow page leaves this layer out for a legend.

    Args:
        heights: from :func:`label_heights`.
        x: column of the horizontal axis.
        at: where the lines end.
        y: column of the vertical axis.
        looks: of the lines.
        field: the column of labels.
    """
    rows = [{field: name, x: at, y: value} for name, value in heights.items()]
    mark = alt.Chart(alt.Data(values=rows), name="labels").mark_text(
        align="left", dx=9, fontSize=_TEXT, fontWeight=600
    )
    scale = alt.Scale(domain=list(looks), range=[look.colour for look in looks.values()])
    return mark.encode(
        x=f"{x}:Q",
        y=f"{y}:Q",
        text=f"{field}:N",
        color=alt.Color(f"{field}:N", scale=scale, legend=None),
    )


def speed_colour(field: str, title: str = "Speed-up") -> alt.Color:
    """The colour of a speed-up in every map: blue is faster, orange slower, pale neither."""
    scale = alt.Scale(type="threshold", domain=list(MAP_BOUNDS), range=list(MAP_COLOURS))
    legend = alt.Legend(format="~g", gradientLength=220)
    return alt.Color(f"{field}:Q", title=title, scale=scale, legend=legend)


def log_axis(low: float, high: float) -> alt.Axis:
    """A logarithmic axis with even ticks between two positive numbers."""
    return alt.Axis(values=log_ticks(low, high), labelExpr=LOG_LABEL, labelOverlap=True)


LOG_LABEL = (
    "datum.value >= 0.001 && datum.value < 1000 ? format(datum.value, '~g')"
    " : datum.value >= 1000 && datum.value < 1e7 ? format(datum.value, ',')"
    " : replace(format(datum.value, '.0e'), '+', '')"
)
"""How a tick of a logarithmic axis is written."""


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


def styled(chart: Any, description: str, direct: bool = False, room: int = 75) -> alt.TopLevelMixin:
    """The chart in the style of all charts, readable from the back of a room.

    Args:
        chart: any chart.
        description: one sentence for readers who cannot see it.
        direct: whether labels stand at the ends of lines; a narrow page then shows a legend.
        room: pixels beside a panel, for its axis.
    """
    text = {"labelColor": SOFT, "titleColor": SOFT, "labelFontSize": 12, "titleFontSize": 12.5}
    return (
        chart.properties(description=description, usermeta={"direct": direct, "room": room})
        .configure(font=_FONT, background="transparent")
        .configure_axis(
            **text, titleFontWeight=500, titlePadding=8, gridColor=GRID, domainColor=GRID,
            tickColor=GRID,
        )
        .configure_axisQuantitative(labelOverlap=True, labelSeparation=6)
        .configure_legend(
            **text, titleFontWeight=500, symbolType="stroke", symbolSize=260, symbolStrokeWidth=2.5,
            rowPadding=4,
            labelLimit=260,
        )
        .configure_header(labelFontSize=13, labelColor=INK, titleColor=INK)
        .configure_title(fontSize=14, anchor="start", offset=10, color=INK, subtitleColor=SOFT)
        .configure_text(color=INK)
        .configure_view(stroke=None)
    )  # fmt: skip


def dark_rules(scope: str) -> str:
    """CSS that gives each colour of a drawing its partner on a dark page.

    Args:
        scope: selector of the drawings.
    """
    return "\n".join(
        f'{scope} [fill="{light}"] {{ fill: {dark}; }} '
        f'{scope} [stroke="{light}"] {{ stroke: {dark}; }}'
        for light, dark in (DARK | {"black": DARK[BLACK]}).items()
    )
