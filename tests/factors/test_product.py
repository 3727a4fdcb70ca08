"""The product of factors and its vector-Jacobian product."""

import itertools

import pytest
import torch
from support.core_cases import normal
from support.oracles import relative_error

from overparam import factor_product, factor_product_vjp

# Sizes from the input: the first is smaller than the last, or the other way round.
SIZES = (
    [2, 5, 4, 3],
    [3, 4, 5, 2],
    [4, 4],
    [1, 6, 3, 4, 1],
    [5, 3, 1],
    [3, 0, 2],
    [2, 3, 4, 5, 6],
    [60, 70, 80],
    [80, 70, 60],
)


def chain(sizes: list[int], batch: tuple[int, ...], dtype: torch.dtype) -> list[torch.Tensor]:
    pairs = itertools.pairwise(sizes)
    return [normal(*batch, b, a, seed=k).to(dtype) for k, (a, b) in enumerate(pairs)]


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_product_is_the_explicit_loop(sizes: list[int], batch: tuple[int, ...]) -> None:
    factors = chain(sizes, batch, torch.float64)
    expected = factors[0]
    for factor in factors[1:]:
        expected = torch.einsum("...ij,...jk->...ik", factor, expected)
    assert relative_error(factor_product(factors), expected) <= 1e-14
    if batch == () and len(factors) > 1 and 0 not in sizes:
        assert relative_error(torch.linalg.multi_dot(factors[::-1]), expected) <= 1e-14


def test_leading_dimensions_broadcast() -> None:
    first, second = normal(2, 1, 3, 4, seed=1), normal(5, 2, 3, seed=2)
    product = factor_product((first, second))
    assert product.shape == (2, 5, 2, 4)
    assert relative_error(product[1, 3], second[3] @ first[1, 0]) <= 1e-15


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_vjp_is_autograd_bit_for_bit(
    sizes: list[int], batch: tuple[int, ...], dtype: torch.dtype
) -> None:
    factors = [f.requires_grad_() for f in chain(sizes, batch, dtype)]
    cotangent = normal(*batch, sizes[-1], sizes[0], seed=9).to(dtype)
    expected = torch.autograd.grad(factor_product(factors), factors, cotangent)
    for actual, wanted in zip(factor_product_vjp(factors, cotangent), expected, strict=True):
        assert torch.equal(actual, wanted)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_vjp_of_factors_stored_by_columns(sizes: list[int]) -> None:
    factors = [f.mT.contiguous().mT.requires_grad_() for f in chain(sizes, (), torch.float64)]
    cotangent = normal(sizes[-1], sizes[0], seed=9)
    expected = torch.autograd.grad(factor_product(factors), factors, cotangent)
    for actual, wanted in zip(factor_product_vjp(factors, cotangent), expected, strict=True):
        assert relative_error(actual, wanted) <= 1e-14
