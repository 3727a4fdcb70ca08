"""Products of the factors of many runs, and their gradients, in as few operations as possible.

The formulas are those of :mod:`overparam.factors.product`, and so are the numbers, bit for bit. A
product over a single column is a multiplication of numbers here, at a tenth of the cost of a
batched matrix product, and the gradients use the partial products that are there already.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def partial_products(
    factors: Sequence[Tensor], out: Sequence[Tensor] | None = None
) -> list[Tensor]:
    """All partial products, ``W_N``, ``W_N W_(N-1)`` up to ``W_N ... W_1``.

    From the narrower end: where ``n < m`` they are ``W_1``, ``W_2 W_1`` up to the whole.

    Args:
        factors: ``(W_1, ..., W_N)``, ``(runs, d_j, d_(j-1))``.
        out: where to write all but the first; by default new tensors.

    Returns:
        ``N`` products.
    """
    from_input = _from_input(factors)
    first, *others = factors if from_input else reversed(factors)
    partial = [first]
    for number, factor in enumerate(others):
        pair = (factor, partial[-1]) if from_input else (partial[-1], factor)
        partial.append(_times(*pair, out=None if out is None else out[number]))
    return partial


def factor_gradients(
    factors: Sequence[Tensor], partial: Sequence[Tensor], gradient: Tensor
) -> list[Tensor]:
    """Gradients of the factors from that of the product.

    ``dL/dW_j = (W_N ... W_{j+1})^T G (W_{j-1} ... W_1)^T``: Arora, Cohen, Hazan (2018), proof of
    Theorem 1.

    Args:
        factors: ``(W_1, ..., W_N)``.
        partial: their :func:`partial_products`.
        gradient: ``G``, of the product, ``(runs, m, n)``.

    Returns:
        One gradient per factor, of its shape.
    """
    found: list[Tensor] = []
    if _from_input(factors):
        for number in range(len(factors) - 1, 0, -1):
            found.append(_times(gradient, partial[number - 1].mT))
            gradient = _times(factors[number].mT, gradient)
        return [gradient, *reversed(found)]
    for number in range(len(factors) - 1, 0, -1):
        found.append(_times(partial[number - 1].mT, gradient))
        gradient = _times(gradient, factors[len(factors) - 1 - number].mT)
    return [*found, gradient]


def _from_input(factors: Sequence[Tensor]) -> bool:
    return factors[0].shape[-1] < factors[-1].shape[-2]


def _times(first: Tensor, second: Tensor, out: Tensor | None = None) -> Tensor:
    """The matrix product."""
    multiply = torch.mul if first.shape[-1] == 1 else torch.bmm
    return multiply(first, second, out=out)
