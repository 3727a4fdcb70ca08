"""The charts of the theory page: from the data of a check to an Altair chart."""

from __future__ import annotations

import math
from typing import Any

import altair as alt

from overparam.lab.charts.acceleration import acceleration_chart
from overparam.lab.charts.theory_theme import HEIGHT, WIDTH, Row, chosen, colour, log_axis
from overparam.theory.check import TheoryCheck


def theory_chart(check: TheoryCheck) -> alt.TopLevelMixin:
    """The figure of a check.

    Raises:
        ValueError: there is no figure for a check of this name.
    """
    if check.name not in _CHARTS:
        raise ValueError(f"no figure for the check {check.name!r}; known: {sorted(_CHARTS)}.")
    names = list(check.table)
    rows = [dict(zip(names, row, strict=True)) for row in zip(*check.table.values(), strict=True)]
    chart = _CHARTS[check.name](rows)
    return (
        chart.configure_axis(labelFontSize=12, titleFontSize=13, gridColor="#e6e6e6")
        .configure_title(fontSize=14, anchor="start", offset=10)
        .configure_legend(labelFontSize=12, titleFontSize=12)
        .configure_header(labelFontSize=12, titleFontSize=13)
        .configure_view(stroke="#cccccc")
    )


def _lines(rows: list[Row], title: str, size: float = 50, **mark: Any) -> alt.Chart:
    """A panel of lines with a point at each value."""
    return (
        alt.Chart(alt.Data(values=rows), title=title)
        .mark_line(point=alt.OverlayMarkDef(size=size), **{"strokeWidth": 2, **mark})
        .properties(width=WIDTH, height=HEIGHT)
    )


def _memory(rows: list[Row]) -> alt.HConcatChart:
    errors = [row for row in rows if row["panel"] != "mu"]
    left = _lines(errors, "One step misses by lr², a whole run by lr").encode(
        x=log_axis(alt.X, "x", "Learning rate", errors),
        y=log_axis(alt.Y, "y", "Error", errors),
        color=colour("panel", "Error of", legend=alt.Legend(orient="bottom")),
    )
    mu = chosen(rows, panel="mu")
    step = WIDTH / len({row["x"] for row in mu}) + 0.6
    bound = max(abs(row["value"]) for row in mu)
    right = (
        alt.Chart(alt.Data(values=mu), title="How much step t remembers of gradient τ")
        .mark_square(size=step**2 * 1.2, opacity=1)
        .encode(
            x=alt.X("x:Q", title="Past gradient τ", axis=alt.Axis(grid=False)),
            y=alt.Y("y:Q", title="Step t", axis=alt.Axis(grid=False)),
            color=alt.Color(
                "value:Q",
                title="μ / lr²",
                scale=alt.Scale(scheme="blueorange", domain=[-bound, bound]),
            ),
        )
        .properties(width=WIDTH, height=HEIGHT)
    )
    return alt.hconcat(left, right, spacing=40).resolve_scale(color="independent")


def _emulation(rows: list[Row]) -> alt.ConcatChart:
    by_rate, by_gap = chosen(rows, panel="learning rate"), chosen(rows, panel="imbalance")
    rate = log_axis(alt.X, "x", "Learning rate", by_rate)
    gap = log_axis(alt.X, "x", "Imbalance at the start", by_gap)
    small, missed = (
        log_axis(alt.Y, "value", "Relative distance from the rule", data)
        for data in (by_rate, by_gap)
    )
    exponent = alt.Y("value:Q", title="Exponent of the learning rate").scale(zero=False)
    panels = (
        (by_rate, rate, small, "Balanced: the error falls as lr"),
        (chosen(rows, panel="exponent"), rate, exponent, "Balanced: its exponent tends to 1"),
        (by_gap, gap, missed, "Unbalanced: it grows with the imbalance"),
    )
    parts = [
        _lines(data, title, size=16, strokeWidth=1.2, opacity=0.8).encode(
            x=x, y=y, detail="run:N", color=colour("depth", "Depth N")
        )
        for data, x, y, title in panels
    ]
    return alt.concat(*parts, columns=2, spacing=40)


def _balance(rows: list[Row]) -> alt.HConcatChart:
    drifts = [row for row in rows if row["panel"] != "decay"]
    decay = chosen(rows, panel="decay")
    left = _lines(drifts, "Drift: lr² in one step, lr over a run").encode(
        x=log_axis(alt.X, "x", "Learning rate", drifts),
        y=log_axis(alt.Y, "value", "Largest change of a gap", drifts),
        color=colour("depth", "Depth N"),
        strokeDash=alt.StrokeDash(
            "panel:N",
            title="Change in",
            legend=alt.Legend(symbolType="stroke", symbolSize=250, symbolStrokeColor="black"),
        ),
    )
    right = (
        alt.Chart(alt.Data(values=decay), title="Weight decay 0.5 removes it, at each depth alike")
        .mark_line(strokeWidth=2)
        .encode(
            x=alt.X("x:Q", title="Time, lr * steps"),
            y=log_axis(alt.Y, "value", "Imbalance / imbalance at the start", decay),
            color=colour("depth", "Depth N"),
        )
        .properties(width=WIDTH, height=HEIGHT)
    )
    return alt.hconcat(left, right, spacing=40)


def _preconditioner(rows: list[Row]) -> alt.HConcatChart:
    wide, close = _plane(-4, 4), _plane(-1, 3)
    circles = (
        alt.Chart(alt.Data(values=rows))
        .mark_line(strokeWidth=2)
        .encode(**wide, order="angle:Q", color=colour("depth", "Depth N"))
    )
    square = {"width": WIDTH, "height": WIDTH}
    left = alt.layer(_along_w(wide, -4, 4), circles)
    right = alt.layer(_along_w(close, -1, 3), _name_of_w(close), *_arrows(rows, close))
    return alt.hconcat(
        left.properties(title="All gradients of length 1 after the rule", **square),
        right.properties(title="One gradient: its part along w grows N-fold", **square),
        spacing=40,
    )


def _plane(low: float, high: float) -> dict[str, Any]:
    span, axis = alt.Scale(domain=[low, high]), alt.Axis(tickCount=5)
    return {
        "x": alt.X("x:Q", title="First coordinate", scale=span, axis=axis),
        "y": alt.Y("y:Q", title="Second coordinate", scale=span, axis=axis),
    }


_DIRECTION = math.cos(math.radians(35)), math.sin(math.radians(35))  # of w


def _along_w(plane: dict[str, Any], low: float, high: float) -> alt.Chart:
    x, y = _DIRECTION
    ends = [{"x": length * x, "y": length * y} for length in (low, high)]
    line = alt.Chart(alt.Data(values=ends)).mark_line(color="#777777", strokeDash=[4, 4])
    return line.encode(**plane)


def _name_of_w(plane: dict[str, Any]) -> alt.Chart:
    x, y = _DIRECTION
    mark = {"text": "along w", "fontSize": 13, "color": "#555555", "angle": 325, "dy": 14}
    place = alt.Data(values=[{"x": 2.7 * x, "y": 2.7 * y}])
    return alt.Chart(place).mark_text(**mark).encode(**plane)


def _arrows(rows: list[Row], plane: dict[str, Any]) -> list[alt.Chart]:
    """The step of every depth for the gradient nearest to 90 degrees: shafts and heads."""
    angle = min((row["angle"] for row in rows), key=lambda a: abs(a - math.pi / 2))
    tips = chosen(rows, angle=angle)
    shafts = [{**tip, "x": x, "y": y} for tip in tips for x, y in ((0, 0), (tip["x"], tip["y"]))]
    heads = [{**tip, "turn": 90 - math.degrees(math.atan2(tip["y"], tip["x"]))} for tip in tips]
    same = alt.Scale(domain=[0, 360], range=[0, 360])
    return [
        alt.Chart(alt.Data(values=shafts))
        .mark_line(strokeWidth=2.5)
        .encode(**plane, color=colour("depth", "Depth N")),
        alt.Chart(alt.Data(values=heads))
        .mark_point(shape="triangle-up", filled=True, size=120, opacity=1)
        .encode(**plane, angle=alt.Angle("turn:Q", scale=same), color=colour("depth", "Depth N")),
    ]


def _circulation(rows: list[Row]) -> alt.ConcatChart:
    zero = alt.Chart(alt.Data(values=[{"y": 0}])).mark_rule(color="#888888").encode(y="y:Q")
    depth = alt.X("depth:Q", title="Depth N", scale=alt.Scale(domain=[1, 8]))
    panels = (
        (
            "circulation",
            "Constant gradient: zero at N = 1 and 2 alone",
            "Integral around the curve",
        ),
        ("share", "Regression: around the same curve", "Integral of F / integral of |F|"),
        ("asymmetry", "Regression: a gradient only at N = 1", "|A| / |J|, antisymmetric share"),
    )
    parts = []
    for panel, title, label in panels:
        lines = _lines(chosen(rows, panel=panel), title).encode(
            x=depth, y=alt.Y("value:Q", title=label)
        )
        if panel != "circulation":
            lines = lines.encode(color=colour("series", "Loss"))
        parts.append(alt.layer(zero, lines))
    return alt.concat(*parts, columns=2, spacing=40)


def _singular_values(rows: list[Row]) -> alt.ConcatChart:
    parts = [
        _spectrum(chosen(rows, scale=scale, depth=depth), f"N = {depth:g}, start {scale:g}")
        for scale in sorted({row["scale"] for row in rows}, reverse=True)
        for depth in sorted({row["depth"] for row in rows})
    ]
    return alt.concat(*parts, columns=3).properties(
        title="Depth and a small start widen the gap below the target's rank of 2"
    )


def _spectrum(rows: list[Row], title: str) -> alt.Chart:
    """Singular values against time, of one run."""
    return (
        alt.Chart(alt.Data(values=rows), title=title)
        .mark_line(strokeWidth=2)
        .encode(
            x=alt.X("time:Q", title="Time, lr * steps", axis=alt.Axis(tickCount=4)),
            y=log_axis(alt.Y, "value", "Singular value", rows, domain=[1e-4, 2], clamp=True),
            color=colour("rank", "Rank r"),
        )
        .properties(width=210, height=150)
    )


_CHARTS = {
    "memory": _memory,
    "emulation": _emulation,
    "balance": _balance,
    "preconditioner": _preconditioner,
    "circulation": _circulation,
    "acceleration": acceleration_chart,
    "singular values": _singular_values,
}
