"""Taking products out of modules, and states of modules and optimizers that can be put back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn


def take_out(owner: nn.Module, parameters: Mapping[str, nn.Parameter | None]) -> None:
    """Put plain parameters in the place of parametrized tensors: names and order as before.

    The class of the module is exchanged, never edited: copies of a module share it, and what
    ``torch.compile`` has compiled for it stays valid when it comes back.
    """
    held = cast("Any", owner._modules["parametrizations"])
    left = {name: each for name, each in held.items() if name not in parameters}
    order: tuple[str, ...] = getattr(held, "original_order", ())
    if left:
        owner.__class__ = _class_without(type(owner), frozenset(parameters))
        fewer: Any = nn.ModuleDict(left)
        fewer.original_order = order
        owner._modules["parametrizations"] = fewer
    else:
        owner.__class__ = type(owner).__bases__[0]
        del owner._modules["parametrizations"]
    _reorder(owner, {**owner._parameters, **parameters}, order)
    if isinstance(owner, nn.RNNBase) and not left:
        owner._init_flat_weights()


def _reorder(
    owner: nn.Module, parameters: dict[str, nn.Parameter | None], order: Iterable[str]
) -> None:
    """Parameters in their original order, as optimizers number them."""
    owner._parameters.clear()
    for name in (*order, *parameters):
        if name in parameters:
            owner._parameters[name] = parameters[name]


def _class_without(kind: type, attributes: frozenset[str]) -> type[nn.Module]:
    """A parametrized class without the properties of some tensors; the same one each time."""
    known: dict[frozenset[str], type] = kind.__dict__.get("_fewer", {})
    if attributes not in known:
        known[attributes] = _copied_class(kind, attributes)
        cast("Any", kind)._fewer = known
    return cast("type[nn.Module]", known[attributes])


def own_class(owner: nn.Module) -> None:
    """Give a parametrized module a class of its own, to which properties can be added.

    ``copy.deepcopy`` of a parametrized module shares the class with the original.
    """
    if "parametrizations" in owner._modules:
        owner.__class__ = _copied_class(type(owner), frozenset())


def _copied_class(kind: type, without: frozenset[str]) -> type[nn.Module]:
    hidden = {"__dict__", "__weakref__", "_fewer", *without}
    names = {name: value for name, value in vars(kind).items() if name not in hidden}
    return cast("type[nn.Module]", type(kind.__name__, kind.__bases__, names))


@dataclass(frozen=True)
class ModuleState:
    """Everything about one module that products change."""

    module: nn.Module
    kind: type[nn.Module]
    dicts: tuple[tuple[dict[str, Any], dict[str, Any]], ...]
    flat: list[Any] | None

    @classmethod
    def of(cls, module: nn.Module) -> ModuleState:
        """As it is now."""
        dicts: list[dict[Any, Any]] = [
            module._parameters,
            module._modules,
            module._load_state_dict_pre_hooks,
        ]
        inner = module._modules.get("parametrizations")
        if inner is not None:
            dicts += [inner._modules, inner.__dict__]
        copies = tuple((each, dict(each)) for each in dicts)
        return cls(module, type(module), copies, module.__dict__.get("_flat_weights"))

    def restore(self) -> None:
        """Put it back."""
        self.module.__class__ = self.kind
        for target, content in self.dicts:
            target.clear()
            target.update(content)
        self.module.__dict__.pop("_flat_weights", None)
        if self.flat is not None:
            self.module.__dict__["_flat_weights"] = self.flat


@dataclass(frozen=True)
class OptimizerState:
    """The groups and the state of an optimizer."""

    optimizer: torch.optim.Optimizer
    groups: tuple[tuple[dict[str, Any], dict[str, Any]], ...]
    state: dict[Any, Any]

    @classmethod
    def of(cls, optimizer: torch.optim.Optimizer) -> OptimizerState:
        """As it is now."""
        groups = tuple(
            (group, {k: list(v) if isinstance(v, list) else v for k, v in group.items()})
            for group in optimizer.param_groups
        )
        return cls(optimizer, groups, dict(optimizer.state))

    def restore(self) -> None:
        """Put it back."""
        for group, content in self.groups:
            group.clear()
            group.update(content)
        self.optimizer.state.clear()
        self.optimizer.state.update(self.state)


@contextmanager
def all_or_nothing(
    modules: Iterable[nn.Module], optimizer: torch.optim.Optimizer | None = None
) -> Iterator[None]:
    """Put modules and an optimizer back as they were where an error comes up inside."""
    distinct = {id(module): module for module in modules}.values()
    saved: list[ModuleState | OptimizerState] = [ModuleState.of(module) for module in distinct]
    if optimizer is not None:
        saved.append(OptimizerState.of(optimizer))
    try:
        yield
    except BaseException:
        for each in saved:
            each.restore()
        raise
