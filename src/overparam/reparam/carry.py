"""What hangs on a parameter beside its values, and goes along when another takes its place."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from overparam.factors.linearize import gradient_from_factors, gradient_to_factors
from overparam.reparam.product import (
    attributes_of,
    factors_of,
    layout_of,
    memory_format_of,
    product_of,
)


def warn_of_hooks(named: Iterable[tuple[str, Tensor]], becomes: str) -> None:
    """Name the hooks that are about to be lost: they are for a gradient that will not be formed.

    Args:
        named: parameters that are replaced.
        becomes: what takes their place, in words.
    """
    lost = [f"{name} ({kinds})" for name, tensor in named if (kinds := _hooks_of(tensor))]
    if lost:
        warnings.warn(
            f"hooks on {', '.join(lost)} are not carried over: {becomes}. Register them again "
            "afterwards, where they make sense.",
            UserWarning,
            stacklevel=3,
        )


def _hooks_of(tensor: Any) -> str:
    hooks = {
        "gradient": tensor._backward_hooks,
        "post-accumulate-grad": getattr(tensor, "_post_accumulate_grad_hooks", None),
    }
    return " and ".join(f"{kind} hook" for kind, held in hooks.items() if held)


def gradients_for_factors(
    layout: Any, factors: Sequence[Tensor], gradient: Tensor | None
) -> Sequence[Tensor | None]:
    """What an accumulated gradient of the weight is at its factors: ``J^T G``."""
    if gradient is None:
        return [None] * len(factors)
    with torch.inference_mode(False):
        return gradient_to_factors(layout, factors, gradient.to(factors[0]))


def gradient_of_weight(held: parametrize.ParametrizationList) -> Tensor | None:
    """What accumulated gradients of factors are at the weight, by least squares."""
    factors = factors_of(held)
    parts = [factor.grad for factor in factors if factor.grad is not None]
    if len(parts) < len(factors):
        return None
    with torch.inference_mode(False), torch.no_grad():
        return gradient_from_factors(layout_of(held), factors, parts)


def plain_parameter(held: parametrize.ParametrizationList, weight: Tensor) -> nn.Parameter:
    """A parameter with the value of a product and all else that the one before it had."""
    product, factors = product_of(held), factors_of(held)
    trained = any(factor.requires_grad for factor in factors)
    value = weight.contiguous(memory_format=product.memory_format)
    parameter = nn.Parameter(value, requires_grad=trained)
    vars(parameter).update(attributes_of(held))
    return parameter


def hand_back(held: parametrize.ParametrizationList, parameter: nn.Parameter) -> None:
    """Let factors follow what has happened to the plain parameter that stood in for them."""
    product, factors = product_of(held), factors_of(held)
    product.memory_format = memory_format_of(parameter)
    if parameter.requires_grad != any(factor.requires_grad for factor in factors):
        for factor in factors:
            factor.requires_grad_(parameter.requires_grad)
    parts = gradients_for_factors(product.layout, factors, parameter.grad)
    parameter.grad = None
    for factor, part in zip(factors, parts, strict=True):
        if part is not None:
            factor.grad = part if factor.grad is None else factor.grad + part


_PLAIN: tuple[type, ...] = (nn.Parameter,)
"""Kinds of parameters that factors can stand in for."""


def misfit(parameter: Any) -> str | None:
    """Why a parameter cannot become a product because of what kind of tensor it is, or None."""
    kind = type(parameter)
    if kind not in _PLAIN:
        return f"it is a {kind.__name__}, a tensor subclass whose meaning factors would lose"
    if parameter.layout != torch.strided:
        return f"its memory layout is {parameter.layout}"
    names = getattr(parameter, "names", ())  # older torch
    if any(names):
        return f"its dimensions have the names {names}, which factors do not"
    return None
