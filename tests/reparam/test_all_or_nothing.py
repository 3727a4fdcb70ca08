"""Whatever fails on the way, at whatever step: the model and the optimizer are as they were."""

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.unusual_layers import Tied
from torch import Tensor, nn

from overparam.reparam import collapse, collapsed, overparameterize, set_weight_decay_on
from overparam.reparam.attach import places

# The package exports functions of the same names.
collapse_module = importlib.import_module("overparam.reparam.collapse")
overparameterize_module = importlib.import_module("overparam.reparam.overparameterize")


def _model() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(Tied(), nn.LSTM(7, 3), nn.Linear(3, 2), nn.Linear(2, 2))
    nn.utils.parametrizations.weight_norm(model[3])
    return model


def _forward(model: nn.Module) -> Tensor:
    hidden = model[0](torch.tensor([[1, 2, 0]]))  # pyright: ignore
    return model[3](model[2](model[1](hidden)[0]))  # pyright: ignore


def _step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    _forward(model).square().sum().backward()
    optimizer.step()


def _picture(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Any]:
    """All that could be left half-done."""
    modules = [(path, id(m), type(m)) for path, m in model.named_modules()]
    parameters = [
        (n, id(p), p.requires_grad, p._version, None if p.grad is None else p.grad.tolist())
        for n, p in model.named_parameters(remove_duplicate=False)
    ]
    hooks = [list(module._load_state_dict_pre_hooks) for module in model.modules()]
    groups = [
        [id(p) for p in g["params"]] + g.get("param_names", []) for g in optimizer.param_groups
    ]
    state = [(id(p), sorted(s)) for p, s in optimizer.state.items()]
    steps = list(optimizer._optimizer_step_pre_hooks)
    return [modules, parameters, hooks, groups, state, steps, list(model.state_dict())]


class InjectedError(Exception):
    pass


def _fail_at(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str, count: int, when: str
) -> list[int]:
    """Let the ``count``-th call of a function fail, before or after it has done its work."""
    original, calls = getattr(module, name), []

    def failing(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == count and when == "before":
            raise InjectedError
        result = original(*args, **kwargs)
        if len(calls) == count:
            raise InjectedError
        return result

    monkeypatch.setattr(module, name, failing)
    return calls


def _prepared(expanded: bool) -> tuple[nn.Sequential, torch.optim.Optimizer]:
    model = _model()
    if expanded:
        overparameterize(model, targets="all")
    optimizer = torch.optim.AdamW(model.named_parameters(), lr=0.01, weight_decay=0.1)
    _step(model, optimizer)
    _forward(model).sum().backward()
    return model, optimizer


INTO = ["_starts", "check_optimizer", "state_to_factors", "gradients_for_factors", "attach"]
INTO += ["attach_tied", "make_recognizable", "exchange", "set_weight_decay_on", "warn_of_hooks"]


@pytest.mark.parametrize("name", INTO)
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("when", ["before", "after"])
def test_overparameterize(
    monkeypatch: pytest.MonkeyPatch, name: str, count: int, when: str
) -> None:
    model, optimizer = _prepared(expanded=False)
    before = _picture(model, optimizer)
    calls = _fail_at(monkeypatch, overparameterize_module, name, count, when)
    settings: dict[str, Any] = {"targets": "all", "optimizer": optimizer}
    try:
        overparameterize(model, weight_decay_on="product", **settings)
    except InjectedError:
        after = _picture(model, optimizer)
        if (name, when) == ("set_weight_decay_on", "after"):  # it is done by then
            before[5] = after[5]
        assert after == before
    else:
        assert len(calls) < count
    monkeypatch.undo()
    if not list(places(model)):
        overparameterize(model, weight_decay_on="product", **settings)
    _step(model, optimizer)


def test_overparameterize_fails_inside_the_order_of_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer = _prepared(expanded=False)
    before = _picture(model, optimizer)
    _fail_at(monkeypatch, overparameterize_module.GroupOrder, "restore", 1, "after")
    with pytest.raises(InjectedError):
        overparameterize(model, targets="all", optimizer=optimizer)
    assert _picture(model, optimizer) == before
    _step(model, optimizer)


OUT = ["check_collapse", "warn_of_hooks", "gradient_of_weight", "state_to_weight", "take_out"]
OUT += ["refuse_plain_checkpoints", "exchange", "first_difference", "outputs_of"]


@pytest.mark.parametrize("name", OUT)
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("when", ["before", "after"])
def test_collapse(monkeypatch: pytest.MonkeyPatch, name: str, count: int, when: str) -> None:
    model, optimizer = _prepared(expanded=True)

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Tensor) -> Tensor:
            return _forward(self.inner) + x

    whole = Whole()
    before = _picture(whole, optimizer)
    calls = _fail_at(monkeypatch, collapse_module, name, count, when)
    try:
        collapse(whole, optimizer=optimizer, example_inputs=torch.zeros(1))
    except InjectedError:
        assert _picture(whole, optimizer) == before
    else:
        assert len(calls) < count
    monkeypatch.undo()
    _step(model, optimizer)
    collapse(whole, optimizer=optimizer)
    _step(model, optimizer)


@pytest.mark.parametrize("name", ["take_out", "refuse_plain_checkpoints"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_entering_collapsed(monkeypatch: pytest.MonkeyPatch, name: str, count: int) -> None:
    model, optimizer = _prepared(expanded=True)
    before = _picture(model, optimizer)
    _fail_at(monkeypatch, collapse_module, name, count, "after")
    with pytest.raises(InjectedError), collapsed(model):
        pass
    assert _picture(model, optimizer) == before
    _step(model, optimizer)


@pytest.mark.parametrize("name", ["make_recognizable", "initial_factors"])
@pytest.mark.parametrize("count", [1, 2])
def test_leaving_collapsed(monkeypatch: pytest.MonkeyPatch, name: str, count: int) -> None:
    """The model stays plain, as a whole."""
    model, _ = _prepared(expanded=True)
    plain, context = _model(), collapsed(model)
    context.__enter__()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    _fail_at(monkeypatch, collapse_module, name, count, "after")
    with pytest.raises(InjectedError):
        context.__exit__(None, None, None)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert not list(places(model))
    _forward(model).sum().backward()


class Wrapped(torch.optim.Optimizer):
    """Hands all on and takes no hooks, as wrappers of other libraries do."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        self.inner = inner

    param_groups = property(lambda self: self.inner.param_groups)  # pyright: ignore
    state = property(lambda self: self.inner.state)  # pyright: ignore


@pytest.mark.parametrize(
    "verb", [overparameterize, lambda m, **kw: set_weight_decay_on(m, kw["optimizer"])]
)
def test_decay_of_the_product_by_a_wrapped_optimizer_is_refused_first(
    verb: Callable[..., Any],
) -> None:
    model, optimizer = _prepared(expanded=False)
    before = _picture(model, optimizer)
    wrapped = Wrapped(optimizer)
    for group in wrapped.param_groups:
        group["decoupled_weight_decay"] = True
    with pytest.raises(
        TypeError, match=r"Wrapped takes no hooks .* pass the optimizer that it wraps"
    ):
        verb(model, optimizer=wrapped, weight_decay_on="product")
    assert _picture(model, optimizer) == before
    overparameterize(model, targets="all", optimizer=wrapped)
    _step(model, optimizer)


def test_a_decay_that_cannot_be_leaves_every_factor_alone() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    overparameterize(model)
    first, second = (list(layer.parameters()) for layer in model)
    groups = [{"params": first, "lr": 0.1}, {"params": second, "lr": 2.0}]
    optimizer = torch.optim.AdamW(groups, weight_decay=1.0)
    set_weight_decay_on(model, optimizer)
    model(torch.ones(1, 3)).sum().backward()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    with pytest.raises(ValueError, match="whole or more"):
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
