"""The chart of the acceleration check: the map, other starts, and curves over learning rates."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from overparam.lab.charts.theme import (
    GRID,
    INK,
    SOFT,
    line_encodings,
    look_of,
    looks_apart,
    speed_colour,
)
from overparam.lab.theory.check import Row
from overparam.lab.theory.theme import chosen, colour, lines, log_scaled
from overparam.lab.theory.two_point_runs import MAX_STEPS


def chart(rows: Sequence[Row]) -> alt.VConcatChart:
    """Speed-ups over gradient descent as a map and from other starts, and the curves behind it."""
    return alt.vconcat(
        _map(chosen(rows, panel="map")),
        _other_starts(chosen(rows, panel="starts")),
        _curves(chosen(rows, panel="curve")),
        spacing=40,
    ).resolve_scale(color="independent", strokeDash="independent", strokeWidth="independent")


def _map(rows: Sequence[Row]) -> alt.ConcatChart:
    cells = [row for row in rows if row["method"] != "GD"]
    order = list(dict.fromkeys(row["method"] for row in cells))
    parts = []
    for power in sorted({row["power"] for row in cells}):
        mine = chosen(cells, power=power)
        # A method that never arrived in time has no speed-up: its cell stays grey.
        arrived = [row for row in mine if row["value"] > 0]
        place = {
            "x": alt.X("method:N", title=None, sort=order, axis=alt.Axis(labelAngle=-45)),
            "y": alt.Y("ratio:O", title="y1 / y2", sort="descending"),
        }
        tried = alt.Chart(alt.Data(values=mine)).mark_rect(color=GRID).encode(**place)
        base = alt.Chart(alt.Data(values=arrived)).encode(**place)
        tiles = base.mark_rect().encode(color=speed_colour("value", "Speed-up over GD"))
        text = base.mark_text(fontSize=10, color=INK).encode(
            text=alt.Text("value:Q", format=".2~r")
        )
        layers = alt.layer(tried, tiles, text)
        parts.append(layers.properties(width=300, height=120, title=f"p = {power:g}"))
    return alt.concat(*parts, columns=2).properties(
        title=f"Speed-up over GD at tuned learning rates (grey: not within {MAX_STEPS} steps)"
    )


def _other_starts(rows: Sequence[Row]) -> alt.HConcatChart:
    """The best depth's speed-up over gradient descent, a mark for each start."""
    shown = [{**row, "p": f"p = {row['power']:g}"} for row in rows]
    legend = alt.Legend(labelLimit=220, symbolType="square", symbolStrokeWidth=0)
    even = alt.Chart(alt.Data(values=[{"one": 1}])).mark_rule(color=SOFT, strokeDash=[4, 4])
    parts = []
    for ratio in sorted({row["ratio"] for row in rows}):
        marks = (
            alt.Chart(alt.Data(values=chosen(shown, ratio=ratio)))
            .mark_tick(thickness=2, size=38, opacity=0.9)
            .encode(
                x=alt.X("p:N", title=None, axis=alt.Axis(labelAngle=0)),
                y=log_scaled(alt.Y, "value", "Speed-up of the best depth", rows),
                color=colour("method", "Starts", legend=legend),
            )
        )
        layers = alt.layer(even.encode(y="one:Q"), marks)
        parts.append(layers.properties(width=300, height=200, title=f"y1 / y2 = {ratio:g}"))
    return alt.hconcat(
        *parts,
        title="Speed-up of the best depth: starts of three lengths, two sets of directions",
    )


def _curves(rows: Sequence[Row]) -> alt.ConcatChart:
    shown = {"GD": "gd", "N = 1.5": "rule:1.5", "N = 2": "rule:2", "N = 4": "rule:4",
             "AdaGrad": "adagrad", "Adam": "adam"}  # fmt: skip
    looks = looks_apart({label: look_of(name) for label, name in shown.items()})
    parts = []
    for power in sorted({row["power"] for row in rows}):
        values = [
            {**row, "value": max(row["value"], 1)}
            for row in chosen(rows, power=power)
            if row["method"] in shown
        ]
        parts.append(
            lines(values, f"p = {power:g}", size=14)
            .encode(
                x=log_scaled(alt.X, "lr", "Learning rate", values, domain=[1e-3, 100]),
                y=log_scaled(alt.Y, "value", "Iterations", values, domain=[1, MAX_STEPS]),
                **line_encodings(looks, alt.Legend(title="Method"), "method"),
            )
            .properties(width=300, height=170)
        )
    return alt.concat(*parts, columns=2).properties(
        title="Iterations to the target at y1 / y2 = 2.5; no dot if one start fails"
    )
