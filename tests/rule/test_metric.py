"""Steps of one length in the metric of depth."""

import pytest
import torch
from support.core_cases import normal

from overparam import end_to_end_update, preconditioner_spectrum
from overparam.rule.metric import metric_normalized


@pytest.mark.parametrize("shape", [(3, 5), (4, 4)])
def test_has_length_one_in_the_metric_and_descends_steepest(shape: tuple[int, int]) -> None:
    weight, gradient = normal(*shape, seed=1), normal(*shape, seed=2)
    update = end_to_end_update(weight, gradient, 2, imbalance=0.5)
    step = metric_normalized(update, gradient)
    torch.testing.assert_close(step, update / (gradient * update).sum().sqrt())
    eigenvalues, left, right = preconditioner_spectrum(weight, 2, imbalance=0.5)

    def length(x: torch.Tensor) -> torch.Tensor:
        return ((left.mT @ x @ right) ** 2 / eigenvalues).sum().sqrt()

    torch.testing.assert_close(length(step), torch.tensor(1.0).double())
    for seed in range(20):
        other = step + 0.1 * normal(*shape, seed=seed)
        assert (gradient * other).sum() / length(other) <= (gradient * step).sum()


def test_is_the_normalized_gradient_for_one_factor() -> None:
    gradient = normal(2, 3, 4, seed=1)
    step = metric_normalized(end_to_end_update(gradient, gradient, 1), gradient)
    torch.testing.assert_close(step, gradient / torch.linalg.matrix_norm(gradient)[:, None, None])
    rows = metric_normalized(gradient, gradient, dims=1)
    torch.testing.assert_close(rows, torch.nn.functional.normalize(gradient, dim=-1))


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_does_not_depend_on_the_scale_of_the_gradient(scale: float) -> None:
    weight, gradient = normal(3, 5, seed=1).float(), normal(3, 5, seed=2).float()
    expected = metric_normalized(end_to_end_update(weight, gradient, 2), gradient)
    scaled = metric_normalized(end_to_end_update(weight, gradient * scale, 2), gradient * scale)
    torch.testing.assert_close(scaled, expected)


def test_zero_and_batches() -> None:
    weight, gradient = normal(2, 3, 4, seed=1), normal(2, 3, 4, seed=2)
    gradient[0] = 0
    step = metric_normalized(end_to_end_update(weight, gradient, 3), gradient)
    assert not step[0].any()
    alone = metric_normalized(end_to_end_update(weight[1], gradient[1], 3), gradient[1])
    torch.testing.assert_close(step[1], alone)
    assert not metric_normalized(-gradient, gradient).any()
