"""Left singular bases of a weight: exact, or tracked from step to step by matrix products alone.

With ``P = W W^T = U diag(s^2) U^T`` and ``T = U^T P U``, a basis is
exact when ``T`` is diagonal; ``||off(T)|| / ||T||`` measures how far it is from that, and is the
relative size of the smallest known change of ``P`` for which the basis would be exact.

All functions take matrices ``(..., m, n)`` with ``m <= n``: transpose others.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.linalg import LinAlgError  # pyright: ignore

# Damping of the rotation of two nearly equal singular values, in units of the coupling of their
# rows: rotations beyond the reach of first-order perturbation theory are left to later sweeps.
_DAMPING = 0.25
# Bound on the spectral norm of one turn; the series and the final step converge well within it.
_LARGEST_TURN = 0.7
# A tracked basis is swept again while its error before a sweep is above this, ...
_SWEEP_ABOVE = 0.03
# ... at most this many times a step, and decomposed from scratch where the error is above this.
_MOST_SWEEPS = 4
_RESET_ABOVE = 0.3


def exact_left_basis(weight: Tensor) -> Tensor:
    """Left singular vectors ``U`` of ``W``, in descending order of singular value.

    Statement: ``U^T U = 1`` and ``U^T W W^T U`` is diagonal. Narrow dtypes take the eigenvectors
    of the Gram matrix formed in float64, which resolves singular values down to
    ``1e-8 s_max``, below float32's own round-off; float64 takes the singular value decomposition.

    Args:
        weight: ``W``, ``(..., m, n)`` with ``m <= n``.

    Returns:
        ``(..., m, m)``, in the dtype of ``weight``. Non-finite where ``weight`` is not finite.

    Raises:
        torch.linalg.LinAlgError: the decomposition did not converge.

    Example:
        >>> import torch
        >>> exact_left_basis(torch.tensor([[0.0, 2.0], [1.0, 0.0]])).abs()
        tensor([[1., 0.],
                [0., 1.]])
    """
    if weight.dtype == torch.float64:
        broken = ~weight.isfinite().all(dim=(-2, -1), keepdim=True)
        left = torch.linalg.svd(weight.masked_fill(broken, 0.0), full_matrices=False).U
    else:
        wide = weight.double()
        gram = wide @ wide.mT
        # Squares of narrow numbers stay within the range of float64: no overflow.
        trace = gram.diagonal(dim1=-2, dim2=-1).sum(-1)
        broken = ~(trace < math.inf)[..., None, None]
        left = torch.linalg.eigh(gram.masked_fill_(broken, 0.0)).eigenvectors.flip(-1)
    return left.to(weight.dtype).masked_fill(broken, math.nan)


def basis_error(rotated: Tensor) -> Tensor:
    """How far a basis is from singular: ``||off(T)|| / ||T||`` with ``T = (U^T W)(U^T W)^T``.

    Args:
        rotated: ``T``, ``(..., m, m)``.

    Returns:
        ``(...)``, between 0 (exact) and 1; 0 for a zero matrix.

    Example:
        >>> import torch
        >>> basis_error(torch.tensor([[4.0, 3.0], [3.0, 4.0]]))
        tensor(0.6000)
    """
    size = torch.linalg.matrix_norm(rotated)
    off = torch.linalg.matrix_norm(_off_diagonal(rotated))
    return torch.where(size > 0, off / size, 0.0)


def rotated_gram(left: Tensor, weight: Tensor) -> Tensor:
    """``T = (U^T W)(U^T W)^T`` up to a factor per matrix that keeps it in range.

    Formed from ``U^T W``, never from the Gram matrix: its small entries stay accurate.

    Args:
        left: ``U``, ``(..., m, m)``.
        weight: ``W``, ``(..., m, n)``.

    Returns:
        ``(..., m, m)``.
    """
    rows, _ = in_range(left.mT @ weight)
    return rows @ rows.mT


def jacobi_sweep(left: Tensor, rotated: Tensor) -> Tensor:
    """Turn a basis towards the singular one: all plane rotations at once, by matrix products.

    First-order perturbation theory asks for ``U (1 + X)`` with ``X_ik = T_ik / (T_kk - T_ii)``.
    Nearly equal diagonal entries are damped, ``gap / (gap^2 + c (r_i^2 + r_k^2))`` in place of
    ``1 / gap`` with ``r_i`` the norm of row i of ``off(T)``: a basis mixed inside such a cluster
    is as good for the rule. ``X`` is scaled down where it is not small, and the polar factor of
    ``U (1 + X)`` replaces it, which repairs round-off of orthonormality too. The error falls
    quadratically where singular values are separated by more than the couplings, and stays of
    the order of one step's change where they are not. Cost: ``12 m^3`` flops.

    Args:
        left: ``U``, ``(..., m, m)``, orthonormal up to a few percent.
        rotated: ``T``, from :func:`rotated_gram` with this ``U``.

    Returns:
        The next basis, ``(..., m, m)``.

    Example:
        >>> import torch
        >>> weight = torch.tensor([[2.0, 0.01], [0.01, 1.0]])
        >>> turned = jacobi_sweep(torch.eye(2), rotated_gram(torch.eye(2), weight))
        >>> bool(basis_error(rotated_gram(turned, weight)) < 1e-6)
        True
    """
    return _sweep(left, rotated)[0]


def _sweep(left: Tensor, rotated: Tensor) -> tuple[Tensor, Tensor]:
    """The next basis, and the :func:`basis_error` of this one: both in few passes."""
    diagonal = rotated.diagonal(dim1=-2, dim2=-1)
    gap = diagonal[..., None, :] - diagonal[..., :, None]
    off = _off_diagonal(rotated)
    coupling = off.square().sum(-1)
    apart = coupling.sum(-1)
    size = apart + diagonal.square().sum(-1)
    tiny = torch.finfo(left.dtype).tiny
    error = (apart / size.clamp_min(tiny)).sqrt()
    damped = torch.addcmul(_DAMPING * (coupling[..., None, :] + coupling[..., :, None]), gap, gap)
    # Where that is zero, so is what it divides.
    turn = off * gap / damped.clamp_min(tiny)
    square = turn @ turn
    # ||X||_2 <= ||X^2||_F^(1/2), without a decomposition.
    norm = torch.linalg.matrix_norm(square)[..., None, None].sqrt()
    shrink = (_LARGEST_TURN / norm).clamp(max=1.0)
    turn, square = shrink * turn, shrink * shrink * square
    # (1 + X)(1 - X^2)^(-1/2) is orthogonal, as X is antisymmetric: two terms of the series.
    even = _plus_product(square, square, square, 0.5, 0.375)
    left = _plus_product(left, left, _plus_product(turn + even, turn, square, 1.0, 0.5))
    return _plus_product(left, left, left.mT @ left, 1.5, -0.5), error


def _plus_product(
    first: Tensor, left: Tensor, right: Tensor, beta: float = 1.0, alpha: float = 1.0
) -> Tensor:
    """``beta * first + alpha * left @ right`` in one call, for square matrices ``(..., m, m)``."""
    flat = (each.reshape(-1, *each.shape[-2:]) for each in (first, left, right))
    return torch.baddbmm(*flat, beta=beta, alpha=alpha).reshape(first.shape)


def in_range(tensor: Tensor, least: float = 0.0) -> tuple[Tensor, Tensor]:
    """Each matrix over its largest entry: squares of the result neither overflow nor vanish.

    Args:
        tensor: ``(..., m, n)``.
        least: the matrix is divided by no less than this.

    Returns:
        The scaled matrices, and ``size`` with ``tensor = scaled * size``, ``(..., 1, 1)``. The
        size is a normal number for a zero matrix too: numbers can be divided by it.
    """
    size = unit_of(tensor, max(torch.finfo(tensor.dtype).tiny ** 0.8, least))
    return tensor / size, size


def unit_of(tensor: Tensor, least: float = 0.0) -> Tensor:
    """The largest entry of each matrix, ``(..., 1, 1)``, and no less than ``least``; not zero."""
    both = (-2, -1)
    if tensor.device.type == "cpu":  # ten times as fast as the norm
        largest = torch.maximum(tensor.amax(both, keepdim=True), -tensor.amin(both, keepdim=True))
    else:
        largest = torch.linalg.vector_norm(tensor, math.inf, dim=both, keepdim=True)
    return largest.clamp_min(max(torch.finfo(tensor.dtype).tiny, least))


def _off_diagonal(matrix: Tensor) -> Tensor:
    off = matrix.clone()
    off.diagonal(dim1=-2, dim2=-1).zero_()
    return off


class Basis(NamedTuple):
    """Bases of a stack of matrices after one update.

    Attributes:
        left: ``(b, m, m)``.
        error: ``(b,)``, the relative off-diagonal part seen before the last sweep.
        failed: ``(b,)``, whether the old basis was kept because a decomposition failed.
    """

    left: Tensor
    error: Tensor
    failed: Tensor


def exact_basis(old: Tensor, weight: Tensor) -> Basis:
    """Decompose from scratch; where that fails, try float64, then keep the old basis.

    Args:
        old: ``(b, m, m)``.
        weight: ``(b, m, n)`` with ``m <= n``.

    Returns:
        The bases.
    """
    try:
        left = exact_left_basis(weight)
    except LinAlgError:
        slots = [_with_fallback(basis, matrix) for basis, matrix in zip(old, weight, strict=True)]
        left = torch.stack(slots)
    failed = _broken(left)
    left = torch.where(failed[:, None, None], old, left)
    return Basis(left, left.new_zeros(len(left)), failed)


def tracked_basis(old: Tensor, weight: Tensor, *, look: bool) -> Basis:
    """Follow the singular basis by a sweep of matrix products.

    Args:
        old: ``(b, m, m)``.
        weight: ``(b, m, n)`` with ``m <= n``.
        look: read the error and act on it: sweep again, or decompose from scratch. On an
            accelerator this makes the host wait.

    Returns:
        The bases. Where the weight is not finite, the old one, counted as a failure.
    """
    left, error = _sweep(old, rotated_gram(old, weight))
    failed = torch.zeros_like(error, dtype=torch.bool)
    if look and _any_above(_RESET_ABOVE, error):
        lost = error > _RESET_ABOVE
        fresh = exact_basis(old[lost], weight[lost])
        old = old.index_put((lost,), fresh.left)
        failed = failed.index_put((lost,), fresh.failed)
        left, error = _sweep(old, rotated_gram(old, weight))
    for _ in range(_MOST_SWEEPS - 1 if look else 0):
        if not _any_above(_SWEEP_ABOVE, error):
            break
        left, error = _sweep(left, rotated_gram(left, weight))
    broken = _broken(left)
    return Basis(torch.where(broken[:, None, None], old, left), error, failed | broken)


def _any_above(bound: float, errors: Tensor) -> bool:
    """Whether the host sees an error above a bound."""
    return any(error > bound for error in errors.tolist())


def _broken(left: Tensor) -> Tensor:
    """Which bases are not finite, ``(b,)``: entries of an orthonormal one are at most 1."""
    return ~(left.abs().amax(dim=(-2, -1)) < 2)


def _with_fallback(old: Tensor, weight: Tensor) -> Tensor:
    """The basis of one matrix whose batch could not be decomposed."""
    for dtype in dict.fromkeys((weight.dtype, torch.float64)):
        try:
            return exact_left_basis(weight.to(dtype)).to(weight.dtype)
        except LinAlgError:
            continue
    return torch.full_like(old, torch.nan)
