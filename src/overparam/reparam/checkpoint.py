"""Checkpoints: from factors to plain weights and back, on files alone."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from overparam.factors.initialize import initial_factors
from overparam.factors.layout import Layout, decode_layout, encode_layout
from overparam.reparam.attach import Product, places

_FACTOR_KEY = re.compile(
    r"(?P<owner>(?:.*\.)?)parametrizations\.(?P<attribute>[^.]+)\."
    r"(?:original(?P<number>\d+)|0\.(?P<layout>_extra_state))"
)
# Names that wrappers put before every key: DistributedDataParallel, torch.compile.
_WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.)+")


def collapse_state_dict(state_dict: Mapping[str, Any]) -> OrderedDict[str, Any]:
    """A checkpoint of an overparameterized model as one of the plain model.

    Needs no model: the layout of the factors is written beside them. Works with the prefixes of
    wrappers (``module.``); entries that are not factors pass through unchanged. Tied weights appear
    under each of their names, as in a plain checkpoint, sharing memory.

    Args:
        state_dict: from ``model.state_dict()`` or a file.

    Returns:
        A new dictionary; without factors, a copy of the same entries.

    Raises:
        ValueError: factors of this package without their layout, or the other way round.

    Example:
        >>> from torch import nn
        >>> from overparam.reparam import overparameterize
        >>> state = overparameterize(nn.Linear(3, 2)).state_dict()
        >>> {key: tuple(value.shape) for key, value in collapse_state_dict(state).items()}
        {'bias': (2,), 'weight': (2, 3)}
    """
    layouts, factors = _factor_entries(state_dict)
    plain: OrderedDict[str, Any] = OrderedDict()
    made: dict[tuple[int, ...], Tensor] = {}
    for key, value in state_dict.items():
        match = _FACTOR_KEY.fullmatch(key)
        name = match and match["owner"] + match["attribute"]
        if name not in layouts:
            plain[key] = value
        elif name not in plain:
            held = _in_order(name, factors.get(name, {}), layouts[name])
            # Tensors without memory (of the meta device) have no address.
            storage = tuple(factor.data_ptr() or id(factor) for factor in held)
            if storage not in made:
                made[storage] = Product(layouts[name])(*held).detach()
            plain[name] = made[storage]
    _copy_metadata(state_dict, plain)
    return plain


def expand_state_dict(
    state_dict: Mapping[str, Any], like: nn.Module | Mapping[str, Any]
) -> OrderedDict[str, Any]:
    """A plain checkpoint as one of an overparameterized model, with balanced factors.

    Args:
        state_dict: plain entries; its prefix (``module.``) is kept, and need not be that of
            ``like``.
        like: what says which weights are products and of what shapes: an overparameterized model
            or a checkpoint of one.

    Returns:
        A new dictionary. Entries that are factors already are handed on.

    Raises:
        ValueError: a weight of another shape than its layout, not finite, or all zeros.

    Example:
        >>> from torch import nn
        >>> from overparam.reparam import overparameterize
        >>> model = overparameterize(nn.Linear(3, 2))
        >>> list(expand_state_dict(nn.Linear(3, 2).state_dict(), model))[:2]
        ['parametrizations.weight.original0', 'parametrizations.weight.original1']
    """
    layouts = _layouts_of(like)
    expanded: OrderedDict[str, Any] = OrderedDict()
    for key, value in state_dict.items():
        layout = layouts.get(_WRAPPERS.sub("", key))
        if layout is None:
            expanded[key] = value
            continue
        if tuple(value.shape) != layout.shape:
            raise ValueError(
                f"{key} has shape {tuple(value.shape)}; the factors are for {layout.shape}."
            )
        try:
            expanded.update(_expanded_entries(key, value, layout))
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from None
    _copy_metadata(state_dict, expanded)
    return expanded


def accept_plain_checkpoints(owner: nn.Module) -> None:
    """Let ``load_state_dict`` take plain weights for the products of a module."""
    if _load_plain not in _hooks(owner):
        owner.register_load_state_dict_pre_hook(_load_plain)


def refuse_plain_checkpoints(owner: nn.Module) -> None:
    """Take that back where no product is left."""
    if any(place.module is owner for place in places(owner)):
        return
    hooks = owner._load_state_dict_pre_hooks
    for key in [key for key, hook in hooks.items() if getattr(hook, "hook", None) is _load_plain]:
        del hooks[key]


def _hooks(owner: nn.Module) -> list[Any]:
    return [getattr(hook, "hook", hook) for hook in owner._load_state_dict_pre_hooks.values()]


def _load_plain(
    owner: nn.Module,
    state_dict: dict[str, Any],
    prefix: str,
    local_metadata: Any,
    strict: bool,
    missing_keys: list[str],
    unexpected_keys: list[str],
    error_messages: list[str],
) -> None:
    """Replace plain weights of ``owner`` in a state_dict that is being loaded by factors."""
    del local_metadata, strict, missing_keys, unexpected_keys
    for place in places(owner):
        key = prefix + place.attribute
        if place.module is not owner or key not in state_dict:
            continue
        value, layout = state_dict[key], place.layout
        if tuple(value.shape) != layout.shape:
            error_messages.append(
                f"size mismatch for {key}: the checkpoint has {tuple(value.shape)}, the model's "
                f"product {layout.shape}."
            )
            continue
        like = place.factors.original0
        if hasattr(like, "placements"):
            raise RuntimeError(
                f"{key} is a plain weight and the model's factors are sharded; pass the "
                "checkpoint through overparam.expand_state_dict first."
            )
        try:
            entries = _expanded_entries(key, value.to(like), layout)
        except ValueError as error:
            error_messages.append(f"{key}: {error}")
            continue
        del state_dict[key]
        state_dict.update(entries)


def _expanded_entries(key: str, weight: Tensor, layout: Layout) -> dict[str, Tensor]:
    """Factors and their layout, under the names that they have instead of ``key``."""
    owner, _, attribute = key.rpartition(".")
    prefix = f"{owner}.parametrizations.{attribute}." if owner else f"parametrizations.{key}."
    entries = {f"{prefix}original{j}": f for j, f in enumerate(initial_factors(layout, weight))}
    entries[f"{prefix}0._extra_state"] = encode_layout(layout)
    return entries


def _factor_entries(
    state_dict: Mapping[str, Any],
) -> tuple[dict[str, Layout], dict[str, dict[int, Tensor]]]:
    """Layouts and numbered factors by the name of their weight."""
    layouts: dict[str, Layout] = {}
    factors: dict[str, dict[int, Tensor]] = {}
    for key, value in state_dict.items():
        match = _FACTOR_KEY.fullmatch(key)
        if match is None:
            continue
        name = match["owner"] + match["attribute"]
        if match["layout"]:
            layouts[name] = decode_layout(value)
        else:
            factors.setdefault(name, {})[int(match["number"])] = value
    return layouts, factors


def _in_order(name: str, numbered: Mapping[int, Tensor], layout: Layout) -> list[Tensor]:
    """Factors ``(W_1, ..., W_N)``, checked against their layout."""
    shapes = [tuple(numbered[j].shape) for j in sorted(numbered)]
    if shapes != list(layout.shapes):
        raise ValueError(
            f"the checkpoint holds factors {shapes} of {name}, its layout says "
            f"{list(layout.shapes)}; the file is not complete."
        )
    return [numbered[j] for j in sorted(numbered)]


def _layouts_of(like: nn.Module | Mapping[str, Any]) -> dict[str, Layout]:
    """Layouts by the name of their weight, without the prefixes of wrappers."""
    if isinstance(like, nn.Module):
        found = {place.name: place.layout for place in places(like)}
    else:
        found, _ = _factor_entries(like)
    if not found:
        raise ValueError(
            "like holds no factors; pass an overparameterized model or a checkpoint of one."
        )
    return {_WRAPPERS.sub("", name): layout for name, layout in found.items()}


def _copy_metadata(source: Mapping[str, Any], target: OrderedDict[str, Any]) -> None:
    """Torch keeps the versions of modules beside the entries."""
    metadata = getattr(source, "_metadata", None)
    if metadata is not None:
        target._metadata = metadata  # pyright: ignore[reportAttributeAccessIssue]
