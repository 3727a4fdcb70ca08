"""How far gradient descent moves factors away from balance."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor

from overparam._checks import check_factors
from overparam.factors.product import factor_product_vjp


def balance_gaps(factors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """``W_{j+1}^T W_{j+1} - W_j W_j^T`` for j = 1, ..., N - 1: zero where balanced.

    Source: Arora, Cohen, Hazan (2018), Theorem 1.

    Args:
        factors: ``(W_1, ..., W_N)``, ``W_j`` of shape ``(..., d_j, d_{j-1})``.

    Returns:
        ``N - 1`` symmetric matrices ``(..., d_j, d_j)``.

    Raises:
        TypeError: a factor is not a floating-point tensor, or dtypes differ.
        ValueError: no factors, or two neighbours whose shapes do not fit.

    Example:
        >>> import torch
        >>> balance_gaps((torch.tensor([[3.0]]), torch.tensor([[2.0]])))
        (tensor([[-5.]]),)
    """
    check_factors(factors)
    return tuple(high.mT @ high - low @ low.mT for low, high in itertools.pairwise(factors))


def balance_gaps_after_step(
    factors: Sequence[Tensor], gradient: Tensor, lr: float, weight_decay: float = 0.0
) -> tuple[Tensor, ...]:
    r"""The gaps after one step of gradient descent, exactly.

    .. math::
        \Delta_j' = (1 - \eta\lambda)^2 \Delta_j
            + \eta^2 \left( G_{j+1}^T G_{j+1} - G_j G_j^T \right),

    with ``G_j = dL/dW_j``. The terms of first order cancel, since
    ``W_{j+1}^T G_{j+1} = G_j W_j^T``: the flow conserves the gaps, a step of descent moves them
    by ``O(lr^2)``, and weight decay shrinks them. Source: derived here from the proof of Arora,
    Cohen, Hazan (2018), Theorem 1.

    Args:
        factors: ``(W_1, ..., W_N)``, all with the same leading dimensions.
        gradient: ``dL/dW`` at the product.
        lr: learning rate.
        weight_decay: ``lambda``, of each factor.

    Returns:
        ``N - 1`` symmetric matrices ``(..., d_j, d_j)``.

    Raises:
        TypeError: a tensor is not floating point, or dtypes differ.
        ValueError: shapes do not fit.

    Example:
        >>> import torch
        >>> pair = (torch.tensor([[3.0]]), torch.tensor([[2.0]]))
        >>> balance_gaps_after_step(pair, torch.tensor([[1.0]]), lr=0.1)
        (tensor([[-4.9500]]),)
    """
    slopes = factor_product_vjp(factors, gradient)
    kept = (1 - lr * weight_decay) ** 2
    pairs = zip(balance_gaps(factors), balance_gaps(slopes), strict=True)
    return tuple(kept * gap + lr**2 * drift for gap, drift in pairs)
