"""Theorem 2: no regularizer gives the end-to-end field, since it is no gradient of anything.

A gradient field has zero line integral around every closed curve, and a symmetric Jacobian at
every point. Each of the two is a test here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor

from overparam._checks import check_depth
from overparam.rule import end_to_end_update, single_output_update
from overparam.theory._table import Row, columns
from overparam.theory.check import Measurement, TheoryCheck

Field = Callable[[Tensor], Tensor]
"""A vector at every point: ``(..., d) -> (..., d)``."""
Piece = Callable[[Tensor], Tensor]
"""A smooth piece of a curve: times ``(k,)`` in [0, 1] to points ``(k, d)``."""


def end_to_end_field(
    gradient_of: Field, depth: float, shape: tuple[int, int] | None = None
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
    # Golub and Welsch: nodes and weights from the Jacobi matrix of Legendre's recursion.
    k = torch.arange(1, nodes, dtype=torch.float64)
    off = k / torch.sqrt(4 * k**2 - 1)
    values, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    times, shares = (values + 1) / 2, vectors[0] ** 2
    total = torch.zeros((), dtype=torch.float64)
    for piece in curve:
        pair = torch.autograd.functional.jvp(piece, times, torch.ones_like(times))
        points, velocity = cast(tuple[Tensor, Tensor], pair)
        total = total + shares @ (field(points) * velocity).sum(-1)
    return total


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


def antisymmetric_jacobian(field: Field, point: Tensor) -> tuple[Tensor, Tensor]:
    """Jacobian of a field at a point and its antisymmetric part ``A = (J - J^T) / 2``.

    Where ``A`` is not zero the field is no gradient near the point: no regularizer gives it.
    Source: Schwarz's theorem; the local form of Arora, Cohen, Hazan (2018), Theorem 2.

    Args:
        field: ``(k, d) -> (k, d)``, each row by itself, differentiable by autograd.
        point: ``(d,)``.

    Returns:
        ``J`` and ``A``, both ``(d, d)``.

    Raises:
        ValueError: point is no vector, or the field is not differentiable there by autograd: its
            derivative is compared with a central difference along one direction.

    Example:
        >>> import torch
        >>> turning = lambda points: torch.stack((-points[:, 1], points[:, 0]), dim=-1)
        >>> antisymmetric_jacobian(turning, torch.ones(2))[1]
        tensor([[ 0., -1.],
                [ 1.,  0.]])
    """
    if point.ndim != 1:
        raise ValueError(f"point has shape {tuple(point.shape)}; pass a vector (d,).")
    # One row of the Jacobian per copy of the point: a single backward pass.
    copies = point.detach().expand(len(point), -1).clone().requires_grad_()
    identity = torch.eye(len(point), dtype=point.dtype)
    values = field(copies)
    jacobian = torch.zeros_like(identity)
    if values.requires_grad:
        (jacobian,) = torch.autograd.grad(
            values, copies, identity, allow_unused=True, materialize_grads=True
        )
    _check_by_differences(field, point.detach(), jacobian)
    return jacobian, (jacobian - jacobian.mT) / 2


def _check_by_differences(field: Field, point: Tensor, jacobian: Tensor) -> None:
    """Raise where a central difference of the field, along one direction, disagrees.

    A field that cuts a gradient out of the graph gives a wrong Jacobian without any error.
    """
    accuracy = torch.finfo(point.dtype).eps ** (1 / 3)
    direction = torch.cos(torch.arange(len(point), dtype=point.dtype) + 1)
    direction = direction / direction.norm()
    step = accuracy * max(1.0, float(point.norm())) * direction
    # Fields that take a gradient of their own need points that can have one.
    ahead, behind = field(torch.stack((point + step, point - step)).requires_grad_())
    measured = (ahead - behind).detach() / 2 / step.norm()
    expected = jacobian.detach() @ direction
    # The difference is off by its own round-off, eps |field| / step, and by step^2.
    round_off = torch.finfo(point.dtype).eps * float(ahead.detach().norm()) / float(step.norm())
    allowed = 1e-2 * float(measured.norm()) + 100 * round_off
    if not float((measured - expected).norm()) <= allowed:
        raise ValueError(
            f"autograd's derivative of the field disagrees with a difference of its values: "
            f"{float((measured - expected).norm()):.3g} apart, of {float(measured.norm()):.3g}. "
            "Where the field takes a gradient by torch.autograd.grad, pass create_graph=True; at a "
            "point where it has a kink there is no Jacobian."
        )


def power_loss_gradient(features: Tensor, targets: Tensor, power: float) -> Field:
    """Gradient of ``1/p mean |x w - y|^p`` over rows, ``(..., d) -> (..., d)``.

    Source: Arora, Cohen, Hazan (2018), section 8.

    Raises:
        ValueError: the shapes do not fit.

    Example:
        >>> import torch
        >>> power_loss_gradient(torch.eye(2), torch.ones(2), 4.0)(torch.zeros(2))
        tensor([-0.5000, -0.5000])
    """
    if features.ndim != 2 or targets.shape != features.shape[:1]:
        raise ValueError(
            f"features {tuple(features.shape)} and targets {tuple(targets.shape)} do not fit; pass "
            "(rows, d) and (rows,), for example targets.flatten()."
        )

    def gradient_of(weight: Tensor) -> Tensor:
        residual = weight @ features.mT - targets
        return residual.sign() * residual.abs() ** (power - 1) @ features / len(targets)

    return gradient_of


def check(
    features: Tensor | None = None, targets: Tensor | None = None, data: str = "random data"
) -> TheoryCheck:
    """Integrate around the curve, and measure the asymmetry on regression losses.

    Args:
        features: ``(rows, d)``; default random numbers.
        targets: ``(rows,)``.
        data: name of the data, for the report.
    """
    generator = torch.Generator().manual_seed(4)
    if features is None or targets is None:
        features = torch.randn(200, 8, generator=generator, dtype=torch.float64)
        targets = torch.randn(200, generator=generator, dtype=torch.float64)
    features, targets = features.double(), targets.double()
    e, other = torch.eye(3, dtype=torch.float64)[:2]
    curve, size, inner, outer = closed_curve(e, other, 0.5, 2.0), 1.5, 0.5, 2.0
    rows: list[Row] = []
    errors, at_zero = [], []
    for tenth in range(10, 81, 2):
        depth = tenth / 10
        value = circulation(end_to_end_field(lambda _: size * e, depth), curve).item()
        expected = circulation_constant_gradient(size, depth, inner, outer)
        errors.append(abs(value - expected))
        rows.append(("circulation", "constant gradient", depth, value))
        if depth in (1, 2):
            at_zero.append(abs(value))
    point = 0.1 * torch.randn(features.shape[1], generator=generator, dtype=torch.float64)
    sizes: dict[tuple[float, float], float] = {}
    for power in (2, 4):
        gradient_of = power_loss_gradient(features, targets, power)
        for depth in (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0):
            whole, part = antisymmetric_jacobian(end_to_end_field(gradient_of, depth), point)
            sizes[power, depth] = (part.norm() / whole.norm()).item()
            rows.append(("asymmetry", f"L{power} loss", depth, sizes[power, depth]))
    beyond = min(value for (_, depth), value in sizes.items() if depth > 2)
    plain = max(value for (_, depth), value in sizes.items() if depth == 1)
    return TheoryCheck(
        name="circulation",
        statement="For N > 2 the end-to-end field is no gradient: no regularizer gives it.",
        source="Arora, Cohen, Hazan (2018), Theorem 2",
        measurements=(
            Measurement(
                "largest difference of quadrature from the closed form, N = 1 to 8 (constant "
                "gradient of size 1.5, r = 0.5, R = 2)",
                max(errors),
                0.0,
                1e-10,
            ),
            Measurement("largest circulation at N = 1 and 2, same field", max(at_zero), 0.0, 1e-10),
            Measurement(
                f"smallest |A|_F / |J|_F over L2 and L4 loss, N = 3 to 8, on {data}",
                beyond,
                1e-6,
                1.0,
            ),
            Measurement(f"largest |A|_F / |J|_F at N = 1, on {data}", plain, 0.0, 1e-12),
        ),
        table=columns(("panel", "series", "depth", "value"), rows),
        notes=(
            f"At N = 2 and a gradient that is not constant, |A|_F / |J|_F is "
            f"{sizes[2, 2.0]:.2g} (L2) and {sizes[4, 2.0]:.2g} (L4) on {data}: the zero "
            "circulation at N = 2 belongs to constant gradients.",
        ),
    )
