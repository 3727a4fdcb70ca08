"""Singular values and left singular vectors from symmetric eigenproblems, level by level.

A symmetric eigenproblem takes a quarter of the time of LAPACK's singular value decomposition,
but a Gram matrix ``W W^T`` in float64 blurs singular values below ``1e-8 s_max``, and pairs of
singular vectors at ``t`` by ``eps (s_max / t)^2``. Here it is trusted for the singular values
near the largest alone. The rows of ``U^T W`` that belong to smaller ones are freed of the larger
ones by one rotation, and their own Gram matrix, formed from these rows, decides the next level.
So relative accuracy survives the Gram matrices, as it does in one-sided Jacobi methods.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from overparam.rule.kernel import clear_round_off, round_off_floor

# Gram matrices are formed in blocks of this many rows, as only one triangle is read.
_BLOCK = 192
# Long matrices are read in blocks of this many columns, which stay in the cache: a narrow weight
# is never held in float64 as a whole.
_COLUMNS = 1024
# Larger turns between two levels are left out: the two singular values are equal to round-off.
_LARGEST_TURN = 1e-6
# What the decomposition may add to errors that are promised to stay below 1e-12 and 1e-5.
_WIDE_TOLERANCE, _NARROW_TOLERANCE = 2e-13, 1e-7
_EPS = torch.finfo(torch.float64).eps


class SingularRows(NamedTuple):
    """``W = U R`` with orthonormal ``U`` and orthogonal rows of ``R``.

    Attributes:
        left: ``U``, ``(..., m, m)``, by descending singular value up to round-off.
        singular: the lengths ``s`` of the rows of ``R``, ``(..., m)``.
        rows: ``R = U^T W = diag(s) V^T``, ``(..., m, n)``.
    """

    left: Tensor
    singular: Tensor
    rows: Tensor


def thin_decomposition(
    weight: Tensor, stored: torch.dtype, inverse: float, tolerance: float = _WIDE_TOLERANCE
) -> tuple[Tensor, Tensor, Tensor]:
    """``W = U diag(s) V^T``, as accurate as functions of degree ``2 - 2/N`` need it.

    Args:
        weight: ``W``, ``(..., m, n)``, finite, in float64 or in the dtype ``stored``; squares of
            its entries must be in range.
        stored: the dtype that the weight was given in.
        inverse: ``1/N``.
        tolerance: what the decomposition may add to an error, where ``stored`` is float64.

    Returns:
        ``U (..., m, k)``, ``s (..., k)`` and ``V^T (..., k, n)`` with ``k = min(m, n)``, float64,
        in descending order. Singular values at round-off are zero, with zeros in the place of their
        rows of ``V^T`` (of their columns of ``U`` for ``m > n``).

    Raises:
        torch.linalg.LinAlgError: an eigenproblem did not converge.

    Example:
        >>> import torch
        >>> weight = torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
        >>> thin_decomposition(weight, torch.float64, inverse=0.5)[1]
        tensor([2., 0.], dtype=torch.float64)
    """
    m, n = weight.shape[-2:]
    if weight.numel() == 0:
        return torch.linalg.svd(weight.double(), full_matrices=False)
    if m > n:
        right, singular, left = thin_decomposition(weight.mT, stored, inverse, tolerance)
        return left.mT, singular, right.mT
    tolerance = tolerance if stored == torch.float64 else _NARROW_TOLERANCE
    floor = round_off_floor((m, n), stored)
    left, singular, rows = singular_rows(weight, floor, resolution_for(tolerance, inverse))
    singular = clear_round_off(singular, (m, n), stored)
    return left, singular, rows.div_(singular.masked_fill(singular == 0, torch.inf)[..., None])


def singular_rows(weight: Tensor, round_off: float, resolution: float) -> SingularRows:
    """Decompose ``W = U R``, ``R = diag(s) V^T``, with ``R R^T`` diagonal.

    ``U`` is orthonormal and ``U R = W``, both to round-off. Rows ``i, k`` of ``R`` are orthogonal
    up to ``eps / resolution^2`` in units of ``s_i s_k``, however small these are, but for what a
    change of ``W`` by round-off would do to them.

    Cost: ``5 m^2 n`` flops and a symmetric eigenproblem of m rows, and as much again for the
    rows of each further level, which are few where most singular values are near the largest.

    Args:
        weight: ``W``, ``(..., m, n)`` with ``m <= n``, float64 or narrower, finite; squares of
            its entries must be in range.
        round_off: rows this short, in units of ``s_max``, are not told apart.
        resolution: singular values down to this, in units of the largest of their level, are
            taken from one Gram matrix; between ``1e-4`` and 1.

    Returns:
        The left basis, the singular values and the rows, in float64.

    Raises:
        torch.linalg.LinAlgError: an eigenproblem did not converge.

    Example:
        >>> import torch
        >>> weight = torch.tensor([[0.0, 1e-12], [1.0, 0.0]], dtype=torch.float64)
        >>> singular_rows(weight, round_off=1e-15, resolution=0.01).singular
        tensor([1.0000e+00, 1.0000e-12], dtype=torch.float64)
    """
    m = weight.shape[-2]
    left = _descending_basis(weight)
    rows = torch.empty_like(weight, dtype=torch.float64)
    squares = rows.new_zeros(rows.shape[:-1])
    for columns, block in _wide_blocks(weight):
        part = torch.matmul(left.mT, block, out=rows[..., columns])
        squares += part.square().sum(-1)
    singular = squares.sqrt()
    least = round_off * singular[..., :1]
    first = 0
    while first < m - 1:
        above, level = first, singular[..., first:]
        # Where the level of one slot of the batch ends, all others are cut as well: harmless.
        count = int((level < resolution * level[..., :1]).sum(-1).max())
        first = m - count
        if count < 2 or not bool((singular[..., first:] > least).any()):
            break
        _turn_apart(left, rows, singular, slice(above, first), slice(first, m))
        turn = _descending_basis(rows[..., first:, :])
        rows[..., first:, :] = turn.mT @ rows[..., first:, :]
        left[..., first:] = left[..., first:] @ turn
        singular[..., first:] = torch.linalg.vector_norm(rows[..., first:, :], dim=-1)
    return SingularRows(left, singular, rows)


def resolution_for(tolerance: float, inverse: float) -> float:
    """The resolution at which functions of degree ``2 - 2/N`` are accurate to a tolerance.

    A Gram matrix mixes singular vectors at ``t`` by ``eps (s_max / t)^2`` over the relative gap of
    their squares, which moves ``t^(2/N)`` by ``eps (s_max / t)^(2 - 2/N)``, and its right singular
    vector by ``eps s_max / t``.

    Args:
        tolerance: relative to what the largest singular value contributes.
        inverse: ``1/N``.

    Returns:
        A number between ``1e-4`` and ``1/8``.

    Example:
        >>> round(resolution_for(2.0**-42, 0.5), 5), resolution_for(1.0, 1.0)
        (0.00098, 0.0001)
    """
    power = max(2 - 2 * inverse, 1.0)
    return min(max((_EPS / tolerance) ** (1 / power), 1e-4), 0.125)


def _turn_apart(left: Tensor, rows: Tensor, singular: Tensor, large: slice, small: slice) -> None:
    """Make the rows of two levels orthogonal, in place, to first order in what couples them."""
    coupling = rows[..., small, :] @ rows[..., large, :].mT
    gap = singular[..., None, large] ** 2 - singular[..., small, None] ** 2
    close = coupling.abs() >= _LARGEST_TURN * gap
    turn = torch.where(close, 0.0, coupling / gap)
    for matrix in (left.mT, rows):
        upper, lower = matrix[..., large, :], matrix[..., small, :]
        change = turn.mT @ lower
        lower -= turn @ upper
        upper += change


def _descending_basis(rows: Tensor) -> Tensor:
    """Eigenvectors of ``R R^T`` in float64, the largest eigenvalue first."""
    m = rows.shape[-2]
    gram = rows.new_zeros(*rows.shape[:-1], m, dtype=torch.float64)
    height = _BLOCK if m > 2 * _BLOCK else m
    for _, block in _wide_blocks(rows):
        for start in range(0, m, height):
            stop = min(start + height, m)
            gram[..., start:stop, :stop] -= block[..., start:stop, :] @ block[..., :stop, :].mT
    # Negative, as eigh sorts in ascending order; it reads the lower triangle.
    return torch.linalg.eigh(gram).eigenvectors


def _wide_blocks(rows: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """The columns of a matrix in float64, block by block."""
    for start in range(0, rows.shape[-1], _COLUMNS):
        columns = slice(start, start + _COLUMNS)
        yield columns, rows[..., columns].double()
