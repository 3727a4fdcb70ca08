"""Momentum on its way between a weight and its factors, when a run is expanded or collapsed.

With ``W = W_N ... W_1`` write ``A_j = W_N ... W_{j+1}`` and ``B_j = W_{j-1} ... W_1``. A change
``M_j`` of the factors changes the product by its differential,

    push(M_1, ..., M_N) = sum_j A_j M_j B_j.

First moments are velocities and follow it, so a run goes on with the velocity it had. Second
moments are not geometric: they follow the same sum with every matrix squared entry by entry,
which is exact where the entries of the factors' gradients are uncorrelated.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from overparam.factors.product import factor_product, factor_product_vjp
from overparam.rule.reference import preconditioner_spectrum


def push_forward(factors: Sequence[Tensor], moments: Sequence[Tensor]) -> Tensor:
    """Velocity of the product from the velocities of its factors: ``sum_j A_j M_j B_j``.

    Source: product rule. Shapes: each moment as its factor, the result as the product.

    Example:
        >>> import torch
        >>> push_forward((torch.tensor([[3.0]]), torch.tensor([[2.0]])), (torch.ones(1, 1),) * 2)
        tensor([[5.]])
    """
    terms = [
        factor_product([*factors[:j], moment, *factors[j + 1 :]])
        for j, moment in enumerate(moments)
    ]
    return torch.stack(terms).sum(0)


def push_squares(factors: Sequence[Tensor], moments: Sequence[Tensor]) -> Tensor:
    """Second moment of the product's velocity if the factors' entries were uncorrelated.

    ``sum_j (A_j o A_j) V_j (B_j o B_j)``. Shapes as :func:`push_forward`.

    Example:
        >>> import torch
        >>> push_squares((torch.tensor([[3.0]]), torch.tensor([[2.0]])), (torch.ones(1, 1),) * 2)
        tensor([[13.]])
    """
    total = []
    for (above, below), moment in zip(_surroundings(factors), moments, strict=True):
        term = moment
        if below is not None:
            term = term @ below**2
        total.append(term if above is None else above**2 @ term)
    return torch.stack(total).sum(0)


def lift(factors: Sequence[Tensor], moment: Tensor) -> tuple[Tensor, ...]:
    """The smallest velocities of the factors that move the product with a given velocity.

    ``M_j = A_j^T Y B_j^T`` with ``push(M) = M``: the preconditioner of the end-to-end rule
    (Arora, Cohen, Hazan 2018, Claim 1) applied to Y is M. A component of M in the null space of
    the preconditioner cannot be reached by the factors and is dropped.

    Args:
        factors: balanced, ``(W_1, ..., W_N)``.
        moment: of the shape of the product.

    Returns:
        One velocity per factor. :func:`push_forward` turns them back into ``moment``.

    Example:
        >>> import torch
        >>> factors = (torch.tensor([[2.0]]), torch.tensor([[2.0]]))
        >>> lift(factors, torch.tensor([[4.0]]))
        (tensor([[1.]]), tensor([[1.]]))
    """
    wide = [factor.double() for factor in factors]
    spectrum = preconditioner_spectrum(factor_product(wide), len(factors))
    eigenvalues = spectrum.eigenvalues
    largest = eigenvalues.amax(dim=(-2, -1), keepdim=True)
    reached = eigenvalues > torch.finfo(factors[0].dtype).eps * largest
    turned = spectrum.left.mT @ moment.double() @ spectrum.right
    source = torch.where(reached, turned / torch.where(reached, eigenvalues, 1.0), 0.0)
    source = spectrum.left @ source @ spectrum.right.mT
    return tuple(each.to(factors[0].dtype) for each in factor_product_vjp(wide, source))


def lift_squares(
    factors: Sequence[Tensor], second: Tensor, moment: Tensor, lifted: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Second moments of the factors' velocities, on the scale of their lifted first moments.

    ``V_j = c (A_j o A_j)^T V (B_j o B_j)^T``, with one number c that keeps the ratio of the first
    moments' and the second moments' sizes, so that an Adam step keeps its length; c = 1 where the
    first moment is zero.

    Args:
        factors: ``(W_1, ..., W_N)``.
        second: second moment of the product's velocity.
        moment: its first moment.
        lifted: :func:`lift` of ``moment``.

    Example:
        >>> import torch
        >>> factors = (torch.tensor([[2.0]]), torch.tensor([[2.0]]))
        >>> moment = torch.tensor([[4.0]])
        >>> lift_squares(factors, moment**2, moment, lift(factors, moment))
        (tensor([[1.]]), tensor([[1.]]))
    """
    parts = []
    for above, below in _surroundings(factors):
        part = second if below is None else second @ (below**2).mT
        parts.append(part if above is None else (above**2).mT @ part)
    before = moment.square().sum() / second.sum()
    after = torch.stack([each.square().sum() for each in lifted]).sum()
    after = after / torch.stack([part.sum() for part in parts]).sum()
    scale = after / before
    scale = torch.where(torch.isfinite(scale) & (scale > 0), scale, 1.0)
    return tuple(part * scale for part in parts)


def _surroundings(factors: Sequence[Tensor]) -> list[tuple[Tensor | None, Tensor | None]]:
    """``(A_j, B_j)`` for each factor, None for an empty product."""
    below = list(itertools.accumulate(factors, lambda done, factor: factor @ done))
    above = list(itertools.accumulate(reversed(factors), lambda done, factor: done @ factor))[::-1]
    last = len(factors) - 1
    return [
        (above[j + 1] if j < last else None, below[j - 1] if j else None)
        for j in range(len(factors))
    ]
