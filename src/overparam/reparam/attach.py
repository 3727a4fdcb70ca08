"""Putting a product in the place of one parameter, and finding the places where one is.

Built on ``torch.nn.utils.parametrize``, which swaps the class of a module for a subclass with a
property. What reading and assigning such a weight does is in :mod:`overparam.reparam.access`, how
it is taken out again in :mod:`overparam.reparam.swap`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.utils import parametrize

from overparam.factors.layout import Layout
from overparam.layers.places import Site, parametrizations_of
from overparam.reparam.access import extend_class
from overparam.reparam.product import (
    Product,
    current_weight,
    factors_of,
    held_at,
    holds_product,
    layout_of,
    memory_format_of,
    product_of,
)
from overparam.reparam.swap import own_class

__all__ = [
    "Place",
    "attach",
    "attach_tied",
    "check_detachable",
    "current_weight",
    "factors_of",
    "held_at",
    "layout_of",
    "places",
    "product_of",
]


class Place(Site):
    """One place of a model whose tensor is a product."""

    @property
    def factors(self) -> parametrize.ParametrizationList:
        """What holds the factors; one object for tied places."""
        return held_at(self.module, self.attribute)

    @property
    def layout(self) -> Layout:
        """Of the factors."""
        return layout_of(self.factors)


def places(model: nn.Module) -> Iterator[Place]:
    """Every place of a model whose tensor is a product of this package, tied ones each."""
    for path, module in model.named_modules():
        for attribute, held in parametrizations_of(module).items():
            if holds_product(held):
                yield Place(path, module, attribute)


def attach(owner: nn.Module, attribute: str, layout: Layout, factors: tuple[Tensor, ...]) -> None:
    """Replace one parameter by a product of factors, which become parameters."""
    own_class(owner)
    order, parameter = tuple(owner._parameters), cast("Tensor", owner._parameters[attribute])
    product = Product(layout, factors, dict(vars(parameter)), memory_format_of(parameter))
    # Not checked by torch, which would form the product once more.
    parametrize.register_parametrization(owner, attribute, product, unsafe=True)
    held: Any = held_at(owner, attribute)
    held.unsafe, held.stand_ins = False, 0
    product.belongs_to(held)
    for factor in factors_of(held):
        vars(factor).update(product.attributes)
    _extend(owner, order)


def attach_tied(owner: nn.Module, attribute: str, held: parametrize.ParametrizationList) -> None:
    """Replace one more place of a tied parameter by the factors that another place holds."""
    factors = tuple(factor.detach() for factor in factors_of(held))
    attach(owner, attribute, layout_of(held), factors)
    owner.parametrizations[attribute] = held  # pyright: ignore


def _extend(owner: nn.Module, order: tuple[str, ...]) -> None:
    if not hasattr(owner.parametrizations, "original_order"):
        # Lives and dies with the parametrization, and is copied with it.
        owner.parametrizations.original_order = order  # pyright: ignore
    extend_class(owner)


def check_detachable(found: list[Place]) -> None:
    """Raise where another parametrization was put on top of a product.

    Raises:
        RuntimeError: it was; nothing has changed.
    """
    for place in found:
        if len(place.factors) > 1:
            raise RuntimeError(
                f"{place.name} has a further parametrization on top of the product; remove that "
                "one first (torch.nn.utils.parametrize.remove_parametrizations)."
            )
