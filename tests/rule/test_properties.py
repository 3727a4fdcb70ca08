"""What the rule must satisfy whatever the matrices (DESIGN of the rule, Theorem 1 and Claim 1)."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.core_cases import normal, orthogonal
from support.oracles import relative_error

from overparam import end_to_end_update

settings.register_profile("core", deadline=None, max_examples=40, derandomize=True)
depths = st.one_of(st.floats(1.0, 50.0), st.sampled_from([1, 2, 3, math.inf]))
sizes = st.integers(1, 7)
seeds = st.integers(0, 10_000)


@st.composite
def problems(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, float]:
    """A weight of any rank with singular values over four decades, a gradient and a depth."""
    m, n, seed = draw(sizes), draw(sizes), draw(seeds)
    rank = draw(st.integers(0, min(m, n)))
    values = draw(st.lists(st.floats(1e-3, 10.0), min_size=rank, max_size=rank))
    left, right = orthogonal(m, seed), orthogonal(n, seed + 1)
    weight = left[:, :rank] * torch.tensor(values, dtype=torch.float64) @ right[:, :rank].mT
    return weight, normal(m, n, seed=seed + 2), draw(depths)


core = settings(settings.get_profile("core"))


@core
@given(problems(), st.floats(-30, 30), st.floats(-30, 30))
def test_homogeneous(problem: tuple, weight_log: float, gradient_log: float) -> None:
    weight, gradient, depth = problem
    a, b = 10**weight_log, 10**gradient_log
    update = end_to_end_update(weight, gradient, depth) * a ** (2 - 2 / depth) * b
    assert relative_error(end_to_end_update(a * weight, b * gradient, depth), update) <= 1e-12


@core
@given(problems(), seeds)
def test_equivariant_under_orthogonal_matrices(problem: tuple, seed: int) -> None:
    weight, gradient, depth = problem
    q, r = orthogonal(weight.shape[0], seed), orthogonal(weight.shape[1], seed + 1)
    rotated = end_to_end_update(q @ weight @ r, q @ gradient @ r, depth)
    assert relative_error(rotated, q @ end_to_end_update(weight, gradient, depth) @ r) <= 1e-11


@core
@given(problems())
def test_symmetric_under_transposition(problem: tuple) -> None:
    weight, gradient, depth = problem
    update = end_to_end_update(weight, gradient, depth)
    transposed = end_to_end_update(weight.mT, gradient.mT, depth)
    assert relative_error(transposed.mT, update) <= 1e-12


@core
@given(problems())
def test_descends(problem: tuple) -> None:
    weight, gradient, depth = problem
    update = end_to_end_update(weight, gradient, depth)
    assert (gradient * update).sum() >= -1e-14 * gradient.norm() * update.norm()


@core
@given(problems(), seeds, st.floats(-5, 5))
def test_linear_and_self_adjoint_in_the_gradient(problem: tuple, seed: int, factor: float) -> None:
    weight, gradient, depth = problem
    other = normal(*weight.shape, seed=seed + 5)
    first, second, mixed = end_to_end_update(
        weight, torch.stack((gradient, other, gradient + factor * other)), depth
    )
    size = first.norm() + abs(factor) * second.norm()
    assert (mixed - first - factor * second).norm() <= 1e-13 * size
    swap = (other * first).sum() - (gradient * second).sum()
    assert swap.abs() <= 1e-13 * (other.norm() * first.norm() + gradient.norm() * second.norm())
