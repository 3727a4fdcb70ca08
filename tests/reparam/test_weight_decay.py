"""Decay of the product however a step is called: with a closure, with scaled gradients."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from overparam.reparam import overparameterize, set_weight_decay_on

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p, **kw: torch.optim.SGD(p, lr=0.1, weight_decay=0.5, **kw),
    "adam": lambda p, **kw: torch.optim.Adam(p, lr=0.01, weight_decay=0.5, **kw),
    "adamw": lambda p, **kw: torch.optim.AdamW(p, lr=0.1, weight_decay=0.5, **kw),
}
EACH = pytest.mark.parametrize("name", OPTIMIZERS)


def _problem(name: str, **settings: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    overparameterize(model)
    optimizer = OPTIMIZERS[name](model.parameters(), **settings)
    set_weight_decay_on(model, optimizer, "product")
    return model, optimizer


def _loss(model: nn.Module) -> Tensor:
    x = torch.linspace(-1, 1, 48, dtype=torch.float64).reshape(8, 6)
    return (model(x) - 1).square().mean()


def _weights(model: nn.Module) -> list[Tensor]:
    return [model[0].weight.detach(), model[2].weight.detach()]


def _plain_run(name: str, steps: int) -> list[Tensor]:
    model, optimizer = _problem(name)
    for _ in range(steps):
        optimizer.zero_grad()
        _loss(model).backward()
        optimizer.step()
    return _weights(model)


@EACH
@pytest.mark.parametrize("by_name", [False, True])
def test_a_closure_makes_no_difference(name: str, by_name: bool) -> None:
    """Lightning steps with a closure, which computes the gradients within the step."""
    model, optimizer = _problem(name)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = _loss(model)
        loss.backward()
        return loss

    for _ in range(4):
        loss = optimizer.step(closure=closure) if by_name else optimizer.step(closure)
        assert loss is not None
    for first, second in zip(_weights(model), _plain_run(name, 4), strict=True):
        torch.testing.assert_close(first, second)


@EACH
@pytest.mark.parametrize("fused", [False, True])
def test_scaled_gradients_make_no_difference(name: str, fused: bool) -> None:
    """A fused optimizer unscales and skips by itself, after the hook."""
    model, optimizer = _problem(name, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    for number in range(5):
        optimizer.zero_grad()
        loss = scaler.scale(_loss(model))
        # The second step overflows and is skipped.
        (loss * float("inf") if number == 1 else loss).backward()
        scaler.step(optimizer)
        scaler.update(256.0)
    for first, second in zip(_weights(model), _plain_run(name, 4), strict=True):
        torch.testing.assert_close(first, second)
