"""The left singular bases an optimizer keeps: exact or tracked, and what happens on failure.

A basis is never lost: where a decomposition fails, the old one stays, which is safe because the
rule is a descent direction in any orthonormal basis. Failures are counted.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.linalg import LinAlgError  # pyright: ignore

from overparam.rule.basis import basis_error, exact_left_basis, jacobi_sweep, rotated_gram

# A tracked basis is swept again while its error before a sweep is above this, ...
_SWEEP_ABOVE = 0.03
# ... at most this many times a step, and decomposed anew where the error is above this.
_MOST_SWEEPS = 4
_RESET_ABOVE = 0.3


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
    """Decompose anew; where that fails, try float64, then keep the old basis.

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
    return Basis(left, torch.zeros_like(left[:, 0, 0]), failed)


def tracked_basis(old: Tensor, weight: Tensor, *, look: bool) -> Basis:
    """Follow the singular basis by a sweep of matrix products.

    Args:
        old: ``(b, m, m)``.
        weight: ``(b, m, n)`` with ``m <= n``.
        look: read the error and act on it: sweep again, or decompose anew. On an accelerator
            this makes the host wait.

    Returns:
        The bases. Where the weight is not finite, the old one, counted as a failure.
    """
    gram = rotated_gram(old, weight)
    error = basis_error(gram)
    failed = torch.zeros_like(error, dtype=torch.bool)
    if look and bool((error > _RESET_ABOVE).any()):
        lost = error > _RESET_ABOVE
        anew = exact_basis(old[lost], weight[lost])
        old = old.index_put((lost,), anew.left)
        failed = failed.index_put((lost,), anew.failed)
        gram = rotated_gram(old, weight)
        error = basis_error(gram)
    left = jacobi_sweep(old, gram)
    for _ in range(_MOST_SWEEPS - 1 if look else 0):
        if not bool((error > _SWEEP_ABOVE).any()):
            break
        gram = rotated_gram(left, weight)
        error = basis_error(gram)
        left = jacobi_sweep(left, gram)
    broken = _broken(left)
    return Basis(torch.where(broken[:, None, None], old, left), error, failed | broken)


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
