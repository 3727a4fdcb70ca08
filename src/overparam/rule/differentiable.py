"""The end-to-end rule for autograd and ``torch.func``: derivatives, vmap and forward mode.

Autograd through a decomposition would get it wrong: the derivative of singular vectors is
infinite where singular values repeat; that of the rule is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from overparam.rule.derivative import end_to_end_weight_vjp
from overparam.rule.engine import update_of_wide
from overparam.rule.unbalanced import Offsets
from overparam.rule.unbalanced_derivative import unbalanced_weight_vjp

_ONCE = (
    "end_to_end_update is differentiable once in its weight; a second derivative is not "
    "implemented: detach the first one, or drop create_graph=True. (torch.func.jacfwd and jacrev "
    "work; torch.func.hessian works in the gradient.)"
)


@dataclass(frozen=True)
class _Factors:
    """What a kernel depends on but the depth; torch passes it through as it is."""

    offsets: Offsets = ()


def differentiable_update(
    weight: Tensor, gradient: Tensor, inverse: Tensor, offsets: Offsets = ()
) -> Tensor:
    """The end-to-end update of matrices with ``m <= n``, once differentiable in the weight.

    Args:
        weight: ``W``, ``(..., m, n)``.
        gradient: ``G``, ``(..., m, n)``.
        inverse: ``1/N`` in float64, ``(..., 1, 1)``.
        offsets: of N unbalanced factors; empty for balanced ones.

    Returns:
        ``D``, in the dtype of ``weight``.
    """
    return _Update.apply(weight, gradient, inverse, _Factors(offsets))  # pyright: ignore[reportReturnType]


class _Broadcasting(torch.autograd.Function):
    """A function of matrices that broadcasts over leading dimensions: so does its vmap."""

    @classmethod  # torch calls it on the class
    def vmap(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, info: Any, in_dims: tuple[int | None, ...], *args: Any
    ) -> tuple[Tensor, int]:
        """The mapped dimension becomes the first of the leading ones."""
        *tensors, factors = args
        dims = in_dims[: len(tensors)]
        ranks = [x.ndim - (dim is not None) for x, dim in zip(tensors, dims, strict=True)]
        moved = []
        for x, dim, rank in zip(tensors, dims, ranks, strict=True):
            if dim is not None:
                x = x.movedim(dim, 0)
                x = x.reshape(len(x), *(1,) * (max(ranks) - rank), *x.shape[1:])
            moved.append(x)
        return cls.apply(*moved, factors), 0  # pyright: ignore[reportReturnType]


class _Update(_Broadcasting):
    """The rule for ``m <= n``: ``(W, G, 1/N, factors) -> D``."""

    @staticmethod
    def forward(weight: Tensor, gradient: Tensor, inverse: Tensor, factors: _Factors) -> Tensor:
        return update_of_wide(weight, gradient, inverse, factors.offsets)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.factors = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # made positional above
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None]:
        (cotangent,) = grad_outputs
        weight, gradient, inverse = ctx.saved_tensors
        to_weight = to_gradient = None
        if ctx.needs_input_grad[0]:
            to_weight = _WeightSlope.apply(weight, gradient, inverse, cotangent, ctx.factors)
            to_weight = to_weight.sum_to_size(weight.shape)  # pyright: ignore
        if ctx.needs_input_grad[1]:
            # D is linear in G and its matrix is symmetric (Claim 1): its own adjoint.
            to_gradient = _Update.apply(weight, cotangent, inverse, ctx.factors)
            to_gradient = to_gradient.sum_to_size(gradient.shape)  # pyright: ignore
        return to_weight, to_gradient, None, None

    @staticmethod
    def jvp(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, along_weight: Tensor | None, along_gradient: Tensor | None, *_: None
    ) -> Tensor:
        weight, gradient, inverse = ctx.saved_tensors
        total = gradient.new_zeros(())
        if along_weight is not None:
            slope = _WeightPush.apply(weight, gradient, inverse, along_weight, ctx.factors)
            total = total + slope  # pyright: ignore[reportOperatorIssue]
        if along_gradient is not None:
            slope = _Update.apply(weight, along_gradient, inverse, ctx.factors)
            total = total + slope  # pyright: ignore[reportOperatorIssue]
        return total


class _Once(_Broadcasting):
    """A derivative in the weight, which refuses to be differentiated once more.

    ``once_differentiable`` would return a constant, a silent zero in the second derivative,
    wherever the cotangent itself needs no gradient.
    """

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        raise RuntimeError(_ONCE)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
        raise RuntimeError(_ONCE)


class _WeightSlope(_Once):
    """The gradient of ``<H, D(W, G)>`` in W: ``(W, G, 1/N, H, factors)``."""

    @staticmethod
    def forward(
        weight: Tensor, gradient: Tensor, inverse: Tensor, cotangent: Tensor, factors: _Factors
    ) -> Tensor:
        return _weight_vjp(weight, gradient, inverse, cotangent, factors)


class _WeightPush(_Once):
    """The derivative of ``D(W, G)`` along a tangent E of W: ``(W, G, 1/N, E, factors)``.

    The transpose of :class:`_WeightSlope`, which is linear in H.
    """

    @staticmethod
    def forward(
        weight: Tensor, gradient: Tensor, inverse: Tensor, along: Tensor, factors: _Factors
    ) -> Tensor:
        shape = torch.broadcast_shapes(*(x.shape for x in (weight, gradient, inverse, along)))
        with torch.enable_grad():
            cotangent = weight.new_zeros(shape).requires_grad_()
            slope = _weight_vjp(weight, gradient, inverse, cotangent, factors)
        return torch.autograd.grad(slope, cotangent, along.expand(shape))[0]


def _weight_vjp(
    weight: Tensor, gradient: Tensor, inverse: Tensor, cotangent: Tensor, factors: _Factors
) -> Tensor:
    """The gradient of ``<H, D(W, G)>`` in W."""
    if factors.offsets:
        return unbalanced_weight_vjp(weight, gradient, factors.offsets, cotangent)
    return end_to_end_weight_vjp(weight, gradient, inverse, cotangent)
