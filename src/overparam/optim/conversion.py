"""From factors in an optimizer to a plain optimizer and back, with state."""

from __future__ import annotations

import copy
import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from overparam.factors import transport
from overparam.factors.store import is_factored, layout_of, prefix_of
from overparam.layers.choice import Choice
from overparam.layers.entries import readings
from overparam.sharded import check_alone

if TYPE_CHECKING:
    from overparam.optim.factored import Factored

State = dict[str, Any]
_OWN_OPTIONS = frozenset(
    {"views", "depth", "width", "init", "factor_dtype", "weight_decay_on", "params", "param_names"}
)


@torch.no_grad()
def collapse_optimizer(factored: Factored) -> Optimizer:
    """A plain inner optimizer on the weights; see :meth:`Factored.collapse`."""
    check_alone("collapse()", factored.param_groups, factored._owned.among)
    inner, store = factored._inner, factored.store
    states: dict[Tensor, State] = {}
    for group in factored.param_groups:
        for p, view, _ in readings(group):
            factors = store.factors(p)
            if not factors or view is None:
                states[p] = copy.deepcopy(factored.inner_state(p, ""))
                continue
            numbers = range(1, len(factors) + 1)
            parts = [factored.inner_state(p, prefix_of(number)) for number in numbers]
            states[p] = transport.state_to_weight(layout_of(view, factors), factors, parts)
    # What schedulers and users keep in a group, initial_lr for one, goes along.
    groups = [
        {**_copied({n: v for n, v in group.items() if n not in _OWN_OPTIONS}), **_named(group)}
        for group in factored.param_groups
    ]
    plain = type(inner)(groups, **_arguments(inner))
    plain.state.update((p, state) for p, state in states.items() if state)
    return plain


@torch.no_grad()
def expand_optimizer(
    kind: type[Factored],
    optimizer: Optimizer,
    depth: int,
    model: nn.Module | None,
    options: dict[str, Any],
) -> Factored:
    """Factors with the state of a plain optimizer; see :meth:`Factored.expand`."""
    if not isinstance(optimizer, Optimizer) or getattr(optimizer, "is_transform", False):
        raise TypeError(
            f"expand() goes on from a plain optimizer, and this is a {type(optimizer).__name__}; "
            "pass the optimizer whose state the factors are to take over, or make a new Factored."
        )
    check_alone("expand()", optimizer.param_groups)
    # A scheduler starts from the initial_lr of a group where it has one.
    start = _copied({"initial_lr": options["lr"]}) if "lr" in options else {}
    words = {name: options.pop(name) for name in ("targets", "exclude") if name in options}
    groups = [
        {**_copied(group), **(start if "initial_lr" in group else {}), **options, **_named(group)}
        for group in optimizer.param_groups
    ]
    if model is not None:
        for group, plain in zip(groups, optimizer.param_groups, strict=True):
            group["views"] = Choice(**words).views(model, plain["params"])
    taken = {**_arguments(optimizer), **options}
    factored = kind(groups, inner=type(optimizer), depth=depth, **taken)
    for group in factored.param_groups:
        for p, view, _ in readings(group):
            old = optimizer.state.get(p, {})
            if not old:
                continue
            if view is None or not is_factored(p, view, group):
                factored.state[p].update(copy.deepcopy(old))
                continue
            layout = factored.store.layout(p, view, group)
            parts = transport.state_to_factors(layout, factored.factors(p), old)
            factored.store.move_in(p)
            for number, part in enumerate(parts, start=1):
                named = {prefix_of(number) + name: value for name, value in part.items()}
                factored.state[p].update(named)
    return factored


def _copied(options: dict[str, Any]) -> dict[str, Any]:
    """Options for another optimizer: a learning rate tensor changes in place, each has its own."""
    return {
        name: value.detach().clone() if isinstance(value, Tensor) else value
        for name, value in options.items()
    }


def _named(group: dict[str, Any]) -> dict[str, Any]:
    """The ``"params"`` of a group for a constructor, with their names where they have some."""
    params, names = group["params"], group.get("param_names")
    return {"params": list(zip(names, params, strict=True)) if names else list(params)}


def _arguments(optimizer: Optimizer) -> dict[str, Any]:
    """Options to construct an optimizer of the same class."""
    accepted = inspect.signature(type(optimizer)).parameters
    options = _copied(optimizer.defaults)
    return {name: value for name, value in options.items() if name in accepted}
