"""Muon's step in the metric of depth."""

from __future__ import annotations

import torch
from torch import Tensor

from overparam._checks import check_same_trailing
from overparam._finite import is_finite
from overparam.rule.reference import preconditioner_spectrum
from overparam.rule.unbalanced import Imbalance


def preconditioned_sign(
    weight: Tensor, momentum: Tensor, depth: float, *, imbalance: Imbalance = 0.0
) -> Tensor:
    r"""The step of Muon in the metric of depth.

    .. math::
        P^{1/2} \left[ \operatorname{msign} \left( P^{1/2} [M] \right) \right], \qquad
        \operatorname{msign}(U \, \mathrm{diag}(s) \, V^T) = U V^T,

    P the preconditioner of the end-to-end rule. Among the directions ``P^(1/2) [X]`` with
    ``|X| <= 1`` in the spectral norm it has the largest inner product with ``M``, the sum of the
    singular values of ``P^(1/2) [M]``. For ``P = 1`` it is the step of Muon; divided by
    ``sqrt(|lam|)`` it tends to that step as ``imbalance`` grows. With the identity in place of
    ``msign`` it is the rule.

    Source: Jordan et al. (2024), 'Muon: an optimizer for hidden layers in neural networks', for
    ``msign``; P is that of Arora, Cohen, Hazan (2018), Claim 1. As far as we know, their
    combination is untested in the literature. It is exact here, by two decompositions;
    ``EndToEnd(inner="muon", both_sides=True)`` uses Muon's approximate ``msign``.

    Args:
        weight: ``W``, ``(..., m, n)``.
        momentum: ``M``, a gradient or an average of gradients, ``(..., m, n)``.
        depth: ``N``, a number of at least 1, or infinity for the limit of ``P / N``.
        imbalance: as in :func:`overparam.end_to_end_update`.

    Returns:
        The step, of the broadcast shape; zero singular values of ``P^(1/2) [M]`` stay zero.

    Raises:
        TypeError: not real floating-point tensors, dtypes differ, or depth is not a number.
        ValueError: shapes or devices do not fit, weight or momentum is not finite, a depth is
            below 1 or NaN, or the imbalance is not one of that depth.

    Example:
        >>> import torch
        >>> weight = torch.diag(torch.tensor([4.0, 1.0]))
        >>> preconditioned_sign(weight, torch.diag(torch.tensor([3.0, -0.1])), depth=2)
        tensor([[ 2.8284,  0.0000],
                [ 0.0000, -1.4142]])
    """
    check_same_trailing(weight, momentum, trailing=2)
    if not is_finite(momentum):
        raise ValueError("momentum has non-finite entries; its sign is not defined.")
    eigenvalues, left, right = preconditioner_spectrum(weight, depth, imbalance=imbalance)
    root = eigenvalues.sqrt()
    turned = root * (left.mT @ momentum @ right)
    u, sizes, v = torch.linalg.svd(turned, full_matrices=False)
    least = max(turned.shape[-2:]) * torch.finfo(sizes.dtype).eps
    signs = (sizes > least * sizes.amax(-1, keepdim=True)).to(sizes.dtype)
    return left @ (root * ((u * signs[..., None, :]) @ v)) @ right.mT
