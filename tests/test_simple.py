"""The simple tier against ground truths of its own, and the optimizers against the simple tier."""

import functools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.core_cases import CASES, Case, normal
from support.oracles import kernel, relative_error, spectral_rule, sum_over_factors
from torch import Tensor, nn

from overparam import EndToEnd, Factored
from overparam.simple import end_to_end_step, factored_step

DEPTHS = (1, 1.5, 2, 2.5, 3, 8, 64)


def _direction(case: Case, depth: float, dtype: torch.dtype = torch.float64) -> Tensor:
    """What a step of the simple tier moves by: the learning rate is large enough to see it."""
    weight, gradient = case.weight(dtype), case.gradient(dtype)
    lr = 2.0**30
    return -(end_to_end_step(weight, gradient, lr, depth).double() - weight.double()) / lr


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_step_is_the_rule_in_fifty_digits(case: Case, depth: float) -> None:
    for dtype in (torch.float64, torch.float32):
        if dtype == torch.float32 and case.float64_only:
            continue
        weight, gradient = case.weight(dtype), case.gradient(dtype)
        expected = spectral_rule(weight, gradient, depth, case.rank)
        found = _direction(case, depth, dtype)
        assert relative_error(found, expected) <= case.tolerance(depth, dtype)
        # The step is that direction times the learning rate, and the weight keeps its type.
        after = end_to_end_step(weight, gradient, 0.25, depth)
        assert after.dtype == dtype
        bound = 4 * torch.finfo(dtype).eps * (weight.norm() + expected.norm())
        assert (after - (weight - 0.25 * found)).norm() <= bound


@pytest.mark.parametrize("depth", [2, 3, 8])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_step_is_the_sum_over_factors(case: Case, depth: int) -> None:
    expected = sum_over_factors(case.weight(), case.gradient(), depth, case.rank)
    found = _direction(case, depth)
    assert relative_error(found, expected) <= case.tolerance(depth, torch.float64)


@pytest.mark.parametrize("gap", [0.0, 1e-15, 1e-12, 1e-10, 1e-9, 1e-8, 1e-5, 0.1, 1.0])
def test_every_gap_between_two_singular_values(gap: float) -> None:
    first, second = 3.0, 3.0 * (1 - gap)
    weight = torch.diag(torch.tensor([first, second]).double())
    moved = -end_to_end_step(weight, torch.ones(2, 2).double(), 1.0, 2.5) + weight
    expected = float(kernel(float(weight[0, 0]), float(weight[1, 1]), 2.5))
    assert abs(float(moved[0, 1]) / expected - 1) <= 1e-14
    assert abs(float(moved[1, 0]) / expected - 1) <= 1e-14


def test_the_argument_of_a_step_stays_as_it_is() -> None:
    weight, gradient = normal(3, 4, seed=1), normal(3, 4, seed=2)
    before = weight.clone(), gradient.clone()
    end_to_end_step(weight, gradient, 0.1, 2)
    assert torch.equal(weight, before[0])
    assert torch.equal(gradient, before[1])


@pytest.mark.parametrize("sizes", [(3, 4), (2, 5, 3), (4, 2, 3, 4), (1, 3, 1, 2, 1)])
def test_a_step_on_factors_is_that_of_autograd_on_a_loss(sizes: tuple[int, ...]) -> None:
    pairs = list(zip(sizes[1:], sizes[:-1], strict=True))
    factors = [normal(*pair, seed=number) for number, pair in enumerate(pairs)]
    target, lr = normal(sizes[-1], sizes[0], seed=9), 0.1

    def loss(*given: Tensor) -> Tensor:
        return (functools.reduce(lambda inner, outer: outer @ inner, given) - target).pow(3).sum()

    product = functools.reduce(lambda inner, outer: outer @ inner, factors)
    after = factored_step(factors, 3 * (product - target).square(), lr)
    slopes = torch.func.grad(loss, argnums=tuple(range(len(factors))))(*factors)
    for new, old, slope in zip(after, factors, slopes, strict=True):
        assert (new - (old - lr * slope)).norm() <= 1e-13 * (old.norm() + slope.norm())
        assert not new.requires_grad


@pytest.mark.parametrize("sizes", [(3, 4), (2, 5, 3), (4, 2, 3, 4)])
def test_a_step_on_factors_is_the_written_formula(sizes: tuple[int, ...]) -> None:
    pairs = list(zip(sizes[1:], sizes[:-1], strict=True))
    factors = [normal(*pair, seed=number) for number, pair in enumerate(pairs)]
    gradient = normal(sizes[-1], sizes[0], seed=9)
    for number, new in enumerate(factored_step(factors, gradient, 0.1)):
        after, before = torch.eye(sizes[-1]).double(), torch.eye(sizes[0]).double()
        for factor in reversed(factors[number + 1 :]):
            after = after @ factor
        for factor in factors[:number]:
            before = factor @ before
        expected = factors[number] - 0.1 * after.mT @ gradient @ before.mT
        assert (new - expected).norm() <= 1e-13 * (1 + expected.norm())


# The optimizers for one layer

SIDES = st.integers(1, 6)


def _layer(outputs: int, inputs: int, seed: int) -> tuple[nn.Linear, Tensor, Tensor]:
    """A layer with well-spread singular values, inputs and targets: least squares."""
    layer = nn.Linear(inputs, outputs, bias=False, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(normal(outputs, inputs, seed=seed) / math.sqrt(outputs + inputs))
    return layer, normal(8, inputs, seed=seed + 1), normal(8, outputs, seed=seed + 2)


def _gradient(weight: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Of the mean of half the squared distances, without autograd."""
    return (x @ weight.mT - y).mT @ x / len(x)


def _train(layer: nn.Linear, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    for _ in range(50):
        optimizer.zero_grad()
        ((layer(x) - y).square().sum() / 2 / len(x)).backward()
        optimizer.step()


@settings(max_examples=30, deadline=None)
@given(SIDES, SIDES, st.floats(1, 9), st.integers(0, 999))
def test_end_to_end_is_the_simple_tier_for_fifty_steps(
    outputs: int, inputs: int, depth: float, seed: int
) -> None:
    layer, x, y = _layer(outputs, inputs, seed)
    weight, lr = layer.weight.detach().clone(), 0.02 / depth
    _train(layer, EndToEnd(layer, lr=lr, depth=depth, normalize=False), x, y)
    for _ in range(50):
        weight = end_to_end_step(weight, _gradient(weight, x, y), lr, depth)
    assert (layer.weight - weight).norm() <= 1e-10 * weight.norm()


@settings(max_examples=30, deadline=None)
@given(SIDES, SIDES, st.integers(2, 5), st.integers(0, 999))
def test_factored_is_the_simple_tier_for_fifty_steps(
    outputs: int, inputs: int, depth: int, seed: int
) -> None:
    layer, x, y = _layer(outputs, inputs, seed)
    optimizer = Factored(layer, lr=0.02, inner="sgd", depth=depth)
    factors = [factor.detach().clone() for factor in optimizer.factors(layer.weight)]
    _train(layer, optimizer, x, y)
    for _ in range(50):
        product = functools.reduce(lambda inner, outer: outer @ inner, factors)
        factors = factored_step(factors, _gradient(product, x, y), 0.02)
    product = functools.reduce(lambda inner, outer: outer @ inner, factors)
    assert (layer.weight - product).norm() <= 1e-11 * product.norm()
    for found, expected in zip(optimizer.factors(layer.weight), factors, strict=True):
        assert (found - expected).norm() <= 1e-11 * (1 + expected.norm())


def test_the_two_tiers_meet_where_the_learning_rate_is_small() -> None:
    """Theorem 1: balanced factors and the rule part by a term of second order in the step."""
    layer, x, y = _layer(3, 4, seed=1)
    optimizer = Factored(layer, inner="sgd", lr=0.1, depth=3)
    start = [factor.detach().clone() for factor in optimizer.factors(layer.weight)]
    weight = layer.weight.detach().clone()
    gaps = []
    for lr in (1e-2, 1e-3):
        factors = factored_step(start, _gradient(weight, x, y), lr)
        product = functools.reduce(lambda inner, outer: outer @ inner, factors)
        stepped = end_to_end_step(weight, _gradient(weight, x, y), lr, 3)
        gaps.append(float((product - stepped).norm()))
    assert gaps[0] / gaps[1] == pytest.approx(100, rel=0.1)
