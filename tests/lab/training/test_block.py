import pytest
import torch

from overparam.factors.product import (
    factor_product,
    factor_product_vjp,
    partial_products,
    pulled_back,
)
from overparam.lab.training.block import times


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "shape", [(1, 7, 1), (1, 7, 5), (3, 7, 3), (3, 7, 1), (7, 3, 4), (4, 1, 1), (1, 1, 1)]
)
@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_it_is_the_product_and_its_gradient_bit_for_bit(dtype, shape, depth):
    outputs, inputs, width = shape
    generator = torch.Generator().manual_seed(depth)
    sizes = [inputs, *[width] * (depth - 1), outputs]
    draw = [(outputs, inputs), *((sizes[j + 1], sizes[j]) for j in range(depth))]
    gradient, *factors = (
        torch.randn(6, *each, generator=generator, dtype=torch.float64).to(dtype) for each in draw
    )
    partial = partial_products(factors, times)
    assert len(partial) == depth
    assert torch.equal(partial[-1], factor_product(factors))
    places = [torch.empty_like(each) for each in partial[1:]]
    left = iter(places)
    written = partial_products(factors, lambda *pair: times(*pair, out=next(left)))
    assert all(torch.equal(a, b) for a, b in zip(partial, written, strict=True))
    assert all(a is b for a, b in zip(written[1:], places, strict=True))
    expected = factor_product_vjp(factors, gradient)
    found = pulled_back(factors, gradient, partial, times)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
