"""Loading state bit for bit, and state of older versions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from overparam.optim.groups import complete_views

Restore = Callable[[dict[str, Any], list[dict[str, Any]]], None]


def load_exactly(
    optimizer: torch.optim.Optimizer,
    load: Callable[[dict[str, Any]], None],
    state_dict: dict[str, Any],
    restore: Restore,
) -> None:
    """Load with torch's own function, in the dtype of the saved state, and complete it.

    Torch casts loaded tensors to the dtype of their parameter, which would round the float32
    momentum of a bfloat16 parameter. Groups saved before an option existed take the present
    value of that option; state of an older version, or of another optimizer, keeps what fits,
    and the rest starts as at construction. Hooks of the user see the usual order of events.

    Args:
        optimizer: to load into.
        load: torch's own ``load_state_dict``, bound to the optimizer.
        state_dict: to load.
        restore: takes over the saved states of one group's parameters, {} where there is none.

    Raises:
        ValueError: the groups do not fit; the optimizer is as it was.
    """
    loaded: dict[str, Any] = {}

    def complete_groups(_: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        saved = state_dict["param_groups"]
        if len(saved) == len(optimizer.param_groups):
            present = (_options(group) for group in optimizer.param_groups)
            saved = [{**now, **then} for now, then in zip(present, saved, strict=True)]
            for group, then in zip(optimizer.param_groups, saved, strict=True):
                if len(group["params"]) == len(then["params"]):
                    complete_views({**group, "views": then["views"]})  # before anything changes
        loaded.update(state_dict, param_groups=saved)
        return dict(loaded)

    def complete_state(_: torch.optim.Optimizer) -> None:
        for saved, group in zip(loaded["param_groups"], optimizer.param_groups, strict=True):
            restore(group, [loaded["state"].get(index, {}) for index in saved["params"]])

    before = optimizer.register_load_state_dict_pre_hook(complete_groups)
    after = optimizer.register_load_state_dict_post_hook(complete_state, prepend=True)
    try:
        load(state_dict)
    finally:
        before.remove()
        after.remove()


def _options(group: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key not in ("params", "param_names")}


def merge(fresh: dict[str, Any], saved: dict[str, Any]) -> dict[str, Any]:
    """Fresh state, with the saved tensors of the same name and shape in their own dtype."""
    for key, initial in fresh.items():
        value = saved.get(key)
        if value is None:
            continue
        value = torch.as_tensor(value)
        if value.shape == initial.shape:
            initial.copy_(value)
    return fresh
