"""The end-to-end update rule: what gradient descent on a product of factors does to the product.

Pure functions that broadcast over leading dimensions. Symbols: weight ``W`` (m x n), gradient
``G = dL/dW``, depth ``N >= 1``, singular value decomposition ``W = U diag(s) V^T``.

Everything is computed in float64 and rounded once. The rule needs it: ``s^(2 - 2/N)`` turns a
relative round-off ``eps`` in a small singular value into ``eps^(2 - 2/N)``, which at N = 1.5 and
float32 would already be 2e-5.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from overparam._checks import (
    broadcast_shape,
    check_depth,
    check_depth_shape,
    check_floating,
    check_same_trailing,
)
from overparam._finite import is_finite
from overparam._words import warn_user
from overparam.rule.differentiable import differentiable_update
from overparam.rule.engine import scaled_offsets
from overparam.rule.kernel import (
    clear_round_off,
    finite_slots,
    inverse_depth,
    join_scale,
    power_kernel,
    split_scale,
)
from overparam.rule.unbalanced import (
    Imbalance,
    check_imbalance,
    excess_squares,
    unbalanced_kernel,
)

# Above this depth a user is told how the limit differs.
_DEEP = 1000


class PreconditionerSpectrum(NamedTuple):
    """Eigenvalues and eigenvectors of the end-to-end preconditioner.

    Attributes:
        eigenvalues: ``(..., m, n)``; entry ``(r, c)`` belongs to the eigenvector ``u_r v_c^T``.
        left: ``(..., m, m)`` orthogonal, columns ``u_r``.
        right: ``(..., n, n)`` orthogonal, columns ``v_c``.
    """

    eigenvalues: Tensor
    left: Tensor
    right: Tensor


def end_to_end_update(
    weight: Tensor, gradient: Tensor, depth: float | Tensor, *, imbalance: Imbalance = 0.0
) -> Tensor:
    r"""Direction in which a balanced depth-N product moves under gradient descent.

    .. math::
        D(W, G) = \sum_{j=1}^{N} [W W^T]^{(j-1)/N} \, G \, [W^T W]^{(N-j)/N}, \qquad 0^0 = 1,

    so that ``W <- (1 - lr*wd*N) W - lr * D``. Source: Arora, Cohen, Hazan (2018), Theorem 1.
    For real ``N >= 1`` the sum is read in the singular bases, where it multiplies entry (i, k)
    of ``U^T G V`` by ``(s_i^2 - s_k^2) / (s_i^(2/N) - s_k^(2/N))``.

    - ``N = 1`` returns the gradient, bit for bit.
    - ``N = inf`` returns the limit of ``D / N``: the multiplier becomes the logarithmic mean of
      ``s_i^2`` and ``s_k^2``. ``D`` itself grows in proportion to N, so N = 1e6 gives a million
      times this limit: a finite depth above 1000 draws a warning.
    - A singular value at round-off counts as zero: below ``max(m, n) * eps * s_max`` in float64,
      ``eps(float32) * s_max`` in narrower dtypes. A zero weight gives a zero update for N > 1.
    - A matrix with a non-finite entry in weight or gradient gives NaN in its own slot of the
      batch and leaves the others alone.

    **Imbalance.** The factors may differ from balance by multiples of the identity, which gradient
    flow conserves. For two factors this is a number ``lam``, ``W_2^T W_2 - W_1 W_1^T = lam I``, and
    gives

    .. math::
        D = \sqrt{W W^T + \lambda^2/4} \; G + G \, \sqrt{W^T W + \lambda^2/4}.

    For N factors it is N offsets ``l_j``, ``W_{j+1}^T W_{j+1} - W_j W_j^T = (l_{j+1} - l_j) I``;
    see :mod:`overparam.rule.unbalanced` for the formula, its sources and what it means for
    rectangular weights, and :func:`balanced_factors` for the factors themselves. At 0 it is the
    rule above, bit for bit; as ``lam`` grows, ``D / |lam|`` tends to the gradient. A zero weight
    moves: at W = 0, ``D = |lam| G``. With a single smallest offset (any ``lam`` except 0) the rule
    is smooth, also at rank-deficient weights.

    Leading dimensions are a batch: a convolution kernel ``(out, in, k, k)``, given as it is, counts
    as ``out * in`` matrices of ``k x k``. The optimizers read it as one, ``(out, in * k * k)``. To
    do the same here, call
    ``convolution_view(weight.shape).apply(end_to_end_update, weight, gradient, depth=N)``; see
    :mod:`overparam.layers`.

    Units: ``D`` has degree ``2 - 2/N`` in W and 1 in G. Cost: one symmetric eigenproblem of
    ``min(m, n)`` rows (and one of few rows for most weights, see
    :mod:`overparam.rule.decomposition`) and six matrix products. Works under ``torch.vmap``, of
    ``depth`` too. Differentiable, in reverse and forward mode (``torch.func.jacrev``, ``jacfwd``),
    in ``gradient`` everywhere, and in ``weight`` wherever the map is: where W has full rank
    ``min(m, n)``, repeated singular values included. For N > 1 it has a kink at rank-deficient W,
    and the derivative there is NaN. A second derivative in ``weight`` (``torch.func.hessian``)
    raises a RuntimeError. So does a derivative in ``depth``, in which it is not differentiable.

    Args:
        weight: ``W``, ``(..., m, n)``.
        gradient: ``G``, ``(..., m, n)``; leading dimensions broadcast with those of ``weight``.
        depth: ``N``, a number or a tensor that broadcasts with the leading dimensions.
        imbalance: a number for depth 2, a sequence of N numbers for depth N; in units of the
            squared singular values of a factor, ``s^(2/N)``. 0 is balance.

    Returns:
        ``D``, of the broadcast shape ``(..., m, n)`` and the dtype of ``weight``.

    Raises:
        TypeError: not real floating-point tensors, dtypes differ, or depth is not a number.
        ValueError: shapes or devices do not fit, a depth is below 1 or NaN, or the imbalance is
            not one of that depth.

    Example:
        >>> import torch
        >>> weight = torch.tensor([[4.0, 0.0], [0.0, 1.0]])
        >>> end_to_end_update(weight, torch.ones(2, 2), depth=2)
        tensor([[8., 5.],
                [5., 2.]])
        >>> end_to_end_update(torch.zeros(2, 2), torch.eye(2), depth=2, imbalance=3.0)
        tensor([[3., 0.],
                [0., 3.]])
    """
    check_same_trailing(weight, gradient, trailing=2)
    check_depth(depth)
    offsets = check_imbalance(imbalance, depth)
    warn_of_growth(depth)
    m, n = weight.shape[-2:]
    if min(m, n) == 1 and not offsets:
        update = single_output_update(weight.flatten(-2), gradient.flatten(-2), depth)
        return update.unflatten(-1, (m, n))
    plain, inverse = _plain_step(weight, gradient, depth, trailing=2)
    if plain.numel() == 0 or (not isinstance(depth, Tensor) and depth == 1):
        return plain
    if m > n:
        # The transposed product has its factors in the opposite order.
        update = differentiable_update(weight.mT, gradient.mT, inverse, offsets[::-1]).mT
    else:
        update = differentiable_update(weight, gradient, inverse, offsets)
    return torch.where(inverse == 1, plain, update) if isinstance(depth, Tensor) else update


def single_output_update(weight: Tensor, gradient: Tensor, depth: float | Tensor) -> Tensor:
    r"""End-to-end update of a matrix with one row (or one column), without a decomposition.

    .. math::
        D(w, g) = |w|^{2-2/N} \left( g + (N-1) \, \langle \hat w, g \rangle \hat w \right),
        \qquad \hat w = w / |w|.

    Source: Arora, Cohen, Hazan (2018), Claim 2: an adaptive step size ``|w|^(2-2/N)`` times a
    stretch along ``w``. Applied to the rows of a matrix, or to a whole tensor flattened, it is
    the rule "per row" or "per tensor".

    ``N = 1`` returns the gradient, bit for bit; ``N = inf`` the limit of ``D / N``,
    ``<w, g> w``. At ``w = 0`` the update is zero for N > 1. Degrees, non-finite values and
    errors are those of :func:`end_to_end_update`. Differentiable by autograd in ``weight`` and
    ``gradient``, except at ``w = 0``, where the derivative in ``weight`` is returned as zero (which
    is true only for N > 2: at N = 2 there is a kink, below it the slope is infinite).

    Args:
        weight: ``w``, ``(..., d)``.
        gradient: ``g``, ``(..., d)``; leading dimensions broadcast with those of ``weight``.
        depth: ``N``, a number or a tensor that broadcasts with the leading dimensions.

    Returns:
        ``D``, of the broadcast shape ``(..., d)`` and the dtype of ``weight``.

    Raises:
        TypeError: not real floating-point tensors, dtypes differ, or depth is not a number.
        ValueError: shapes or devices do not fit, or a depth is below 1 or NaN.

    Example:
        >>> import torch
        >>> single_output_update(torch.tensor([2.0, 0.0]), torch.tensor([1.0, 1.0]), depth=2)
        tensor([4., 2.])
    """
    check_same_trailing(weight, gradient, trailing=1)
    check_depth(depth)
    warn_of_growth(depth)
    plain, inverse = _plain_step(weight, gradient, depth, trailing=1)
    if plain.numel() == 0 or (not isinstance(depth, Tensor) and depth == 1):
        return plain
    scaled, weight_exponent = split_scale(weight, trailing=1)
    slope, slope_exponent = split_scale(gradient, trailing=1)
    length = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
    # A zero weight is replaced before the division, so that neither value nor derivative is NaN.
    length = torch.where(length == 0, 1.0, length)
    direction = scaled / length
    along = (direction * slope).sum(dim=-1, keepdim=True) * direction
    infinite = inverse == 0
    stretch = torch.where(infinite, 1.0, 1 / inverse - 1)
    stretched = torch.where(infinite, 0.0, slope) + stretch * along
    zero = (scaled == 0).all(dim=-1, keepdim=True)
    update = torch.where(zero, 0.0, length ** (2 - 2 * inverse) * stretched)
    finite = finite_slots(weight, trailing=1) & finite_slots(gradient, trailing=1)
    update = torch.where(finite, update, torch.nan)
    exponent = weight_exponent * (2 - 2 * inverse) + slope_exponent
    return torch.where(inverse == 1, plain, join_scale(update, exponent, weight.dtype))


def preconditioner_spectrum(
    weight: Tensor, depth: float | Tensor, *, imbalance: Imbalance = 0.0
) -> PreconditionerSpectrum:
    r"""Eigenvalues and eigenvectors of the preconditioner ``vec(G) -> vec(D(W, G))``.

    .. math::
        \lambda_{rc} = \sum_{j=1}^{N} \sigma_r^{2(j-1)/N} \sigma_c^{2(N-j)/N}
        \quad\text{with eigenvector}\quad u_r v_c^T,

    singular values padded with zeros to m and n. Source: Arora, Cohen, Hazan (2018), Claim 1.
    The preconditioner is symmetric and positive semidefinite; it favours directions along which
    W is already large. Real depth, infinity and imbalance as in :func:`end_to_end_update`.

    Args:
        weight: ``W``, ``(..., m, n)``, finite.
        depth: ``N``, a number or a tensor that broadcasts with the leading dimensions.
        imbalance: a number for depth 2, a sequence of N numbers for depth N.

    Returns:
        The eigenvalues ``(..., m, n)`` and the two orthogonal bases, in the dtype of ``weight``.

    Raises:
        TypeError: weight is not a real floating-point tensor, or depth is not a number.
        ValueError: weight is not a matrix or is not finite, a depth is below 1 or NaN, or the
            imbalance is not one of that depth.

    Example:
        >>> import torch
        >>> preconditioner_spectrum(torch.diag(torch.tensor([4.0, 1.0])), depth=2).eigenvalues
        tensor([[8., 5.],
                [5., 2.]])
    """
    check_floating("weight", weight)
    check_depth(depth)
    offsets = check_imbalance(imbalance, depth)
    warn_of_growth(depth)
    if weight.ndim < 2:
        raise ValueError(f"weight has shape {tuple(weight.shape)}; pass a matrix (..., m, n).")
    if not is_finite(weight):
        raise ValueError("weight has non-finite entries; its spectrum is not defined.")
    m, n = weight.shape[-2:]
    check_depth_shape(depth, weight.shape[:-2])
    inverse = inverse_depth(depth, weight, trailing=2)
    scaled, exponent = split_scale(weight, trailing=2)
    left, singular, right = torch.linalg.svd(scaled, full_matrices=True)
    singular = clear_round_off(singular, (m, n), weight.dtype)
    rows = torch.nn.functional.pad(singular, (0, m - min(m, n)))[..., :, None]
    columns = torch.nn.functional.pad(singular, (0, n - min(m, n)))[..., None, :]
    if offsets:
        shifts = scaled_offsets(offsets, exponent)
        left_squares = excess_squares(rows, shifts)
        right_squares = excess_squares(columns.mT, shifts).mT
        eigenvalues = unbalanced_kernel(left_squares, right_squares, shifts)
    else:
        eigenvalues = power_kernel(rows, columns, inverse)
    return PreconditionerSpectrum(
        join_scale(eigenvalues, exponent * (2 - 2 * inverse), weight.dtype),
        left.to(weight.dtype),
        right.mT.to(weight.dtype),
    )


def warn_of_growth(depth: float | Tensor) -> None:
    """Warn of a finite depth that is meant to be infinite."""
    if isinstance(depth, Tensor) or not _DEEP < depth < math.inf:
        return
    warn_user(
        f"depth is {depth:g}: the update grows in proportion to depth, and so does the step. "
        "depth=math.inf returns the limit of update / depth, which is not the same: pass it, or "
        "divide the update (or the learning rate) by depth."
    )


def _plain_step(
    weight: Tensor, gradient: Tensor, depth: float | Tensor, trailing: int
) -> tuple[Tensor, Tensor]:
    """The gradient at the broadcast shape (depth 1 is gradient descent), and ``1/N``."""
    shape = broadcast_shape(weight.shape, gradient.shape)
    check_depth_shape(depth, shape[:-trailing])
    inverse = inverse_depth(depth, weight, trailing)
    shape = broadcast_shape(shape, inverse.shape)
    return gradient.expand(shape).clone(), inverse
