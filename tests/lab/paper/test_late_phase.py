"""What the law of the late phase predicts for the map, against autograd and measured rates."""

import dataclasses
import math

import polars as pl
import pytest
import torch

from overparam.data import load, standardize
from overparam.lab.paper.late_phase import how_often_right, predicted_speedup
from overparam.lab.training.optimum import find_optimum
from overparam.rule.reference import end_to_end_update
from overparam.theory import predict_speedup

DATA = standardize(load("diabetes"))


@pytest.mark.parametrize("power", [2, 4])
@pytest.mark.parametrize("depth", [1.5, 3])
def test_the_hessian_is_that_of_autograd(power, depth):
    weight = find_optimum(DATA.features, DATA.targets, power).weight

    def loss(at):
        return ((DATA.features.double() @ at.mT - DATA.targets.double()).abs() ** power).sum()

    expected = predict_speedup(loss, weight, depth).speedup
    assert predicted_speedup(DATA, weight, power, depth) == pytest.approx(expected, rel=1e-6)


def test_the_rule_contracts_as_predicted():
    """Errors shrink, at the best constant rate of each, by the predicted ratio of exponents."""
    x, y = DATA.features.double(), DATA.targets.double()
    weight = find_optimum(x, y, 2).weight
    hessian, lengths = x.mT @ x, []
    for depth in (1, 2):
        identity = torch.eye(x.shape[1], dtype=torch.float64)[:, None, :]
        columns = [end_to_end_update(weight, each @ hessian, depth) for each in identity]
        values = torch.linalg.eigvals(torch.cat(columns)).real
        rate = 2 / (values.min() + values.max())
        lengths.append(-math.log((1 - rate * values).abs().max()))
    assert predicted_speedup(DATA, weight, 2, 2) == pytest.approx(lengths[1] / lengths[0], rel=1e-6)


def test_a_degenerate_optimum_predicts_nothing():
    twice = torch.cat([DATA.features, DATA.features], dim=1)
    data = dataclasses.replace(DATA, features=twice)
    assert predicted_speedup(data, torch.ones(1, twice.shape[1]), 2, 2) is None


def test_decided_cells_are_counted():
    cells = {"outcome": ["faster", "slower", "slower", "not decided", "faster"]}
    cells |= {"predicted": [2.0, 0.5, 1.5, 3.0, None]}
    assert "in 2 of the 3 decided cells" in how_often_right(pl.DataFrame(cells))
    assert "No cell is decided" in how_often_right(pl.DataFrame(cells).head(0))
