"""The end-to-end rule at speed: matrix products in the dtype of the weight, in any given basis.

:mod:`overparam.rule` is the reference, in float64 with its own decomposition.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from overparam._kernel import power_kernel
from overparam.spectrum import in_range

# A row of U^T W this far below the largest singular value, in units of eps, is round-off.
_ROUND_OFF = 8.0


def update_in_basis(
    left: Tensor,
    weight: Tensor,
    gradient: Tensor,
    inverse: Tensor,
    *,
    floor: float = 0.0,
    normalize: bool = False,
) -> Tensor:
    r"""The end-to-end update from the left singular basis alone: matrix products, any real depth.

    .. math::
        D = U \left[ s^{2-2/N} \circ G_u + \left( (K - s_i^{2-2/N}) \circ (G_u V_u^T) \right) V_u
        \right], \quad W_u = U^T W,\; G_u = U^T G,\; s_i = |W_{u,i}|,\; V_u = W_u / s,

    ``K`` the eigenvalues of the preconditioner (Arora, Cohen, Hazan 2018, Claim 1). Equal to
    :func:`overparam.end_to_end_update` when ``U`` is the singular basis. For any orthonormal
    ``U`` it is a descent direction, ``<G, D> >= 0``, since ``K(s, t) >= s^(2-2/N)``: a stale
    basis is safe. Cost: five matrix products, ``10 m^2 n`` flops.

    Args:
        left: ``U``, ``(..., m, m)``, orthonormal.
        weight: ``W``, ``(..., m, n)`` with ``m <= n``.
        gradient: ``G``, ``(..., m, n)``.
        inverse: ``1/N``, in the dtype of the weight, broadcasting with ``(..., 1, 1)``.
        floor: singular values below it count as this value, in units of the weight; those of
            ``W``'s null space too. 0 leaves zero singular values, which never grow for N >= 2.
        normalize: divide by the largest eigenvalue of the preconditioner, ``N s_max^(2-2/N)``.

    Returns:
        ``D``, ``(..., m, n)``; for ``N = inf`` the limit of ``D / N``.

    Example:
        >>> import torch
        >>> weight, gradient = torch.tensor([[4.0, 0.0], [0.0, 1.0]]), torch.ones(2, 2)
        >>> update_in_basis(torch.eye(2), weight, gradient, torch.tensor(0.5))
        tensor([[8., 5.],
                [5., 2.]])
    """
    rows, exponent = in_range(left.mT @ weight)
    singular = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    round_off = _ROUND_OFF * torch.finfo(weight.dtype).eps * singular.amax(-2, keepdim=True)
    singular = torch.where(singular > round_off, singular, 0.0)
    sizes = _sizes(singular, exponent, floor)
    kernel = power_kernel(sizes.relative, sizes.relative.mT, inverse)
    outside = power_kernel(sizes.relative, sizes.floor, inverse)
    right = rows * torch.where(singular > 0, 1 / singular, 0.0)
    turned = left.mT @ gradient
    inside = ((kernel - outside) * (turned @ right.mT)) @ right
    update = left @ torch.addcmul(inside, outside, turned)
    return update * _factor(sizes, inverse, normalize)


def update_of_rows(
    weight: Tensor,
    gradient: Tensor,
    inverse: Tensor,
    *,
    floor: float = 0.0,
    normalize: bool = False,
) -> Tensor:
    r"""The end-to-end update of each row as a layer with a single output.

    .. math::
        D = |w|^{2-2/N} \left( g + (N-1) \langle \hat w, g \rangle \hat w \right)

    Source: Arora, Cohen, Hazan (2018), Claim 2; equal to :func:`overparam.single_output_update`
    for normal numbers, in the dtype of the weight.

    Args:
        weight: ``w``, ``(..., r, d)``: r rows that share one normalization.
        gradient: ``g``, ``(..., r, d)``.
        inverse: as in :func:`update_in_basis`.
        floor: as in :func:`update_in_basis`, for the length of a row.
        normalize: divide by the largest eigenvalue over all rows, ``N max |w|^(2-2/N)``.

    Returns:
        ``D``, ``(..., r, d)``; for ``N = inf`` the limit of ``D / N``.

    Example:
        >>> import torch
        >>> weight, gradient = torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 1.0]])
        >>> update_of_rows(weight, gradient, torch.tensor(0.5))
        tensor([[4., 2.]])
    """
    rows, exponent = in_range(weight)
    length = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    sizes = _sizes(length, exponent, floor)
    along = power_kernel(sizes.relative, sizes.relative, inverse)
    outside = power_kernel(sizes.relative, sizes.floor, inverse)
    factor = _factor(sizes, inverse, normalize)
    stretch = torch.linalg.vecdot(rows, gradient).unsqueeze(-1)
    stretch = torch.where(length > 0, stretch / length**2, 0.0) * (along - outside)
    return torch.addcmul(gradient * (outside * factor), rows, stretch * factor)


class _Sizes(NamedTuple):
    """Singular values over their largest.

    Attributes:
        relative: ``s / s_max`` after the floor, ``(..., r, 1)``.
        floor: over ``s_max``, ``(..., 1, 1)``.
        largest: ``s_max`` after the floor, in float64 and in units of the weight, ``(..., 1, 1)``.
    """

    relative: Tensor
    floor: Tensor
    largest: Tensor


def _sizes(singular: Tensor, exponent: Tensor, floor: float) -> _Sizes:
    """From singular values ``(..., r, 1)`` in units of ``2^exponent``."""
    least = floor * torch.exp2(-exponent)
    singular = torch.maximum(singular, least)
    largest = singular.amax(-2, keepdim=True)
    over = torch.where(largest > 0, 1 / largest, 0.0)
    return _Sizes(singular * over, least * over, largest.double() * torch.exp2(exponent.double()))


def _factor(sizes: _Sizes, inverse: Tensor, normalize: bool) -> Tensor:
    """What turns an update for ``s / s_max`` into that for ``s``, or into the normalized one."""
    if normalize:
        return torch.where(inverse > 0, inverse, 1.0)
    return (sizes.largest ** (2 - 2 * inverse.double())).to(inverse.dtype)
