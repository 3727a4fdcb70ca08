"""Back from products of factors to plain weights, for good or for a while."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from overparam.factors.initialize import initial_factors
from overparam.factors.transport import state_to_weight
from overparam.reparam.attach import (
    Place,
    attach_tied,
    check_detachable,
    current_weight,
    factors_of,
    layout_of,
    places,
)
from overparam.reparam.carry import gradient_of_weight, hand_back, plain_parameter, warn_of_hooks
from overparam.reparam.checkpoint import accept_plain_checkpoints, refuse_plain_checkpoints
from overparam.reparam.optimizer_state import GroupOrder, check_collapse, exchange
from overparam.reparam.plan import already_sharded, already_wrapped
from overparam.reparam.product import memory_format_of
from overparam.reparam.progress import progress_bar
from overparam.reparam.swap import all_or_nothing, take_out
from overparam.reparam.verify import first_difference, outputs_of

_Model = TypeVar("_Model", bound=nn.Module)


def collapse(
    model: _Model,
    *,
    example_inputs: Tensor | Sequence[Any] | Mapping[str, Any] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    progress: bool = True,
) -> _Model:
    """Replace every product by its value: the model is plain again, and computes the same.

    Types, names and order of parameters, ``requires_grad``, ties and state_dict keys are as
    before :func:`overparam.overparameterize`. A model without products is left as it is.

    Args:
        model: changed in place.
        example_inputs: positional arguments of the model (a sequence, or one tensor) or keyword
            arguments (a dict). The outputs before and after are compared, in training and in
            evaluation mode with the same random numbers; on a mismatch everything is put back.
        optimizer: the optimizer that holds the factors; the weights take their places, with
            state. This costs a singular value decomposition and a few dozen products for each
            weight, in float64.
        progress: show a bar if standard error is a terminal and this takes more than 5 s.

    Returns:
        The model.

    Raises:
        RuntimeError: the model is wrapped for distributed training, a further parametrization
            sits on top of a product, or the outputs differ.
        ValueError: the optimizer does not hold all factors of a weight in one group.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from overparam.reparam import overparameterize
        >>> model = nn.Linear(3, 2)
        >>> collapse(overparameterize(model), example_inputs=[torch.ones(1, 3)])
        Linear(in_features=3, out_features=2, bias=True)
    """
    found = list(places(model))
    if not found:
        return model
    wrapped = already_wrapped(model)
    if wrapped is not None:
        raise RuntimeError(
            f"{wrapped}; take its full state_dict and pass that through "
            "overparam.collapse_state_dict, or collapse the module inside DistributedDataParallel."
        )
    check_detachable(found)
    held_lists = {id(place.factors): place.factors for place in found}
    if optimizer is not None:
        check_collapse(optimizer, [factors_of(held) for held in held_lists.values()])
    warn_of_hooks(
        (
            (f"{place.name} (factor {number})", factor)
            for place in {id(place.factors): place for place in reversed(found)}.values()
            for number, factor in enumerate(factors_of(place.factors), start=1)
        ),
        "the factors go, and their weight takes their place",
    )
    gradients = {key: gradient_of_weight(held) for key, held in held_lists.items()}
    states: dict[int, dict[str, Any]] = {}
    parameters: dict[int, nn.Parameter] = {}
    entries = sum(math.prod(layout_of(held).shape) for held in held_lists.values())
    total = entries * (1 if optimizer is None else 2)
    with progress_bar("Collapsing weights", total, shown=progress) as advance:
        for key, held in held_lists.items():
            parameters[key] = _plain_parameter(held)
            advance(parameters[key].numel())
            if optimizer is not None:
                states[key] = _carried(optimizer, held)
                advance(parameters[key].numel())
    before = None if example_inputs is None else outputs_of(model, example_inputs)
    with all_or_nothing((place.module for place in found), optimizer):
        order = None if optimizer is None else GroupOrder.of(optimizer, model)
        _Swap.plain(found, parameters)
        if example_inputs is not None and before is not None:
            difference = first_difference(before, outputs_of(model, example_inputs))
            if difference is not None:
                raise RuntimeError(f"collapse changed the model, and was undone: {difference}.")
        if optimizer is not None and order is not None:
            for key, held in held_lists.items():
                exchange(optimizer, factors_of(held), [parameters[key]], [states[key]])
            order.restore(optimizer, model)
    for key, gradient in gradients.items():
        parameters[key].grad = gradient
    return model


def _carried(
    optimizer: torch.optim.Optimizer, held: parametrize.ParametrizationList
) -> dict[str, Any]:
    """The optimizer's state for a weight, from that of its factors."""
    factors = factors_of(held)
    states = [optimizer.state.get(factor, {}) for factor in factors]
    with torch.inference_mode(False), torch.no_grad():
        return state_to_weight(layout_of(held), factors, states)


def make_recognizable(owner: nn.Module) -> None:
    """Give a module with products what others look for: plain checkpoints, timm, transformers."""
    accept_plain_checkpoints(owner)
    kind: Any = type(owner)
    if not hasattr(owner, "reparameterize"):
        kind.reparameterize = _reparameterize
    if not hasattr(owner, "_tied_weights_keys"):
        # transformers saves one of several tensors that share memory, where this names them.
        kind._tied_weights_keys = {r"parametrizations\.": r"parametrizations\."}


def _reparameterize(self: nn.Module) -> None:
    """Collapse this module; the name that timm's ``reparameterize_model`` looks for."""
    collapse(self)


@contextmanager
def collapsed(model: _Model) -> Iterator[_Model]:
    """The plain model for a while, for evaluation, export or saving; factors come back after.

    The factors stay the same objects, so that an optimizer keeps them. A weight that is changed
    meanwhile (by loading a checkpoint, for example) is factored again, balanced; where the model
    moves to another device or dtype, the factors follow. Weights that are tied meanwhile share
    factors afterwards, and weights that are untied get factors of their own, which are new.

    Raises:
        RuntimeError: the model is sharded, or a further parametrization sits on top of a product.
        ValueError: on leaving, a weight was changed to one that the factors cannot hold (all
            zeros, another shape), or tied to one that is no product; the model then stays plain.

    Example:
        >>> from torch import nn
        >>> from overparam.reparam import overparameterize
        >>> model = overparameterize(nn.Linear(3, 2))
        >>> with collapsed(model):
        ...     list(model.state_dict())
        ['weight', 'bias']
        >>> len(model.state_dict())
        4
    """
    found = list(places(model))
    sharded = already_sharded(model) if found else None
    if sharded is not None:
        raise RuntimeError(
            f"{sharded}; take its full state_dict and pass that through "
            "overparam.collapse_state_dict."
        )
    check_detachable(found)
    held_lists = {id(place.factors): place.factors for place in found}
    swap = _Swap.plain(found, {key: _plain_parameter(held) for key, held in held_lists.items()})
    try:
        yield model
    finally:
        swap.undo(model)


@dataclass
class _Swap:
    """Products taken out of a model, with what it takes to put them back.

    Attributes:
        taken: places with their factors.
        parameters: what stands in for factors, by the id of what holds them.
        owners: modules as they were with products and as they were left.
    """

    taken: list[tuple[Place, parametrize.ParametrizationList]]
    parameters: dict[int, nn.Parameter]
    owners: list[_Owner]

    @classmethod
    def plain(cls, found: list[Place], parameters: dict[int, nn.Parameter]) -> _Swap:
        """Replace every product by a plain parameter, tied ones by one and the same."""
        taken = [(place, place.factors) for place in found]
        modules = {id(place.module): place.module for place in found}
        swap = cls(taken, parameters, [])
        with all_or_nothing(modules.values()):
            for module in modules.values():
                mine = {p.attribute: held for p, held in taken if p.module is module}
                swap.owners.append(_Owner.plain(module, mine, parameters))
        return swap

    def undo(self, model: nn.Module) -> None:
        """Put the products back; a weight that was changed is factored again first."""
        now = [_parameter_at(place) for place, _ in self.taken]
        _check_ties(model, self.taken, now)
        # All or none: what cannot be factored is found before anything is put back.
        held_by = self._held_by_parameter(now)
        first = {
            id(each): (place, each)
            for (place, _), each in zip(reversed(self.taken), reversed(now), strict=True)
        }
        changed = [
            (held_by[key], each, _factored(place, held_by[key], each))
            for key, (place, each) in first.items()
        ]
        warn_of_hooks(
            ((place.name, each) for place, each in first.values()),
            "its factors take its place again",
        )
        with all_or_nothing(owner.module for owner in self.owners):
            for owner in self.owners:
                owner.put_back()
            for (place, held), parameter in zip(self.taken, now, strict=True):
                if held_by[id(parameter)] is not held:
                    place.module.parametrizations[place.attribute] = held_by[id(parameter)]  # pyright: ignore
            for held, parameter, values in changed:
                held.to(device=parameter.device, dtype=parameter.dtype)
                with torch.no_grad():
                    for factor, value in zip(factors_of(held), values, strict=False):
                        factor.copy_(value)
                hand_back(held, parameter)

    def _held_by_parameter(
        self, now: Sequence[nn.Parameter]
    ) -> dict[int, parametrize.ParametrizationList]:
        """What computes each weight from now on, by the id of the parameter that it is."""
        stood_in = {id(self.parameters[id(held)]): held for _, held in self.taken}
        held_by = {id(each): stood_in[id(each)] for each in now if id(each) in stood_in}
        used = {id(held) for held in held_by.values()}
        for (_, held), each in zip(self.taken, now, strict=True):
            if id(each) not in held_by:
                held_by[id(each)] = held if id(held) not in used else _another(held)
                used.add(id(held))
        return held_by


@dataclass(frozen=True)
class _Owner:
    """One module with products, and how it was left without them."""

    module: nn.Module
    products: dict[str, parametrize.ParametrizationList]
    kind: type[nn.Module]
    modules: dict[str, nn.Module | None]
    parameters: tuple[str, ...]
    plain_kind: type[nn.Module]

    @classmethod
    def plain(
        cls,
        module: nn.Module,
        products: dict[str, parametrize.ParametrizationList],
        parameters: Mapping[int, nn.Parameter],
    ) -> _Owner:
        """Take the products out."""
        kind, modules, names = type(module), dict(module._modules), tuple(module._parameters)
        take_out(module, {name: parameters[id(held)] for name, held in products.items()})
        refuse_plain_checkpoints(module)
        return cls(module, products, kind, modules, names, type(module))

    def put_back(self) -> None:
        """The module as it was; parameters and submodules that were exchanged are kept.

        The class and the containers are the same ones, so that what was compiled stays valid.
        """
        module, inner = self.module, "parametrizations"
        if type(module) is not self.plain_kind:  # parametrized otherwise meanwhile
            for name, held in self.products.items():
                attach_tied(module, name, held)
        else:
            module.__class__ = self.kind
            now = {**module._modules, inner: self.modules[inner]}
            _refill(module._modules, now, self.modules)
            rest = {k: v for k, v in module._parameters.items() if k not in self.products}
            _refill(module._parameters, rest, self.parameters)
            if isinstance(module, nn.RNNBase):
                module.__dict__.pop("_flat_weights", None)
        make_recognizable(module)


def _refill(target: dict[str, Any], content: Mapping[str, Any], order: Iterable[str]) -> None:
    """Exchange what a dictionary holds, in a given order as far as it goes."""
    target.clear()
    for name in (*order, *content):
        if name in content:
            target[name] = content[name]


def _plain_parameter(held: parametrize.ParametrizationList) -> nn.Parameter:
    """The product as a parameter; the same one if a tied place was collapsed on its own before."""
    weight = current_weight(held)
    earlier: nn.Parameter | None = held.__dict__.get("plain")
    if (
        earlier is not None
        and torch.equal(earlier, weight)
        and memory_format_of(earlier) is memory_format_of(weight)
    ):
        return earlier
    # In __dict__, so that it does not count as a parameter of the list.
    held.__dict__["plain"] = plain_parameter(held, weight)
    return held.__dict__["plain"]


def _parameter_at(place: Place) -> nn.Parameter:
    """What stands in for a product now.

    Raises:
        ValueError: nothing does.
    """
    now = place.module._parameters.get(place.attribute)
    if now is None:
        raise ValueError(
            f"{place.name} is no plain parameter any more (it was removed, or parametrized). The "
            "model stays plain."
        )
    return now


def _check_ties(
    model: nn.Module,
    taken: Sequence[tuple[Place, parametrize.ParametrizationList]],
    now: Sequence[nn.Parameter],
) -> None:
    """Raise where a weight was tied to one that does not become a product.

    Raises:
        ValueError: it was; putting the factors back would untie the two.
    """
    own = {(id(place.module), place.attribute) for place, _ in taken}
    names = {id(each): place.name for (place, _), each in zip(taken, now, strict=True)}
    for path, module in model.named_modules():
        for attribute, parameter in module._parameters.items():
            if id(parameter) in names and (id(module), attribute) not in own:
                raise ValueError(
                    f"{names[id(parameter)]} was tied to {path}.{attribute}, which is no product: "
                    "its factors would untie the two. The model stays plain."
                )


def _another(held: parametrize.ParametrizationList) -> parametrize.ParametrizationList:
    """Factors of the same shapes for a weight that was tied to others and is not any more."""
    copied = copy.deepcopy(held)
    copied.__dict__.pop("plain", None)
    return copied


def _factored(
    place: Place, held: parametrize.ParametrizationList, now: nn.Parameter
) -> tuple[Tensor, ...]:
    """The factors of a weight as it is now, where it is no longer the product of those held."""
    layout = layout_of(held)
    if tuple(now.shape) != layout.shape:
        raise ValueError(
            f"{place.name} has the shape {tuple(now.shape)} now, its factors are for "
            f"{layout.shape}. The model stays plain; change shapes before you overparameterize."
        )
    before = current_weight(held).to(now)
    if not now.is_meta and torch.allclose(before, now, rtol=0, atol=0, equal_nan=True):
        return ()
    try:
        return initial_factors(layout, now)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{place.name}: {error} The model stays plain.") from None
