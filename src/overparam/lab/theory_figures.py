"""The charts of the theory page: from the data of a check to an Altair chart."""

from __future__ import annotations

import math
from typing import Any

import altair as alt

from overparam.theory.check import TheoryCheck
from overparam.theory.two_points import MAX_STEPS

# Okabe and Ito's palette, told apart by colour-blind readers too.
_COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"]
_WIDTH, _HEIGHT = 320, 260


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


def _panel(rows: list[dict[str, Any]], **wanted: Any) -> alt.Data:
    """The rows with the given entries."""
    return alt.Data(
        values=[row for row in rows if all(row[key] == value for key, value in wanted.items())]
    )


def _log(name: str, title: str, axis: type[alt.X] | type[alt.Y]) -> Any:
    ticks = alt.Axis(format="~g" if axis is alt.X else ".0e", tickCount=5, labelOverlap=True)
    return axis(f"{name}:Q", title=title, axis=ticks).scale(type="log", nice=False, padding=8)


def _colour(name: str, title: str, **options: Any) -> alt.Color:
    return alt.Color(f"{name}:N", title=title, scale=alt.Scale(range=_COLOURS), **options)


def _memory(rows: list[dict[str, Any]]) -> alt.HConcatChart:
    errors = [row for row in rows if row["panel"] != "mu"]
    left = (
        alt.Chart(alt.Data(values=errors))
        .mark_line(point=alt.OverlayMarkDef(size=60), strokeWidth=2)
        .encode(
            x=_log("x", "Learning rate", alt.X),
            y=_log("y", "Error", alt.Y),
            color=_colour("panel", "Error of", legend=alt.Legend(orient="bottom")),
        )
        .properties(width=_WIDTH, height=_HEIGHT, title="One step misses by lr², a whole run by lr")
    )
    mu = _panel(rows, panel="mu")
    times = sorted({row["x"] for row in rows if row["panel"] == "mu"})
    step = _WIDTH / max(len(times), 1) + 0.6
    bound = max(abs(row["value"]) for row in rows if row["panel"] == "mu")
    right = (
        alt.Chart(mu)
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
        .properties(width=_WIDTH, height=_HEIGHT, title="How much step t remembers of gradient τ")
    )
    return alt.hconcat(left, right, spacing=40).resolve_scale(color="independent")


def _emulation(rows: list[dict[str, Any]]) -> alt.HConcatChart:
    def one(panel: str, title: str, label: str) -> alt.Chart:
        return (
            alt.Chart(_panel(rows, panel=panel))
            .mark_line(point=alt.OverlayMarkDef(size=60), strokeWidth=2)
            .encode(
                x=_log("x", label, alt.X),
                y=_log("error", "Relative distance from the rule", alt.Y),
                color=_colour("depth", "Depth N"),
            )
            .properties(width=_WIDTH, height=_HEIGHT, title=title)
        )

    return alt.hconcat(
        one("learning rate", "Balanced: the error falls as lr", "Learning rate"),
        one("imbalance", "Unbalanced: it grows with the imbalance", "Imbalance at the start"),
        spacing=40,
    )


def _balance(rows: list[dict[str, Any]]) -> alt.HConcatChart:
    drifts = [row for row in rows if row["panel"] != "decay"]
    left = (
        alt.Chart(alt.Data(values=drifts))
        .mark_line(point=alt.OverlayMarkDef(size=60), strokeWidth=2)
        .encode(
            x=_log("x", "Learning rate", alt.X),
            y=_log("value", "Largest change of a gap", alt.Y),
            color=_colour("panel", "Change", legend=alt.Legend(orient="bottom")),
        )
        .properties(width=_WIDTH, height=_HEIGHT, title="Drift: lr² per step, lr at fixed time")
    )
    right = (
        alt.Chart(_panel(rows, panel="decay"))
        .mark_line(color=_COLOURS[0], strokeWidth=3)
        .encode(
            x=alt.X("x:Q", title="Time, lr * steps"),
            y=_log("value", "Imbalance / imbalance at the start", alt.Y),
        )
        .properties(width=_WIDTH, height=_HEIGHT, title="Weight decay 0.5 removes the imbalance")
    )
    return alt.hconcat(left, right, spacing=40)


def _preconditioner(rows: list[dict[str, Any]]) -> alt.TopLevelMixin:
    span = alt.Scale(domain=[-4, 4])
    curves = (
        alt.Chart(alt.Data(values=rows))
        .mark_line(strokeWidth=2.5)
        .encode(
            x=alt.X("x:Q", title="First coordinate", scale=span),
            y=alt.Y("y:Q", title="Second coordinate", scale=span),
            order="angle:Q",
            color=_colour("depth", "Depth N"),
        )
    )
    angle = math.radians(35)
    arrow = [{"x": -4 * math.cos(angle), "y": -4 * math.sin(angle)}]
    arrow += [{"x": 4 * math.cos(angle), "y": 4 * math.sin(angle)}]
    line = (
        alt.Chart(alt.Data(values=arrow))
        .mark_line(color="#555555", strokeDash=[4, 4])
        .encode(x="x:Q", y="y:Q")
    )
    tip = [{"x": 3.3 * math.cos(angle) + 0.05, "y": 3.3 * math.sin(angle) + 0.95}]
    label = (
        alt.Chart(alt.Data(values=tip))
        .mark_text(text="along w", fontSize=13, color="#555555", angle=325)
        .encode(x="x:Q", y="y:Q")
    )
    return alt.layer(line, curves, label).properties(
        width=420, height=420, title="Depth N stretches gradients of length 1 by N along w"
    )


def _circulation(rows: list[dict[str, Any]]) -> alt.HConcatChart:
    zero = alt.Chart(alt.Data(values=[{"y": 0}])).mark_rule(color="#888888").encode(y="y:Q")
    line = (
        alt.Chart(_panel(rows, panel="circulation"))
        .mark_line(point=alt.OverlayMarkDef(size=30), color=_COLOURS[0], strokeWidth=2)
        .encode(
            x=alt.X("depth:Q", title="Depth N", scale=alt.Scale(domain=[1, 8])),
            y=alt.Y("value:Q", title="Integral around the curve"),
        )
    )
    left = alt.layer(zero, line).properties(
        width=_WIDTH, height=_HEIGHT, title="Constant gradient: zero at N = 1 and 2 alone"
    )
    right = (
        alt.Chart(_panel(rows, panel="asymmetry"))
        .mark_line(point=alt.OverlayMarkDef(size=60), strokeWidth=2)
        .encode(
            x=alt.X("depth:Q", title="Depth N", scale=alt.Scale(domain=[1, 8])),
            y=alt.Y("value:Q", title="|A| / |J|, antisymmetric share of the Jacobian"),
            color=_colour("series", "Data loss"),
        )
        .properties(width=_WIDTH, height=_HEIGHT, title="Regression: a gradient only at N = 1")
    )
    return alt.hconcat(left, right, spacing=40)


def _acceleration(rows: list[dict[str, Any]]) -> alt.VConcatChart:
    order = list(dict.fromkeys(row["method"] for row in rows if row["panel"] == "map"))
    cells = [row for row in rows if row["panel"] == "map" and row["method"] != "GD"]
    # A method that arrived in time at no rate has no speed-up: its cell stays grey.
    arrived = alt.Data(values=[row for row in cells if row["value"] > 0])
    base = alt.Chart(arrived).encode(
        x=alt.X("method:N", title=None, sort=order, axis=alt.Axis(labelAngle=-45)),
        y=alt.Y("ratio:O", title="y1 / y2", sort="descending"),
    )
    scale = alt.Scale(type="log", scheme="blueorange", domain=[0.01, 100], clamp=True)
    tiles = base.mark_rect().encode(
        color=alt.Color(
            "value:Q",
            title="Speed-up over GD",
            scale=scale,
            legend=alt.Legend(values=[0.01, 0.1, 1, 10, 100], format="~g"),
        )
    )
    text = base.mark_text(fontSize=10).encode(
        text=alt.Text("value:Q", format=".2~r"),
        color=alt.condition(
            "datum.value > 18 || datum.value < 1 / 18", alt.value("white"), alt.value("black")
        ),
    )
    tried = (
        alt.Chart(alt.Data(values=cells))
        .mark_rect(color="#dddddd")
        .encode(
            x=alt.X("method:N", title=None, sort=order),
            y=alt.Y("ratio:O", sort="descending"),
        )
    )
    parts = []
    for power in sorted({row["power"] for row in cells}):
        mine = f"datum.power == {power}"
        part = alt.layer(
            *(layer.transform_filter(mine) for layer in (tried, tiles, text))
        ).properties(width=300, height=120, title=f"p = {power:g}")
        parts.append(part)
    top = alt.concat(*parts, columns=2).properties(
        title=f"Speed-up over GD at tuned rates (grey: not within {MAX_STEPS} steps)"
    )
    curves = []
    shown = ["GD", "N = 1.5", "N = 2", "N = 4", "AdaGrad", "Adam"]
    for power in sorted({row["power"] for row in cells}):
        values = [
            {**row, "value": max(row["value"], 0.5)}
            for row in rows
            if row["panel"] == "curve" and row["power"] == power and row["method"] in shown
        ]
        curves.append(
            alt.Chart(alt.Data(values=values))
            .mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=14))
            .encode(
                x=_log("rate", "Learning rate", alt.X).scale(type="log", domain=[1e-3, 100]),
                y=alt.Y(
                    "value:Q", title="Iterations", axis=alt.Axis(format="~g", tickCount=5)
                ).scale(type="log", domain=[1, 4000], clamp=True),
                color=alt.Color(
                    "method:N",
                    title="Method",
                    sort=shown,
                    scale=alt.Scale(domain=shown, range=["#000000", *_COLOURS[:5]]),
                ),
            )
            .properties(width=300, height=170, title=f"p = {power:g}")
        )
    bottom = alt.concat(*curves, columns=2).properties(
        title="Iterations to the target at y1 / y2 = 2.5; no dot where one start fails"
    )
    return alt.vconcat(top, bottom, spacing=40).resolve_scale(color="independent")


def _singular_values(rows: list[dict[str, Any]]) -> alt.ConcatChart:
    parts = [
        _spectrum(_panel(rows, scale=scale, depth=depth), f"N = {depth:g}, start {scale:g}")
        for scale in sorted({row["scale"] for row in rows}, reverse=True)
        for depth in sorted({row["depth"] for row in rows})
    ]
    return alt.concat(*parts, columns=3).properties(
        title="Depth and a small start widen the gap below the target's rank of 2"
    )


def _spectrum(data: alt.Data, title: str) -> alt.Chart:
    """Singular values against time, of one run."""
    return (
        alt.Chart(data)
        .mark_line(strokeWidth=2)
        .encode(
            x=alt.X("time:Q", title="Time, lr * steps", axis=alt.Axis(tickCount=4)),
            y=alt.Y(
                "value:Q", title="Singular value", axis=alt.Axis(format=".0e", tickCount=4)
            ).scale(type="log", domain=[1e-5, 2], clamp=True),
            color=_colour("rank", "Rank r"),
        )
        .properties(width=210, height=150, title=title)
    )


_CHARTS = {
    "memory": _memory,
    "emulation": _emulation,
    "balance": _balance,
    "preconditioner": _preconditioner,
    "circulation": _circulation,
    "acceleration": _acceleration,
    "singular values": _singular_values,
}
