"""Products keep the dtype of what they are made of, also where the user's code is autocast."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

HALVES = (torch.float16, torch.bfloat16)


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """A context in which matrix products on a device are not cast to a narrow dtype.

    Example:
        >>> import torch
        >>> one = torch.ones(1, 1)
        >>> with torch.autocast("cpu", torch.bfloat16), without_autocast(one.device):
        ...     (one @ one).dtype
        torch.float32
    """
    kind = device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return contextlib.nullcontext()
    return torch.autocast(kind, enabled=False)


def state_dtype(p: Tensor) -> torch.dtype:
    """The dtype of the update and the state: float32 for half precision, else the parameter's."""
    return torch.float32 if p.dtype in HALVES else p.dtype


def follows(value: Tensor, tensor: Tensor) -> bool:
    """Whether state is of the entries of its tensor, and one of both in half precision."""
    alike = value.shape == tensor.shape and value.is_floating_point()
    return alike and (value.dtype in HALVES) != (tensor.dtype in HALVES)
