"""Parameter groups: a model in place of its parameters, split by the user's words on it.

A tensor alone does not say that it is a grouped convolution or a packed attention projection;
its layer does. So a group takes a model (or any module) as its ``"params"``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from overparam._words import warn_user
from overparam.layers.entries import entry_of, names_of, readings
from overparam.layers.select import Targets, check_pattern, matches, select_parameters
from overparam.layers.shapes import view_by_shape

Params = nn.Module | Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]


@dataclass(frozen=True)
class Choice:
    """The user's words on which weights of a model are chosen, and with which options.

    Attributes:
        targets: which weights, see :func:`overparam.layers.select_parameters`.
        exclude: weights to leave out.
        overrides: options by regular expression that must match the whole name of a weight or of
            its module; ``"view"`` is the reading of the weight, all else an option of its group.
    """

    targets: Targets | None = None
    exclude: Targets | None = None
    overrides: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)


def with_modules(params: Params) -> Any:
    """``params`` for torch, where a model stands for one group with all its parameters.

    torch wants names in all groups or in none: where one has none, modules go without too.
    """
    if isinstance(params, nn.Module):
        return [{"params": params}]
    if isinstance(params, Tensor):
        return params  # torch's error for this names the remedy
    groups: list[Any] = list(params)
    if not any(isinstance(group, dict) for group in groups):
        return groups
    groups = [_listed(group) for group in groups]
    named = all(_is_named(group) for group in groups)
    return [{**group, "_named": named} if _is_module(group) else group for group in groups]


def expanded(group: dict[str, Any], choice: Choice, *, named: bool) -> list[dict[str, Any]]:
    """The groups that one group stands for: a module's parameters, one group for each override.

    Args:
        group: any group; one without a module stays as it is.
        choice: which weights of a module are chosen.
        named: whether parameters keep their names, where the group does not say.

    Raises:
        TypeError: the group is not a dict.
        ValueError: the module has no parameters, or an override matches none.
    """
    if not isinstance(group, dict):
        raise TypeError(f"param_group must be a dict, but got {type(group)}")
    module, named = group["params"], group.get("_named", named)
    options = {name: value for name, value in group.items() if name != "_named"}
    if not isinstance(module, nn.Module):
        return [options]
    if next(module.parameters(), None) is None:
        raise ValueError(f"{type(module).__name__} has no parameters to optimize.")
    for pattern in choice.overrides:
        check_pattern("overrides", pattern)
    given = {p: options["view"] for p, options in choice.overrides.items() if "view" in options}
    selection = select_parameters(module, choice.targets, choice.exclude, given, optimizer=True)
    parts: dict[tuple[str, ...], list[Any]] = {}
    for entry in selection.entries:
        parts.setdefault(_overrides_of(entry.sites, choice), []).append(entry)
    _check_overrides(choice, parts)
    result = []
    for patterns, entries in parts.items():
        changes: dict[str, Any] = {}
        for pattern in patterns:
            changes.update(choice.overrides[pattern])
        changes.pop("view", None)
        params = [(e.name, e.parameter) if named else e.parameter for e in entries]
        views = [entry_of(each) for each in entries]
        result.append({**options, **changes, "params": params, "views": views})
    return result


def views_of(model: nn.Module, params: Iterable[Tensor], choice: Choice) -> list[Any]:
    """What stands in ``"views"`` for parameters of a model; others are read by their shape."""
    selection = select_parameters(model, choice.targets, choice.exclude, optimizer=True)
    known: dict[Tensor, Any] = {each.parameter: entry_of(each) for each in selection.entries}
    return [known[p] if p in known else view_by_shape(tuple(p.shape)) for p in params]


def accepts_names(groups: list[dict[str, Any]]) -> bool:
    """Whether a further group may have names: torch wants them in all groups or in none."""
    return not groups or "param_names" in groups[0]


def parameter_names(groups: list[dict[str, Any]]) -> dict[Tensor, str]:
    """A name for each parameter of all groups."""
    return {
        p: name
        for number, group in enumerate(groups)
        for p, name in zip(group["params"], names_of(group, f"group {number}, "), strict=True)
    }


def check_whole(group: dict[str, Any]) -> None:
    """Raise where a process holds a part of a parameter.

    Raises:
        ValueError: FSDP1's flat parameters, or a DTensor.
    """
    for name, p in zip(names_of(group, ""), group["params"], strict=True):
        if getattr(p, "_fsdp_flattened", False) or type(p).__name__ == "FlatParameter":
            raise ValueError(
                f"{name} is a flat shard of FullyShardedDataParallel, which holds parts of several "
                "weights: overparam cannot tell the matrices in it. Use DistributedDataParallel."
            )
        if hasattr(p, "placements"):
            raise ValueError(
                f"{name} is a DTensor, sharded over processes; overparam's optimizers do not run "
                "on sharded parameters yet. Use DistributedDataParallel, or overparameterize the "
                "model before fully_shard and take an optimizer of torch."
            )


def warn_of_zeros(names: list[str], remedy: str) -> None:
    """Warn of weights that no step moves, if there are any."""
    if names:
        warn_user(
            f"all-zero weights stay zero for depth > 1: {', '.join(names)}. Initialize them, "
            f"{remedy}, or put them in a group with depth=1."
        )


def warn_of_unknown(group: dict[str, Any]) -> None:
    """Warn of matrices that are trained as they are because no one registered their layer."""
    unknown = [
        f"{name}: {reason}"
        for name, (_, _, reason) in zip(names_of(group, ""), readings(group), strict=True)
        if "is not a layer that overparam knows" in reason
    ]
    if unknown:
        warn_user(
            f"some matrices take the plain step of the inner optimizer. {'; '.join(unknown)}."
        )


def is_inner_alone(group: dict[str, Any]) -> bool:
    """Whether the options of a group leave every parameter to the inner optimizer."""
    return group.get("depth") == 1 or group.get("radial") == 1 or bool(group.get("fallback"))


def _has_matrices(group: dict[str, Any]) -> bool:
    """Whether it matters how tensors are read: not where each counts as one vector."""
    return group.get("granularity") != "tensor"


def _overrides_of(sites: tuple[Any, ...], choice: Choice) -> tuple[str, ...]:
    return tuple(p for p in choice.overrides if any(matches(p, site) for site in sites))


def _check_overrides(choice: Choice, parts: Mapping[tuple[str, ...], Any]) -> None:
    used = {pattern for patterns in parts for pattern in patterns}
    for pattern in choice.overrides:
        if pattern not in used:
            raise ValueError(
                f"overrides[{pattern!r}] matches no parameter; it must match the whole name of "
                "one, or of its module."
            )


def _is_module(group: Any) -> bool:
    return isinstance(group, dict) and isinstance(group.get("params"), nn.Module)


def _listed(group: Any) -> Any:
    """The group with a list of parameters in place of an iterator, which can be read once."""
    params = group.get("params") if isinstance(group, dict) else None
    if params is None or isinstance(params, (nn.Module, Tensor, set)):
        return group
    return {**group, "params": list(params)}


def _is_named(group: Any) -> bool:
    params = group.get("params") if isinstance(group, dict) else None
    return isinstance(params, nn.Module) or (
        isinstance(params, list) and all(isinstance(each, tuple) for each in params)
    )
