"""Checkpoints: from factors to plain weights and back, on files alone."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from overparam.factors.initialize import initial_factors
from overparam.factors.layout import Layout, encode_layout
from overparam.layers.places import parametrizations_of
from overparam.reparam.attach import places
from overparam.reparam.entries import (
    Held,
    canonical,
    check_alone,
    check_no_nesting,
    held_entries,
    in_order,
    listed,
    weight_name,
)
from overparam.reparam.product import Product, factors_of, holds_product, layout_of


def collapse_state_dict(state_dict: Mapping[str, Any]) -> OrderedDict[str, Any]:
    """A checkpoint of an overparameterized model as one of the plain model.

    Needs no model: the layout of the factors is written beside them. Names of wrappers
    (``module.``, ``_orig_mod.``) may be anywhere in the path; entries that are not factors pass
    through unchanged. Tied weights appear under each of their names, as in a plain checkpoint,
    sharing memory.

    Args:
        state_dict: from ``model.state_dict()`` or a file.

    Returns:
        A new dictionary; a plain checkpoint is copied.

    Raises:
        ValueError: factors without their layout or the other way round, a further parametrization
            on top of a product (the file of the raw product would be another function), or a file
            that holds the checkpoint one level down. The message names the entries.

    Example:
        >>> from torch import nn
        >>> from overparam.reparam import overparameterize
        >>> state = overparameterize(nn.Linear(3, 2)).state_dict()
        >>> {key: tuple(value.shape) for key, value in collapse_state_dict(state).items()}
        {'bias': (2,), 'weight': (2, 3)}
    """
    check_no_nesting(state_dict)
    found = held_entries(state_dict)
    plain: OrderedDict[str, Any] = OrderedDict()
    made: dict[tuple[int, ...], Tensor] = {}
    for key, value in state_dict.items():
        name = weight_name(key)
        if name not in found:
            plain[key] = value
        elif name not in plain:
            factors = in_order(name, found[name])
            storage = _storage(factors)
            if storage not in made:
                layout = found[name].layout
                assert layout is not None
                made[storage] = Product(layout)(*factors).detach()
            plain[name] = made[storage]
    _copy_metadata(state_dict, plain)
    return plain


def _storage(factors: list[Tensor]) -> tuple[int, ...]:
    """Where factors lie; tensors without memory (of the meta device) have no address."""
    return tuple(factor.data_ptr() or id(factor) for factor in factors)


def expand_state_dict(
    state_dict: Mapping[str, Any], like: nn.Module | Mapping[str, Any]
) -> OrderedDict[str, Any]:
    """A plain checkpoint as one of an overparameterized model, with balanced factors.

    Args:
        state_dict: plain entries; names that wrappers put into its paths (``module.``,
            ``_orig_mod.``) are kept, and need not be those of ``like``.
        like: what says which weights are products and of what shapes: an overparameterized model
            or a checkpoint of one.

    Returns:
        A new dictionary. Entries that are factors already are handed on.

    Raises:
        ValueError: a weight of another shape than its layout, not finite, or all zeros; a weight
            that ``like`` has and the checkpoint has not; factors of another layout than those of
            ``like``; a further parametrization on top of a product. The message names the entries.

    Example:
        >>> from torch import nn
        >>> from overparam.reparam import overparameterize
        >>> model = overparameterize(nn.Linear(3, 2))
        >>> list(expand_state_dict(nn.Linear(3, 2).state_dict(), model))[:2]
        ['parametrizations.weight.original0', 'parametrizations.weight.original1']
    """
    wanted = _wanted(like)
    check_no_nesting(state_dict)
    factored = held_entries(state_dict)
    _check_layouts(wanted, factored)
    found: dict[str, str] = {}
    for key in state_dict:
        weight = weight_name(key)
        if weight is not None and weight not in factored:
            continue  # of another parametrization
        full = weight or key
        name = canonical(full)
        if name in wanted and found.setdefault(name, full) != full:
            raise ValueError(f"{found[name]} and {full} are one weight of the model; keep one.")
    _check_found(wanted, found, state_dict)
    expanded: OrderedDict[str, Any] = OrderedDict()
    for key, value in state_dict.items():
        name = canonical(key)
        if name not in wanted:
            expanded[key] = value
            continue
        layout = wanted[name][0]
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


def _check_layouts(
    wanted: Mapping[str, tuple[Layout, object]], factored: Mapping[str, Held]
) -> None:
    """Raise where a checkpoint holds other factors than the model has."""
    for name, held in factored.items():
        layout = wanted[canonical(name)][0] if canonical(name) in wanted else held.layout
        if held.layout is not None and layout is not None and held.layout != layout:
            raise ValueError(
                f"the checkpoint holds factors {held.layout.shapes} of {name}, the model "
                f"{layout.shapes}; pass it through overparam.collapse_state_dict first."
            )


def _check_found(
    wanted: Mapping[str, tuple[Layout, object]],
    found: Mapping[str, str],
    state_dict: Mapping[str, Any],
) -> None:
    """Raise where a product would get no factors; one of several tied names is enough."""
    supplied = {wanted[name][1] for name in found}
    missing = [name for name, (_, tie) in wanted.items() if tie not in supplied]
    if missing:
        raise ValueError(
            f"the checkpoint has no entry for {listed(missing)}, which the model computes from "
            f"factors; it holds {listed(map(str, state_dict)) or 'nothing'}. Pass the whole "
            "state_dict of the same model."
        )


def accept_plain_checkpoints(owner: nn.Module) -> None:
    """Let ``load_state_dict`` take plain weights for the products of a module."""
    if _load_plain not in _hooks(owner):
        owner.register_load_state_dict_pre_hook(_load_plain)


def refuse_plain_checkpoints(owner: nn.Module) -> None:
    """Take that back where no product is left."""
    if any(map(holds_product, parametrizations_of(owner).values())):
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
    del strict, missing_keys, unexpected_keys
    assigned = bool(local_metadata.get("assign_to_params_buffers", False))
    for attribute, held in parametrizations_of(owner).items():
        key = prefix + attribute
        if not holds_product(held) or key not in state_dict:
            continue
        value, layout = state_dict[key], layout_of(held)  # pyright: ignore[reportArgumentType]
        if tuple(value.shape) != layout.shape:
            error_messages.append(
                f"size mismatch for {key}: the checkpoint has {tuple(value.shape)}, the model's "
                f"product {layout.shape}."
            )
            continue
        like = factors_of(held)[0]  # pyright: ignore[reportArgumentType]
        if hasattr(like, "placements"):
            raise RuntimeError(
                f"{key} is a plain weight and the model's factors are sharded; pass the "
                "checkpoint through overparam.expand_state_dict first."
            )
        try:
            check_alone(key, _further(held))
            # With assign=True torch takes dtype and device from the file.
            entries = _expanded_entries(key, value if assigned else value.to(like), layout)
        except (TypeError, ValueError) as error:
            error_messages.append(f"{key}: {error}")
            continue
        del state_dict[key]
        state_dict.update(entries)


def _further(held: nn.Module) -> list[str]:
    """What is computed on top of a product, by the names of the classes."""
    return [type(each).__name__ for each in held.children()][1:]


def _expanded_entries(key: str, weight: Tensor, layout: Layout) -> dict[str, Tensor]:
    """Factors and their layout, under the names that they have instead of ``key``."""
    owner, _, attribute = key.rpartition(".")
    prefix = f"{owner}.parametrizations.{attribute}." if owner else f"parametrizations.{key}."
    entries = {f"{prefix}original{j}": f for j, f in enumerate(initial_factors(layout, weight))}
    entries[f"{prefix}0._extra_state"] = encode_layout(layout)
    return entries


def _wanted(like: nn.Module | Mapping[str, Any]) -> dict[str, tuple[Layout, object]]:
    """Layouts by the canonical name of their weight, with a key that tied weights share."""
    found: dict[str, tuple[Layout, object]] = {}

    def add(name: str, layout: Layout, tie: object) -> None:
        if found.setdefault(canonical(name), (layout, tie))[1] != tie:
            raise ValueError(
                f"two weights of the model have the name {canonical(name)} once the names of "
                "wrappers are left out; rename one of their modules."
            )

    if isinstance(like, nn.Module):
        for place in places(like):
            check_alone(place.name, _further(place.factors))
            add(place.name, place.layout, id(place.factors))
    else:
        check_no_nesting(like)
        for name, held in held_entries(like).items():
            assert held.layout is not None
            add(name, held.layout, _storage(in_order(name, held)))
    if not found:
        raise ValueError(
            "like holds no factors; pass an overparameterized model or a checkpoint of one."
        )
    return found


def _copy_metadata(source: Mapping[str, Any], target: OrderedDict[str, Any]) -> None:
    """Torch keeps the versions of modules beside the entries."""
    metadata = getattr(source, "_metadata", None)
    if metadata is not None:
        target._metadata = metadata  # pyright: ignore[reportAttributeAccessIssue]
