"""The module that computes a weight from its factors."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from overparam._precision import without_autocast
from overparam.factors.initialize import initial_factors
from overparam.factors.layout import Layout, decode_layout, encode_layout, resized

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


class Product(nn.Module):
    """The weight as a function of its factors, in float32 or better whatever autocast says.

    Args:
        layout: shapes of the factors.
        factors: their first values; without them, balanced factors of the weight.
        attributes: that users set on the parameter, for the one that takes its place again.
        memory_format: of the parameter, see :func:`memory_format_of`.
    """

    is_product = True

    def __init__(
        self,
        layout: Layout,
        factors: tuple[Tensor, ...] | None = None,
        attributes: dict[str, Any] | None = None,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        super().__init__()
        self.layout = layout
        self.attributes = attributes or {}
        self.memory_format = memory_format
        self._first = factors
        # One tensor, so that the entries of tied places share memory in a state_dict.
        self._encoded = encode_layout(layout)

    def forward(self, *factors: Tensor) -> Tensor:
        """The weight, in the dtype of the factors."""
        wide = torch.promote_types(factors[0].dtype, torch.float32)
        with without_autocast(factors[0].device):
            weight = self.layout.product([f.to(wide) for f in factors]).to(factors[0].dtype)
        if self.memory_format is not torch.contiguous_format:
            weight = weight.contiguous(memory_format=self.memory_format)
        return weight

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, ...]:
        """Factors for a weight that is assigned to the module.

        Raises:
            ValueError: the weight has no balanced factors that can be trained.
        """
        if self._first is not None:
            factors, self._first = self._first, None
            return factors
        if tuple(weight.shape) != self.layout.shape:
            raise ValueError(
                f"a weight of shape {tuple(weight.shape)} is assigned to a product of shape "
                f"{self.layout.shape}; assign an nn.Parameter to put it in the product's place."
            )
        return initial_factors(self.layout, weight)

    def belongs_to(self, held: parametrize.ParametrizationList) -> None:
        """Say which list the product is the first entry of; not counted as a submodule."""
        self.__dict__["_held"] = held

    def get_extra_state(self) -> Tensor:
        """The layout, so that a checkpoint can be collapsed without the model."""
        held = self.__dict__.get("_held", ())
        further = [type(each).__name__ for each in list(held)[1:]]
        return with_further(self._encoded, further) if further else self._encoded

    def set_extra_state(self, state: Tensor) -> None:
        """Check that a checkpoint was made with the same factors."""
        saved = decode_layout(state)
        if saved != self.layout:
            raise ValueError(
                f"the checkpoint holds factors {saved.shapes} of a weight {saved.shape}, the model "
                f"{self.layout.shapes} of {self.layout.shape}; pass the checkpoint through "
                "overparam.collapse_state_dict and load the result."
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Product:
        """Follow ``model.to(memory_format=...)``, which factors of two dimensions would miss."""
        super()._apply(fn, recurse)
        dims = len(self.layout.shape)
        if dims in _CHANNELS_LAST:
            probe = torch.empty((1,) + (2,) * (dims - 1)).to(memory_format=self.memory_format)
            self.memory_format = memory_format_of(fn(probe))
        return self


def overwrite(held: parametrize.ParametrizationList, value: Tensor) -> None:
    """What ``layer.weight.data = value`` means: shape, dtype and device may change with it.

    The factors stay the same parameters.

    Raises:
        ValueError: the new weight has no balanced factors, or its shape can be read in many ways.
        RuntimeError: something else is computed from the product.
    """
    product = product_of(held)
    if len(held) > 1:
        raise RuntimeError(
            f"a further parametrization ({type(held[1]).__name__}) is on top of the product; "
            "remove it before you set .data."
        )
    layout = product.layout
    if tuple(value.shape) != layout.shape:
        layout = resized(layout, tuple(value.shape))
    factors = initial_factors(layout, value)
    for factor, new in zip(factors_of(held), factors, strict=True):
        factor.data = new
    product.layout, product.memory_format = layout, memory_format_of(value)
    product._encoded = encode_layout(layout)


def memory_format_of(tensor: Tensor) -> torch.memory_format:
    """How the entries of a tensor are ordered: by rows, or with channels last.

    Example:
        >>> memory_format_of(torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last))
        torch.channels_last
    """
    last = _CHANNELS_LAST.get(tensor.ndim)
    if last is None or tensor.is_contiguous() or not tensor.is_contiguous(memory_format=last):
        return torch.contiguous_format
    return last


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


def attributes_of(held: parametrize.ParametrizationList) -> dict[str, Any]:
    """What users set on the parameter before it became a product, or on all its factors since."""
    first, *others = (vars(factor) for factor in factors_of(held))
    common = {k: v for k, v in first.items() if all(k in each and each[k] is v for each in others)}
    return {**product_of(held).attributes, **common}


def current_weight(held: parametrize.ParametrizationList) -> Tensor:
    """The product as it is now, without a graph; a tensor that can be trained on."""
    with torch.inference_mode(False), torch.no_grad():
        return held().detach()


def holds_product(held: object) -> bool:
    """Whether a module is a parametrization list whose first entry is a product."""
    return isinstance(held, nn.ModuleList) and len(held) > 0 and isinstance(held[0], Product)


def with_further(encoded: Tensor, names: Sequence[str]) -> Tensor:
    """An encoded layout that says which parametrizations sit on top of the product."""
    fields = json.loads(bytes(encoded.tolist()))
    return torch.tensor(
        list(json.dumps({**fields, "further": list(names)}, sort_keys=True).encode()),
        dtype=torch.uint8,
    )


def further_of(encoded: Tensor) -> list[str]:
    """Which parametrizations sit on top of a product, from its entry in a checkpoint.

    Example:
        >>> from overparam.layers.views import linear_view
        >>> from overparam.factors.layout import MatrixLayout
        >>> entry = encode_layout(MatrixLayout(linear_view((2, 3)), (2,)))
        >>> further_of(with_further(entry, ["_SpectralNorm"]))
        ['_SpectralNorm']
    """
    return json.loads(bytes(encoded.cpu().tolist())).get("further", [])
