import pytest
import torch
from torch import nn

from overparam.lab.comparison.row_scales import RowScales, scale_rows
from overparam.layers.views import convolution_view, linear_view


@pytest.mark.parametrize("view", [linear_view((5, 3)), convolution_view((6, 2, 3, 3), groups=2)])
def test_the_weight_stays_at_the_start(view):
    torch.manual_seed(0)
    weight = torch.randn(view.shape, dtype=torch.float64)
    made = RowScales(view, 1.0)
    scales, directions = made.right_inverse(weight)
    torch.testing.assert_close(made(scales, directions), weight)
    for row in range(view.shape[0]):  # the rows of both views are the outputs
        by_hand = scales.flatten()[row].exp() * directions[row]
        torch.testing.assert_close(by_hand, weight[row])


def test_the_scales_have_the_mean_and_the_deviation_that_were_asked_for():
    torch.manual_seed(0)
    scales, _ = RowScales(linear_view((4000, 1)), 0.5).right_inverse(torch.ones(4000, 1))
    assert scales.mean().item() == pytest.approx(0.5, abs=0.01)
    assert scales.std().item() == pytest.approx(0.1, rel=0.1)


def test_a_small_step_has_a_rate_for_each_row_and_a_stretch_along_it():
    torch.manual_seed(0)
    layer = nn.Linear(3, 4, bias=False).double()
    weight = layer.weight.detach().clone()
    gradient = torch.randn(4, 3, dtype=torch.float64)
    scale_rows(nn.Sequential(layer), 1.0)
    scales = layer.parametrizations.weight.original0.detach().flatten()
    lr = 1e-7
    (layer.weight * gradient).sum().backward()
    torch.optim.SGD(layer.parameters(), lr).step()
    moved = (layer.weight.detach() - weight) / lr
    for r in range(4):
        along = gradient[r] @ weight[r] * weight[r]
        torch.testing.assert_close(
            moved[r], -((2 * scales[r]).exp() * gradient[r] + along), rtol=1e-4, atol=1e-5
        )


def test_what_is_excluded_or_tied_stays():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2))
    model[1].weight = model[2].weight
    scale_rows(model, 1.0, exclude=["3"])
    assert hasattr(model[0], "parametrizations")
    assert not any(hasattr(model[i], "parametrizations") for i in (1, 2, 3))
    assert model[1].weight is model[2].weight
