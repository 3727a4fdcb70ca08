import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from overparam.data import load, standardize
from overparam.lab.training.optimum import find_optimum


@pytest.mark.parametrize("power", [2, 3, 4, 5.5, 8])
def test_agrees_with_an_independent_minimizer(small_data, power):
    x, y = small_data.features.numpy(), small_data.targets[:, 0].numpy()

    def loss(w):
        error = x @ w - y
        slopes = np.sign(error) * np.abs(error) ** (power - 1)
        return np.mean(np.abs(error) ** power), power / len(y) * (x.T @ slopes)

    reference = minimize(loss, np.zeros(5), jac=True, method="BFGS", options={"gtol": 1e-9})
    found = find_optimum(small_data.features, small_data.targets, power)
    assert found.loss <= reference.fun * (1 + 1e-12)
    assert found.loss == pytest.approx(reference.fun, rel=1e-9)
    assert found.gradient_norm <= 1e-12 * found.gradient_scale


@pytest.mark.parametrize(("name", "power"), [("diabetes", 4), ("digits", 4), ("digits", 2)])
def test_embedded_sets_reach_machine_precision(name, power):
    data = standardize(load(name))
    found = find_optimum(data.features, data.targets, power)
    assert found.gradient_norm <= 1e-12 * found.gradient_scale


def test_every_output_is_solved_separately(small_data):
    second = small_data.features.sum(dim=1, keepdim=True).sin()
    both = find_optimum(small_data.features, torch.cat((small_data.targets, second), dim=1), 4)
    alone = find_optimum(small_data.features, second, 4)
    torch.testing.assert_close(both.weight[1:], alone.weight, rtol=1e-12, atol=1e-13)


def test_rank_deficient_features_give_the_optimal_loss(small_data):
    doubled = torch.cat((small_data.features, small_data.features), dim=1)
    found = find_optimum(doubled, small_data.targets, 4)
    single = find_optimum(small_data.features, small_data.targets, 4)
    assert found.loss == pytest.approx(single.loss, rel=1e-12)


def test_power_below_two_is_refused(small_data):
    with pytest.raises(ValueError, match=r"power is 1\.5"):
        find_optimum(small_data.features, small_data.targets, 1.5)
