import dataclasses
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from overparam.lab.problems.mnist_cnn.network import Layer, initial_network
from overparam.lab.problems.mnist_cnn.penalty import FORMS, PenaltyAlone, penalty, reduced_factors
from overparam.lab.problems.mnist_cnn.study import SCALES, random_source

TINY = dataclasses.replace(SCALES["tiny"], steps=60, record_every=7, penalty=0.3, init_std=0.5)


def explicit(layers, on, coefficient):
    """The penalty as the tutorial defines it, for autograd."""
    total = 0
    for factors, bias in layers:
        if on == "weights":
            weight = factors[0]
            for factor in factors[1:]:
                weight = factor @ weight
            total = total + (weight**2).sum() / 2
        else:
            total = total + sum((factor**2).sum() / 2 for factor in factors)
        total = total + (bias**2).sum() / 2
    return coefficient * total


def random_layers(sizes, depth, seed):
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for into, out in itertools.pairwise(sizes):
        shapes = [(out, into), *[(out, out)] * (depth - 1)]
        factors = tuple(torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
        bias = torch.randn(out, generator=generator, dtype=torch.float64)
        layers.append(Layer(factors, bias))
    return layers


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=4),
    depth=st.integers(1, 4),
    on=st.sampled_from(["weights", "factors"]),
    coefficient=st.sampled_from([0.0, 5e-4, 1.0, 7.0]),
    seed=st.integers(0, 99),
)
def test_penalty_and_gradients_are_those_of_autograd(sizes, depth, on, coefficient, seed):
    layers = random_layers(sizes, depth, seed)
    value, gradients = penalty(layers, on, coefficient)
    leaves = [
        Layer(tuple(f.clone().requires_grad_() for f in fs), bias.clone().requires_grad_())
        for fs, bias in layers
    ]
    expected = explicit(leaves, on, coefficient)
    torch.testing.assert_close(value, expected.detach(), rtol=1e-12, atol=1e-12)
    flat = [tensor for fs, bias in leaves for tensor in (*fs, bias)]
    found = [gradient for own in gradients for gradient in own]
    torch.testing.assert_close(found, list(torch.autograd.grad(expected, flat)), rtol=1e-11,
                               atol=1e-11)  # fmt: skip


def test_no_penalty_is_zero_without_gradients():
    assert penalty(random_layers((3, 2), 2, 0), "none", 1.0) == (torch.tensor(0.0).double(), [])


def test_an_unknown_place_is_an_error():
    with pytest.raises(ValueError, match="on is 'product'; use weights, factors or none"):
        penalty(random_layers((3, 2), 2, 0), "product", 1.0)


def descend(factors, rates, momentum, coefficient):
    """Momentum descent of (c/2) |W_N ... W_1|^2 by autograd and torch.optim.SGD."""
    leaves = [factor.clone().requires_grad_() for factor in factors]
    optimizer = torch.optim.SGD(leaves, lr=1.0, momentum=momentum)
    norms = []
    for rate in rates:
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        loss = explicit([Layer(tuple(leaves), torch.zeros(1).double())], "weights", coefficient)
        loss.backward()
        norms.append(loss.item())
        optimizer.step()
    return norms, [leaf.detach() for leaf in leaves]


@settings(deadline=None, max_examples=30, derandomize=True)
@given(
    height=st.integers(1, 6),
    width=st.integers(1, 40),
    depth=st.integers(1, 3),
    momentum=st.sampled_from([0.0, 0.9]),
    seed=st.integers(0, 99),
)
def test_reduced_factors_follow_the_full_ones_exactly(height, width, depth, momentum, seed):
    [(factors, _)] = random_layers((width, height), depth, seed)
    factors = tuple(factor / (height * width) ** 0.25 for factor in factors)
    rates = [0.02 * 0.98**step for step in range(80)]
    reduced = reduced_factors(factors)
    assert reduced[0].shape == (height, min(height, width))
    full_norms, full = descend(factors, rates, momentum, 0.5)
    small_norms, small = descend(reduced, rates, momentum, 0.5)
    torch.testing.assert_close(small_norms, full_norms, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(small[1:], full[1:], rtol=1e-9, atol=1e-12)
    # W_1 stays in its initial row space, and L holds its coordinates there.
    torch.testing.assert_close(small[0] @ small[0].mT, full[0] @ full[0].mT, rtol=1e-9, atol=1e-12)


def whole_network(variant_depth, on, study, rate, seed):
    """All dense tensors at full size, float64, by autograd: the penalty at each step."""
    start = initial_network(study.shape, 2, study.init_std, random_source(seed, "weights")).dense
    layers = [
        Layer(
            tuple(f.double().requires_grad_() for f in factors[:variant_depth]),
            bias.double().requires_grad_(),
        )
        for factors, bias in start
    ]
    tensors = [tensor for factors, bias in layers for tensor in (*factors, bias)]
    velocities = [torch.zeros_like(tensor) for tensor in tensors]
    values = []
    for step in range(study.steps + 1):
        value = explicit(layers, on, study.penalty)
        values.append(value.item())
        for tensor, velocity, gradient in zip(
            tensors, velocities, torch.autograd.grad(value, tensors), strict=True
        ):
            velocity.mul_(study.momentum).add_(gradient)
            tensor.data -= study.rate_at(rate, step) * velocity
    return values


@pytest.mark.parametrize("rate", [0.01, 0.3])
def test_the_penalty_alone_is_descent_on_the_whole_network(rate):
    run = PenaltyAlone(TINY, rate, 3, torch.float64)
    run.advance(1000)
    assert run.finished
    cases = {"plain": (1, "weights"), "product": (2, "weights"), "product_factors": (2, "factors")}
    assert tuple(cases) == FORMS
    for column, (depth, on) in enumerate(cases.values(), start=1):
        expected = whole_network(depth, on, TINY, rate, 3)
        assert expected[-1] < 0.99 * expected[0]
        for record in run.records:
            assert record[column] == pytest.approx(expected[record[0]], rel=1e-10)
    assert [record[0] for record in run.records] == list(TINY.record_steps)


def test_float32_is_enough():
    exact, fast = PenaltyAlone(TINY, 0.3, 0, torch.float64), PenaltyAlone(TINY, 0.3, 0)
    exact.advance(60), fast.advance(60)
    for one, other in zip(exact.records, fast.records, strict=False):
        assert other == pytest.approx(one, rel=1e-5)


def test_the_descent_continues_bit_for_bit():
    whole = PenaltyAlone(TINY, 0.3, 1)
    whole.advance(1000)
    parts = PenaltyAlone(TINY, 0.3, 1)
    for steps in (1, 3, 0, 20, 1, 100):
        parts.advance(steps)
        resumed = PenaltyAlone(TINY, 0.3, 1)
        resumed.load_state_dict(parts.state_dict())
        parts = resumed
    assert parts.finished
    assert parts.records == whole.records


def test_the_papers_product_at_a_quarter_of_the_size():
    """12.3, 3.06, 1.17, 0.32.

    With weights 4 times smaller in each dimension and of 4 times the variance the spectra of the
    factors are the same, up to a random part, and the penalty is 4 times smaller.
    """
    paper = SCALES["paper"]
    study = dataclasses.replace(paper, channels=(1, 16), hidden=128, init_std=0.2, steps=2000)
    assert (study.shape.features, study.shape.hidden) == (3136 // 4, 512 // 4)
    run = PenaltyAlone(study, 0.01, 0)
    run.advance(2001)
    values = {step: 4 * product for step, _, product, _ in run.records}
    for step, expected in ((0, 12.3), (500, 3.06), (1000, 1.17), (2000, 0.32)):
        assert values[step] == pytest.approx(expected, rel=0.04)


def test_the_papers_plain_penalty():
    """3.10 at the start and 1.73 after 7,000 steps; its course does not depend on the size."""
    paper = SCALES["paper"]
    run = PenaltyAlone(dataclasses.replace(paper, side=4, hidden=2, channels=(1, 1)), 0.01, 0)
    run.advance(paper.steps + 1)
    course = {step: plain for step, plain, *_ in run.records}
    weights = 5e-4 / 2 * 0.7737 * 0.01 * (3136 * 512 + 512 * 10)
    start = weights + 5e-4 / 2 * 0.01 * (512 + 10)
    assert start == pytest.approx(3.10, rel=0.01)
    assert start * course[7000] / course[0] == pytest.approx(1.73, rel=0.01)
