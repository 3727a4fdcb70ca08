"""The end-to-end rule of each entry: a number that is a product of N numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from overparam._checks import check_depth, check_floating, check_same_trailing
from overparam.rule.engine import scaled_offsets
from overparam.rule.kernel import inverse_depth, join_scale, size_power, split_scale
from overparam.rule.unbalanced import (
    Imbalance,
    check_imbalance,
    excess_squares,
    unbalanced_kernel,
)


def entrywise_update(
    weight: Tensor, gradient: Tensor, depth: float, *, imbalance: Imbalance = 0.0
) -> Tensor:
    r"""End-to-end update of entries that are products of N numbers each.

    .. math::
        D = N \, |w|^{2-2/N} \, g, \qquad\text{with imbalance}\quad
        D = \sum_j \prod_{i \ne j} (x + l_i) \, g, \quad \prod_j (x + l_j) = w^2,

    for depth 2 ``sqrt(4 w^2 + lam^2) g``. It is the rule of a 1 x 1 weight
    (:func:`overparam.end_to_end_update`) for every entry, and costs O(1) per entry.

    Under gradient flow of depth 2 it is mirror descent with the hypentropy potential, whose
    inverse Hessian is ``sqrt(w^2 + lam^2/4)``. Without imbalance it is exponentiated gradient:
    ``dw/dt = -2 |w| g``, so that small steps multiply each entry by ``exp(-2 lr sign(w) g)``; a
    zero entry stays, and no entry changes its sign. For large ``lam`` it is gradient descent.

    Source: Ghai, Hazan, Singer (2020), 'Exponentiated gradient meets gradient descent'
    (hypentropy); Woodworth et al. (2020), 'Kernel and rich regimes in overparametrized models'
    (``w = u^N - v^N``, which moves as N numbers with an imbalance do at N = 2); Jacobs and Burkholz
    (2025), 'Mask in the mirror: implicit sparsification' (``w = m * u``); Jacobs, Gadhikar,
    Rubio-Madrigal, Burkholz (2026), 'Hyperbolic aware minimization: implicit bias for sparsity'
    (HAM: a step of that geometry after each one of an optimizer).

    Args:
        weight: ``w``, of any shape.
        gradient: ``g``, of a shape that broadcasts with that of ``weight``.
        depth: ``N``, a number of at least 1, or infinity for the limit of ``D / N``.
        imbalance: a number for depth 2, a sequence of N numbers for depth N.

    Returns:
        ``D``, of the broadcast shape and the dtype of ``weight``. Differentiable by autograd,
        except at zero entries without imbalance.

    Raises:
        TypeError: not real floating-point tensors, dtypes differ, or depth is not a number.
        ValueError: shapes or devices do not fit, a depth is below 1 or NaN, or the imbalance is
            not one of that depth.

    Example:
        >>> import torch
        >>> entrywise_update(torch.tensor([3.0, 0.0]), torch.ones(2), depth=2)
        tensor([6., 0.])
        >>> entrywise_update(torch.tensor([3.0, 0.0]), torch.ones(2), depth=2, imbalance=8.0)
        tensor([10.,  8.])
    """
    check_floating("weight", weight)
    check_floating("gradient", gradient)
    check_same_trailing(weight[..., None], gradient[..., None], trailing=1)
    check_depth(depth)
    offsets = check_imbalance(imbalance, depth)
    if depth == 1:
        return gradient.expand(torch.broadcast_shapes(weight.shape, gradient.shape)).clone()
    size, exponent = split_scale(weight[..., None], trailing=1)
    slope, slope_exponent = split_scale(gradient[..., None], trailing=1)
    size, inverse = size.abs(), inverse_depth(depth, weight, trailing=0)
    if offsets:
        shifts = scaled_offsets(offsets, exponent)
        squares = excess_squares(size, shifts)
        kernel = unbalanced_kernel(squares, squares, shifts)
    else:
        kernel = size_power(size, inverse) / torch.where(inverse == 0, 1.0, inverse)
    exponent = exponent * (2 - 2 * inverse) + slope_exponent
    return join_scale(kernel * slope, exponent, weight.dtype)[..., 0]
