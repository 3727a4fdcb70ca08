"""What Factored is told, checked before anything changes, and what it tells other optimizers."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

# What the factors are made by: it stays with them when state is loaded.
SHAPE = ("depth", "width", "init", "factor_dtype", "views")
# What a group has for this optimizer alone; all else belongs to the inner one, or to users.
OWN = (*SHAPE, "weight_decay_on", "params", "param_names")
_DECAYS = ("product", "factors")


def check_options(options: dict[str, Any]) -> None:
    """Raise unless the options of Factored itself are in range."""
    depth = options["depth"]
    if isinstance(depth, bool) or not isinstance(depth, int):
        raise TypeError(
            f"depth is {depth!r}; a product has a whole number of factors. For real depth use "
            "overparam.optim.EndToEnd."
        )
    if depth < 1:
        raise ValueError(f"depth is {depth}; use an integer >= 1.")
    if options["weight_decay_on"] not in _DECAYS:
        raise ValueError(
            f"weight_decay_on is {options['weight_decay_on']!r}; use one of {', '.join(_DECAYS)}."
        )
    if not callable(options["init"]) and options["init"] != "balanced":
        raise ValueError(f"init is {options['init']!r}; use 'balanced' or a function.")


def check_decay(group: dict[str, Any]) -> None:
    """Raise where the product would decay by more than the whole.

    A learning rate on an accelerator is not read: the host would wait for it.
    """
    lr, decay = group.get("lr", 0), group.get("weight_decay", 0)
    if group["weight_decay_on"] != "product" or decay == 0:
        return
    if isinstance(lr, Tensor):
        if lr.device.type != "cpu":
            return
        lr = lr.item()
    if lr * decay > 1:
        raise ValueError(
            f"lr * weight_decay is {lr * decay}: the product cannot decay by more than the whole; "
            'lower one of them, or use weight_decay_on="factors".'
        )


def check_held(number: int, depth: Any, held: set[int]) -> None:
    """Raise where the depth of a group is not the number of factors that its weights have.

    Args:
        number: of the group.
        depth: as the group has it now.
        held: numbers of factors, 0 for a weight that is not factored.
    """
    if held - {depth if depth != 1 else 0}:
        made = max(1, *held)
        raise ValueError(
            f"depth is {depth!r} in group {number}, whose weights were factored with depth {made}: "
            "depth cannot change during a run. Set it back, or go on with "
            f"Factored.expand(optimizer.collapse(), depth={depth!r})."
        )


def check_inner(inner: Optimizer) -> None:
    """Raise for an optimizer that factors outside the model cannot work with."""
    closure = inspect.signature(type(inner).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise TypeError(
            f"{type(inner).__name__} calls the model by itself within a step, which the factors "
            "are no part of; use an inner optimizer whose step needs no closure."
        )
    if inner.defaults.get("differentiable"):
        raise ValueError(
            "differentiable=True: gradients do not flow through a step of Factored; train explicit "
            "factors, overparam.overparameterize, or use EndToEnd."
        )


def named(group: dict[str, Any]) -> dict[str, Any]:
    """The ``"params"`` of a group for a constructor, with their names where they have some."""
    params, names = group["params"], group.get("param_names")
    return {"params": list(zip(names, params, strict=True)) if names else list(params)}


def copied(options: dict[str, Any]) -> dict[str, Any]:
    """Options for another optimizer: a learning rate tensor changes in place, each has its own."""
    return {
        name: value.detach().clone() if isinstance(value, Tensor) else value
        for name, value in options.items()
    }


def arguments(optimizer: Optimizer) -> dict[str, Any]:
    """Options to construct an optimizer of the same class."""
    accepted = inspect.signature(type(optimizer)).parameters
    options = copied(optimizer.defaults)
    return {name: value for name, value in options.items() if name in accepted}
