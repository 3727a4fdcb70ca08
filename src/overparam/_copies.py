"""Copies of tensors, of many in few launches, and of containers; putting them back."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

# Entries below which a tensor costs its launch, not its memory.
_SMALL = 2**16


def undo_unless(steps: Iterable[tuple[Tensor, Tensor, Tensor]]) -> None:
    """Put copies back where a flag on the device says so; the host does not look at it.

    Small tensors of one shape go together.

    Args:
        steps: for each tensor the flag, a scalar that is true where it stays; itself; its copy.
    """
    alike: dict[Any, list[tuple[Tensor, Tensor, Tensor]]] = {}
    for number, (keep, tensor, copy) in enumerate(steps):
        alone = number if tensor.numel() > _SMALL else None
        key = (tensor.shape, tensor.dtype, tensor.device, alone, keep.device)
        alike.setdefault(key, []).append((keep, tensor, copy))
    for (shape, _, device, *_), some in alike.items():
        keep, tensors, copies = (list(each) for each in zip(*some, strict=True))
        if len(some) == 1 and keep[0].device == device:
            torch.where(keep[0], tensors[0], copies[0], out=tensors[0])
            continue
        # Counts of torch's optimizers lie on the host, which has to wait for these flags.
        flags = torch.stack(keep).to(device).reshape(-1, *[1] * len(shape))
        kept = torch.where(flags, torch.stack(tensors), torch.stack(copies))
        torch._foreach_copy_(tensors, list(kept.unbind()))  # pyright: ignore[reportPrivateImportUsage]


class Copies:
    """Memory for copies, used again at every step: new memory costs more than the copying."""

    def __init__(self) -> None:
        self._held: list[Tensor] = []

    def of(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Copies of all, until the next call."""
        alike: dict[Any, tuple[list[Tensor], list[Tensor]]] = {}
        held, self._held = self._held, []
        for tensor, old in itertools.zip_longest(tensors, held[: len(tensors)]):
            self._held.append(_room(tensor, old))
            if not tensor.is_sparse:
                both = alike.setdefault((tensor.device, tensor.dtype), ([], []))
                both[0].append(self._held[-1])
                both[1].append(tensor)
        for copies, originals in alike.values():  # a few launches for all
            torch._foreach_copy_(copies, originals)  # pyright: ignore[reportPrivateImportUsage]
        return self._held


def _room(tensor: Tensor, held: Tensor | None) -> Tensor:
    """Memory for a copy of a tensor: that of the last step where it fits."""
    if tensor.is_sparse:
        return tensor.detach().clone()
    fits = (
        held is not None
        and not held.is_sparse
        and held.shape == tensor.shape
        and held.dtype == tensor.dtype
        and held.device == tensor.device
        and held.stride() == tensor.stride()
    )
    return held if held is not None and fits else torch.empty_like(tensor, requires_grad=False)


def copy_of(value: Any) -> Any:
    """A copy of a tensor, a list or a dict, and of what it holds."""
    return value.detach().clone() if isinstance(value, Tensor) else deepcopy(value)


def put_back(value: Any, copied: Any) -> None:
    """What a tensor, a list or a dict held; it stays the same object."""
    if isinstance(value, Tensor):
        value.copy_(copied)
        return
    value.clear()
    value.extend(copied) if isinstance(value, list) else value.update(copied)


def stacked(tensors: list[Tensor]) -> Tensor:
    """Tensors of one shape as one, ``(k, *shape)``; a single one as it is, ``shape``."""
    return torch.stack(tensors) if len(tensors) > 1 else tensors[0]


def laid_out(update: Tensor, p: Tensor) -> Tensor:
    """A direction in the memory layout of its parameter, as torch's fused steps take it."""
    if update.stride() == p.stride() or update.requires_grad:
        return update
    return torch.empty_like(p, dtype=update.dtype).copy_(update)
