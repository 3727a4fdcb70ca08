"""Theorem 2: no regularizer gives the end-to-end field, since it is no gradient of anything.

A gradient field has zero line integral around every closed curve, and a symmetric Jacobian at
every point. Each of the two is a test here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import torch
from torch import Tensor

from overparam._checks import check_depth
from overparam.rule.reference import end_to_end_update, single_output_update
from overparam.theory._table import Row, columns
from overparam.theory.asymmetry import Field, antisymmetric_jacobian
from overparam.theory.check import Measurement, TheoryCheck, largest, smallest
from overparam.theory.losses import GradientOf, power_loss_gradient

Piece = Callable[[Tensor], Tensor]
"""A smooth piece of a curve: times ``(k,)`` in [0, 1] to points ``(k, d)``."""


def end_to_end_field(
    gradient_of: GradientOf, depth: float, shape: tuple[int, int] | None = None
) -> Field:
    """The field ``w -> D(w, dL/dw)`` that depth adds to a loss.

    Source: Arora, Cohen, Hazan (2018), section 6.

    Args:
        gradient_of: gradient of any loss, ``(..., d) -> (..., d)``.
        depth: ``N >= 1``, real.
        shape: ``(m, n)`` with ``m n = d`` for a matrix flattened row by row; default a single
            output, ``(1, d)``.

    Returns:
        The field, ``(..., d) -> (..., d)``.

    Raises:
        TypeError: depth is no number.
        ValueError: depth is below 1.

    Example:
        >>> import torch
        >>> end_to_end_field(lambda w: w, depth=2)(torch.tensor([3.0, 4.0]))
        tensor([30., 40.])
    """
    check_depth(depth)

    def field(points: Tensor) -> Tensor:
        slopes = gradient_of(points).expand_as(points)
        if shape is None:
            return single_output_update(points, slopes, depth)
        update = end_to_end_update(points.unflatten(-1, shape), slopes.unflatten(-1, shape), depth)
        return update.flatten(-2)

    return field


def closed_curve(
    direction: Tensor, other: Tensor, inner: float, outer: float
) -> tuple[Piece, Piece, Piece, Piece]:
    """The closed curve of Theorem 2 around, and never through, the origin.

    From ``-R e`` straight to ``-r e``, along a half circle to ``r e``, straight to ``R e``, along
    a half circle back. Source: Arora, Cohen, Hazan (2018), Theorem 2.

    Args:
        direction: ``e``, a unit vector ``(d,)``.
        other: a unit vector orthogonal to it, on the side of the half circles.
        inner: ``r > 0``.
        outer: ``R > r``.

    Returns:
        The four pieces.

    Raises:
        ValueError: the radii or the vectors do not fit.

    Example:
        >>> import torch
        >>> e, other = torch.eye(2)
        >>> [piece(torch.tensor([0.0]))[0, 0].item() for piece in closed_curve(e, other, 1, 2)]
        [-2.0, -1.0, 1.0, 2.0]
    """
    if not 0 < inner < outer:
        raise ValueError(f"the radii are {inner!r} and {outer!r}; pass 0 < inner < outer.")
    lengths = torch.stack((direction @ direction, other @ other, direction @ other + 1))
    if not bool((lengths - 1).abs().max() < 1e-5):
        raise ValueError("direction and other must be orthogonal vectors of length 1.")

    def straight(start: float, end: float) -> Piece:
        return lambda time: (start + (end - start) * time)[:, None] * direction

    def half_circle(radius: float, start: float, end: float) -> Piece:
        def arc(time: Tensor) -> Tensor:
            angle = (start + (end - start) * time)[:, None]
            return radius * (torch.cos(angle) * direction + torch.sin(angle) * other)

        return arc

    return (
        straight(-outer, -inner),
        half_circle(inner, math.pi, 0.0),
        straight(inner, outer),
        half_circle(outer, 0.0, math.pi),
    )


def circulation(field: Field, curve: Sequence[Piece], nodes: int = 64) -> Tensor:
    """Line integral of a field along a curve of smooth pieces, by Gauss-Legendre quadrature.

    Zero around every closed curve exactly where the field is a gradient. The error falls
    exponentially with ``nodes`` where field and curve are analytic. Source: the method of proof
    of Arora, Cohen, Hazan (2018), Theorem 2.

    Args:
        field: ``(k, d) -> (k, d)``, smooth along each piece.
        curve: the pieces, one after the other; times of shape ``(k,)``, float64.
        nodes: points per piece.

    Returns:
        The integral, a float64 scalar in units of field times length.

    Raises:
        ValueError: fewer than one node, or an empty curve.

    Example:
        >>> import torch
        >>> e, other = torch.eye(2, dtype=torch.float64)
        >>> turning = lambda points: torch.stack((-points[:, 1], points[:, 0]), dim=-1)
        >>> round(circulation(turning, closed_curve(e, other, 1.0, 2.0)).item() / torch.pi, 6)
        3.0
    """
    if nodes < 1 or len(curve) == 0:
        raise ValueError(f"{nodes} nodes and {len(curve)} pieces; pass at least one of each.")
    total = torch.zeros((), dtype=torch.float64)
    for shares, values, velocity in _along(field, curve, nodes):
        total = total + shares @ (values * velocity).sum(-1)
    return total


def _along(
    field: Field, curve: Sequence[Piece], nodes: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Quadrature of every piece: weights ``(k,)``, the field and the velocity ``(k, d)``."""
    # Golub and Welsch: nodes and weights from the Jacobi matrix of Legendre's recursion.
    k = torch.arange(1, nodes, dtype=torch.float64)
    off = k / torch.sqrt(4 * k**2 - 1)
    values, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    times, shares = (values + 1) / 2, vectors[0] ** 2
    for piece in curve:
        pair = torch.autograd.functional.jvp(piece, times, torch.ones_like(times))
        points, velocity = cast(tuple[Tensor, Tensor], pair)
        yield shares, field(points), velocity


def circulation_constant_gradient(size: float, depth: float, inner: float, outer: float) -> float:
    r"""The circulation in closed form, for a constant gradient along the curve's direction.

    .. math::
        \oint F = 2 c \, \frac{(N-1)(N-2)}{3N-2} \left( R^{3-2/N} - r^{3-2/N} \right),

    zero at N = 1 and N = 2 alone. Source: from Claim 2 around the curve of Arora, Cohen, Hazan
    (2018), Theorem 2.

    Args:
        size: ``c``, length of the gradient along ``e``.
        depth: ``N >= 1``, real.
        inner: ``r``.
        outer: ``R``.

    Returns:
        The integral.

    Raises:
        TypeError: depth is no number.
        ValueError: depth is below 1.

    Example:
        >>> circulation_constant_gradient(1.0, 2.0, 1.0, 2.0)
        0.0
        >>> round(circulation_constant_gradient(1.0, 4.0, 1.0, 2.0), 4)
        5.5882
    """
    check_depth(depth)
    power = 3 - 2 / depth
    shape = 2 * (depth - 1) * (depth - 2) / (3 * depth - 2)
    return size * shape * (outer**power - inner**power)


_DEPTHS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
_INNER, _OUTER = 0.5, 2.0


def check(
    features: Tensor | None = None, targets: Tensor | None = None, data: str = "random data"
) -> TheoryCheck:
    """Integrate around the curve, and measure the asymmetry on regression losses.

    Args:
        features: ``(rows, d)``; default random numbers.
        targets: ``(rows,)``.
        data: name of the data, for the report.

    Example:
        >>> check().verdict
        'holds'
    """
    generator = torch.Generator().manual_seed(4)
    if features is None or targets is None:
        features = torch.randn(200, 8, generator=generator, dtype=torch.float64)
        targets = torch.randn(200, generator=generator, dtype=torch.float64)
    features, targets = features.double(), targets.double()
    rows, off_closed_form, at_zero = _constant_gradient()
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
        rows.append(("asymmetry", f"L{power} loss", depth, asymmetry[power, depth]))
        rows.append(("share", f"L{power} loss", depth, shares[power, depth]))
    beyond = [key for key in asymmetry if key[1] > 2]
    plain = [key for key in asymmetry if key[1] == 1]
    return TheoryCheck(
        name="circulation",
        statement=(
            "For N > 2 the end-to-end field of a loss with a gradient at w = 0 is itself no "
            "gradient: no regularizer gives it."
        ),
        source="Arora, Cohen, Hazan (2018), Theorem 2",
        measurements=(
            Measurement(
                "largest difference of quadrature from the closed form, N = 1 to 8 (constant "
                f"gradient of size 1.5, r = {_INNER:g}, R = {_OUTER:g})",
                off_closed_form,
                0.0,
                1e-10,
            ),
            Measurement("largest circulation at N = 1 and 2, same field", at_zero, 0.0, 1e-10),
            Measurement(
                "smallest circulation around the same curve over the integral of |F|, L2 and L4 "
                f"loss, N = 3 to 8, on {data}",
                smallest(abs(shares[key]) for key in beyond),
                1e-6,
                1.0,
            ),
            Measurement(
                f"largest such share at N = 1, on {data}",
                largest(abs(shares[key]) for key in plain),
                0.0,
                1e-10,
            ),
            Measurement(
                f"smallest |A|_F / |J|_F, L2 and L4 loss, N = 3 to 8, on {data}",
                smallest(asymmetry[key] for key in beyond),
                1e-6,
                1.0,
            ),
            Measurement(
                f"largest |A|_F / |J|_F at N = 1, on {data}",
                largest(asymmetry[key] for key in plain),
                0.0,
                1e-12,
            ),
            Measurement(
                "largest relative difference of A, in the plane where it is largest, from the "
                "circulation around a small circle over twice its area, same losses and depths",
                largest(stokes),
                0.0,
                1e-4,
            ),
        ),
        table=columns(("panel", "series", "depth", "value"), rows),
        notes=(
            "A is the antisymmetric part of the Jacobian J of the field at one point: the "
            "certificate, since a field with A other than zero is no gradient near that point. "
            f"|A|_F / |J|_F at N = 3 on {data}: {asymmetry[2, 3.0]:.2g} (L2), "
            f"{asymmetry[4, 3.0]:.2g} (L4).",
            f"At N = 2 and a gradient that is not constant, |A|_F / |J|_F is "
            f"{asymmetry[2, 2.0]:.2g} (L2) and {asymmetry[4, 2.0]:.2g} (L4) on {data}: the zero "
            "circulation at N = 2 belongs to constant gradients.",
        ),
    )


def _constant_gradient() -> tuple[list[Row], float, float]:
    """Circulation over depth: rows, distance from the closed form, and size at N = 1 and 2."""
    e, other = torch.eye(3, dtype=torch.float64)[:2]
    curve, size = closed_curve(e, other, _INNER, _OUTER), 1.5
    rows: list[Row] = []
    errors, at_zero = [], []
    for tenth in range(10, 81, 2):
        depth = tenth / 10
        value = circulation(end_to_end_field(lambda _: size * e, depth), curve).item()
        errors.append(abs(value - circulation_constant_gradient(size, depth, _INNER, _OUTER)))
        rows.append(("circulation", "constant gradient", depth, value))
        if depth in (1, 2):
            at_zero.append(abs(value))
    return rows, largest(errors), largest(at_zero)


def _share(field: Field, slope: Tensor) -> float:
    """Circulation around the curve along the gradient at the origin, over the integral of |F|."""
    e = slope / slope.norm()
    other = torch.zeros_like(e)
    other[e.abs().argmin()] = 1.0
    other = other - (other @ e) * e
    curve = closed_curve(e, other / other.norm(), _INNER, _OUTER)
    along, length = 0.0, 0.0
    for shares, values, velocity in _along(field, curve, nodes=64):
        along += (shares @ (values * velocity).sum(-1)).item()
        length += (shares @ (values.norm(dim=-1) * velocity.norm(dim=-1))).item()
    return along / length


def _distance_from_small_circle(field: Field, point: Tensor, part: Tensor) -> float:
    """Stokes: the circulation around a small circle is its area times twice ``<o, A e>``.

    The circle lies in the plane of A's largest singular value.
    """
    left, sizes, right = torch.linalg.svd(part)
    o, e, radius = left[:, 0], right[0], 1e-4 * float(point.norm())

    def circle(time: Tensor) -> Tensor:
        angle = 2 * math.pi * time[:, None]
        return point + radius * (torch.cos(angle) * e + torch.sin(angle) * o)

    measured = circulation(field, [circle], nodes=32).item() / (2 * math.pi * radius**2)
    return abs(measured / sizes[0].item() - 1)
