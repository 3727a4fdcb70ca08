"""Back from products of factors to plain weights, for good or for a while."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from overparam.reparam.attach import (
    Place,
    attach_tied,
    current_weight,
    detach,
    factors_of,
    layout_of,
    places,
)
from overparam.reparam.checkpoint import accept_plain_checkpoints, refuse_plain_checkpoints
from overparam.reparam.optimizer_state import check_collapse, weight_into_optimizer
from overparam.reparam.plan import already_wrapped
from overparam.reparam.verify import record


def collapse(
    model: nn.Module,
    *,
    verify: bool = True,
    example_inputs: Sequence[Any] | dict[str, Any] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> nn.Module:
    """Replace every product by its value: the model is plain again, and computes the same.

    Types, names and order of parameters, ``requires_grad``, ties and state_dict keys are as
    before :func:`overparam.overparameterize`. A model without products is left as it is.

    Args:
        model: changed in place.
        verify: compare each weight with its product, and, given example inputs, the outputs of
            the model before and after, in training and in evaluation mode with the same random
            numbers. On a mismatch everything is put back.
        example_inputs: positional arguments of the model (a sequence) or keyword arguments (a
            dict).
        optimizer: holding the factors; the weights take their places, with state.

    Returns:
        The model.

    Raises:
        RuntimeError: the model is wrapped for distributed training, a further parametrization
            sits on top of a product, or the verification failed.
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
    held_lists = {id(place.factors): place.factors for place in found}
    if optimizer is not None:
        check_collapse(optimizer, [factors_of(held) for held in held_lists.values()])
    before = record(model, found, example_inputs) if verify else None
    swap = _Swap.plain(found)
    if before is not None:
        difference = before.difference(record(model, found, example_inputs))
        if difference is not None:
            swap.undo()
            raise RuntimeError(f"collapse changed the model, and was undone: {difference}.")
    if optimizer is not None:
        for key, held in held_lists.items():
            weight_into_optimizer(
                optimizer, factors_of(held), swap.parameters[key], layout_of(held)
            )
    return model


def merge_and_unload(model: nn.Module) -> nn.Module:
    """:func:`collapse` under the name that PEFT gives it."""
    return collapse(model)


def equip(owner: nn.Module) -> None:
    """Give a module with products what others look for: plain checkpoints, timm's method."""
    accept_plain_checkpoints(owner)
    if not hasattr(owner, "reparameterize"):
        type(owner).reparameterize = _reparameterize  # pyright: ignore


def _reparameterize(self: nn.Module) -> None:
    """Collapse this module; the name that timm's ``reparameterize_model`` looks for."""
    collapse(self)


@contextmanager
def collapsed(model: nn.Module) -> Iterator[nn.Module]:
    """The plain model for a while, for evaluation, export or saving; factors come back after.

    The factors stay the same objects, so that an optimizer keeps them. A weight that is changed
    meanwhile (by loading a checkpoint, for example) is factored again, balanced.

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
    swap = _Swap.plain(list(places(model)))
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
        for place, held in self.taken:
            if held.__dict__.pop("plain", None) is not None:
                _refactor_if_changed(place, held)
        for place, held in self.taken:
            attach_tied(place.module, place.attribute, held)
            equip(place.module)


def _plain_parameter(held: parametrize.ParametrizationList) -> nn.Parameter:
    """The product as a parameter; the same one if a tied place was collapsed on its own before."""
    weight = current_weight(held)
    earlier: nn.Parameter | None = held.__dict__.get("plain")
    if earlier is not None and torch.equal(earlier, weight):
        return earlier
    trained = any(factor.requires_grad for factor in factors_of(held))
    parameter = nn.Parameter(weight.contiguous(), requires_grad=trained)
    # In __dict__, so that it does not count as a parameter of the list.
    held.__dict__["plain"] = parameter
    return parameter


def _refactor_if_changed(place: Place, held: parametrize.ParametrizationList) -> None:
    now: Tensor = getattr(place.module, place.attribute).detach()
    same = torch.allclose(now, current_weight(held), rtol=0, atol=0, equal_nan=True)
    if not same:
        with torch.no_grad():
            for factor, value in zip(factors_of(held), layout_of(held).balanced(now), strict=True):
                factor.copy_(value)
