"""Parameters without their model: a warning where their shape does not tell."""

from typing import Any

import pytest
import torch
from support.doors import OPTIMIZERS
from torch import nn

from overparam import EndToEnd, Factored, Radial

DOUBTFUL = [
    ("kernel", (6, 2, 3, 3), "a grouped convolution or a batch of matrices"),
    ("kernel", (4, 2, 3), "a grouped convolution or a batch of matrices"),
    ("weight", (12, 4), "a packed projection of attention or a GRU"),
    ("weight", (16, 4), "the gates of an LSTM"),
    ("cell.weight_ih", (10, 4), "the gates of a recurrent layer"),
    ("weight_hh_l0", (5, 5), "the gates of a recurrent layer"),
]
CLEAR = [
    ("weight", (4, 5)),
    ("weight", (4, 12)),
    ("weight", (10, 4)),
    ("weight", (3, 1)),
    ("vector", (7,)),
    ("scale", (6, 1, 1)),
    ("attention.in_proj_weight", (12, 4)),
]


def _options(optimizer: Any) -> dict[str, Any]:
    """That the reading matters: Radial takes whole tensors by default."""
    return {"granularity": "matrix"} if optimizer is Radial else {}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("name", "shape", "other"), DOUBTFUL)
def test_shapes_that_fit_several_readings_warn(
    optimizer: Any, name: str, shape: tuple[int, ...], other: str
) -> None:
    parameter = nn.Parameter(torch.randn(shape))
    with pytest.warns(UserWarning, match="does not tell all") as caught:
        optimizer([(name, parameter)], **_options(optimizer))
    assert len(caught) == 1
    text = str(caught[0].message)
    assert f"{name} {shape} may be {other}" in text
    assert caught[0].filename == __file__


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("name", "shape"), CLEAR)
def test_shapes_with_one_reading_do_not_warn(
    optimizer: Any, name: str, shape: tuple[int, ...]
) -> None:
    optimizer([(name, nn.Parameter(torch.randn(shape)))], **_options(optimizer))


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        (EndToEnd, {"depth": 1}),
        (EndToEnd, {"granularity": "tensor"}),
        (Factored, {"depth": 1}),
        (Radial, {"radial": 1, "granularity": "matrix"}),
        (Radial, {}),
    ],
)
def test_no_warning_where_the_reading_does_not_matter(
    optimizer: Any, options: dict[str, Any]
) -> None:
    optimizer([nn.Parameter(torch.randn(12, 4))], **options)
    optimizer([nn.Parameter(torch.randn(6, 2, 3, 3))], **options)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_model_or_a_layer_of_it_never_warns_of_shapes(optimizer: Any) -> None:
    layers = [nn.MultiheadAttention(4, 2), nn.Conv2d(4, 6, 3, groups=2), nn.LSTM(4, 3)]
    optimizer(nn.ModuleList(layers), **_options(optimizer))
    optimizer([{"params": layer} for layer in layers], **_options(optimizer))


def test_one_warning_names_the_parameters_of_all_groups() -> None:
    groups = [{"params": [nn.Parameter(torch.ones(12, 4))]} for _ in range(3)]
    with pytest.warns(UserWarning, match="does not tell all") as caught:
        EndToEnd(groups, lr=0.1)
    assert len(caught) == 1
    assert all(f"group {number}, parameter 0" in str(caught[0].message) for number in range(3))
