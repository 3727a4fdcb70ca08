"""Weights that are swapped at each step: what was compiled stays, and nothing is left behind."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from overparam.reparam import AveragedWeights, collapse, collapsed, overparameterize
from overparam.reparam.attach import places

STEPS = 6


def _enter(model: nn.Module) -> None:
    with collapsed(model):
        pass


def _evaluate(model: nn.Module, compiled: Callable[..., torch.Tensor]) -> None:
    with collapsed(model), torch.no_grad():
        compiled(torch.ones(2, 4))


@pytest.mark.parametrize("way", ["average", "collapsed", "evaluate", "assign", "functional"])
def test_a_swap_each_step_compiles_once(way: str) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = overparameterize(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    average = AveragedWeights(model)
    for _ in range(STEPS):
        optimizer.zero_grad()
        compiled(torch.ones(2, 4)).square().mean().backward()
        optimizer.step()
        if way == "average":
            average.update_parameters(model)
        elif way == "collapsed":
            _enter(model)
        elif way == "evaluate":
            _evaluate(model, compiled)
        elif way == "assign":
            model[0].weight = model[0].weight.detach() * 0.9
        else:
            given = {"0.weight": torch.ones(4, 4)}
            torch.func.functional_call(model, given, (torch.ones(2, 4),))
    # One graph for products; where the plain model runs too, one for it.
    assert counter.frame_count <= (2 if way == "evaluate" else 1)


def test_classes_and_containers_come_back() -> None:
    model = overparameterize(nn.Sequential(nn.LSTM(3, 3), nn.Linear(3, 3)), targets="all")
    twin = copy.deepcopy(model)
    before = [(id(module), type(module)) for module in model.modules()]
    for _ in range(2):
        with collapsed(model):
            assert [type(m) for m in model.modules()] == [nn.Sequential, nn.LSTM, nn.Linear]
            assert len(list(places(twin))) == 3
        assert [(id(module), type(module)) for module in model.modules()] == before
    collapse(model)
    assert len(list(places(twin))) == 3


def test_a_module_that_is_parametrized_meanwhile_keeps_that() -> None:
    model = overparameterize(nn.LSTM(3, 3), targets="all")
    with collapsed(model):
        nn.utils.parametrizations.weight_norm(model, "bias_ih_l0", dim=0)
    assert len(list(places(model))) == 2
    assert sorted(model.parametrizations) == ["bias_ih_l0", "weight_hh_l0", "weight_ih_l0"]
    model(torch.ones(1, 3))[0].sum().backward()
    model = overparameterize(nn.Linear(3, 3))
    with pytest.raises(ValueError, match="no plain parameter any more"), collapsed(model):
        nn.utils.parametrizations.weight_norm(model)
    model(torch.ones(1, 3))


def test_averaging_takes_ties_buffers_and_order_from_the_plain_model() -> None:
    from support.unusual_layers import Tied

    torch.manual_seed(0)
    for make in (Tied, lambda: nn.Sequential(nn.Conv1d(2, 2, 1), nn.BatchNorm1d(2), nn.GRU(3, 2))):
        plain = make()
        model = overparameterize(copy.deepcopy(plain), targets="all")
        average = AveragedWeights(model, use_buffers=True)
        expected = torch.optim.swa_utils.AveragedModel(plain, use_buffers=True)
        for _ in range(3):
            with torch.no_grad(), collapsed(model):
                for parameter, other in zip(model.parameters(), plain.parameters(), strict=True):
                    parameter.add_(torch.randn_like(parameter))
                    other.copy_(parameter)
            average.update_parameters(model)
            expected.update_parameters(plain)
        found = average.module.state_dict()
        for key, value in expected.module.state_dict().items():
            torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-6)
