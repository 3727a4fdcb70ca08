"""Stretched steps: against projections written as matrices, and against Claim 2."""

from decimal import Decimal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.core_cases import TOLERANCE, normal
from torch import Tensor

from overparam import single_output_update
from overparam.rule.radial import bias_correction, radial_stretch, radial_stretch_in_metric

RADIALS = (0.0, 0.5, 1.0, 2.0, 7.5)
SHAPES = st.tuples(st.lists(st.integers(1, 3), max_size=2).map(tuple), st.integers(1, 6))


def _close(actual: Tensor, expected: Tensor, bound: float = 1e-12) -> bool:
    return bool((actual - expected).norm() <= bound * expected.norm())


def _along(weight: Tensor, metric: Tensor | None = None) -> Tensor:
    """The matrix of the projection on one weight, orthogonal in a diagonal metric."""
    s = torch.eye(len(weight), dtype=weight.dtype) if metric is None else torch.diag(metric)
    return weight[:, None] @ (s @ weight)[None] / (weight @ s @ weight)


def _moved(weight: Tensor, step: Tensor, radial: float, metric: Tensor | None = None) -> Tensor:
    """What is across stays, what is along is multiplied."""
    along = _along(weight, metric)
    return (torch.eye(len(weight), dtype=weight.dtype) - along) @ step + radial * along @ step


def _positive(*shape: int, seed: int) -> Tensor:
    return normal(*shape, seed=seed).exp()


@pytest.mark.parametrize("radial", RADIALS)
def test_stretch_is_the_sum_of_two_projections(radial: float) -> None:
    weight, step = normal(5, seed=1), normal(5, seed=2)
    assert _close(radial_stretch(weight, step, radial), _moved(weight, step, radial))


@pytest.mark.parametrize("radial", RADIALS)
def test_stretch_in_a_metric_is_the_sum_of_two_projections(radial: float) -> None:
    weight, moment, metric, lr = normal(5, seed=1), normal(5, seed=2), _positive(5, seed=3), 0.3
    step = -lr * moment / metric
    stretched = radial_stretch_in_metric(weight, step, moment, metric, lr, radial)
    assert _close(stretched, _moved(weight, step, radial, metric))


@pytest.mark.parametrize("depth", [1.0, 2.0, 2.5, 8.0])
@pytest.mark.parametrize("length", [1e-3, 1.0, 30.0])
def test_a_gradient_step_stretched_n_times_is_claim_2_without_its_step_size(
    depth: float, length: float
) -> None:
    weight, gradient, lr = length * normal(6, seed=1), normal(6, seed=2), 0.1
    claim = single_output_update(weight, gradient, depth) / weight.norm() ** (2 - 2 / depth)
    assert _close(radial_stretch(weight, -lr * gradient, depth), -lr * claim)


def test_a_flat_metric_is_no_metric() -> None:
    weight, moment, lr = normal(3, 4, seed=1), normal(3, 4, seed=2), 0.1
    metric = torch.full_like(weight, 4.0)
    in_metric = radial_stretch_in_metric(weight, -lr * moment / 4, moment, metric, lr, 3.0)
    assert _close(in_metric, radial_stretch(weight, -lr * moment / 4, 3.0))


def test_what_a_step_holds_besides_the_moment_is_not_stretched() -> None:
    weight, moment, metric, lr = normal(4, seed=1), normal(4, seed=2), _positive(4, seed=3), 0.1
    step, decay = -lr * moment / metric, -0.01 * weight
    both = radial_stretch_in_metric(weight, step + decay, moment, metric, lr, 5.0)
    assert _close(both, _moved(weight, step, 5.0, metric) + decay)


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.floats(0, 20), st.sampled_from([1e-9, 1.0, 1e9]), st.integers(0, 99))
def test_rows_of_any_shape_are_stretched_one_by_one(
    shape: tuple[tuple[int, ...], int], radial: float, scale: float, seed: int
) -> None:
    batch, length = shape
    weight, moment = (
        scale * normal(*batch, length, seed=seed),
        normal(*batch, length, seed=seed + 1),
    )
    metric, lr = _positive(*batch, length, seed=seed + 2), torch.tensor(0.2).double()
    step = -lr * moment / metric
    plain = radial_stretch(weight, step, radial)
    in_metric = radial_stretch_in_metric(weight, step, moment, metric, lr, radial)
    assert plain.shape == in_metric.shape == weight.shape
    every = [each.reshape(-1, length) for each in (weight, step, metric, plain, in_metric)]
    for w, u, s, first, second in zip(*every, strict=True):
        size = max(1.0, radial) * u.norm()
        assert (first - _moved(w, u, radial)).norm() <= 1e-12 * size
        # In the metric lengths are those of s^(1/2) u.
        root = s.sqrt()
        size = max(1.0, radial) * (root * u).norm()
        assert (root * (second - _moved(w, u, radial, s))).norm() <= 1e-12 * size


@settings(max_examples=40, deadline=None)
@given(SHAPES, st.integers(0, 99))
def test_zero_leaves_nothing_along_the_weight(
    shape: tuple[tuple[int, ...], int], seed: int
) -> None:
    batch, length = shape
    weight, moment = normal(*batch, length, seed=seed), normal(*batch, length, seed=seed + 1)
    metric = _positive(*batch, length, seed=seed + 2)
    step = -0.1 * moment / metric
    across = radial_stretch(weight, step, 0.0)
    assert ((weight * across).sum(-1).abs() <= 1e-15 * (weight.norm() * step.norm())).all()
    across = radial_stretch_in_metric(weight, step, moment, metric, 0.1, 0.0)
    inner = (weight * metric * across).sum(-1).abs()
    assert (inner <= 1e-15 * (weight.norm() * (metric * step).norm())).all()


def test_a_weight_of_zeros_has_no_direction() -> None:
    weight, step, metric = torch.zeros(2, 3), torch.ones(2, 3), torch.ones(2, 3)
    weight[1] = 1.0
    for stretched in (
        radial_stretch(weight, step, 4.0),
        radial_stretch_in_metric(weight, step, -step, metric, 1.0, 4.0),
    ):
        assert torch.equal(stretched, torch.tensor([[1.0], [4.0]]).expand(2, 3))
    assert radial_stretch(torch.zeros(3, 0), torch.zeros(3, 0), 2.0).shape == (3, 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_narrow_types_are_rounded_once(dtype: torch.dtype) -> None:
    # The square of the length of this weight is no number of float16.
    weight, moment = (100 * normal(50, seed=1)).to(dtype), normal(50, seed=2).to(dtype)
    metric = _positive(50, seed=3).to(dtype)
    step = (-0.5 * moment.double() / metric.double()).to(dtype)
    wide = [each.double() for each in (weight, step, moment, metric)]
    bound = TOLERANCE[torch.float32] if dtype == torch.float32 else torch.finfo(dtype).eps / 2
    plain = radial_stretch(weight, step, 3.0)
    in_metric = radial_stretch_in_metric(weight, step, moment, metric, 0.5, 3.0)
    assert plain.dtype == in_metric.dtype == dtype
    assert _close(plain.double(), radial_stretch(wide[0], wide[1], 3.0), bound)
    expected = radial_stretch_in_metric(*wide, 0.5, 3.0)
    assert _close(in_metric.double(), expected, bound)


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999, 0.9999999])
@pytest.mark.parametrize("count", [1, 7, 100_000])
def test_bias_correction_keeps_its_digits(beta: float, count: int) -> None:
    exact = float(1 - Decimal(beta) ** count)
    assert bias_correction(beta, torch.tensor(float(count))) == pytest.approx(exact, rel=1e-9)
    tensor = bias_correction(
        torch.tensor(beta, dtype=torch.float64), torch.tensor(float(count), dtype=torch.float64)
    )
    assert float(tensor) == pytest.approx(exact, rel=1e-6)
