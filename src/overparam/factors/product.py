"""The product of factors ``W = W_N ... W_1`` and its vector-Jacobian product, batched.

Factors are ordered from the input: ``factors[0]`` is the paper's ``W_1`` and multiplies the input
first. Leading dimensions are batch dimensions and broadcast.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Sequence

from torch import Tensor

from overparam._checks import check_factors, check_floating

Times = Callable[[Tensor, Tensor], Tensor]


def factor_product(factors: Sequence[Tensor]) -> Tensor:
    """Multiply factors into the end-to-end matrix: ``W_N`` on the left, ``W_1`` on the right.

    Source: Arora, Cohen, Hazan (2018), section 4 (linear neural networks).

    The product is formed from its narrower end (from the input where ``n < m``, else from the
    output), so that wide hidden layers cost as little as possible; the order is fixed by the
    outer shapes alone. Differentiable by autograd everywhere.

    Args:
        factors: ``(W_1, ..., W_N)``, ``W_j`` of shape ``(..., d_j, d_{j-1})``.

    Returns:
        ``W_e`` of shape ``(..., d_N, d_0)``. For one factor, that factor itself.

    Raises:
        TypeError: a factor is not a floating-point tensor, or dtypes differ.
        ValueError: no factors, or two neighbours whose shapes do not fit.

    Example:
        >>> import torch
        >>> first, second = torch.ones(3, 2), torch.ones(1, 3)
        >>> factor_product((first, second))
        tensor([[3., 3.]])
    """
    check_factors(factors)
    return multiplied(factors)


def multiplied(factors: Sequence[Tensor]) -> Tensor:
    """:func:`factor_product` of factors that are known to fit."""
    return partial_products(factors)[-1]


def factor_product_vjp(factors: Sequence[Tensor], cotangent: Tensor) -> tuple[Tensor, ...]:
    """Gradients of a loss with respect to each factor, from its gradient at the product.

    ``dL/dW_j = (W_N ... W_{j+1})^T G (W_{j-1} ... W_1)^T`` with ``G = dL/dW_e``.
    Source: Arora, Cohen, Hazan (2018), proof of Theorem 1.

    The operations and their order are those of autograd through :func:`factor_product`, so for
    contiguous factors the two agree bit for bit (autograd transposes some products of factors
    stored by columns, which moves the last bit); the cost is ``3 (N - 1)`` matrix products.

    Args:
        factors: ``(W_1, ..., W_N)``, all with the same leading dimensions.
        cotangent: ``G`` of the shape of the product, ``(..., d_N, d_0)``.

    Returns:
        One gradient per factor, of that factor's shape.

    Raises:
        TypeError: a tensor is not floating point, or dtypes differ.
        ValueError: shapes do not fit.

    Example:
        >>> import torch
        >>> first, second = torch.ones(3, 2), torch.ones(1, 3)
        >>> [tuple(g.shape) for g in factor_product_vjp((first, second), torch.ones(1, 2))]
        [(3, 2), (1, 3)]
    """
    check_factors(factors)
    check_floating("cotangent", cotangent)
    if cotangent.dtype != factors[0].dtype:
        raise TypeError(
            f"cotangent has dtype {cotangent.dtype} and the factors {factors[0].dtype}; "
            "cast one of them."
        )
    leading = factors[0].shape[:-2]
    for number, factor in enumerate(factors, start=1):
        if factor.shape[:-2] != leading:
            raise ValueError(
                f"factor {number} has leading dimensions {tuple(factor.shape[:-2])} and factor 1 "
                f"{tuple(leading)}; expand them to the same batch first."
            )
    expected = (*leading, factors[-1].shape[-2], factors[0].shape[-1])
    if tuple(cotangent.shape) != expected:
        raise ValueError(
            f"cotangent has shape {tuple(cotangent.shape)}; the product has shape {expected}."
        )
    return pulled_back(factors, cotangent)


def pulled_back(
    factors: Sequence[Tensor],
    cotangent: Tensor,
    partial: Sequence[Tensor] | None = None,
    times: Times = operator.matmul,
) -> tuple[Tensor, ...]:
    """:func:`factor_product_vjp` of tensors that are known to fit.

    Args:
        factors: ``(W_1, ..., W_N)``.
        cotangent: ``G``.
        partial: their :func:`partial_products`, if they are there already.
        times: the matrix product of two tensors.
    """
    from_input, gradients = _from_input(factors), []
    ordered = factors if from_input else factors[::-1]
    if partial is None:
        # The whole product, the last of them, is not needed.
        partial = _accumulated(ordered[:-1], from_input, times)
    for step in range(len(factors) - 1, 0, -1):
        if from_input:
            gradients.append(times(cotangent, partial[step - 1].mT))
            cotangent = times(ordered[step].mT, cotangent)
        else:
            gradients.append(times(partial[step - 1].mT, cotangent))
            cotangent = times(cotangent, ordered[step].mT)
    return (cotangent, *reversed(gradients)) if from_input else (*gradients, cotangent)


def partial_products(factors: Sequence[Tensor], times: Times = operator.matmul) -> list[Tensor]:
    """All partial products, from the narrower end of the whole one.

    ``W_N``, ``W_N W_(N-1)`` up to ``W_N ... W_1``; where ``n < m``, ``W_1``, ``W_2 W_1`` up to it.

    Args:
        factors: ``(W_1, ..., W_N)``, which are known to fit.
        times: the matrix product of two tensors.
    """
    from_input = _from_input(factors)
    return _accumulated(factors if from_input else factors[::-1], from_input, times)


def _from_input(factors: Sequence[Tensor]) -> bool:
    """Whether the product is formed from the input side, where the outer dimension is smaller."""
    return factors[0].shape[-1] < factors[-1].shape[-2]


def _accumulated(ordered: Sequence[Tensor], from_input: bool, times: Times) -> list[Tensor]:
    if from_input:
        return list(itertools.accumulate(ordered, lambda product, factor: times(factor, product)))
    return list(itertools.accumulate(ordered, times))
