"""Claims 1 and 2: the end-to-end rule as a preconditioner that stretches large directions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import altair as alt
import torch

from overparam.lab.charts.theme import SOFT
from overparam.lab.theory.check import Point, Row, TheoryCheck, chart_rows, evidence_of, largest
from overparam.lab.theory.theme import WIDTH, apart, chosen, lines
from overparam.rule.reference import (
    end_to_end_update,
    preconditioner_spectrum,
    single_output_update,
)
from overparam.theory.preconditioner import preconditioner_matrix, single_output_parts

_DIRECTION = math.cos(math.radians(35)), math.sin(math.radians(35))  # of w, of length 1


def check() -> TheoryCheck:
    """Compare spectrum and rule with the explicit matrix, and one output with its parts.

    Example:
        >>> print(check().verdict)
        yes
    """
    generator = torch.Generator().manual_seed(3)
    residuals, gaps, updates, parts_gap = [], [], [], []
    for m, n in ((2, 3), (4, 3), (3, 3)):
        weight = torch.randn(m, n, generator=generator, dtype=torch.float64)
        gradient = torch.randn(m, n, generator=generator, dtype=torch.float64)
        for depth in (1, 2, 3, 5):
            matrix = preconditioner_matrix(weight, depth)
            size = torch.linalg.matrix_norm(matrix, 2)
            spectrum = preconditioner_spectrum(weight, depth)
            # Row c m + r holds vec(u_r v_c^T), as vec stacks columns.
            vectors = torch.kron(spectrum.right.mT.contiguous(), spectrum.left.mT.contiguous())
            values = spectrum.eigenvalues.mT.flatten()
            residual = vectors @ matrix - values[:, None] * vectors
            residuals.append((residual.abs().max() / size).item())
            gap = torch.linalg.eigvalsh(matrix) - values.sort().values
            gaps.append((gap.abs().max() / size).item())
            stacked = (matrix @ gradient.mT.flatten()).reshape(n, m).mT
            update = end_to_end_update(weight, gradient, depth)
            updates.append(((update - stacked).norm() / stacked.norm()).item())
    for depth in (1.0, 1.5, 2.0, 4.0):
        weight, gradient = torch.randn(2, 6, generator=generator, dtype=torch.float64)
        parts = single_output_parts(weight, gradient, depth)
        update = single_output_update(weight, gradient, depth)
        rebuilt = parts.size * (parts.stretch * parts.along + parts.across)
        parts_gap.append(((update - rebuilt).norm() / rebuilt.norm()).item())
    measured = {
        "largest residual of an eigenpair of the Kronecker matrix, over its norm": (
            0,
            largest(residuals),
            1e-12,
        ),
        "largest difference from its eigenvalues, over its norm": (0, largest(gaps), 1e-12),
        "largest relative difference between the rule and the matrix times vec(G)": (
            0,
            largest(updates),
            1e-12,
        ),
        "largest relative difference between the rule of one output and step size times stretch": (
            0,
            largest(parts_gap),
            1e-12,
        ),
    }
    return TheoryCheck(
        name="preconditioner",
        claim=(
            "The rule is a positive semidefinite preconditioner with eigenvectors u_r v_c^T; for "
            "one output it is an adaptive step size times a stretch along w."
        ),
        source="Arora, Cohen, Hazan (2018), Claims 1 and 2",
        evidence=evidence_of(measured),
        rows=chart_rows(("depth", "angle", "x", "y"), _stretched_circle()),
    )


def _stretched_circle() -> list[Point]:
    """All gradients of length 1 after the rule, for the w of `_DIRECTION`."""
    weight = torch.tensor(_DIRECTION)
    angles = torch.linspace(0, 2 * math.pi, 97)
    circle = torch.stack((angles.cos(), angles.sin()), dim=-1)
    points: list[Point] = []
    for depth in (1, 2, 3, 4):
        ends = single_output_update(weight.expand_as(circle), circle, depth).tolist()
        points += [(depth, a, x, y) for a, (x, y) in zip(angles.tolist(), ends, strict=True)]
    return points


def chart(rows: Sequence[Row]) -> alt.HConcatChart:
    """The steps for all gradients of length 1, and for one of them, at several depths."""
    wide, close = _plane(-4, 4), _plane(-1, 3)
    circles = lines(rows).encode(**wide, order="angle:Q", **apart("depth", "Depth N"))
    square = {"width": WIDTH, "height": WIDTH}
    left = alt.layer(_along_w(wide, -4, 4), circles)
    x, y = _DIRECTION
    place = alt.Chart(alt.Data(values=[{"x": 2.7 * x, "y": 2.7 * y}])).encode(**close)
    name = place.mark_text(text="along w", fontSize=13, color=SOFT, angle=325, dy=14)
    right = alt.layer(_along_w(close, -1, 3), name, *_arrows(rows, close))
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


def _along_w(plane: dict[str, Any], low: float, high: float) -> alt.Chart:
    x, y = _DIRECTION
    ends = [{"x": length * x, "y": length * y} for length in (low, high)]
    line = alt.Chart(alt.Data(values=ends)).mark_line(color=SOFT, strokeDash=[4, 4])
    return line.encode(**plane)


def _arrows(rows: Sequence[Row], plane: dict[str, Any]) -> list[alt.Chart]:
    """The step of every depth for the gradient nearest to 90 degrees: shafts and heads."""
    angle = min((row["angle"] for row in rows), key=lambda a: abs(a - math.pi / 2))
    tips = chosen(rows, angle=angle)
    shafts = [{**tip, "x": x, "y": y} for tip in tips for x, y in ((0, 0), (tip["x"], tip["y"]))]
    heads = [{**tip, "turn": 90 - math.degrees(math.atan2(tip["y"], tip["x"]))} for tip in tips]
    same = alt.Scale(domain=[0, 360], range=[0, 360])
    return [
        alt.Chart(alt.Data(values=shafts))
        .mark_line(strokeWidth=2.5)
        .encode(**plane, **apart("depth", "Depth N")),
        alt.Chart(alt.Data(values=heads))
        .mark_point(shape="triangle-up", filled=True, size=120, opacity=1)
        .encode(**plane, angle=alt.Angle("turn:Q", scale=same), **apart("depth", "Depth N")),
    ]
