"""Parameter groups: a model in place of its parameters, split by the user's words on it.

A tensor alone does not say that it is a grouped convolution or a packed attention projection;
its layer does. So a group takes a model (or any module) as its ``"params"``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from overparam._words import warn_user
from overparam.layers.choice import Choice
from overparam.layers.entries import is_chosen, names_of

Params = nn.Module | Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]


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
    """The groups that one group stands for; one without a module stays as it is.

    Args:
        group: any group.
        choice: which weights of a module are chosen.
        named: whether parameters keep their names, where the group does not say.

    Raises:
        TypeError: the group is not a dict.
        ValueError: the module has no parameters, or words that do not fit it.
    """
    if not isinstance(group, dict):
        raise TypeError(f"param_group must be a dict, but got {type(group)}")
    named = group.get("_named", named)
    group = {name: value for name, value in group.items() if name != "_named"}
    return choice.groups(group, named=named) if _is_module(group) else [group]


def without_chosen(group: dict[str, Any], inner: Mapping[str, Any]) -> dict[str, Any]:
    """Take what is not chosen out of a group: the group that a fallback is to take.

    Args:
        group: keeps what is chosen.
        inner: the options of the inner optimizer, which mean nothing to the fallback.
    """
    beside = [name for name in ("params", "param_names", "views") if name in group]
    chosen = [is_chosen(entry) for entry in group["views"]]
    others = [not each for each in chosen]
    rest = {name: list(itertools.compress(group[name], others)) for name in beside}
    group.update((name, list(itertools.compress(group[name], chosen))) for name in beside)
    if "param_names" in rest:
        rest["params"] = list(zip(rest.pop("param_names"), rest["params"], strict=True))
    own = {name: value for name, value in group.items() if name not in {*beside, *inner}}
    return {**own, **rest, "fallback": True}


def accepts_names(groups: list[dict[str, Any]]) -> bool:
    """Whether a further group may have names: torch wants them in all groups or in none."""
    return not groups or "param_names" in groups[0]


def check_same_fallback(pairs: Iterable[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    """Raise where a saved group was the fallback's and is not here, or the other way round.

    Args:
        pairs: each group with the one that was saved.

    Raises:
        ValueError: names the group.
    """
    words = "the fallback's", "the inner optimizer's"
    for number, pair in enumerate(pairs):
        here, there = (bool(group.get("fallback")) for group in pair)
        if here != there:
            raise ValueError(
                f"group {number} was {words[here]} when the checkpoint was saved, and is "
                f"{words[not here]} here; make the optimizer with the same fallback= and the same "
                "choice of weights."
            )


def parameter_names(groups: list[dict[str, Any]]) -> dict[Tensor, str]:
    """A name for each parameter of all groups."""
    return {
        p: name
        for number, group in enumerate(groups)
        for p, name in zip(group["params"], names_of(group, f"group {number}, "), strict=True)
    }


def warn_of_zeros(names: list[str], remedy: str) -> None:
    """Warn of weights that no step moves, if there are any."""
    if names:
        warn_user(
            f"all-zero weights stay zero for depth > 1: {', '.join(names)}. Initialize them, "
            f"{remedy}, or put them in a group with depth=1."
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
