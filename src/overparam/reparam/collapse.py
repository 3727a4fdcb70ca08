"""Back from products of factors to plain weights, for good or for a while."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from overparam.factors.initialize import initial_factors
from overparam.reparam.attach import (
    Place,
    attach_tied,
    check_detachable,
    current_weight,
    detach,
    factors_of,
    layout_of,
    places,
    product_of,
)
from overparam.reparam.checkpoint import accept_plain_checkpoints, refuse_plain_checkpoints
from overparam.reparam.optimizer_state import GroupOrder, check_collapse, weight_into_optimizer
from overparam.reparam.plan import already_sharded, already_wrapped
from overparam.reparam.verify import first_difference, outputs_of


def collapse(
    model: nn.Module,
    *,
    example_inputs: Tensor | Sequence[Any] | Mapping[str, Any] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> nn.Module:
    """Replace every product by its value: the model is plain again, and computes the same.

    Types, names and order of parameters, ``requires_grad``, ties and state_dict keys are as
    before :func:`overparam.overparameterize`. A model without products is left as it is.

    Args:
        model: changed in place.
        example_inputs: positional arguments of the model (a sequence, or one tensor) or keyword
            arguments (a dict). The outputs before and after are compared, in training and in
            evaluation mode with the same random numbers; on a mismatch everything is put back.
        optimizer: holding the factors; the weights take their places, with state. That takes a
            singular value decomposition and a few dozen products of each weight in float64.

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
    order = None
    if optimizer is not None:
        check_collapse(optimizer, [factors_of(held) for held in held_lists.values()])
        order = GroupOrder.of(optimizer, model)
    before = None if example_inputs is None else outputs_of(model, example_inputs)
    swap = _Swap.plain(found)
    if example_inputs is not None and before is not None:
        try:
            difference = first_difference(before, outputs_of(model, example_inputs))
            if difference is not None:
                raise RuntimeError(f"collapse changed the model, and was undone: {difference}.")
        except BaseException:
            swap.undo()
            raise
    if optimizer is not None and order is not None:
        for key, held in held_lists.items():
            weight_into_optimizer(
                optimizer, factors_of(held), swap.parameters[key], layout_of(held)
            )
        order.restore(optimizer, model)
    return model


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
def collapsed(model: nn.Module) -> Iterator[nn.Module]:
    """The plain model for a while, for evaluation, export or saving; factors come back after.

    The factors stay the same objects, so that an optimizer keeps them. A weight that is changed
    meanwhile (by loading a checkpoint, for example) is factored again, balanced; where the model
    moves to another device or dtype, the factors follow.

    Raises:
        RuntimeError: the model is sharded, or a further parametrization sits on top of a product.
        ValueError: on leaving, a weight was changed to one that the factors cannot hold (all
            zeros, another shape); the model then stays plain.

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
    swap = _Swap.plain(found)
    try:
        yield model
    finally:
        swap.undo()


@dataclass
class _Swap:
    """Products taken out of a model, with what it takes to put them back."""

    taken: list[tuple[Place, parametrize.ParametrizationList]]
    parameters: dict[int, nn.Parameter]

    @classmethod
    def plain(cls, found: list[Place]) -> _Swap:
        """Replace every product by a plain parameter, tied ones by one and the same."""
        swap = cls([], {})
        for place in found:
            held = place.factors
            if id(held) not in swap.parameters:
                swap.parameters[id(held)] = _plain_parameter(held)
            detach(place, swap.parameters[id(held)])
            refuse_plain_checkpoints(place.module)
            swap.taken.append((place, held))
        return swap

    def undo(self) -> None:
        """Put the products back; a weight that was changed is factored again first."""
        owners = {id(held): (place, held) for place, held in reversed(self.taken)}
        # All or none: what cannot be factored is found before anything is put back.
        changed = [(held, *_changed(place, held)) for place, held in owners.values()]
        for held, now, values in changed:
            held.to(device=now.device, dtype=now.dtype)
            with torch.no_grad():
                for factor, value in zip(factors_of(held), values, strict=False):
                    factor.copy_(value)
        for place, held in self.taken:
            held.__dict__.pop("plain", None)
            attach_tied(place.module, place.attribute, held)
            make_recognizable(place.module)


def _plain_parameter(held: parametrize.ParametrizationList) -> nn.Parameter:
    """The product as a parameter; the same one if a tied place was collapsed on its own before."""
    weight = current_weight(held)
    earlier: nn.Parameter | None = held.__dict__.get("plain")
    if earlier is not None and torch.equal(earlier, weight):
        return earlier
    trained = any(factor.requires_grad for factor in factors_of(held))
    parameter = nn.Parameter(weight.contiguous(), requires_grad=trained)
    vars(parameter).update(product_of(held).attributes)
    # In __dict__, so that it does not count as a parameter of the list.
    held.__dict__["plain"] = parameter
    return parameter


def _changed(
    place: Place, held: parametrize.ParametrizationList
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The weight as it is now, and its factors where it is no longer their product."""
    now: Tensor = getattr(place.module, place.attribute).detach()
    layout = layout_of(held)
    if tuple(now.shape) != layout.shape:
        raise ValueError(
            f"{place.name} has the shape {tuple(now.shape)} now, its factors are for "
            f"{layout.shape}. The model stays plain; change shapes before you overparameterize."
        )
    before = current_weight(held).to(now)
    if not now.is_meta and torch.allclose(before, now, rtol=0, atol=0, equal_nan=True):
        return now, ()
    try:
        return now, initial_factors(layout, now)
    except ValueError as error:
        raise ValueError(f"{place.name}: {error} The model stays plain.") from None
