"""Parameter groups: a model in place of its parameters, and the layout of each parameter.

A tensor alone does not say that it is a grouped convolution or a packed attention projection;
its layer does. So a group takes a model (or any module) as its ``"params"``, and remembers in
``"views"`` how each parameter is read, as plain tuples that any checkpoint can hold.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from overparam.layers.views import MatrixView, model_views
from overparam.optim.routing import view_by_shape

Params = nn.Module | Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]


def with_modules(params: Params) -> Any:
    """``params`` for torch, where a model stands for one group with all its parameters.

    torch wants names in all groups or in none: where one has none, modules go without too.
    """
    if isinstance(params, nn.Module):
        return [{"params": params}]
    if isinstance(params, Tensor):
        return params  # torch's error for this tells the remedy
    groups: list[Any] = list(params)
    if not any(isinstance(group, dict) for group in groups):
        return groups
    groups = [_listed(group) for group in groups]
    named = all(_is_named(group) for group in groups)
    return [expand_module(group, named=named) for group in groups]


def expand_module(group: dict[str, Any], *, named: bool = True) -> dict[str, Any]:
    """A group whose ``"params"`` is a module, with its parameters and views in its place.

    Args:
        group: any group; one without a module stays as it is.
        named: whether the parameters keep their names.

    Raises:
        TypeError: the group is no dict.
        ValueError: the module has no parameters.
    """
    if not isinstance(group, dict):
        raise TypeError(f"param_group must be a dict, but got {type(group)}")
    module = group["params"]
    if not isinstance(module, nn.Module):
        return group
    parameters = dict(module.named_parameters())
    if not parameters:
        raise ValueError(f"{type(module).__name__} has no parameters to optimize.")
    params = list(parameters.items()) if named else list(parameters.values())
    return {**group, "params": params, "views": list(model_views(module).values())}


def accepts_names(groups: list[dict[str, Any]]) -> bool:
    """Whether a further group may have names: torch wants them in all groups or in none."""
    return not groups or "param_names" in groups[0]


def views_of(model: nn.Module, params: Iterable[Tensor]) -> list[MatrixView | None]:
    """How parameters are read by the layers of a model, those of no layer by their shape."""
    readings = zip(model.parameters(), model_views(model).values(), strict=True)
    views: dict[Tensor, MatrixView | None] = dict(readings)
    return [views[p] if p in views else view_by_shape(tuple(p.shape)) for p in params]


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


def complete_views(group: dict[str, Any]) -> None:
    """Give every parameter of a group a view, as a plain tuple, and check those given.

    Raises:
        TypeError: a parameter is not of a real floating-point dtype.
        ValueError: not one view per parameter, or a view for another shape.
    """
    params = group["params"]
    names = group.get("param_names") or [None] * len(params)
    views = group.get("views")
    if views is None:
        views = [view_by_shape(tuple(p.shape), name) for p, name in zip(params, names, strict=True)]
    if len(views) != len(params):
        raise ValueError(f"views lists {len(views)} entries for {len(params)} parameters.")
    views = [None if view is None else _as_view(view) for view in views]
    for index, (p, view) in enumerate(zip(params, views, strict=True)):
        if not p.is_floating_point():
            raise TypeError(
                f"parameter {names[index] or index} has dtype {p.dtype}; the end-to-end rule needs "
                "a real floating-point parameter: leave it out of the groups."
            )
        if view is not None and view.shape != tuple(p.shape):
            raise ValueError(
                f"parameter {names[index] or index} has shape {tuple(p.shape)} and its view is "
                f"for {view.shape}."
            )
    group["views"] = [None if view is None else dataclasses.astuple(view) for view in views]


def complete_options(group: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Give a group of an older version the options and views it lacks."""
    for name, value in defaults.items():
        group.setdefault(name, value)
    complete_views(group)


def group_views(group: dict[str, Any]) -> list[MatrixView | None]:
    """The views of a group, in the order of its parameters."""
    return [None if view is None else _as_view(view) for view in group["views"]]


def parameter_names(groups: list[dict[str, Any]]) -> dict[Tensor, str]:
    """A name for each parameter: its own where known, else its place."""
    names: dict[Tensor, str] = {}
    for number, group in enumerate(groups):
        given = group.get("param_names")
        for index, p in enumerate(group["params"]):
            names[p] = given[index] if given else f"group {number}, parameter {index}"
    return names


def same_matrices(first: MatrixView | None, second: MatrixView | None) -> bool:
    """Whether two readings of one tensor give the same matrices, under whatever name."""
    if first is None or second is None:
        return first is second
    return dataclasses.astuple(first)[1:] == dataclasses.astuple(second)[1:]


def warn_of_zeros(names: list[str], remedy: str) -> None:
    """Warn of weights that no step moves, if there are any."""
    if names:
        warnings.warn(
            f"all-zero weights stay zero for depth > 1: {', '.join(names)}. Initialize them, "
            f"{remedy}, or put them in a group with depth=1.",
            stacklevel=5,
        )


def check_lr(lr: float | Tensor) -> None:
    """Raise unless the learning rate is one nonnegative number.

    Raises:
        ValueError: a tensor of several elements, or a negative value.
    """
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError("Tensor lr must be 1-element")
    check_nonnegative("learning rate", lr)


def check_nonnegative(name: str, value: float | Tensor) -> None:
    """Raise unless ``value`` is a number of at least 0.

    Raises:
        ValueError: it is negative or NaN.
    """
    if not value >= 0:
        raise ValueError(f"Invalid {name}: {value}; use a number >= 0.")


def _as_view(view: MatrixView | tuple[Any, ...] | list[Any]) -> MatrixView:
    if isinstance(view, MatrixView):
        return view
    kind, shape, *rest = view
    return MatrixView(kind, tuple(shape), *rest)
