"""Products keep the dtype of what they are made of, also where the user's code is autocast."""

from __future__ import annotations

import contextlib

import torch


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """A context in which matrix products on a device are not cast to a narrow dtype.

    Example:
        >>> import torch
        >>> one = torch.ones(1, 1)
        >>> with torch.autocast("cpu", torch.bfloat16), without_autocast(one.device):
        ...     (one @ one).dtype
        torch.float32
    """
    if device.type == "meta" or not torch.is_autocast_enabled(device.type):
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)
