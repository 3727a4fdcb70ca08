"""What an optimizer's groups and foreign states look like after the parameters have changed."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from overparam.reparam import collapse, overparameterize
from overparam.reparam.attach import places


def _model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def _step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    x: Tensor = torch.linspace(-1, 1, 48).reshape(8, 6)
    model(x).square().mean().backward()
    optimizer.step()


def _same(first: Any, second: Any) -> bool:
    return [id(p) for p in first] == [id(p) for p in second]


def test_a_carried_optimizer_saves_what_a_new_one_loads() -> None:
    model = _model()
    optimizer = torch.optim.AdamW(model.parameters())
    _step(model, optimizer)
    overparameterize(model, optimizer=optimizer)
    assert _same(optimizer.param_groups[0]["params"], model.parameters())
    other = overparameterize(_model())
    other.load_state_dict(model.state_dict())
    resumed = torch.optim.AdamW(other.parameters())
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for _ in range(3):
        _step(model, optimizer)
        _step(other, resumed)
    for first, second in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(first, second)
    collapse(model, optimizer=optimizer)
    assert _same(optimizer.param_groups[0]["params"], model.parameters())


def test_an_order_of_the_users_own_is_kept() -> None:
    model, outside = _model(), nn.Parameter(torch.ones(2))
    weights = [model[2].weight, outside, model[0].weight]
    optimizer = torch.optim.SGD([{"params": weights}, {"params": [model[0].bias, model[2].bias]}])
    overparameterize(model, optimizer=optimizer)
    second, first = (model[i].parametrizations.weight.parameters() for i in (2, 0))
    assert _same(optimizer.param_groups[0]["params"], [*second, outside, *first])
    collapse(model, optimizer=optimizer)
    assert _same(optimizer.param_groups[0]["params"], [model[2].weight, outside, model[0].weight])


@pytest.mark.parametrize("part", [False, True])
def test_names_of_named_parameters_follow(part: bool) -> None:
    whole = nn.ModuleDict({"net": _model(), "scale": nn.LayerNorm(3)})
    model = whole["net"] if part else whole
    optimizer = torch.optim.AdamW(whole.named_parameters())
    plain = list(optimizer.param_groups[0]["param_names"])
    overparameterize(model, optimizer=optimizer)
    names = optimizer.param_groups[0]["param_names"]
    assert names == [name for name, _ in whole.named_parameters()]
    optimizer.load_state_dict(optimizer.state_dict())
    collapse(model, optimizer=optimizer)
    assert optimizer.param_groups[0]["param_names"] == plain


def test_states_by_row_and_column_are_refused_before_anything_changes() -> None:
    model = _model()
    optimizer = torch.optim.Adafactor(model.parameters())
    _step(model, optimizer)
    with pytest.raises(NotImplementedError, match="'row_var' has no known meaning"):
        overparameterize(model, optimizer=optimizer)
    assert not list(places(model))
    _step(model, optimizer)
    overparameterize(model)
    optimizer = torch.optim.Adafactor(model.parameters())
    _step(model, optimizer)
    with pytest.raises(NotImplementedError, match="'row_var' has no known meaning"):
        collapse(model, optimizer=optimizer)
    assert list(places(model))
    _step(model, optimizer)


def test_an_optimizer_with_one_state_for_all_is_refused() -> None:
    model = _model()
    with pytest.raises(ValueError, match="LBFGS keeps one state for all"):
        overparameterize(model, optimizer=torch.optim.LBFGS(model.parameters()))
    assert not list(places(model))
    overparameterize(model)
    with pytest.raises(ValueError, match="LBFGS keeps one state for all"):
        collapse(model, optimizer=torch.optim.LBFGS(model.parameters()))
    assert list(places(model))
