"""Theorem 2: no regularizer gives the end-to-end field, since the field is not a gradient."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import altair as alt
import torch
from torch import Tensor

from overparam.lab.charts.theme import SOFT
from overparam.lab.theory.check import (
    Point,
    Row,
    TheoryCheck,
    chart_rows,
    evidence_of,
    largest,
    smallest,
)
from overparam.lab.theory.theme import apart, chosen, lines
from overparam.theory.asymmetry import antisymmetric_jacobian
from overparam.theory.field import Field, end_to_end_field
from overparam.theory.no_regularizer import (
    along_curve,
    circulation,
    circulation_constant_gradient,
    closed_curve,
)
from overparam.theory.power_loss import power_loss_gradient

_DEPTHS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
_INNER, _OUTER = 0.5, 2.0


def check(
    features: Tensor | None = None, targets: Tensor | None = None, data: str = "random data"
) -> TheoryCheck:
    """Integrate around the curve, and measure the asymmetry on regression losses.

    Args:
        features: ``(rows, d)``; by default random numbers.
        targets: ``(rows,)``.
        data: name of the data, for the report.

    Example:
        >>> print(check().verdict)
        yes
    """
    generator = torch.Generator().manual_seed(4)
    if features is None or targets is None:
        features = torch.randn(200, 8, generator=generator, dtype=torch.float64)
        targets = torch.randn(200, generator=generator, dtype=torch.float64)
    features, targets = features.double(), targets.double()
    points, off_closed_form, at_zero = _constant_gradient()
    point = 0.1 * torch.randn(features.shape[1], generator=generator, dtype=torch.float64)
    asymmetry: dict[tuple[float, float], float] = {}
    shares: dict[tuple[float, float], float] = {}
    stokes = []
    for power, depth in itertools.product((2, 4), _DEPTHS):
        gradient_of = power_loss_gradient(features, targets, power)
        field = end_to_end_field(gradient_of, depth)
        jacobian, part = antisymmetric_jacobian(field, point)
        asymmetry[power, depth] = (part.norm() / jacobian.norm()).item()
        shares[power, depth] = _share(field, gradient_of(torch.zeros_like(point)))
        if depth > 2:
            stokes.append(_distance_from_small_circle(field, point, part))
        points.append(("asymmetry", f"L{power} loss", depth, asymmetry[power, depth]))
        points.append(("share", f"L{power} loss", depth, shares[power, depth]))
    beyond = [key for key in asymmetry if key[1] > 2]
    plain = [key for key in asymmetry if key[1] == 1]
    measured = {
        "largest difference between quadrature and closed form, N = 1 to 8 (constant gradient of "
        f"size 1.5, r = {_INNER:g}, R = {_OUTER:g})": (0, off_closed_form, 1e-10),
        "largest circulation at N = 1 and 2, same field": (0, at_zero, 1e-10),
        "smallest ratio of circulation to the integral of |F|, same curve, L2 and L4 loss, "
        f"N = 3 to 8, on {data}": (1e-6, smallest(abs(shares[key]) for key in beyond), 1),
        f"largest such ratio at N = 1, on {data}": (
            0,
            largest(abs(shares[key]) for key in plain),
            1e-10,
        ),
        f"smallest |A|_F / |J|_F, L2 and L4 loss, N = 3 to 8, on {data}": (
            1e-6,
            smallest(asymmetry[key] for key in beyond),
            1,
        ),
        f"largest |A|_F / |J|_F at N = 1, on {data}": (
            0,
            largest(asymmetry[key] for key in plain),
            1e-12,
        ),
        "largest relative difference between A, in the plane where it is largest, and the "
        "circulation around a small circle over twice its area, same losses and "
        "depths": (0, largest(stokes), 1e-4),
    }
    return TheoryCheck(
        name="circulation",
        claim=(
            "For N > 2, the end-to-end field of a loss whose gradient at w = 0 is not zero is not "
            "itself a gradient: no regularizer gives it."
        ),
        source="Arora, Cohen, Hazan (2018), Theorem 2",
        evidence=evidence_of(measured),
        rows=chart_rows(("panel", "series", "depth", "value"), points),
        notes=(
            "A is the antisymmetric part of the Jacobian J of the field at one point. It is the "
            "certificate: a field whose A is not zero is not a gradient near that point. "
            f"|A|_F / |J|_F at N = 3 on {data}: {asymmetry[2, 3.0]:.2g} (L2), "
            f"{asymmetry[4, 3.0]:.2g} (L4).",
            "At N = 2, for a gradient that is not constant, |A|_F / |J|_F is "
            f"{asymmetry[2, 2.0]:.2g} (L2) and {asymmetry[4, 2.0]:.2g} (L4) on {data}: the "
            "circulation at N = 2 is zero for constant gradients only.",
        ),
    )


def _constant_gradient() -> tuple[list[Point], float, float]:
    """Circulation over depth: points, distance from the closed form, and size at N = 1 and 2."""
    e, other = torch.eye(3, dtype=torch.float64)[:2]
    curve, size = closed_curve(e, other, _INNER, _OUTER), 1.5
    points: list[Point] = []
    errors, at_zero = [], []
    for tenth in range(10, 81, 2):
        depth = tenth / 10
        value = circulation(end_to_end_field(lambda _: size * e, depth), curve).item()
        errors.append(abs(value - circulation_constant_gradient(size, depth, _INNER, _OUTER)))
        points.append(("circulation", "constant gradient", depth, value))
        if depth in (1, 2):
            at_zero.append(abs(value))
    return points, largest(errors), largest(at_zero)


def _share(field: Field, slope: Tensor) -> float:
    """Circulation around the curve along the gradient at the origin, over the integral of |F|."""
    e = slope / slope.norm()
    other = torch.zeros_like(e)
    other[e.abs().argmin()] = 1.0
    other = other - (other @ e) * e
    curve = closed_curve(e, other / other.norm(), _INNER, _OUTER)
    along, length = 0.0, 0.0
    for weights, values, velocity in along_curve(field, curve, nodes=64):
        along += (weights @ (values * velocity).sum(-1)).item()
        length += (weights @ (values.norm(dim=-1) * velocity.norm(dim=-1))).item()
    return along / length


def _distance_from_small_circle(field: Field, point: Tensor, part: Tensor) -> float:
    """Relative distance between A and the circulation around a small circle, by Stokes.

    The circulation is the area times twice ``<o, A e>``; the circle lies in the plane of the
    largest singular value of A.
    """
    left, sizes, right = torch.linalg.svd(part)
    o, e, radius = left[:, 0], right[0], 1e-4 * float(point.norm())

    def circle(time: Tensor) -> Tensor:
        angle = 2 * math.pi * time[:, None]
        return point + radius * (torch.cos(angle) * e + torch.sin(angle) * o)

    measured = circulation(field, [circle], nodes=32).item() / (2 * math.pi * radius**2)
    return abs(measured / sizes[0].item() - 1)


def chart(rows: Sequence[Row]) -> alt.ConcatChart:
    """Circulation and asymmetry against depth."""
    zero = alt.Chart(alt.Data(values=[{"y": 0}])).mark_rule(color=SOFT).encode(y="y:Q")
    depth = alt.X("depth:Q", title="Depth N", scale=alt.Scale(domain=[1, 8]))
    panels = (
        ("circulation", "Constant gradient: zero only at N = 1 and 2", "Integral around the curve"),
        ("share", "Regression: around the same curve", "Integral of F / integral of |F|"),
        ("asymmetry", "Regression: a gradient only at N = 1", "|A| / |J|, antisymmetric share"),
    )
    parts = []
    for panel, title, label in panels:
        line = lines(chosen(rows, panel=panel), title, size=50).encode(
            x=depth, y=alt.Y("value:Q", title=label)
        )
        if panel != "circulation":
            line = line.encode(**apart("series", "Loss"))
        parts.append(alt.layer(zero, line))
    return alt.concat(*parts, columns=2, spacing=40)
