"""Scalar functions of singular values behind the end-to-end rule, stable at every scale."""

from __future__ import annotations

import torch
from torch import Tensor


def inverse_depth(depth: float | Tensor, like: Tensor, trailing: int) -> Tensor:
    """``1/N`` in float64 on the device of ``like``, with ``trailing`` unit dimensions appended."""
    inverse = 1.0 / torch.as_tensor(depth, dtype=torch.float64, device=like.device)
    return inverse[(..., *(None,) * trailing)]


# Numbers up to two to this power and down to its inverse are computed with as they are.
MODERATE = 100
# Whole depths up to this one take the kernel as a sum, without logarithms.
_LONGEST_SUM = 8


def kernel_sum(first: Tensor, second: Tensor, depth: float) -> Tensor | None:
    """The kernel of a whole depth from 2 to 8 as a sum, without logarithms; None for others.

    ``K = sum_j a^(j-1) b^(N-j)`` with ``a = s^(2/N)``, ``b = t^(2/N)``, by Horner's rule: terms of
    one sign, so no digits are lost. Source: Arora, Cohen, Hazan (2018), Claim 1.

    Args:
        first: ``s >= 0``.
        second: ``t >= 0``, broadcasts with ``first``.
        depth: ``N``.
    """
    if depth < 2 or depth > _LONGEST_SUM or depth != int(depth):
        return None
    a, b = (first, second) if depth == 2 else (first ** (2 / depth), second ** (2 / depth))
    total, power = a + b, b
    for _ in range(int(depth) - 2):
        power = power * b
        total = torch.addcmul(power, a, total)
    return total


def power_kernel(first: Tensor, second: Tensor, inverse: Tensor) -> Tensor:
    """Eigenvalues ``K = (s^2 - t^2) / (s^(2/N) - t^(2/N))`` of the preconditioner.

    With ``N`` on the diagonal, ``K_ii = N s^(2 - 2/N)``; at N = inf, the limit of ``K / N``: the
    logarithmic mean of ``s^2`` and ``t^2``. Source: Arora, Cohen, Hazan (2018), Claim 1, summed
    as a geometric series. Stable form, with ``x = 2 ln(min/max) <= 0``:
    ``K = max^(2 - 2/N) expm1(x) / expm1(x/N)``.

    Args:
        first: ``s >= 0``, float64.
        second: ``t >= 0``, float64, broadcasts with ``first``.
        inverse: ``1/N`` in [0, 1], float64, broadcasts with both.

    Returns:
        ``K`` of the broadcast shape.
    """
    larger = torch.maximum(first, second)
    ratio = torch.where(larger > 0, torch.minimum(first, second) / larger, 1.0)
    exponent = 2 * torch.log(ratio)
    infinite = inverse == 0
    denominator = torch.where(infinite, exponent, torch.expm1(exponent * inverse))
    at_equal = torch.where(infinite, 1.0, 1 / inverse)
    series = torch.where(exponent == 0, at_equal, torch.expm1(exponent) / denominator)
    return size_power(larger, inverse) * series


def kernel_matrix(first: Tensor, second: Tensor, inverse: Tensor) -> Tensor:
    """:func:`power_kernel`, as :func:`kernel_sum` where one whole depth is small."""
    if inverse.numel() == 1 and (value := float(inverse)) > 0:
        depth = round(1 / value)
        total = kernel_sum(first, second, depth) if 1 / depth == value else None
        if total is not None:
            return total
    return power_kernel(first, second, inverse)


def size_power(size: Tensor, inverse: Tensor) -> Tensor:
    """``s^(2 - 2/N)`` with ``0^0 = 1``."""
    return size ** (2 - 2 * inverse)


def null_power(size: Tensor, inverse: Tensor) -> Tensor:
    """``K`` against a zero singular value: ``s^(2 - 2/N)``, and 0 in the limit ``K/N`` at inf."""
    return size_power(size, inverse) * (inverse > 0)


def clear_round_off(singular: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Set to zero the singular values that are round-off of a matrix stored in ``dtype``.

    Rounding a matrix to float32 moves its singular values by about ``eps(float32) * s_max``; the
    float64 decomposition adds ``max(m, n) * eps(float64) * s_max``.
    """
    if singular.shape[-1] == 0:
        return singular
    largest = singular.amax(dim=-1, keepdim=True)
    return torch.where(singular > round_off_floor(shape, dtype) * largest, singular, 0.0)


def round_off_floor(shape: tuple[int, int], dtype: torch.dtype) -> float:
    """Where singular values are round-off of a matrix stored in ``dtype``, over the largest."""
    stored = 0.0 if dtype == torch.float64 else torch.finfo(torch.float32).eps
    return max(stored, max(shape) * torch.finfo(torch.float64).eps)


def finite_slots(tensor: Tensor, trailing: int) -> Tensor:
    """Which slots of the batch hold finite numbers alone, with ``trailing`` unit dimensions."""
    return tensor.isfinite().all(tuple(range(-trailing, 0)), keepdim=True)


def size_of(tensor: Tensor) -> Tensor:
    """The largest absolute value of each matrix, ``(..., 1, 1)``; NaN where one entry is NaN."""
    both = (-2, -1)
    return torch.maximum(tensor.amax(both, keepdim=True), -tensor.amin(both, keepdim=True))


def is_moderate(tensor: Tensor) -> bool:
    """Whether :func:`split_scale` would return these matrices as they are, found in two passes.

    Then all their entries are finite.
    """
    size = size_of(tensor)
    return bool(((size >= 2.0**-MODERATE) & (size < 2.0**MODERATE) | (size == 0)).all())


def split_scale(tensor: Tensor, trailing: int) -> tuple[Tensor, Tensor]:
    """Write ``tensor = scaled * 2^exponent`` with the largest entry of ``scaled`` in range.

    The scale is one power of two per slot of the batch, so that nothing is rounded. It is 1 where
    the largest entry is between ``2^-101`` and ``2^100``; else that entry becomes one in [1/2, 1).
    Non-finite slots stay non-finite.

    Returns:
        ``scaled`` in float64 and ``exponent`` in float64, with ``trailing`` unit dimensions.
    """
    wide = tensor.double()
    if 0 in tensor.shape[-trailing:]:
        return wide, wide.new_zeros((*tensor.shape[:-trailing], *(1,) * trailing))
    largest = wide.detach().abs().amax(dim=tuple(range(-trailing, 0)), keepdim=True)
    exponent = torch.frexp(largest).exponent.double()
    exponent = torch.where(exponent.abs() > MODERATE, exponent, 0.0)
    return _times_power_of_two(wide, -exponent), exponent


def join_scale(scaled: Tensor, exponent: Tensor, dtype: torch.dtype) -> Tensor:
    """``scaled * 2^exponent``, rounded once to ``dtype``; the exponent may be fractional."""
    return _times_power_of_two(scaled, exponent).to(dtype)


def _times_power_of_two(tensor: Tensor, exponent: Tensor) -> Tensor:
    # In two halves: 2^exponent alone can leave the range of float64 where the result does not.
    # A half beyond it would be inf, and inf * 0 is NaN.
    exponent = exponent.clamp(-2046, 2046)
    half = torch.trunc(exponent / 2)
    return tensor * torch.exp2(half) * torch.exp2(exponent - half)
