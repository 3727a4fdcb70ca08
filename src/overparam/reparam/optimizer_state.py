"""An optimizer's parameters exchanged, a weight for its factors or back, with their state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from overparam.factors.transport import check_states


def check_optimizer(optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]) -> None:
    """Raise unless the optimizer holds every parameter that is trained.

    Raises:
        ValueError: one is missing: the optimizer was made for another model, or too early. Or the
            optimizer cannot exchange them.
        NotImplementedError: state of an unknown kind.
    """
    _check_separable(optimizer)
    for parameter in parameters:
        check_states([optimizer.state.get(parameter, {})])
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for parameter in parameters:
        if parameter.requires_grad and id(parameter) not in known:
            raise ValueError(
                f"the optimizer does not hold a chosen weight of shape {tuple(parameter.shape)}; "
                "pass the optimizer that was made from this model's parameters."
            )


def check_collapse(
    optimizer: torch.optim.Optimizer, factors: Sequence[Sequence[nn.Parameter]]
) -> None:
    """Raise unless all factors of one weight are in one group of the optimizer.

    Raises:
        ValueError: they are not, or the optimizer cannot exchange them.
        NotImplementedError: state of an unknown kind.
    """
    _check_separable(optimizer)
    for held in factors:
        check_states([optimizer.state.get(factor, {}) for factor in held])
    number_of = {
        id(p): number
        for number, group in enumerate(optimizer.param_groups)
        for p in group["params"]
    }
    for held in factors:
        numbers = {number_of.get(id(factor)) for factor in held}
        if len(numbers) > 1 or (None in numbers and any(f.requires_grad for f in held)):
            raise ValueError(
                f"the factors of a weight, shapes {[tuple(f.shape) for f in held]}, are not in one "
                "group of the optimizer; collapse without optimizer= and make a new one."
            )


def _check_separable(optimizer: torch.optim.Optimizer) -> None:
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ValueError(
            "LBFGS keeps one state for all parameters together, which cannot be carried across; "
            "leave optimizer= out and make a new one."
        )
    if getattr(optimizer, "is_transform", False):
        raise ValueError(
            f"{type(optimizer).__name__} treats each weight as a product already, and cannot go "
            "on with other parameters; leave optimizer= out and make a new one (for Factored, "
            "optimizer.collapse() gives the plain optimizer with its state)."
        )


@dataclass(frozen=True)
class GroupOrder:
    """How the groups of an optimizer followed the model, to be restored after a change.

    An optimizer's state_dict numbers parameters by their place in the groups. Where a group lists
    them as ``model.parameters()`` does, it does so afterwards, so that the numbers fit an
    optimizer that is made from the changed model.

    Attributes:
        sorted: for each group, whether its parameters of the model were in the model's order.
        names: of parameters, where the optimizer was made from named ones.
        prefix: what those names have before the model's.
    """

    sorted: tuple[bool, ...]
    names: dict[int, str]
    prefix: str

    @classmethod
    def of(cls, optimizer: torch.optim.Optimizer, model: nn.Module) -> GroupOrder:
        """Before the change."""
        positions = {id(p): number for number, p in enumerate(model.parameters())}
        numbers = [
            [positions[id(p)] for p in group["params"] if id(p) in positions]
            for group in optimizer.param_groups
        ]
        names = {
            id(p): name
            for group in optimizer.param_groups
            for p, name in zip(group["params"], group.get("param_names", ()), strict=False)
        }
        prefixes = [
            names[id(p)].removesuffix(own) for own, p in model.named_parameters() if id(p) in names
        ]
        return cls(tuple(n == sorted(n) for n in numbers), names, (*prefixes, "")[0])

    def restore(self, optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
        """After the change."""
        own = {id(p): name for name, p in model.named_parameters()}
        positions = {key: number for number, key in enumerate(own)}
        for group, was_sorted in zip(optimizer.param_groups, self.sorted, strict=True):
            params = group["params"]
            slots = [slot for slot, p in enumerate(params) if id(p) in own]
            if was_sorted:
                in_order = sorted((params[slot] for slot in slots), key=lambda p: positions[id(p)])
                for slot, parameter in zip(slots, in_order, strict=True):
                    params[slot] = parameter
            if "param_names" in group:
                group["param_names"] = [
                    self.names.get(id(p), self.prefix + own.get(id(p), "")) for p in params
                ]


def exchange(
    optimizer: torch.optim.Optimizer,
    old: Sequence[nn.Parameter],
    new: Sequence[nn.Parameter],
    states: Sequence[dict[str, Any]],
) -> None:
    """Put ``new`` parameters with their states where the first of ``old`` stands, if it does."""
    old_ids = {id(parameter) for parameter in old}
    for group in optimizer.param_groups:
        for position, parameter in enumerate(group["params"]):
            if id(parameter) in old_ids:
                rest = [p for p in group["params"][position:] if id(p) not in old_ids]
                group["params"] = [*group["params"][:position], *new, *rest]
                for gone in old:
                    optimizer.state.pop(gone, None)
                for each, state in zip(new, states, strict=True):
                    if state:
                        optimizer.state[each] = state
                return
