"""An inner optimizer that raises an error in the middle of its work: nothing has happened."""

import copy
from typing import Any

import pytest
import torch
from support.inner_cases import WRAPPERS, advance, batches, loss_of, network
from support.optim_cases import assert_same_bits, mixed, parameters_of, run
from torch import Tensor
from torch.optim import AdamW, Optimizer

from overparam import EndToEnd, Factored, Radial

ALL = 4
"""Tensors of the network."""


class Careless(Optimizer):
    """Writes to all that an optimizer can write to, and fails after a number of tensors."""

    fail_after: float = float("inf")

    def __init__(self, params: Any, lr: float = 0.01) -> None:
        super().__init__(params, {"lr": lr, "k": 0, "mean": None})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        done = 0
        for group in self.param_groups:
            group["k"] += 1
            if group["mean"] is None:
                group["mean"] = torch.zeros(())
            group["mean"].add_(1)
            group["seen"] = group.get("seen", 0) + 1
            for p in group["params"]:
                if p.grad is None:
                    continue
                if done >= self.fail_after:
                    raise ArithmeticError("half-way")
                state = self.state[p]
                state.setdefault("sum", torch.zeros_like(p)).add_(p.grad)
                state["step"] = state.get("step", 0) + 1
                p.grad.mul_(0.5)
                p.sub_(state["sum"] + p.grad, alpha=group["lr"])
                done += 1
        if done >= self.fail_after:
            raise ArithmeticError("after all")


def everything(model: torch.nn.Module, optimizer: Optimizer) -> list[Any]:
    gradients = [p.grad for p in model.parameters()]
    state = optimizer.state_dict()
    return copy.deepcopy(
        [list(model.parameters()), gradients, state["state"], optimizer.param_groups]
    )


def assert_bits(found: Any, expected: Any) -> None:
    if isinstance(expected, Tensor):
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for name in expected:
            assert_bits(found[name], expected[name])
    elif isinstance(expected, (list, tuple)):
        for one, other in zip(found, expected, strict=True):
            assert_bits(one, other)
    else:
        assert found == expected


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("fail_after", [0, 1, 2, 3, ALL])
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_nothing_has_happened(
    wrapper: str, depth: int, fail_after: int, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    option = {"radial": depth} if wrapper == "Radial" else {"depth": depth}
    runs = []
    for _ in range(2):
        model = network()
        groups = [{"params": model[0]}, {"params": model[2]}]
        optimizer = WRAPPERS[wrapper](groups, lr=0.01, inner=Careless, **option)
        advance(model, optimizer, range(steps))
        runs.append((model, optimizer))
    (model, optimizer), other = runs
    optimizer.zero_grad()
    loss_of(model, batches()[steps]).backward()
    before = everything(model, optimizer)
    lists = [group["params"] for group in optimizer.param_groups]
    monkeypatch.setattr(Careless, "fail_after", fail_after)
    with pytest.raises(ArithmeticError):
        optimizer.step()
    assert_bits(everything(model, optimizer), before)
    assert all(g["params"] is each for g, each in zip(optimizer.param_groups, lists, strict=True))
    monkeypatch.undo()
    advance(model, optimizer, range(steps, steps + 2))
    advance(*other, range(steps, steps + 2))
    assert_bits(everything(model, optimizer), everything(*other))


class Refuses(AdamW):
    def step(self, closure: None = None) -> None:
        raise ArithmeticError("before")


@pytest.mark.parametrize("wrapper", ["torch", *WRAPPERS])
def test_weights_are_as_before_where_torch_refuses(wrapper: str) -> None:
    model = network()
    if wrapper == "torch":
        optimizer: Optimizer = Refuses(model.parameters())
    else:
        optimizer = WRAPPERS[wrapper](model, inner=Refuses)
    loss_of(model, batches()[0]).backward()
    before = everything(model, optimizer)
    with pytest.raises(ArithmeticError, match="before"):
        optimizer.step()
    assert_bits(everything(model, optimizer), before)


@pytest.mark.parametrize("kind", [EndToEnd, Factored, Radial])
def test_a_checkpoint_of_another_inner_optimizer_changes_nothing(kind):
    model = mixed()
    saved = kind(copy.deepcopy(model), lr=0.1, inner="sgd", momentum=0.9)
    for group in saved.param_groups:
        for p in group["params"]:
            p.grad = torch.ones_like(p)
    saved.step()
    optimizer = kind(model, lr=0.1, inner="adamw")
    run(model, optimizer, 1)
    twin, its_optimizer = copy.deepcopy((model, optimizer))
    with pytest.raises(ValueError, match="no 'step' of AdamW: another inner optimizer saved it"):
        optimizer.load_state_dict(saved.state_dict())
    run(model, optimizer, 2)
    run(twin, its_optimizer, 2)
    assert_same_bits(parameters_of(model), parameters_of(twin))
