import math

import pytest
import torch

from overparam.theory.acceleration import (
    Lanes,
    divergence_threshold,
    iterations_to_target,
    measured_threshold,
    power_gradient,
    tuned_iterations,
)

_Y = torch.tensor([2.0, 1.0], dtype=torch.float64)


def test_gradient_is_autograd() -> None:
    weight = torch.tensor([0.3, 1.7], dtype=torch.float64, requires_grad=True)
    ((weight - _Y).abs() ** 4).sum().div(4).backward()
    torch.testing.assert_close(power_gradient(weight.detach(), _Y, 4), weight.grad)


@pytest.mark.parametrize("power", [2.0, 4.0, 6.0, 8.0])
@pytest.mark.parametrize("largest", [0.5, 3.0])
def test_threshold_found_is_the_formula(power: float, largest: float) -> None:
    expected = divergence_threshold(largest, power)
    assert abs(measured_threshold(largest, power) / expected - 1) < 1e-5


def _by_torch(optimizer: torch.optim.Optimizer, weight: torch.Tensor, power: float) -> float:
    bound = 0.5**power
    for step in range(2000):
        with torch.no_grad():
            if ((weight - _Y).abs() ** power).sum() <= bound:
                return float(step)
        optimizer.zero_grad()
        ((weight - _Y).abs() ** power).sum().div(power).backward()
        optimizer.step()
    return math.inf


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
    assert iterations_to_target(lanes).item() == expected
    assert 3 < expected < 2000


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


def test_tuned_speed_up_absent_at_two_and_present_above() -> None:
    rates = torch.logspace(-2, 1, 19, dtype=torch.float64)
    best = tuned_iterations(rates, (2.0, 6.0), (2.0,), max_steps=1500).amin(-1)[:, 0]
    assert best[0, 1:7].min() >= best[0, 0]
    assert best[1, 1:7].min() < 0.9 * best[1, 0]


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="largest"):
        divergence_threshold(-1.0, 4.0)
