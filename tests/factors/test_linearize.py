"""The derivative of a product and its adjoint, against the Jacobian that autograd makes."""

import pytest
import torch
from torch import Tensor

from overparam.factors.layout import Layout, make_layout
from overparam.factors.linearize import (
    gradient_from_factors,
    gradient_to_factors,
    variance_to_factors,
)
from overparam.layers import convolution_view, linear_view, packed_view

LAYOUTS = {
    "wide": lambda depth: make_layout(linear_view((3, 5)), "matrix", depth=depth, width=None),
    "tall and packed": lambda depth: make_layout(
        packed_view((8, 3), 2, "attention"), "matrix", depth=depth, width=4
    ),
    "sides": lambda depth: make_layout(
        convolution_view((4, 2, 3, 3), 2), "sides", depth=depth, width=None
    ),
    "kernels": lambda depth: make_layout(
        convolution_view((2, 3, 5, 5), 1), "kernels", depth=depth, width=None
    ),
}


def _case(name: str, depth: int) -> tuple[Layout, tuple[Tensor, ...]]:
    layout = LAYOUTS[name](depth)
    generator = torch.Generator().manual_seed(depth)
    make = {"generator": generator, "dtype": torch.float64}
    return layout, tuple(torch.randn(shape, **make) for shape in layout.shapes)


def _jacobian(layout: Layout, factors: tuple[Tensor, ...]) -> list[Tensor]:
    """One matrix for each factor: entries of W by entries of the factor."""
    parts = torch.autograd.functional.jacobian(lambda *f: layout.product(f), factors)
    return [part.reshape(layout.product(factors).numel(), -1) for part in parts]


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize("name", LAYOUTS)
def test_gradients_at_the_factors_are_the_adjoint_of_the_jacobian(name: str, depth: int) -> None:
    layout, factors = _case(name, depth)
    gradient = torch.randn(layout.shape, dtype=torch.float64)
    found = gradient_to_factors(layout, factors, gradient)
    for each, jacobian in zip(found, _jacobian(layout, factors), strict=True):
        torch.testing.assert_close(each.flatten(), jacobian.mT @ gradient.flatten())


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize("name", LAYOUTS)
def test_the_gradient_at_the_weight_is_the_least_squares_solution(name: str, depth: int) -> None:
    """Also for gradients at the factors that come from no gradient at the weight."""
    layout, factors = _case(name, depth)
    given = [torch.randn_like(factor) for factor in factors]
    stacked = torch.cat([jacobian.mT for jacobian in _jacobian(layout, factors)])
    wanted = torch.linalg.lstsq(
        stacked, torch.cat([g.flatten() for g in given])[:, None], driver="gelsd"
    ).solution
    found = gradient_from_factors(layout, factors, given)
    torch.testing.assert_close(found.flatten(), wanted[:, 0], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", ["wide", "tall and packed"])
@pytest.mark.parametrize("depth", [2, 3])
def test_mean_squares_spread_by_the_squared_jacobian(name: str, depth: int) -> None:
    layout, factors = _case(name, depth)
    variance = torch.rand(layout.shape, dtype=torch.float64)
    found = variance_to_factors(layout, factors, variance)
    for each, jacobian in zip(found, _jacobian(layout, factors), strict=True):
        torch.testing.assert_close(each.flatten(), jacobian.square().mT @ variance.flatten())


def test_a_gradient_that_is_not_finite_stays_so() -> None:
    layout, factors = _case("wide", 2)
    given = [torch.full_like(factor, torch.inf) for factor in factors]
    assert bool(gradient_from_factors(layout, factors, given).isnan().all())
