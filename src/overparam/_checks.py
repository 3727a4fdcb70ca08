"""Checks of arguments shared by the pure functions: each error names the value and the remedy."""

from __future__ import annotations

import itertools
import math
import numbers
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def broadcast_shape(*shapes: Sequence[int]) -> torch.Size:
    """``torch.broadcast_shapes``, whose 60 microseconds are spent only where shapes differ.

    Raises:
        RuntimeError: the shapes do not broadcast.

    Example:
        >>> broadcast_shape((2, 3), (1, 1), (2, 3)), broadcast_shape((2, 1), (3,))
        (torch.Size([2, 3]), torch.Size([2, 3]))
    """
    longest = max(shapes, key=len)
    if all(shape == longest or all(size == 1 for size in shape) for shape in shapes):
        return torch.Size(longest)
    return torch.broadcast_shapes(*shapes)


def check_floating(name: str, tensor: Tensor) -> None:
    """Raise unless ``tensor`` is a real floating-point tensor.

    Raises:
        TypeError: ``tensor`` is not a tensor, or is of an integer, boolean or complex dtype.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(
            f"{name} is a {type(tensor).__name__}; pass a torch.Tensor, "
            "for example torch.as_tensor(value)."
        )
    if not tensor.is_floating_point():
        raise TypeError(
            f"{name} has dtype {tensor.dtype}; pass a real floating-point tensor, "
            f"for example {name}.double()."
        )


def check_same_trailing(weight: Tensor, gradient: Tensor, trailing: int) -> None:
    """Raise unless weight and gradient agree in their last ``trailing`` dimensions.

    Leading dimensions must broadcast; dtype and device must be the same.

    Raises:
        TypeError: a tensor is not floating point, or the dtypes differ.
        ValueError: the shapes or the devices do not fit.
    """
    check_floating("weight", weight)
    check_floating("gradient", gradient)
    if weight.ndim < trailing:
        kind = "a matrix (..., m, n)" if trailing == 2 else "a vector (..., d)"
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}; the rule needs {kind}: reshape it first."
        )
    if weight.shape[-trailing:] != gradient.shape[-trailing:]:
        raise ValueError(
            f"gradient has shape {tuple(gradient.shape)} and weight {tuple(weight.shape)}; "
            f"their last {trailing} dimension(s) must be equal."
        )
    try:
        broadcast_shape(weight.shape[:-trailing], gradient.shape[:-trailing])
    except RuntimeError:
        raise ValueError(
            f"the leading dimensions of weight {tuple(weight.shape)} and gradient "
            f"{tuple(gradient.shape)} do not broadcast; make them equal or 1."
        ) from None
    if weight.dtype != gradient.dtype:
        raise TypeError(
            f"weight has dtype {weight.dtype} and gradient {gradient.dtype}; cast one of them."
        )
    if weight.device != gradient.device:
        raise ValueError(
            f"weight is on {weight.device} and gradient on {gradient.device}; move one of them."
        )


def plain_number(value: Any) -> Any:
    """A real number of numpy or the like as an int or a float; all else as it is.

    Checkpoints hold plain numbers: ``torch.load(weights_only=True)`` refuses those of numpy.
    """
    if type(value) in (int, float, bool) or not isinstance(value, numbers.Real):
        return value
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def plain_numbers(value: Any) -> Any:
    """As :func:`plain_number`; a sequence as a tuple of them."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(map(plain_number, value))
    return plain_number(value)


def check_depth(depth: float | Tensor) -> None:
    """Raise unless every depth is a real number of at least 1, or infinity.

    A tensor of depths on an accelerator is read back to be checked (one synchronization).

    Raises:
        TypeError: depth is neither a number nor a real tensor.
        ValueError: a depth is below 1 or not a number.
        RuntimeError: a derivative in depth is asked for.
    """
    remedy = "depth counts the factors of the product: use a real number >= 1, or math.inf."
    if isinstance(depth, Tensor):
        if depth.is_complex() or depth.dtype == torch.bool:
            raise TypeError(f"depth has dtype {depth.dtype}; {remedy}")
        if depth.requires_grad and torch.is_grad_enabled():
            raise RuntimeError(_NOT_IN_DEPTH)
        _EachDepth.apply(depth, remedy)
        return
    if isinstance(depth, bool) or not isinstance(depth, numbers.Real):
        raise TypeError(f"depth is {depth!r}, a {type(depth).__name__}; {remedy}")
    if isinstance(depth, int) and depth > 2**53:
        raise ValueError(f"depth has {len(str(depth))} digits; use math.inf for the limit.")
    if math.isnan(depth) or depth < 1:
        raise ValueError(f"depth is {depth!r}; {remedy}")


_NOT_IN_DEPTH = (
    "the rule is not differentiated in depth: pass depth.detach(), and differentiate in the weight "
    "or the gradient."
)


class _EachDepth(torch.autograd.Function):
    """A look at the values of a tensor of depths, which ``torch.vmap`` allows here alone."""

    @staticmethod
    def forward(depth: Tensor, remedy: str) -> Tensor:
        bad = ~(depth >= 1)
        if bool(bad.any()):
            raise ValueError(f"depth contains {depth[bad].flatten()[0].item()}; {remedy}")
        return depth.new_empty(())

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        pass

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        raise RuntimeError(_NOT_IN_DEPTH)

    @staticmethod
    def vmap(  # pyright: ignore[reportIncompatibleMethodOverride]
        info: Any, in_dims: Any, depth: Tensor, remedy: str
    ) -> tuple[Any, None]:
        return _EachDepth.apply(depth, remedy), None


def plain_depth(depth: Any) -> float:
    """One depth as a plain number of Python, whatever kind of number it is.

    Raises:
        TypeError: it is not a real number.
        ValueError: it is below 1 or not a number.
    """
    if isinstance(depth, Tensor):
        raise TypeError("depth is a tensor; give each group a number of its own.")
    depth = plain_number(depth)
    check_depth(depth)
    return depth


def whole_depth(depth: Any) -> int:
    """The number of factors as a plain integer.

    Raises:
        TypeError: it is not an integer.
        ValueError: it is below 1.
    """
    if isinstance(depth, (bool, Tensor)) or not hasattr(depth, "__index__"):
        raise TypeError(
            f"depth is {depth!r}; a product has a whole number of factors. For real depth use the "
            "end-to-end rule, overparam.EndToEnd or overparam.end_to_end_update."
        )
    if depth < 1:
        raise ValueError(f"depth is {depth}; a product needs at least one factor.")
    return operator.index(depth)


def check_depth_shape(depth: float | Tensor, leading: Sequence[int]) -> None:
    """Raise unless a tensor of depths broadcasts with the leading dimensions.

    Raises:
        ValueError: the shapes do not broadcast.
    """
    if not isinstance(depth, Tensor):
        return
    try:
        broadcast_shape(depth.shape, leading)
    except RuntimeError:
        raise ValueError(
            f"depth has shape {tuple(depth.shape)}, which does not broadcast with the leading "
            f"dimensions {tuple(leading)}; give one depth, or one for each slot of the batch."
        ) from None


def check_factors(factors: Sequence[Tensor]) -> None:
    """Raise unless ``factors`` can be multiplied as ``W_N ... W_1``, given as ``(W_1, ..., W_N)``.

    Raises:
        TypeError: a factor is not a floating-point tensor, or dtypes differ.
        ValueError: no factors, or two neighbours whose shapes do not fit.
    """
    if len(factors) == 0:
        raise ValueError("factors is empty; a product needs at least one factor.")
    for number, factor in enumerate(factors, start=1):
        check_floating(f"factor {number}", factor)
        if factor.ndim < 2:
            raise ValueError(
                f"factor {number} has shape {tuple(factor.shape)}; each factor is a matrix "
                "(..., out, in)."
            )
        if factor.dtype != factors[0].dtype:
            raise TypeError(
                f"factor {number} has dtype {factor.dtype} and factor 1 {factors[0].dtype}; "
                "cast them to one dtype."
            )
    for number, (first, second) in enumerate(itertools.pairwise(factors), start=1):
        if second.shape[-1] != first.shape[-2]:
            raise ValueError(
                f"factor {number + 1} of shape {tuple(second.shape)} cannot follow factor "
                f"{number} of shape {tuple(first.shape)}: factors are ordered from the input, "
                "(W_1, ..., W_N), and W_{j+1} has as many columns as W_j has rows."
            )
    try:
        broadcast_shape(*(factor.shape[:-2] for factor in factors))
    except RuntimeError:
        raise ValueError(
            f"the leading dimensions {[tuple(factor.shape[:-2]) for factor in factors]} of the "
            "factors do not broadcast; make them equal or 1."
        ) from None
