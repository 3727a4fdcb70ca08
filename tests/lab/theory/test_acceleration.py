import math

import pytest
import torch

from overparam import single_output_update
from overparam.lab.theory.tuning import best_of_depths, starts, steady_counts, tuned_iterations
from overparam.lab.theory.two_point_runs import (
    Lanes,
    _rule,
    iterations_to_target,
    late_rate,
    measured_threshold,
)
from overparam.theory.power_loss import power_gradient
from overparam.theory.two_points import curvature, divergence_threshold

_Y = torch.tensor([2.0, 1.0], dtype=torch.float64)


@pytest.mark.parametrize("power", [2.0, 4.0, 6.0, 8.0])
@pytest.mark.parametrize("largest", [0.5, 3.0])
def test_threshold_found_is_the_formula(power: float, largest: float) -> None:
    expected = divergence_threshold(largest, power)
    assert abs(measured_threshold(largest, power) / expected - 1) < 1e-5


def _by_torch(optimizer: torch.optim.Optimizer, weight: torch.Tensor, power: float) -> float:
    """First step of the last unbroken stay at the target, over one whole run."""
    bound, arrived = 0.5**power, math.inf
    for step in range(1000):
        with torch.no_grad():
            inside = bool(((weight - _Y).abs() ** power).sum() <= bound)
        arrived = min(arrived, float(step)) if inside else math.inf
        optimizer.zero_grad()
        ((weight - _Y).abs() ** power).sum().div(power).backward()
        optimizer.step()
    return arrived


@pytest.mark.parametrize("power", [2.0, 4.0])
@pytest.mark.parametrize(
    ("method", "lr", "make"),
    [
        (0.0, 0.05, torch.optim.SGD),
        (1.0, 0.1, lambda w, lr: torch.optim.Adagrad(w, lr=lr, eps=1e-8)),
        (2.0, 0.05, torch.optim.Adam),
    ],
)
def test_baselines_count_as_torch_does(power: float, method: float, lr: float, make) -> None:
    weight = torch.full((2,), 0.01, dtype=torch.float64, requires_grad=True)
    expected = _by_torch(make([weight], lr=lr), weight, power)
    one = torch.ones(1, dtype=torch.float64)
    start = torch.full((1, 2), 0.01, dtype=torch.float64)
    lanes = Lanes(method * one, one, lr * one, power * one, _Y[None], start)
    assert iterations_to_target(lanes, max_steps=700, hold=299).item() == expected
    assert 3 < expected < 700


def test_depth_two_counts_as_explicit_factors_do() -> None:
    # One output and one hidden unit: balanced where |w1| = |omega2|; small steps, as in Theorem 1.
    lr, start = 1e-3, torch.tensor([0.06, 0.08], dtype=torch.float64)
    inner, outer = start / start.norm().sqrt(), start.norm().sqrt()
    steps = 0
    while ((inner * outer - _Y).abs() ** 4).sum() > 0.5**4:
        gradient = power_gradient(inner * outer, _Y, 4)
        inner, outer = inner - lr * outer * gradient, outer - lr * inner @ gradient
        steps += 1
    one = torch.ones(1, dtype=torch.float64)
    lanes = Lanes(0 * one, 2 * one, lr * one, 4 * one, _Y[None], start[None])
    assert abs(iterations_to_target(lanes).item() / steps - 1) < 0.01


def test_a_diverging_lane_is_infinite_and_leaves_the_others_alone() -> None:
    one = torch.ones(3, dtype=torch.float64)
    lr = torch.tensor([0.1, 10.0, 0.1], dtype=torch.float64)
    lanes = Lanes(0 * one, one, lr, 4 * one, _Y.expand(3, 2), torch.zeros(3, 2).double())
    counts = iterations_to_target(lanes)
    assert counts[1] == math.inf
    assert counts[0] == counts[2] < math.inf


def test_touching_the_target_and_leaving_does_not_count() -> None:
    # Adam at a large learning rate passes through the target early, then overshoots for long.
    weight = torch.full((2,), 0.01, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=0.5)
    inside = []
    for _ in range(400):
        error = (weight - _Y).abs() ** 2
        inside.append(bool(error.sum() <= 0.25))
        optimizer.zero_grad()
        error.sum().div(2).backward()
        optimizer.step()
    first_touch, stays_from = inside.index(True), 400 - inside[::-1].index(False)
    assert first_touch < stays_from < 300  # the run does leave again
    one, start = torch.ones(1, dtype=torch.float64), torch.full((1, 2), 0.01, dtype=torch.float64)
    lanes = Lanes(2 * one, one, 0.5 * one, 2 * one, _Y[None], start)
    assert iterations_to_target(lanes, hold=0).item() == first_touch
    assert iterations_to_target(lanes, hold=100).item() == stays_from
    visit = inside[first_touch:].index(False)
    assert visit > 1
    assert iterations_to_target(lanes, hold=visit).item() == first_touch
    assert iterations_to_target(lanes, hold=visit + 1).item() > first_touch


def test_touching_the_target_before_diverging_does_not_count() -> None:
    # Adam at p = 8: at the target after a few steps of 5.62, then far outside it.
    angles = torch.deg2rad(torch.arange(0, 360, 5, dtype=torch.float64))
    one = torch.ones(len(angles), dtype=torch.float64)
    start = 0.01 * torch.stack((angles.cos(), angles.sin()), -1)
    targets = torch.tensor([2.5, 1.0], dtype=torch.float64).expand(len(angles), 2)
    lanes = Lanes(2 * one, one, 10**0.75 * one, 8 * one, targets, start)
    touched = iterations_to_target(lanes, hold=0)
    assert touched.min() <= 2
    held = iterations_to_target(lanes)
    assert held[touched <= 2].min() > 2


def test_the_last_step_to_arrive_is_the_cap_also_with_a_hold_beyond_it() -> None:
    one = torch.ones(1, dtype=torch.float64)
    lanes = Lanes(0 * one, one, 0.1 * one, 2 * one, _Y[None], torch.zeros(1, 2).double())
    count = int(iterations_to_target(lanes).item())
    assert iterations_to_target(lanes, max_steps=count).item() == count
    assert iterations_to_target(lanes, max_steps=count - 1).item() == math.inf


def test_a_lucky_learning_rate_does_not_count() -> None:
    inf = math.inf
    counts = torch.tensor([[8.0, 4.0, 2.0, inf, 1.0, inf], [9.0, 8.0, 7.0, 6.0, 5.0, 4.0]])
    assert steady_counts(counts).amin(-1).tolist() == [8.0, 6.0]


@pytest.mark.parametrize("depth", [1.0, 1.5, 3.0])
def test_late_rate_and_curvature_are_those_of_the_jacobian(depth: float) -> None:
    length = _Y.norm().item()
    assert curvature(depth, _Y) == pytest.approx(depth * length ** (2 - 2 / depth), rel=1e-12)
    lr = 0.5 / curvature(depth, _Y)
    # A linear map near the optimum: along y the error shrinks by 1 - lr N |y|^(2-2/N) a step,
    # across it by 1 - lr |y|^(2-2/N), and both start at the same size.
    factors = [1 - lr * stretch * length ** (2 - 2 / depth) for stretch in (1, depth)]
    early, late = (sum(factor ** (2 * step) for factor in factors) for step in (5, 15))
    assert late_rate(depth, lr, _Y) == pytest.approx(math.log(early / late) / 10, rel=2e-3)


def test_tuned_speed_up_absent_at_two_and_present_above() -> None:
    lrs = torch.logspace(-2, 1, 19, dtype=torch.float64)
    curves = tuned_iterations(lrs, (2.0, 6.0), (2.0,), max_steps=1000)
    best = steady_counts(curves).amin(-1)[:, 0]
    cautious = steady_counts(curves)[0, 0][:, lrs <= 0.5].amin(-1)
    assert cautious[1:7].min() >= cautious[0]
    assert best[1, 1:7].min() < 0.9 * best[1, 0]


def test_at_two_small_common_lrs_favour_depth_and_half_the_limit_does_not() -> None:
    # |y|^(2-2/N) acts as another learning rate: a bound on it decides which method is ahead.
    lrs = torch.logspace(-2, 0, 17, dtype=torch.float64)
    steady = steady_counts(tuned_iterations(lrs, (2.0,), (2.5,), max_steps=400))[0, 0]
    for highest, ahead in ((0.1, True), (0.5, False)):
        best = steady[:, lrs <= highest].amin(-1)
        assert bool(best[1:7].min() < best[0]) == ahead


@pytest.mark.parametrize("depth", [1.0, 1.5, 2.0, 8.0])
def test_the_short_form_of_the_rule_is_the_rule(depth: float) -> None:
    weight, gradient = torch.randn(2, 5, 2, dtype=torch.float64)
    weight[0] = 0.0
    depths = torch.full((5,), depth, dtype=torch.float64)
    expected = single_output_update(weight, gradient, depth)
    torch.testing.assert_close(_rule(weight.mT, gradient.mT, depths).mT, expected)


def test_starts_are_of_one_length_and_a_right_angle_apart() -> None:
    made = starts(0.3, 10.0)
    torch.testing.assert_close(made.norm(dim=-1), torch.full((4,), 0.3, dtype=torch.float64))
    turned = torch.stack((-made[:, 1], made[:, 0]), -1)
    torch.testing.assert_close(made.roll(-1, 0), turned)
    assert math.isclose(math.degrees(math.atan2(made[0, 1], made[0, 0])), 10.0)


def test_iterations_are_means_over_the_starts_of_single_runs() -> None:
    lrs = torch.tensor([0.2, 0.3], dtype=torch.float64)
    methods = [(0.0, 1.5), (1.0, 1.0)]
    begin = torch.stack([starts(0.01), starts(0.1, 70.0)])
    curves = tuned_iterations(lrs, (2.0, 4.0), (1.5, 2.0), methods, begin, 300)
    assert curves.shape == (2, 2, 2, 2, 2)
    one = torch.ones(4, dtype=torch.float64)
    for index in ((0, 0, 0, 0, 0), (1, 1, 0, 1, 1), (0, 1, 1, 1, 0), (1, 0, 1, 0, 1)):
        which, p, ratio, m, r = index
        method, depth = methods[m]
        targets = torch.tensor([(1.5, 2.0)[ratio], 1.0], dtype=torch.float64).expand(4, 2)
        power = (2.0, 4.0)[p] * one
        lanes = Lanes(method * one, depth * one, lrs[r] * one, power, targets, begin[which])
        expected = iterations_to_target(lanes, max_steps=300).mean()
        torch.testing.assert_close(curves[index], expected)
        assert expected.isfinite()


def test_best_of_depths_favours_gradient_descent_where_it_has_no_steady_learning_rate() -> None:
    inf = math.inf
    deep = [20.0, 10.0, 10.0, 10.0, 1.0]
    curves = torch.tensor(
        [
            [[9.0, 8.0, 8.0, 8.0, 1.0], deep],
            [[inf, inf, 5.0, inf, inf], deep],
            [[inf] * 5, deep],
            [deep, [inf] * 5],
        ],
        dtype=torch.float64,
    )
    assert best_of_depths(curves).tolist() == [0.8, 0.5, 400.0, 0.0]
