"""Depth 1 and radial 1: the inner optimizer, bit for bit; numbers that numpy gives."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from support.inner_cases import (
    INNER,
    OF_TORCH,
    STEPS,
    WRAPPERS,
    advance,
    network,
    options_of,
    ready,
    wrapped,
)
from torch import Tensor, nn

ONE: dict[str, dict[str, Any]] = {
    "EndToEnd": {"depth": 1},
    "Factored": {"depth": 1},
    "Radial": {"radial": 1},
}
OWN_STATE = {"depth"}  # of Factored


def matrices_only(model: nn.Sequential) -> nn.Sequential:
    for layer in (model[0], model[2]):
        layer.bias = None
    return model


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_one_is_the_inner_optimizer(wrapper: str, inner: str) -> None:
    models = [network(), network()]
    if inner == "Muon":
        models = [matrices_only(model) for model in models]
    options = options_of(inner, for_plain=True)
    plain = options.pop("kind")(models[0].parameters(), **options)
    ready(plain)
    optimizer = wrapped(wrapper, inner, models[1], **ONE[wrapper])
    for step in range(STEPS):
        for model, each in zip(models, (plain, optimizer), strict=True):
            advance(model, each, [step])
        for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
            assert torch.equal(p, q)
            states = plain.state[p], optimizer.state[q]
            assert set(states[0]) == set(states[1]) - OWN_STATE
            for name, value in states[0].items():
                same = torch.equal if isinstance(value, Tensor) else lambda a, b: a == b
                assert same(value, states[1][name]), name


def test_every_optimizer_of_torch_is_in_the_table() -> None:
    kinds = {
        name
        for name, kind in vars(torch.optim).items()
        if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)
    }
    assert kinds - set(OF_TORCH) == {"Optimizer", "LBFGS", "SparseAdam"}


@pytest.mark.parametrize("number", [np.int64(2), np.int32(2), np.float64(2.0), np.float32(2.0)])
def test_numbers_of_numpy(number: Any) -> None:
    for wrapper, name in (("EndToEnd", "depth"), ("Factored", "depth"), ("Radial", "radial")):
        if wrapper == "Factored" and isinstance(number, np.floating):
            with pytest.raises(TypeError, match="whole number of factors"):
                WRAPPERS[wrapper](network(), **{name: number})
            continue
        models = [network(), network()]
        for model, value in zip(models, (number, 2), strict=True):
            advance(model, WRAPPERS[wrapper](model, lr=0.01, **{name: value}), range(STEPS))
        for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
            assert torch.equal(p, q)
        mores = {
            "EndToEnd": {"singular_value_floor": np.float64(0.1)},
            "Factored": {"width": [number + 6]},
        }
        more = mores.get(wrapper, {})
        optimizer = WRAPPERS[wrapper](network(), **{name: number}, **more)
        buffer = io.BytesIO()
        torch.save(optimizer.state_dict(), buffer)
        buffer.seek(0)
        torch.load(buffer, weights_only=True)
