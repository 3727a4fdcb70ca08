"""Loading state bit for bit, and state of older versions."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from overparam.optim.groups import complete_views
from overparam.optim.routing import BY_SHAPE

Restore = Callable[[dict[str, Any], dict[str, Any], list[dict[str, Any]]], None]


def load_exactly(
    optimizer: torch.optim.Optimizer,
    load: Callable[[dict[str, Any]], None],
    state_dict: dict[str, Any],
    restore: Restore,
    keep: Sequence[str] = (),
) -> None:
    """Load with torch's own function, in the dtype of the saved state, and complete it.

    Torch casts loaded tensors to the dtype of their parameter, which would round the float32
    momentum of a bfloat16 parameter. Groups saved before an option existed take the present
    value of that option; state of an older version, or of another optimizer, keeps what fits,
    and the rest starts as at construction. Layers are read as the optimizer reads them; where it
    knows no more than a shape, as the saving one did. Hooks of the user see the usual order of
    events.

    Args:
        optimizer: to load into.
        load: torch's own ``load_state_dict``, bound to the optimizer.
        state_dict: to load.
        restore: takes over the saved states of one group's parameters, {} where there is none;
            is given the group, the group as it was saved, and the states.
        keep: options that stay those of the optimizer.

    Raises:
        ValueError: the groups do not fit; the optimizer is as it was.
    """
    loaded: dict[str, Any] = {}
    as_saved: list[dict[str, Any]] = []

    def complete_groups(_: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        saved = state_dict["param_groups"]
        groups = optimizer.param_groups
        completed = saved
        if len(saved) == len(groups):  # torch refuses others
            completed = [_completed(*pair, keep) for pair in zip(groups, saved, strict=True)]
        loaded.update(state_dict, param_groups=completed)
        as_saved.extend(saved)
        return dict(loaded)

    def complete_state(_: torch.optim.Optimizer) -> None:
        for group, then in zip(optimizer.param_groups, as_saved, strict=True):
            restore(group, then, [loaded["state"].get(index, {}) for index in then["params"]])

    before = optimizer.register_load_state_dict_pre_hook(complete_groups)
    after = optimizer.register_load_state_dict_post_hook(complete_state, prepend=True)
    try:
        load(state_dict)
    finally:
        before.remove()
        after.remove()


def _completed(group: dict[str, Any], saved: dict[str, Any], keep: Sequence[str]) -> dict[str, Any]:
    """The options of a saved group, with those of the present group in the place of others."""
    now = {name: value for name, value in group.items() if name not in ("params", "param_names")}
    saved = {**now, **saved}
    if len(group["params"]) != len(saved["params"]):
        return saved  # torch refuses it
    theirs = {**group, "views": saved["views"]}
    complete_views(theirs)  # before anything changes
    saved["views"] = [
        then if mine is not None and mine[0] == BY_SHAPE else mine
        for mine, then in zip(now["views"], theirs["views"], strict=True)
    ]
    return {**saved, **{name: now[name] for name in keep}}


def fits(factors: Sequence[Tensor], saved: dict[str, Any]) -> bool:
    """Whether the saved state of :class:`Factored` has factors, perhaps none, of these shapes."""
    shapes = [tuple(factor.shape) for factor in factors]
    return "factors" in saved and shapes == [tuple(each.shape) for each in saved["factors"]]


def take_over(
    p: Tensor, state: dict[str, Any], saved: dict[str, Any], group: dict[str, Any]
) -> None:
    """Take over the factors and inner states of one parameter of :class:`Factored`, in place."""
    for factor, value in zip(state["factors"], saved["factors"], strict=True):
        factor.copy_(value)
    stepped, were = state["factors"] or [p], saved["factors"] or [p]
    on_device = bool(group.get("capturable") or group.get("fused"))
    for inner, old, now, was in zip(
        state["inner"], saved.get("inner", []), stepped, were, strict=False
    ):
        taken = moved(old, now, was.dtype, step=on_device)  # first: the two may be one
        inner.clear()
        inner.update(taken)


def moved(
    state: dict[str, Any], target: Tensor, dtype: torch.dtype, *, step: bool
) -> dict[str, Any]:
    """A copy of an inner state beside its factor, as torch's own loading puts it there.

    Args:
        state: of an optimizer of torch.
        target: the factor.
        dtype: of the factor that the state was saved with: tensors of it take the target's, all
            others keep theirs.
        step: whether the step counter lives on the device too.
    """

    def move(value: Any) -> Any:
        if isinstance(value, Tensor):
            kind = target.dtype if value.dtype == dtype else value.dtype
            return value.to(target.device, kind, copy=True)
        if isinstance(value, dict):
            return {name: move(each) for name, each in value.items()}
        if type(value) in (list, tuple):
            return type(value)(move(each) for each in value)
        return copy.deepcopy(value)

    def count(value: Any) -> Any:
        value = copy.deepcopy(value)
        return value.to(target.device) if step and isinstance(value, Tensor) else value

    return {name: (count if name == "step" else move)(value) for name, value in state.items()}


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
