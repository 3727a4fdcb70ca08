"""Parameter groups: a model in place of its parameters, and how each parameter is read.

A tensor alone does not say that it is a grouped convolution or a packed attention projection;
its layer does. So a group takes a model (or any module) as its ``"params"``. What was decided for
each parameter stands beside it in ``"views"`` as a plain tuple, which any checkpoint can hold: the
reason, then the fields of its view. Where it is trained as it is, the reason is followed by its
kind, or by nothing where it has none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from overparam._words import warn_user
from overparam.layers.select import (
    Selected,
    Skipped,
    Targets,
    check_pattern,
    matches,
    select_parameters,
)
from overparam.layers.shapes import ambiguity_warning, view_by_shape
from overparam.layers.views import MatrixView

Params = nn.Module | Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]

ENTRYWISE = "it acts entry by entry"


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
        views = [_decided(entry) for entry in entries]
        result.append({**options, **changes, "params": params, "views": views})
    return result


def views_of(model: nn.Module, params: Iterable[Tensor], choice: Choice) -> list[Any]:
    """What stands in ``"views"`` for parameters of a model; others are read by their shape."""
    selection = select_parameters(model, choice.targets, choice.exclude, optimizer=True)
    known: dict[Tensor, Any] = {entry.parameter: _decided(entry) for entry in selection.entries}
    return [known[p] if p in known else view_by_shape(tuple(p.shape)) for p in params]


def accepts_names(groups: list[dict[str, Any]]) -> bool:
    """Whether a further group may have names: torch wants them in all groups or in none."""
    return not groups or "param_names" in groups[0]


def complete_views(group: dict[str, Any]) -> None:
    """Say how every parameter of a group is read, and check what was given.

    A group that came without a model is read by the shapes of its tensors; where a shape fits
    several readings, a warning names the tensors.

    Raises:
        TypeError: a parameter is not of a real floating-point dtype.
        ValueError: not one view per parameter, or a view for another shape.
    """
    params, names = group["params"], names_of(group, "")
    views = group.get("views")
    if views is None:
        _check_dtypes(zip(names, params, strict=True))
        views = [view_by_shape(tuple(p.shape), name) for name, p in zip(names, params, strict=True)]
        warning = ambiguity_warning(zip(names, views, strict=True))
        if warning is not None and not is_inner_alone(group) and _has_matrices(group):
            warn_user(warning)
    if len(views) != len(params):
        raise ValueError(f"views lists {len(views)} entries for {len(params)} parameters.")
    entries = [_entry(view) for view in views]
    for name, p, entry in zip(names, params, entries, strict=True):
        if is_chosen(entry):
            _check_dtypes([(name, p)])
            if _view(entry).shape != tuple(p.shape):
                raise ValueError(
                    f"{name} has shape {tuple(p.shape)} and its view is for {_view(entry).shape}."
                )
    group["views"] = entries


def readings(group: dict[str, Any]) -> Iterator[tuple[Tensor, MatrixView | None, str]]:
    """Each parameter of a group with its view, None where it is trained as it is, and the reason.

    A parameter that was exchanged for one of another shape is read by its shape.
    """
    views: list[Any] = group["views"]
    if len(views) != len(group["params"]):
        group.pop("views")
        complete_views(group)
        views = group["views"]
    for place, (p, entry) in enumerate(zip(group["params"], views, strict=True)):
        view = _view(_frozen(entry)) if is_chosen(entry) else None
        if view is not None and view.shape != tuple(p.shape):
            view = view_by_shape(tuple(p.shape))
            views[place] = entry = _entry(view)
        yield p, view, entry[0]


def is_chosen(entry: Any) -> bool:
    """Whether what stands in ``"views"`` for a parameter holds the view that it is trained by."""
    return len(entry) > 2


def kinds(group: dict[str, Any]) -> list[str]:
    """The kind of each parameter of a group, empty where it has none."""
    return [entry[1] if len(entry) > 1 else "" for entry in group["views"]]


def saved_view(group: dict[str, Any], place: int) -> MatrixView | None:
    """The view of a parameter in a group that was saved, by version 0.1 too; None if unknown."""
    views = group.get("views") or []
    entry = views[place] if place < len(views) else None
    if entry is None or not is_chosen(entry):
        return None
    return _view(_frozen(entry if len(entry) == 7 else ("", *entry)))


def names_of(group: dict[str, Any], prefix: str) -> list[str]:
    """A name for each parameter of a group: its own where known, else its place."""
    given = group.get("param_names")
    return list(given) if given else [f"{prefix}parameter {i}" for i in range(len(group["params"]))]


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


def _check_dtypes(params: Iterable[tuple[str, Tensor]]) -> None:
    for name, p in params:
        if not p.is_floating_point():
            raise TypeError(
                f"{name} has dtype {p.dtype}; the end-to-end rule needs a real floating-point "
                "parameter: leave it out of the groups."
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


def _entry(view: Any) -> tuple[Any, ...]:
    """What stands in ``"views"`` for a view, for None, or for an entry that was saved."""
    if view is None or isinstance(view, MatrixView):
        return (ENTRYWISE if view is None else "read by its shape", *_fields(view))
    return _frozen(view)


def _decided(entry: Selected | Skipped) -> tuple[Any, ...]:
    """What stands in ``"views"`` for a parameter of a model."""
    if isinstance(entry, Selected):
        return (entry.reason, *_fields(entry.view))
    return (entry.reason, *([] if entry.view is None else [entry.view.kind]))


def _fields(view: MatrixView | None) -> tuple[Any, ...]:
    return () if view is None else dataclasses.astuple(view)


def _frozen(entry: Any) -> tuple[Any, ...]:
    return tuple(tuple(each) if isinstance(each, (list, tuple)) else each for each in entry)


def _view(entry: tuple[Any, ...]) -> MatrixView:
    return MatrixView(*entry[1:])
