"""Singular values under depth: the larger ones grow faster."""

from __future__ import annotations

import torch
from torch import Tensor

from overparam._checks import check_depth, check_same_trailing
from overparam.theory.descent import descend_end_to_end
from overparam.theory.losses import GradientOf


def singular_value_velocity(weight: Tensor, gradient: Tensor, depth: float | Tensor) -> Tensor:
    r"""Time derivative of each singular value along the end-to-end flow.

    .. math::
        \dot\sigma_r = -N \, \sigma_r^{2-2/N} \, \langle G, u_r v_r^T \rangle.

    Source: Arora, Cohen, Hu, Luo (2019), 'Implicit regularization in deep matrix factorization',
    Theorem 3. Defined where singular values are distinct.

    Args:
        weight: ``W``, ``(..., m, n)``.
        gradient: ``G``, of the same last two dimensions.
        depth: ``N >= 1``, finite, a number or a tensor of the leading dimensions.

    Returns:
        ``(..., min(m, n))``, largest singular value first.

    Raises:
        TypeError: not real floating-point tensors, dtypes differ, or depth is not a number.
        ValueError: shapes do not fit, or a depth is below 1.

    Example:
        >>> import torch
        >>> weight = torch.diag(torch.tensor([4.0, 1.0]))
        >>> singular_value_velocity(weight, -torch.eye(2), depth=2)
        tensor([8., 2.])
    """
    check_same_trailing(weight, gradient, trailing=2)
    check_depth(depth)
    power = torch.as_tensor(depth, dtype=weight.dtype, device=weight.device)[..., None]
    left, singular, right = torch.linalg.svd(weight, full_matrices=False)
    slope = torch.einsum("...mr,...mn,...rn->...r", left, gradient, right)
    return -power * singular ** (2 - 2 / power) * slope


def velocity_error(
    weight: Tensor, gradient_of: GradientOf, depth: float | Tensor, lr: float, steps: int
) -> Tensor:
    """Largest relative gap, along a run, between measured and predicted velocity.

    The measured velocity is the change in one step divided by ``lr``; the gap is ``O(lr)``.
    Source: Arora, Cohen, Hu, Luo (2019), Theorem 3.

    Args:
        weight: ``W`` at the start, ``(..., m, n)``.
        gradient_of: gradient of the loss.
        depth: ``N >= 1``, a number or a tensor of the leading dimensions: one run per entry.
        lr: learning rate.
        steps: number of steps.

    Returns:
        The gap over the largest predicted velocity of the run, in the shape of the leading
        dimensions.

    Example:
        >>> import torch
        >>> from overparam.theory import fit_to
        >>> start = torch.diag(torch.tensor([2.0, 1.0], dtype=torch.float64))
        >>> bool(velocity_error(start, fit_to(torch.zeros(2, 2)), 2.0, lr=1e-4, steps=10) < 1e-3)
        True
    """
    path = descend_end_to_end(weight, gradient_of, depth, lr, steps)
    measured = torch.linalg.svdvals(path).diff(dim=0) / lr
    predicted = singular_value_velocity(path[:-1], gradient_of(path[:-1]), depth)
    return (measured - predicted).abs().amax((0, -1)) / predicted.abs().amax((0, -1))
