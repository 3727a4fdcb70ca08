"""Small runs of every wrapper around many inner optimizers, and what they leave behind."""

import functools
import importlib
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from overparam.optim import EndToEnd, Factored, Radial

HALF, STEPS = 3, 6

WRAPPERS: dict[str, Callable[..., Optimizer]] = {
    "EndToEnd": EndToEnd,
    "Factored": Factored,
    "Radial": Radial,
}

OF_TORCH: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1},
    "Adam": {"lr": 0.02, "weight_decay": 0.1, "amsgrad": True},
    "AdamW": {"lr": 0.02, "weight_decay": 0.1},
    "Adamax": {"lr": 0.02, "weight_decay": 0.1},
    "Adagrad": {"lr": 0.02, "weight_decay": 0.1},
    "Adadelta": {"lr": 0.2, "weight_decay": 0.1},
    "RMSprop": {"lr": 0.01, "weight_decay": 0.1, "momentum": 0.9, "centered": True},
    "RAdam": {"lr": 0.02, "weight_decay": 0.1},
    "NAdam": {"lr": 0.02, "weight_decay": 0.1},
    "Adafactor": {"lr": 0.05, "weight_decay": 0.1},
    "ASGD": {"lr": 0.05, "t0": 2, "weight_decay": 0.1},
    "Rprop": {"lr": 0.01},
    "Muon": {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1},
}
"""Options with every inner optimizer of torch that steps by itself on dense gradients."""

OF_OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "Prodigy": ("prodigyopt", {"lr": 1.0, "d0": 1e-2}),
    "AdamWScheduleFree": ("schedulefree", {"lr": 0.05, "weight_decay": 0.1, "warmup_steps": 2}),
    "Lamb": ("pytorch_optimizer", {"lr": 0.02, "weight_decay": 0.1}),
    "Adan": ("pytorch_optimizer", {"lr": 0.02, "weight_decay": 0.1}),
}
"""Package and options; each counts in its groups, not in its state."""

INNER = (*OF_TORCH, *OF_OTHERS)


def options_of(inner: str, *, for_plain: bool = False) -> dict[str, Any]:
    """Everything but the parameters, for a wrapper, or for the plain inner optimizer."""
    if inner in OF_TORCH:
        kind, options = getattr(torch.optim, inner), OF_TORCH[inner]
    else:
        package, options = OF_OTHERS[inner]
        pytest.importorskip(package, reason=f"{package} is not installed; install the extra 'test'")
        kind = getattr(importlib.import_module(package), inner)
    if for_plain:
        return {"kind": kind, **options}
    if inner == "Muon":  # matrices only
        options = {**options, "fallback": "adamw", "fallback_options": {"lr": 0.01}}
    return {"inner": kind, **options}


def network(seed: int = 0, device: str = "cpu") -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).to(device)


def batches() -> Tensor:
    """One batch for each step."""
    return torch.randn(STEPS, 5, 4, generator=torch.Generator().manual_seed(3))


def loss_of(model: nn.Module, batch: Tensor) -> Tensor:
    return (model(batch) - batch[:, :3].cos()).square().mean()


def wrapped(wrapper: str, inner: str, model: nn.Module, **options: Any) -> Optimizer:
    """A wrapper around an inner optimizer, ready to train."""
    optimizer = WRAPPERS[wrapper](model, **{**options_of(inner), **options})
    ready(optimizer)
    return optimizer


def ready(optimizer: Any) -> None:
    if "train_mode" in optimizer.param_groups[0]:
        optimizer.train()


def started(wrapper: str, inner: str, seed: int = 0) -> tuple[nn.Sequential, Optimizer]:
    model = network(seed)
    return model, wrapped(wrapper, inner, model)


def advance(model: nn.Module, optimizer: Optimizer, steps: Iterable[int]) -> None:
    data = batches()
    for step in steps:
        optimizer.zero_grad()
        loss_of(model, data[step]).backward()
        optimizer.step()


def contents(model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Weights, state and groups, with a name for each value."""
    saved = optimizer.state_dict()
    found: dict[str, Any] = {f"weight {k}": v.detach() for k, v in model.state_dict().items()}
    for index, state in saved["state"].items():
        found.update((f"state {index} {name}", value) for name, value in state.items())
    for index, group in enumerate(saved["param_groups"]):
        found.update((f"group {index} {name}", value) for name, value in group.items())
    return found


def copied(found: dict[str, Any]) -> dict[str, Any]:
    return {k: v.clone() if isinstance(v, Tensor) else v for k, v in found.items()}


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Bit for bit, with nothing left out and nothing more."""
    assert not set(found) ^ set(expected), set(found) ^ set(expected)
    for name, value in expected.items():
        if isinstance(value, Tensor):
            assert found[name].dtype == value.dtype, name
            assert torch.equal(found[name], value), (name, found[name], value)
        else:
            assert _listed(found[name]) == _listed(value), (name, found[name], value)


def _listed(value: Any) -> Any:
    """Checkpoints make lists of tuples."""
    return [_listed(each) for each in value] if isinstance(value, (list, tuple)) else value


@functools.cache
def in_one_piece(wrapper: str, inner: str) -> dict[str, Any]:
    model, optimizer = started(wrapper, inner)
    advance(model, optimizer, range(STEPS))
    return contents(model, optimizer)
