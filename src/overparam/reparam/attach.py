"""Putting a product in the place of one parameter, and taking it out again.

Built on ``torch.nn.utils.parametrize``, which swaps the class of a module for a subclass with a
property. What it leaves out is done here: a deep copy shares that subclass with its original, a
frozen tensor comes back as a buffer, the order of parameters changes, and recurrent layers keep
their weights in a list beside their parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from overparam._precision import without_autocast
from overparam.factors.initialize import initial_factors
from overparam.factors.layout import Layout, decode_layout, encode_layout
from overparam.layers.places import Site, parametrizations_of

_ASKING_TWICE = (nn.MultiheadAttention, nn.RNNBase)
# Where such a module keeps its products while its forward pass runs.
_KEPT = "_products_of_this_pass"


class Product(nn.Module):
    """The weight as a function of its factors, in float32 or better whatever autocast says.

    Args:
        layout: shapes of the factors.
        factors: their first values; without them, balanced factors of the weight.
        attributes: that users set on the parameter, for the one that takes its place again.
    """

    is_product = True

    def __init__(
        self,
        layout: Layout,
        factors: tuple[Tensor, ...] | None = None,
        attributes: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.layout = layout
        self.attributes = attributes or {}
        self._first = factors
        # One tensor, so that the entries of tied places share memory in a state_dict.
        self._encoded = encode_layout(layout)

    def forward(self, *factors: Tensor) -> Tensor:
        """The weight, in the dtype of the factors."""
        wide = torch.promote_types(factors[0].dtype, torch.float32)
        with without_autocast(factors[0].device):
            return self.layout.product([f.to(wide) for f in factors]).to(factors[0].dtype)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, ...]:
        """Factors for a weight that is assigned to the module.

        Raises:
            ValueError: the weight has no balanced factors that can be trained.
        """
        if self._first is not None:
            factors, self._first = self._first, None
            return factors
        return initial_factors(self.layout, weight)

    def get_extra_state(self) -> Tensor:
        """The layout, so that a checkpoint can be collapsed without the model."""
        return self._encoded

    def set_extra_state(self, state: Tensor) -> None:
        """Check that a checkpoint was made with the same factors."""
        saved = decode_layout(state)
        if saved != self.layout:
            raise ValueError(
                f"the checkpoint holds factors {saved.shapes} of a weight {saved.shape}, the model "
                f"{self.layout.shapes} of {self.layout.shape}; pass the checkpoint through "
                "overparam.collapse_state_dict and load the result."
            )


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
            if isinstance(held, nn.ModuleList) and len(held) and isinstance(held[0], Product):
                yield Place(path, module, attribute)


def held_at(owner: nn.Module, attribute: str) -> parametrize.ParametrizationList:
    """What holds the factors of one tensor of a parametrized module."""
    held = cast("nn.ModuleDict", owner.parametrizations)[attribute]
    return cast("parametrize.ParametrizationList", held)


def product_of(held: parametrize.ParametrizationList) -> Product:
    """The product that a parametrization list computes."""
    return cast("Product", held[0])


def layout_of(held: parametrize.ParametrizationList) -> Layout:
    """The layout of the factors that a parametrization list holds."""
    return product_of(held).layout


def factors_of(held: parametrize.ParametrizationList) -> list[nn.Parameter]:
    """The factors ``(W_1, ..., W_N)`` that a parametrization list holds."""
    return [getattr(held, f"original{j}") for j in range(held.ntensors)]


def current_weight(held: parametrize.ParametrizationList) -> Tensor:
    """The product as it is now, without a graph; a tensor that can be trained on."""
    with torch.inference_mode(False), torch.no_grad():
        return held().detach()


def attach(owner: nn.Module, attribute: str, layout: Layout, factors: tuple[Tensor, ...]) -> None:
    """Replace one parameter by a product of factors, which become parameters."""
    _own_class(owner)
    order = tuple(owner._parameters)
    attributes = dict(vars(owner._parameters[attribute]))
    product = Product(layout, factors, attributes)
    parametrize.register_parametrization(owner, attribute, product)
    for factor in factors_of(held_at(owner, attribute)):
        vars(factor).update(attributes)
    if not hasattr(owner.parametrizations, "original_order"):
        # Lives and dies with the parametrization, and is copied with it.
        owner.parametrizations.original_order = order  # pyright: ignore
    _extend_class(owner)


def attach_tied(owner: nn.Module, attribute: str, held: parametrize.ParametrizationList) -> None:
    """Replace one more place of a tied parameter by the factors that another place holds."""
    factors = tuple(factor.detach() for factor in factors_of(held))
    attach(owner, attribute, layout_of(held), factors)
    owner.parametrizations[attribute] = held  # pyright: ignore


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


def detach(place: Place, parameter: nn.Parameter) -> None:
    """Put a plain parameter back in the place of a product: type, name and order as before."""
    owner, attribute = place.module, place.attribute
    _own_class(owner)
    order = getattr(owner.parametrizations, "original_order", ())
    parametrize.remove_parametrizations(owner, attribute)
    # torch leaves a buffer where the factors are frozen, and a new parameter else.
    delattr(owner, attribute)
    owner.register_parameter(attribute, parameter)
    _restore_order(owner, order)
    _extend_class(owner)
    if isinstance(owner, nn.RNNBase) and not parametrize.is_parametrized(owner):
        owner._init_flat_weights()


def _restore_order(owner: nn.Module, order: tuple[str, ...]) -> None:
    """Parameters in their original order, as optimizers number them."""
    parameters = dict(owner._parameters)
    owner._parameters.clear()
    for name in (*order, *parameters):
        if name in parameters and name not in owner._parameters:
            owner._parameters[name] = parameters[name]


def _own_class(owner: nn.Module) -> None:
    """Give a parametrized module a class of its own.

    ``copy.deepcopy`` of a parametrized module shares the class with the original; adding or
    removing a property there would change both.
    """
    if not parametrize.is_parametrized(owner):
        return
    shared = type(owner)
    names = {k: v for k, v in vars(shared).items() if k not in ("__dict__", "__weakref__")}
    owner.__class__ = cast("type[nn.Module]", type(shared.__name__, shared.__bases__, names))


def _extend_class(owner: nn.Module) -> None:
    """What the class of a parametrized module needs beyond torch's property.

    Attention and recurrent layers ask for a weight several times in one forward pass; there each
    product is formed once for a pass. Not done for other modules: where a module checkpoints
    activations inside its forward pass, a kept product would lose its gradient.
    """
    if not parametrize.is_parametrized(owner) or not isinstance(owner, _ASKING_TWICE):
        return
    base, own = type(owner).__bases__[0], cast("Any", type(owner))
    for attribute in cast("nn.ModuleDict", owner.parametrizations):
        if not hasattr(vars(own)[attribute].fget, "keeps"):
            setattr(own, attribute, _kept_for_a_pass(attribute, vars(own)[attribute]))
    own.forward = _keeping_forward(base)
    if isinstance(owner, nn.RNNBase):
        # torch's own list of weights would hold products of an earlier pass.
        owner.__dict__.pop("_flat_weights", None)
        own._flat_weights = property(_flat_weights, _ignore)
        own._update_flat_weights = _ignore


def _kept_for_a_pass(attribute: str, plain: property) -> property:
    """The property that forms a product once while a forward pass runs."""
    form: Callable[[Any], Tensor] = cast("Any", plain.fget)

    def get(self: Any) -> Tensor:
        kept = self.__dict__.get(_KEPT)
        if kept is None:
            return form(self)
        if attribute not in kept:
            kept[attribute] = form(self)
        return kept[attribute]

    get.keeps = True  # pyright: ignore[reportFunctionMemberAccess]
    return property(get, plain.fset)


def _keeping_forward(base: type) -> Callable[..., Any]:
    """The forward pass of a class, with products kept while it runs."""
    forward: Callable[..., Any] = cast("Any", base).forward

    def keeping(self: Any, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return forward(self, *args, **kwargs)
        self.__dict__[_KEPT] = {}
        try:
            return forward(self, *args, **kwargs)
        finally:
            del self.__dict__[_KEPT]

    return keeping


def _flat_weights(self: Any) -> list[Tensor]:
    """The weights of a recurrent layer, in torch's order."""
    return [getattr(self, name) for name in self._flat_weights_names]


def _ignore(self: Any, value: object = None) -> None:
    """Torch stores or renews the list after moving a module; it is computed here instead."""
    del self, value
