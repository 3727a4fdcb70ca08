"""Factors of one parameter: made from it, given their gradients, multiplied back into it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from overparam._precision import without_autocast
from overparam.factors.balance import balanced_factors
from overparam.factors.product import factor_product, factor_product_vjp
from overparam.layers.views import MatrixView

Initialization = Callable[[Tensor, int, Any], Sequence[Tensor]]


def split_matrices(tensor: Tensor, view: MatrixView) -> Tensor:
    """The matrices of a tensor, ``(m, n)`` where there is one, ``(b, m, n)`` otherwise."""
    matrices = view.split(tensor)
    return matrices[0] if view.batch == 1 else matrices


def join_matrices(matrices: Tensor, view: MatrixView) -> Tensor:
    """The inverse of :func:`split_matrices`."""
    return view.join(matrices[None] if view.batch == 1 else matrices)


def make_factors(
    p: Tensor,
    view: MatrixView,
    depth: int,
    width: int | Sequence[int] | None,
    init: str | Initialization,
    dtype: torch.dtype | None,
) -> list[Tensor]:
    """Factors ``[W_1, ..., W_N]`` of a parameter.

    Args:
        p: the parameter.
        view: its matrices.
        depth: ``N``.
        width: hidden width.
        init: "balanced", or a function ``(matrices, depth, width) -> factors``.
        dtype: of the factors; None for that of the parameter, float32 for half precision.

    Raises:
        ValueError: the product of the factors has not the shape of the matrices.
    """
    if dtype is None:
        dtype = torch.float32 if p.dtype in (torch.float16, torch.bfloat16) else p.dtype
    matrices = split_matrices(p.detach(), view).to(dtype)
    make = init if callable(init) else balanced_factors
    factors = [factor.detach().to(dtype).contiguous() for factor in make(matrices, depth, width)]
    product = factor_product(factors)
    if product.shape != matrices.shape:
        raise ValueError(
            f"init gave factors whose product has shape {tuple(product.shape)} for matrices of "
            f"shape {tuple(matrices.shape)}; return one factor per layer, from the input."
        )
    return factors


def pull_back(p: Tensor, view: MatrixView, factors: Sequence[Tensor]) -> None:
    """Give each factor its gradient, from that of the parameter; None where it has none."""
    if p.grad is None:
        for factor in factors:
            factor.grad = None
        return
    gradient = p.grad.to_dense() if p.grad.is_sparse else p.grad
    cotangent = split_matrices(gradient, view).to(factors[0].dtype)
    with without_autocast(p.device):
        gradients = factor_product_vjp(factors, cotangent)
    for factor, each in zip(factors, gradients, strict=True):
        factor.grad = each


def write_product(p: Tensor, view: MatrixView, factors: Sequence[Tensor]) -> None:
    """Write the product of the factors to the parameter, rounded once to its dtype."""
    with torch.no_grad(), without_autocast(p.device):
        p.copy_(join_matrices(factor_product(factors), view))
