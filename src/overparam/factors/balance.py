"""Balanced factorizations, the imbalance of factors, and initializations of linear networks.

Factors are ordered from the input, ``(W_1, ..., W_N)``; leading dimensions are batch dimensions.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from overparam._checks import check_factors, check_floating, plain_numbers, whole_depth
from overparam._finite import is_finite
from overparam.rule.decomposition import thin_decomposition
from overparam.rule.engine import scaled_offsets
from overparam.rule.kernel import clear_round_off, is_moderate, join_scale, split_scale
from overparam.rule.unbalanced import Imbalance, Offsets, check_imbalance, excess_squares

# The balance of factors in float64 is as good as the decomposition.
_ROUND_OFF = 1e-15


def balanced_factors(
    weight: Tensor,
    depth: int,
    width: int | Sequence[int] | None = None,
    *,
    imbalance: Imbalance = 0.0,
) -> tuple[Tensor, ...]:
    """Factor a matrix into ``depth`` balanced factors whose product is the matrix.

    With ``W = U diag(s) V^T``: ``W_1 = s^(1/N) V^T``, ``W_j = diag(s^(1/N))``,
    ``W_N = U s^(1/N)``, padded with zeros to wider hidden layers. Then
    ``W_{j+1}^T W_{j+1} = W_j W_j^T`` for every j. Source: the balancedness condition of Arora,
    Cohen, Hazan (2018), Theorem 1; the construction is Procedure 1 of Arora, Cohen, Golowich, Hu
    (2019). Computed in float64; exact up to one rounding per factor. Singular values at
    round-off become zeros, as in :func:`overparam.end_to_end_update`.

    With an ``imbalance`` the factors have exactly this one, ``W_2^T W_2 - W_1 W_1^T = lam I`` or
    ``W_{j+1}^T W_{j+1} - W_j W_j^T = (l_{j+1} - l_j) I``, and under gradient descent their product
    moves by the rule with the same imbalance. The squared singular values of ``W_j`` are
    ``x + l_j``, see :mod:`overparam.rule.unbalanced`. This fixes the widths: n before the factor
    with the smallest offset, m behind it (for a number: m for ``lam > 0``, n for ``lam < 0``).

    Args:
        weight: ``W``, ``(..., m, n)``, finite.
        depth: ``N``, the number of factors, an integer of at least 1.
        width: hidden width, or the ``N - 1`` widths from the input; each at least ``min(m, n)``,
            which is the default without imbalance.
        imbalance: a number for depth 2, a sequence of N numbers for depth N.

    Returns:
        ``(W_1, ..., W_N)``, ``W_j`` of shape ``(..., d_j, d_{j-1})``, in the dtype of ``weight``.

    Raises:
        TypeError: weight is not a real floating-point tensor, or depth is not an integer.
        ValueError: weight is not a finite matrix, depth below 1, a width too small, or an
            imbalance that is not one of that depth or width.

    Example:
        >>> import torch
        >>> from overparam import factor_product
        >>> weight = torch.tensor([[4.0, 0.0], [0.0, 9.0]])
        >>> factors = balanced_factors(weight, depth=2, width=3)
        >>> [tuple(factor.shape) for factor in factors]
        [(3, 2), (2, 3)]
        >>> torch.allclose(factor_product(factors), weight)
        True
    """
    check_floating("weight", weight)
    if weight.ndim < 2:
        raise ValueError(f"weight has shape {tuple(weight.shape)}; pass a matrix (..., m, n).")
    # For large weights each pass over the entries counts, and most need no scale.
    plain = weight.numel() > 0 and is_moderate(weight)
    if not plain and not is_finite(weight):
        raise ValueError("weight has non-finite entries; it has no balanced factorization.")
    m, n = weight.shape[-2:]
    rank = min(m, n)
    if offsets := check_imbalance(imbalance, whole_depth(depth)):
        return _unbalanced_factors(weight, offsets, width)
    widths = _hidden_widths(depth, width, default=rank, least=rank)
    if depth == 1:
        return (weight.clone(),)
    scaled, exponent = (weight, None) if plain else split_scale(weight, trailing=2)
    left, singular, right = thin_decomposition(scaled, weight.dtype, 1 / depth, _ROUND_OFF)
    root = singular ** (1 / depth)
    middle = [torch.diag_embed(root) for _ in range(depth - 2)]
    # In place: none of the three is anybody else's.
    parts = [right.mul_(root[..., :, None]), *middle, left.mul_(root[..., None, :])]
    if exponent is None:
        parts = [part.to(weight.dtype, memory_format=torch.contiguous_format) for part in parts]
    else:
        parts = [join_scale(part, exponent / depth, weight.dtype) for part in parts]
    sizes = [n, *widths, m]
    return tuple(
        _pad(part, rows, columns)
        for part, columns, rows in zip(parts, sizes, sizes[1:], strict=False)
    )


def thin_svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``U, s, V^T`` with ``min(m, n)`` columns; of a wide matrix by a QR factorization first.

    LAPACK does that by itself for tall matrices alone. As accurate as the decomposition itself.

    Args:
        matrix: ``(..., m, n)``.
    """
    m, n = matrix.shape[-2:]
    if n <= m:
        return torch.linalg.svd(matrix, full_matrices=False)
    q, r = torch.linalg.qr(matrix.mT)
    left, singular, right = torch.linalg.svd(r.mT, full_matrices=False)
    return left, singular, right @ q.mT


def _unbalanced_factors(
    weight: Tensor, offsets: Offsets, width: int | Sequence[int] | None
) -> tuple[Tensor, ...]:
    """Factors with an imbalance, the smallest offset at zero."""
    (m, n), depth = weight.shape[-2:], len(offsets)
    at = offsets.index(0.0)
    needed = [n] * at + [m] * (depth - 1 - at)
    if width is not None and _hidden_widths(depth, width, default=n, least=1) != needed:
        raise ValueError(
            f"width is {width!r}; with imbalance {offsets} the hidden widths of a {m} x {n} weight "
            f"are {needed}: leave out width, or imbalance."
        )
    scaled, exponent = split_scale(weight, trailing=2)
    shifts = scaled_offsets(offsets, exponent)
    left, singular, right = torch.linalg.svd(scaled, full_matrices=True)
    singular = clear_round_off(singular, (m, n), weight.dtype)
    squares = excess_squares(singular[..., None], shifts)[..., 0]
    sizes = [n, *needed, m]
    parts = []
    for shift, columns, rows in zip(shifts, sizes, sizes[1:], strict=False):
        padded = torch.nn.functional.pad(squares, (0, min(rows, columns) - squares.shape[-1]))
        root = (padded + shift[..., 0]).sqrt()
        parts.append(_pad(torch.diag_embed(root), rows, columns))
    parts[0], parts[-1] = parts[0] @ right, left @ parts[-1]
    return tuple(join_scale(part, exponent / depth, weight.dtype) for part in parts)


def imbalance(factors: Sequence[Tensor]) -> Tensor:
    """Distance of each pair of neighbouring factors from balance.

    ``|| W_{j+1}^T W_{j+1} - W_j W_j^T ||_F`` for j = 1, ..., N-1. Source: Arora, Cohen, Hazan
    (2018), Theorem 1: gradient flow conserves the difference, gradient descent changes it by
    ``O(lr^2)`` per step. Degree 2 in the factors. For models and optimizers use
    :func:`overparam.imbalance`.

    Args:
        factors: ``(W_1, ..., W_N)``, ``W_j`` of shape ``(..., d_j, d_{j-1})``.

    Returns:
        ``(..., N - 1)``, in the dtype of the factors; empty in its last dimension for N = 1.

    Raises:
        TypeError: a factor is not a floating-point tensor, or dtypes differ.
        ValueError: no factors, or two neighbours whose shapes do not fit.

    Example:
        >>> import torch
        >>> imbalance((torch.tensor([[3.0]]), torch.tensor([[2.0]])))
        tensor([5.])
    """
    check_factors(factors)
    pairs = itertools.pairwise(factors)
    gaps = [torch.linalg.matrix_norm(high.mT @ high - low @ low.mT) for low, high in pairs]
    if not gaps:
        return factors[0].new_zeros((*factors[0].shape[:-2], 0))
    return torch.stack(torch.broadcast_tensors(*gaps), dim=-1)


def near_zero_initialization(
    out_features: int,
    in_features: int,
    depth: int,
    *,
    width: int | Sequence[int] | None = None,
    std: float = 0.01,
    batch: Sequence[int] = (),
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> tuple[Tensor, ...]:
    """Draw every factor entry from ``N(0, std^2)``: the initialization of the paper's experiments.

    Source: Arora, Cohen, Hazan (2018), section 8 (``std = 0.01``). Nearly balanced, since every
    factor is nearly zero; the product has entries of order ``std^N``.

    Args:
        out_features: ``m``, rows of the product.
        in_features: ``n``, columns of the product.
        depth: ``N``, the number of factors.
        width: hidden width, or the ``N - 1`` widths from the input. Any size of at least 1: a
            width below ``min(m, n)`` limits the rank of the product. Default ``min(m, n)``.
        std: standard deviation of every entry.
        batch: leading dimensions.
        generator: source of random numbers.
        dtype: of the factors.
        device: of the factors.

    Returns:
        ``(W_1, ..., W_N)``.

    Raises:
        TypeError: depth or a width is not an integer.
        ValueError: depth or a width is below 1, a wrong number of widths, or std negative.

    Example:
        >>> [tuple(factor.shape) for factor in near_zero_initialization(1, 5, 3, width=2)]
        [(2, 5), (2, 2), (1, 2)]
    """
    _check_std(std)
    widths = _hidden_widths(depth, width, default=min(out_features, in_features), least=1)
    sizes = [in_features, *widths, out_features]
    return tuple(
        std * torch.randn((*batch, rows, columns), generator=generator, dtype=dtype, device=device)
        for columns, rows in itertools.pairwise(sizes)
    )


def balanced_initialization(
    out_features: int,
    in_features: int,
    depth: int,
    *,
    width: int | Sequence[int] | None = None,
    std: float = 0.01,
    batch: Sequence[int] = (),
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> tuple[Tensor, ...]:
    """Draw the product from ``N(0, std^2)`` and factor it into balanced factors.

    Source: Arora, Cohen, Golowich, Hu (2019), Procedure 1. Arguments, result and errors as in
    :func:`near_zero_initialization`, but for ``std``, which is that of the product, and for the
    widths, which must be at least ``min(m, n)``.

    Example:
        >>> import torch
        >>> factors = balanced_initialization(2, 5, 3, dtype=torch.float64)
        >>> bool(imbalance(factors).max() < 1e-15)
        True
    """
    _check_std(std)
    shape = (*batch, out_features, in_features)
    product = std * torch.randn(shape, generator=generator, dtype=dtype, device=device)
    return balanced_factors(product, depth, width)


def identity_initialization(
    out_features: int,
    in_features: int,
    depth: int,
    *,
    width: int | Sequence[int] | None = None,
    std: float = 0.0,
    batch: Sequence[int] = (),
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> tuple[Tensor, ...]:
    """Set every factor to the (rectangular) identity, plus ``N(0, std^2)`` where std > 0.

    Source: Arora, Cohen, Hazan (2018), section 8, after Hardt and Ma (2016): it keeps gradients
    alive where many near-zero factors would let them vanish. Arguments, result and errors as in
    :func:`near_zero_initialization`.

    Example:
        >>> identity_initialization(1, 3, 2)[0]
        tensor([[1., 0., 0.]])
    """
    noise = near_zero_initialization(
        out_features,
        in_features,
        depth,
        width=width,
        std=std,
        batch=batch,
        generator=generator,
        dtype=dtype,
        device=device,
    )
    return tuple(
        factor + torch.eye(*factor.shape[-2:], dtype=factor.dtype, device=factor.device)
        for factor in noise
    )


def _hidden_widths(
    depth: int, width: int | Sequence[int] | None, default: int, least: int
) -> list[int]:
    """The ``depth - 1`` hidden widths, checked."""
    depth, width = whole_depth(depth), plain_numbers(width)
    if width is None:
        width = default
    widths = list(width) if isinstance(width, Sequence) else [width] * (depth - 1)
    if len(widths) != depth - 1:
        raise ValueError(f"width lists {len(widths)} hidden layers; depth {depth} has {depth - 1}.")
    for value in widths:
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"width {value!r} is not an integer.")
        if value < least:
            raise ValueError(
                f"width {value} is below {least}; a hidden layer needs at least {least} unit(s) "
                "to hold the product."
            )
    return widths


def _check_std(std: float) -> None:
    if not std >= 0:
        raise ValueError(f"std is {std!r}; a standard deviation is a number >= 0.")


def _pad(matrix: Tensor, rows: int, columns: int) -> Tensor:
    """Zeros appended below and to the right, up to (rows, columns)."""
    if matrix.numel() == 0:  # torch 2.9 does not pad what stays empty
        return matrix.new_zeros(*matrix.shape[:-2], rows, columns)
    missing = (0, columns - matrix.shape[-1], 0, rows - matrix.shape[-2])
    return matrix if not any(missing) else torch.nn.functional.pad(matrix, missing)
