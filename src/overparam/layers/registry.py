"""How the weights of each type of layer are read as matrices: a table that users can extend."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn
from torch.nn.parameter import is_lazy

from overparam.layers.views import (
    MatrixView,
    convolution_view,
    embedding_view,
    expert_view,
    flat_view,
    linear_view,
    packed_view,
    transposed_convolution_view,
    transposed_linear_view,
)

_Layer = TypeVar("_Layer", bound=nn.Module)

# Gates of a recurrent layer, stacked along the rows of each weight.
_GATES = {"RNN_TANH": 1, "RNN_RELU": 1, "GRU": 3, "LSTM": 4}


def register_view(
    layer: type[_Layer], function: Callable[[_Layer, str], MatrixView | None]
) -> None:
    """Say how the weights of a type of layer are read as matrices, and of what kind they are.

    ``EndToEnd``, ``Factored``, ``Radial`` and ``overparameterize`` all ask this table. The
    built-in layers are registered in the same way. A subclass is read as its nearest registered
    base class; registering a type again replaces its entry.

    Args:
        layer: the type.
        function: called with a layer and the name of one of its parameters. It returns a
            :class:`overparam.layers.MatrixView`, whose ``kind`` is the word that ``targets``
            chooses it by, or None for a parameter that acts entry by entry. Lengths (``weight_g``)
            and biases of known names are not asked for.

    Raises:
        TypeError: ``layer`` is not a type of module, or ``function`` cannot be called.

    Example:
        >>> import torch
        >>> from overparam import plan_overparameterization
        >>> class LowRankMixer(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.mix = nn.Parameter(torch.randn(6, 4))
        >>> register_view(LowRankMixer, lambda layer, name: linear_view(layer.mix.shape))
        >>> len(plan_overparameterization(LowRankMixer()).entries)
        1
    """
    if not (isinstance(layer, type) and issubclass(layer, nn.Module)):
        raise TypeError(f"layer is {layer!r}; register a type of module, for example nn.Linear.")
    if not callable(function):
        raise TypeError(f"function is {function!r}; give a function (layer, name) -> view.")
    _view.register(layer, function)


def parameter_view(module: nn.Module, name: str) -> MatrixView | None:
    """How one parameter of a module is read, which depends on the type of the module.

    Args:
        module: the layer that owns the parameter.
        name: of the parameter within the layer, for example ``"weight"``.

    Returns:
        The view, or None where the parameter multiplies entry by entry (biases, scales of
        normalizations, anything of fewer than two dimensions).

    Raises:
        ValueError: the parameter has no shape yet, or the view that a registered function
            returned is for another shape.

    Example:
        >>> from torch import nn
        >>> parameter_view(nn.MultiheadAttention(8, 2), "in_proj_weight").batch
        3
        >>> parameter_view(nn.Linear(3, 2), "bias") is None
        True
    """
    tensor = getattr(module, name)
    if is_lazy(tensor):
        raise ValueError(
            f"the parameter {name} of {type(module).__name__} has no shape yet; run the model "
            "once on an example input first."
        )
    shape = tuple(tensor.shape)
    return None if acts_entrywise(module, name, shape) else checked_view(module, name, shape)


def acts_entrywise(module: nn.Module, name: str, shape: tuple[int, ...]) -> bool:
    """Whether a parameter is a vector, a scalar, a bias, or the lengths of an old weight_norm."""
    lengths = name.endswith("_g") and hasattr(module, f"{name[:-2]}_v")
    bias = re.search(r"(^|_)bias(_|$)", name) is not None
    return len(shape) < 2 or bias or (lengths and math.prod(shape) == max(shape))


def checked_view(module: nn.Module, name: str, shape: tuple[int, ...]) -> MatrixView | None:
    """What the table says of a parameter, checked against the shape of the tensor.

    Raises:
        TypeError: the registered function returned something else than a view or None.
        ValueError: it returned a view for another shape.
    """
    view = _view(module, name)
    if view is None:
        return None
    if not isinstance(view, MatrixView):
        raise TypeError(
            f"the view registered for {type(module).__name__} returned {view!r} for {name}; "
            "return an overparam.layers.MatrixView, or None."
        )
    if view.shape != shape:
        raise ValueError(
            f"the view registered for {type(module).__name__} is for the shape {view.shape}; "
            f"{name} has {shape}."
        )
    return view


@functools.singledispatch
def _view(module: nn.Module, name: str) -> MatrixView | None:
    """The table; this is the entry for types that it does not have."""
    return _unknown(module, name)


def _unknown(module: nn.Module, name: str) -> MatrixView | None:
    """A layer that nobody registered: its shape alone speaks, and ``kind`` says so."""
    shape = tuple(getattr(module, name).shape)
    if _is_transposed_linear(module):
        return transposed_linear_view(shape)
    if len(shape) == 3:
        if shape[1:] == (1, 1):  # one number for each channel is a scale
            return None
        # transformers and others name the module that holds a batch of experts so.
        experts = type(module).__name__.endswith("Experts")
        return expert_view(shape, "experts" if experts else "unknown")
    return linear_view(shape, "unknown") if len(shape) == 2 else flat_view(shape, "unknown")


def _is_transposed_linear(module: nn.Module) -> bool:
    """Whether a module is the ``Conv1D`` of transformers, which stores its weight as (in, out).

    Known by its name, so that transformers need not be imported; also where a parametrization
    has put a subclass in its place.
    """
    return hasattr(module, "nf") and any(base.__name__ == "Conv1D" for base in type(module).mro())


def _shape(module: nn.Module, name: str) -> tuple[int, ...]:
    return tuple(getattr(module, name).shape)


def _weight_alone(function: Callable[[Any, str], MatrixView | None]) -> Callable[..., Any]:
    """What a layer of torch says of its ``weight``; a subclass may hold parameters of its own.

    ``weight_v`` and ``weight_orig`` are the weight under torch's older norms.
    """

    def view(module: nn.Module, name: str) -> MatrixView | None:
        own = name in ("weight", "weight_v", "weight_orig")
        return function(module, name) if own else _unknown(module, name)

    return view


@_weight_alone
def _none(module: nn.Module, name: str) -> None:
    del module, name


@_weight_alone
def _linear(module: nn.Module, name: str) -> MatrixView:
    return linear_view(_shape(module, name))


@_weight_alone
def _convolution(module: nn.Conv2d, name: str) -> MatrixView:
    return convolution_view(_shape(module, name), module.groups)


@_weight_alone
def _transposed_convolution(module: nn.ConvTranspose2d, name: str) -> MatrixView:
    return transposed_convolution_view(_shape(module, name), module.groups)


@_weight_alone
def _embedding(module: nn.Module, name: str) -> MatrixView:
    return embedding_view(_shape(module, name))


def _attention(module: nn.MultiheadAttention, name: str) -> MatrixView | None:
    if name.startswith("in_proj_weight"):
        return packed_view(_shape(module, name), 3, "attention")
    if name.startswith(("q_proj_weight", "k_proj_weight", "v_proj_weight")):
        return linear_view(_shape(module, name), "attention")
    return _unknown(module, name)


def _recurrent(module: nn.RNNBase, name: str) -> MatrixView | None:
    shape = _shape(module, name)
    if name.startswith(("weight_ih", "weight_hh")):
        return packed_view(shape, _GATES[module.mode], "recurrent")
    if name.startswith("weight_hr"):  # projections of an LSTM
        return linear_view(shape, "recurrent")
    return _unknown(module, name)


def _recurrent_cell(module: nn.LSTMCell, name: str) -> MatrixView | None:
    shape = _shape(module, name)
    if name.startswith(("weight_ih", "weight_hh")):
        return packed_view(shape, shape[0] // module.hidden_size, "recurrent")
    return _unknown(module, name)


@_weight_alone
def _bilinear(module: nn.Module, name: str) -> MatrixView:
    return flat_view(_shape(module, name), "bilinear")


for _type in (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase, nn.PReLU):
    register_view(_type, _none)
for _type in (nn.Conv1d, nn.Conv2d, nn.Conv3d):
    register_view(_type, _convolution)  # pyright: ignore[reportArgumentType]
for _type in (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d):
    register_view(_type, _transposed_convolution)  # pyright: ignore[reportArgumentType]
for _type in (nn.Embedding, nn.EmbeddingBag):
    register_view(_type, _embedding)
register_view(nn.Linear, _linear)
register_view(nn.Bilinear, _bilinear)
register_view(nn.MultiheadAttention, _attention)
register_view(nn.RNNBase, _recurrent)
register_view(nn.RNNCellBase, _recurrent_cell)  # pyright: ignore[reportArgumentType]
