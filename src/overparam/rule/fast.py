"""The end-to-end rule at speed: matrix products in the dtype of the weight, in any given basis.

:mod:`overparam.rule.reference` is the reference, in float64 with its own decomposition.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from overparam.rule.basis import in_range, unit_of
from overparam.rule.kernel import kernel_sum, power_kernel
from overparam.rule.unbalanced import Offsets, excess_squares, unbalanced_kernel

# A row of U^T W this far below the largest singular value, in units of eps, is round-off.
_ROUND_OFF = 8.0
# Rows whose longest is between these, and rows 1e-15 times as long, have squares in float32.
_IN_RANGE = (2.0**-12, 2.0**12)
# The unit of rows that are taken as they are.
_ONE = torch.ones((), device="cpu")


def update_in_basis(
    left: Tensor,
    weight: Tensor,
    gradient: Tensor,
    depth: float,
    *,
    floor: float = 0.0,
    normalize: bool = False,
    offsets: Offsets = (),
    root: bool = False,
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
        depth: ``N``, a number of at least 1, or infinity.
        floor: singular values below it count as this value, in units of the weight; those of
            ``W``'s null space too. 0 leaves zero singular values, which never grow for N >= 2.
        normalize: divide by the largest eigenvalue of the preconditioner, ``N s_max^(2-2/N)``.
        offsets: of N unbalanced factors, from
            :func:`overparam.rule.unbalanced.check_imbalance`; empty for balanced ones. Without a
            floor, which it makes needless: zero singular values grow.
        root: with the square roots of all eigenvalues: taken twice it is the rule.

    Returns:
        ``D``, ``(..., m, n)``; for ``N = inf`` the limit of ``D / N``.

    Example:
        >>> import torch
        >>> weight, gradient = torch.tensor([[4.0, 0.0], [0.0, 1.0]]), torch.ones(2, 2)
        >>> update_in_basis(torch.eye(2), weight, gradient, depth=2)
        tensor([[8., 5.],
                [5., 2.]])
    """
    unit = unit_of(weight, floor or _size_of(offsets))
    rows = (left / unit).mT @ weight
    singular = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    largest = _largest(singular)
    round_off = _ROUND_OFF * torch.finfo(weight.dtype).eps
    relative = torch.threshold(singular / largest, round_off, 0.0)
    if offsets:
        kernel, outside, factor = _unbalanced(relative * largest, unit, offsets, normalize)
    else:
        sizes = _sizes(relative, largest, unit, floor)
        kernel = _kernel(sizes.relative, sizes.relative.mT, depth)
        outside, factor = _outside(sizes, depth), _factor(sizes, depth, normalize)
    if root:
        kernel, outside, factor = kernel.sqrt(), outside.sqrt(), factor**0.5
    turned = left.mT @ gradient
    # V_u is rows over their lengths: m x m numbers take both divisions, not a pass over rows.
    # Round-off has K = outside, and may be divided by anything whose square does not vanish.
    shortest = (round_off * largest).clamp_min(torch.finfo(weight.dtype).tiny ** 0.4)
    lengths = torch.maximum(singular, shortest)
    core = (kernel - outside) * (turned @ rows.mT) / lengths.square().mT
    update = torch.addcmul(core @ rows, outside, turned)
    return (left * factor) @ update


def update_of_rows(
    weight: Tensor,
    gradient: Tensor,
    depth: float,
    *,
    floor: float = 0.0,
    normalize: bool = False,
    offsets: Offsets = (),
    root: bool = False,
    look: bool = True,
) -> Tensor:
    r"""The end-to-end update of each row as a layer with a single output.

    .. math::
        D = |w|^{2-2/N} \left( g + (N-1) \langle \hat w, g \rangle \hat w \right)

    Source: Arora, Cohen, Hazan (2018), Claim 2; equal to :func:`overparam.single_output_update`
    in the dtype of the weight, for normal numbers: in float32 for gradients from 1e-30 to 1e30 and
    rows not shorter than 1e-15 times the longest.

    Args:
        weight: ``w``, ``(..., r, d)``: r rows that share one normalization.
        gradient: ``g``, ``(..., r, d)``.
        depth: as in :func:`update_in_basis`.
        floor: as in :func:`update_in_basis`, for the length of a row.
        normalize: divide by the largest eigenvalue over all rows, ``N max |w|^(2-2/N)``.
        offsets: as in :func:`update_in_basis`.
        root: as in :func:`update_in_basis`.
        look: on a CPU, read the size of the rows to save a pass over them; not where steps are
            captured, which do the same each time.

    Returns:
        ``D``, ``(..., r, d)``; for ``N = inf`` the limit of ``D / N``.

    Example:
        >>> import torch
        >>> weight, gradient = torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 1.0]])
        >>> update_of_rows(weight, gradient, depth=2)
        tensor([[4., 2.]])
    """
    rows, unit, length, largest = _measured(weight, floor or _size_of(offsets), look)
    if offsets:
        # Each row is a matrix of its own: the kernel of its length with itself.
        squares, shifts = _squares(length, unit, offsets)
        along, across = (unbalanced_kernel(squares, other, shifts) for other in (squares, 0.0))
        largest = along.amax(-2, keepdim=True)
        factor = _over(largest) if normalize else _unbalanced_factor(unit, len(offsets))
        across = across * factor
        excess = along * factor - across
    else:
        sizes = _sizes(length / largest, largest, unit, floor)
        across = _outside(sizes, depth) * _factor(sizes, depth, normalize)
        excess = _excess(sizes, across, depth, normalize)
    if root:
        along, across = (across + excess).sqrt(), across.sqrt()
        excess = along - across
    if weight.shape[-1] == 1:  # entries have nothing across
        return (excess + across) * gradient
    # Squares of lengths below this vanish; such a row takes the step across it.
    length = length.clamp_min(torch.finfo(weight.dtype).tiny ** 0.5)
    along = (rows * gradient).sum(-1, keepdim=True) / (length * length)
    along = along * excess
    # In place: for large weights a fresh tensor costs more than the arithmetic.
    moved = rows * along if rows is weight else rows.mul_(along)
    return moved.addcmul_(gradient, across)


def _measured(weight: Tensor, least: float, look: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows whose squares neither overflow nor vanish, their unit, their lengths, the largest."""
    if look and least == 0 and weight.device.type == "cpu" and not torch.compiler.is_compiling():
        # Most weights are in that range as they are, and here a look costs less than to divide.
        length = torch.linalg.vector_norm(weight, dim=-1, keepdim=True)
        largest = length.amax(-2, keepdim=True)
        sizes = largest.flatten().tolist()
        if all(_IN_RANGE[0] < size < _IN_RANGE[1] for size in sizes):
            return weight, _ONE, length, largest
    rows, unit = in_range(weight, least)
    if weight.device.type == "cpu":  # bit for bit the same, however the rows come here
        highest = math.frexp(torch.finfo(unit.dtype).max)[1] - 1  # 2^128 is no float32
        exponent = torch.frexp(unit).exponent.clamp_max(highest)
        unit = torch.ldexp(torch.ones_like(unit), exponent)
        rows = weight / unit
    length = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return rows, unit, length, _largest(length)


class _Sizes(NamedTuple):
    """Singular values over their largest.

    Attributes:
        relative: ``s / s_max`` after the floor, ``(..., r, 1)``.
        floor: over ``s_max``, ``(..., 1, 1)``; None where there is none.
        largest: ``s_max`` after the floor, in units of ``unit``, ``(..., 1, 1)``.
        unit: in units of the weight, ``(..., 1, 1)``.
    """

    relative: Tensor
    floor: Tensor | None
    largest: Tensor
    unit: Tensor


def _largest(lengths: Tensor) -> Tensor:
    """The largest of ``(..., r, 1)``, ``(..., 1, 1)``, above zero."""
    return lengths.amax(-2, keepdim=True).clamp_min(torch.finfo(lengths.dtype).tiny)


def _sizes(relative: Tensor, largest: Tensor, unit: Tensor, floor: float) -> _Sizes:
    """From ``s / s_max`` and ``s_max`` before the floor."""
    if floor == 0:
        return _Sizes(relative, None, largest, unit)
    least = floor / unit
    raised = torch.maximum(largest, least)
    relative = torch.maximum(relative * (largest / raised), least / raised)
    return _Sizes(relative, least / raised, raised, unit)


def _outside(sizes: _Sizes, depth: float) -> Tensor:
    """``K`` of each singular value against those of the null space, ``(..., r, 1)``."""
    if sizes.floor is not None:
        return _kernel(sizes.relative, sizes.floor, depth)
    return sizes.relative * 0 if math.isinf(depth) else _size_power(sizes.relative, depth)


def _excess(sizes: _Sizes, across: Tensor, depth: float, normalize: bool) -> Tensor:
    """How much more a row moves along itself than ``across``, ``(..., r, 1)``."""
    if sizes.floor is None and math.isfinite(depth):
        return across if depth == 2 else across * (depth - 1)
    power = _size_power(sizes.relative, depth)
    along = power if math.isinf(depth) else depth * power
    return along * _factor(sizes, depth, normalize) - across


def _kernel(first: Tensor, second: Tensor, depth: float) -> Tensor:
    """``K`` for one depth: as a sum where that is short."""
    total = kernel_sum(first, second, depth)
    if total is not None:
        return total
    return power_kernel(first, second, torch.full_like(first[..., :1, :1], 1 / depth))


def _size_power(size: Tensor, depth: float) -> Tensor:
    """``s^(2 - 2/N)`` with ``0^0 = 1``."""
    return size if depth == 2 else size ** (2 - 2 / depth)


def _factor(sizes: _Sizes, depth: float, normalize: bool) -> Tensor | float:
    """What turns an update for ``s / s_max`` into that for ``s``, or into the normalized one."""
    if normalize:
        return 1.0 if math.isinf(depth) else 1 / depth
    largest = sizes.largest.double() * sizes.unit.double()
    return _size_power(largest, depth).to(sizes.largest.dtype)


def _size_of(offsets: Offsets) -> float:
    """The weight whose balanced factors have squared singular values as large as the offsets."""
    return max(offsets) ** (len(offsets) / 2) if offsets else 0.0


def _squares(size: Tensor, unit: Tensor, offsets: Offsets) -> tuple[Tensor, list[Tensor]]:
    """``x`` of each singular value and the offsets, both in units of ``unit^(2/N)``."""
    scale = unit.double() ** (-2 / len(offsets))
    shifts = [(offset * scale).to(size.dtype) for offset in offsets]
    return excess_squares(size, shifts), shifts


def _unbalanced_factor(unit: Tensor, depth: int) -> Tensor:
    """What turns an update in units of ``unit`` into one in those of the weight."""
    return (unit.double() ** (2 - 2 / depth)).to(unit.dtype)


def _unbalanced(
    size: Tensor, unit: Tensor, offsets: Offsets, normalize: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """``K``, ``K`` against null directions, and the factor on both."""
    squares, shifts = _squares(size, unit, offsets)
    kernel = unbalanced_kernel(squares, squares.mT, shifts)
    outside = unbalanced_kernel(squares, 0.0, shifts)
    if not normalize:
        return kernel, outside, _unbalanced_factor(unit, len(offsets))
    top = squares.amax(-2, keepdim=True)
    return kernel, outside, _over(unbalanced_kernel(top, top, shifts))


def _over(eigenvalue: Tensor) -> Tensor:
    """Its inverse; a weight whose kernel vanishes stays as it is."""
    return 1 / eigenvalue.clamp_min(torch.finfo(eigenvalue.dtype).tiny)
