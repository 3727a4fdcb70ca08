"""Directions of adjacent runs of any depths, against the rule run by run."""

import pytest
import torch

from overparam.lab.training.directions import (
    Depths,
    entrywise,
    metric,
    norm_factor,
    rule,
    rule_normalized,
    stretched,
)
from overparam.lab.training.updates import Move
from overparam.rule.entrywise import entrywise_update
from overparam.rule.fast import update_of_rows
from overparam.rule.metric import metric_normalized
from overparam.rule.radial import radial_stretch, radial_stretch_in_metric
from overparam.rule.reference import end_to_end_update
from overparam.rule.unbalanced import check_imbalance

DEPTHS = (1.0, 1.0, 1.5, 2.0, 2.0, 3.0, 4.0, 4.0, 50.0)


def tensors(count, outputs, dtype=torch.float64):
    generator = torch.Generator().manual_seed(outputs)
    shape = (len(DEPTHS), outputs, 6)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(count)
    ]


def directions(kind, weights, gradients, depths=DEPTHS):
    found = gradients.clone()
    kind(Depths(depths, weights), weights.shape[1])(weights, found)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e18])
def test_the_rule_of_one_output_is_that_of_rows(dtype, scale):
    weights, gradients = tensors(2, 1, dtype)
    weights *= scale
    weights[1] = weights[4] = 0
    found = directions(rule, weights, gradients)
    for i, depth in enumerate(DEPTHS):
        expected = update_of_rows(weights[i], gradients[i], depth, look=False)
        rounding = 8 * torch.finfo(dtype).eps * expected.norm()
        assert (found[i] - expected).norm() <= rounding, depth


@pytest.mark.parametrize("depths", [DEPTHS, [3.0] * 9])
@pytest.mark.parametrize("outputs", [1, 3])
def test_the_rule_is_that_of_theorem_1(outputs, depths):
    weights, gradients = tensors(2, outputs)
    found = directions(rule, weights, gradients, depths)
    for i, depth in enumerate(depths):
        expected = end_to_end_update(weights[i], gradients[i], depth)
        torch.testing.assert_close(found[i], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("outputs", [1, 3])
def test_entries_are_those_of_the_entrywise_rule(outputs):
    weights, gradients = tensors(2, outputs)
    weights[:, 0, 0] = 0
    found = directions(entrywise, weights, gradients)
    for i, depth in enumerate(DEPTHS):
        expected = entrywise_update(weights[i], gradients[i], depth)
        torch.testing.assert_close(found[i], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("outputs", [1, 3])
def test_the_normalized_rule_is_divided_by_the_largest_eigenvalue(outputs):
    weights, gradients = tensors(2, outputs)
    found = directions(rule_normalized, weights, gradients)
    for i, depth in enumerate(DEPTHS):
        largest = depth * torch.linalg.matrix_norm(weights[i], 2) ** (2 - 2 / depth)
        expected = end_to_end_update(weights[i], gradients[i], depth) / largest
        torch.testing.assert_close(found[i], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("outputs", [1, 3])
def test_the_metric_step_is_that_of_the_library(outputs):
    weights, gradients = tensors(2, outputs)
    weights[4] = gradients[5] = 0
    found = directions(metric, weights, gradients)
    for i, depth in enumerate(DEPTHS):
        update = end_to_end_update(weights[i], gradients[i], depth)
        expected = metric_normalized(update, gradients[i])
        torch.testing.assert_close(found[i], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e6])
def test_the_unbalanced_rule_is_that_of_the_library(outputs, scale):
    weights, gradients = tensors(2, outputs)
    weights *= scale
    weights[1] = weights[4] = 0
    imbalances = (1.0, 1.0, -0.3, 0.3, 3.0, 3.0, -7.0, 1e-9, 1e5)
    found = gradients.clone()
    rule(Depths([2.0] * 9, weights, imbalances), outputs)(weights, found)
    for i, lam in enumerate(imbalances):
        expected = end_to_end_update(weights[i], gradients[i], 2, imbalance=lam)
        torch.testing.assert_close(found[i], expected, rtol=1e-12, atol=0)
        if outputs == 1:
            offsets = check_imbalance(lam, 2)
            of_rows = update_of_rows(weights[i], gradients[i], 2, offsets=offsets)
            torch.testing.assert_close(found[i], of_rows, rtol=1e-12, atol=0)


@pytest.mark.parametrize("outputs", [1, 3])
def test_the_norm_factor_is_that_of_claim_2(outputs):
    weights, gradients = tensors(2, outputs)
    weights[0] = weights[3] = 0
    found = directions(norm_factor, weights, gradients)
    for i, depth in enumerate(DEPTHS):
        size = float(weights[i].square().sum()) ** 0.5
        torch.testing.assert_close(found[i], size ** (2 - 2 / depth) * gradients[i])


def test_for_one_output_norm_factor_and_stretch_together_are_the_rule():
    weights, gradients = tensors(2, 1)
    both = stretched(
        weights,
        Move(directions(norm_factor, weights, gradients)),
        torch.tensor(DEPTHS)[:, None, None],
    )
    expected = directions(rule, weights, gradients)
    torch.testing.assert_close(both, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("in_metric", [False, True])
def test_a_stretch_is_that_of_the_library(outputs, in_metric):
    weights, moment, metric = tensors(3, outputs)
    metric = metric.abs() + 0.1
    weights[2] = 0
    radial = torch.tensor([0.0, 0.5, 1.0, 2.0, 2.0, 3.0, 4.0, 8.0, 1.0]).double()
    step = moment / metric if in_metric else moment
    found = stretched(weights, Move(step, metric if in_metric else None), radial[:, None, None])
    for i, r in enumerate(radial.tolist()):
        w, u, m, s = (each[i].flatten() for each in (weights, step, moment, metric))
        if in_metric:
            expected = -radial_stretch_in_metric(w, -u, m, s, 1.0, r)
        else:
            expected = radial_stretch(w, u, r)
        torch.testing.assert_close(found[i].flatten(), expected, rtol=1e-12, atol=1e-12)
