"""Theorem 2: no regularizer gives the end-to-end field, since the field is not a gradient.

A gradient field has zero line integral around every closed curve.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import torch
from torch import Tensor

from overparam._checks import check_depth
from overparam.theory.field import Field

Piece = Callable[[Tensor], Tensor]
"""A smooth piece of a curve: times ``(k,)`` in [0, 1] to points ``(k, d)``."""


def closed_curve(
    direction: Tensor, other: Tensor, inner: float, outer: float
) -> tuple[Piece, Piece, Piece, Piece]:
    """The closed curve of Theorem 2 around, and never through, the origin.

    From ``-R e`` straight to ``-r e``, along a half circle to ``r e``, straight to ``R e``, and
    back along a half circle. Source: Arora, Cohen, Hazan (2018), Theorem 2.

    Args:
        direction: ``e``, a unit vector ``(d,)``.
        other: a unit vector orthogonal to it, on the side of the half circles.
        inner: ``r > 0``.
        outer: ``R > r``.

    Returns:
        The four pieces.

    Raises:
        ValueError: the radii are out of order, or the vectors are not orthonormal.

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

    It is zero around every closed curve if and only if the field is a gradient. The error falls
    exponentially with ``nodes`` where field and curve are analytic. Source: the proof
    of Arora, Cohen, Hazan (2018), Theorem 2.

    Args:
        field: ``(k, d) -> (k, d)``, smooth along each piece.
        curve: the pieces in order; each takes times of shape ``(k,)``, float64.
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
    for weights, values, velocity in along_curve(field, curve, nodes):
        total = total + weights @ (values * velocity).sum(-1)
    return total


def along_curve(
    field: Field, curve: Sequence[Piece], nodes: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """For each piece: the quadrature weights ``(k,)``, the field and the velocity ``(k, d)``."""
    # Golub and Welsch: nodes and weights from the Jacobi matrix of Legendre's recursion.
    k = torch.arange(1, nodes, dtype=torch.float64)
    off = k / torch.sqrt(4 * k**2 - 1)
    values, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    times, weights = (values + 1) / 2, vectors[0] ** 2
    for piece in curve:
        pair = torch.autograd.functional.jvp(piece, times, torch.ones_like(times))
        points, velocity = cast(tuple[Tensor, Tensor], pair)
        yield weights, field(points), velocity


def circulation_constant_gradient(size: float, depth: float, inner: float, outer: float) -> float:
    r"""The circulation in closed form, for a constant gradient along the curve's direction.

    .. math::
        \oint F = 2 c \, \frac{(N-1)(N-2)}{3N-2} \left( R^{3-2/N} - r^{3-2/N} \right),

    zero only at N = 1 and N = 2. Source: Claim 2 of Arora, Cohen, Hazan (2018), integrated along
    the curve of their Theorem 2.

    Args:
        size: ``c``, length of the gradient along ``e``.
        depth: ``N >= 1``, real.
        inner: ``r``.
        outer: ``R``.

    Returns:
        The integral.

    Raises:
        TypeError: depth is not a number.
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
