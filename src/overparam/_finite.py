"""Whether tensors are finite, in one pass over each."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def largest_entries(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The largest absolute value of each tensor; NaN where it holds one.

    Of complex numbers, the parts count.
    """
    tensors = [_real(each) for each in tensors]
    if tensors[0].device.type == "cpu":  # ten times as fast as the norm
        return [torch.maximum(high, -low) for low, high in map(torch.aminmax, tensors)]
    return list(torch._foreach_norm(tensors, math.inf))  # pyright: ignore[reportPrivateImportUsage]


def is_finite(tensor: Tensor) -> bool:
    """Whether every entry is finite: a finite sum says so in one pass, else extremes do."""
    tensor = _real(tensor)
    if math.isfinite(tensor.sum().item()):
        return True
    return all(math.isfinite(extreme.item()) for extreme in torch.aminmax(tensor))


def _real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
