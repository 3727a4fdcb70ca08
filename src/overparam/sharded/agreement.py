"""What all ranks must know before any of them acts: decided together, by small messages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from overparam.optim.direction import Item
from overparam.sharded import local
from overparam.sharded.layout import laid_out_as, layout_of

Group = dist.ProcessGroup


def largest(values: Mapping[Tensor, Tensor], among: Group | None = None) -> dict[Tensor, Tensor]:
    """Entry by entry the largest of all processes: one all-reduce for each dimension of a mesh.

    Args:
        values: a few numbers ``(k,)`` in float64 for each of some parameters; every process that
            holds them gives the same in the same order.
        among: the processes that hold plain tensors.
    """
    together: dict[Any, list[Tensor]] = {}
    for p in values:
        together.setdefault(layout_of(p, among).mesh, []).append(p)
    found: dict[Tensor, Tensor] = {}
    for params in together.values():
        everything = torch.cat([values[p] for p in params])
        for group in layout_of(params[0], among).groups:
            dist.all_reduce(everything, dist.ReduceOp.MAX, group=group)
        parts = everything.split([values[p].numel() for p in params])
        found.update(zip(params, parts, strict=True))
    return found


def is_zero(p: Tensor) -> bool:
    """Whether a DTensor is zero on all processes."""
    any_here = local(p).detach().any().double().reshape(1)
    return not bool(largest({p: any_here})[p])


def has_trouble(part: Tensor) -> Tensor:
    """1 where a part of a gradient has an entry that is not finite, else 0, ``(1,)``."""
    if part.numel() == 0:
        return torch.zeros(1, dtype=torch.float64, device=part.device)
    low, high = torch.aminmax(part)
    return 1 - ((low > -math.inf) & (high < math.inf)).double().reshape(1)


def mark_finite(items: Sequence[Item]) -> None:
    """Decide for all processes together which gradients are finite.

    Where the host may not look, the answer stays on the device, and a gradient that is not finite
    becomes zero.
    """
    trouble = largest({item.p: has_trouble(local(item.gradient)) for item in items})
    for item in items:
        finite = trouble[item.p][0] == 0
        if item.p.device.type == "cpu" and not item.group["capturable"]:
            item.finite = bool(finite)
        else:
            item.finite = finite
            item.gradient = laid_out_as(torch.where(finite, local(item.gradient), 0.0), item.p)


def check_presence(names: Mapping[Tensor, str], among: Group | None = None) -> None:
    """See :func:`overparam.sharded.check_presence`."""
    asked = [p for p in names if p.device.type == "cpu"]
    flags = {p: torch.tensor([p.grad is None, p.grad is not None]).double() for p in asked}
    torn = [p for p, both in largest(flags, among).items() if bool(both.all())]
    if torn:
        raise RuntimeError(
            f"some processes have a gradient of {', '.join(names[p] for p in torn)}, and others "
            "none: use every layer on every process, or on none."
        )


def raise_together(group: dist.ProcessGroup, error: Exception | None) -> None:
    """Raise on all processes what one of them met, so that none waits for it in vain.

    Raises:
        Exception: the error of this process.
        RuntimeError: that of another.
    """
    met: list[str | None] = [None] * dist.get_world_size(group)
    words = None if error is None else f"{type(error).__name__}: {error}"
    dist.all_gather_object(met, words, group=group)
    if error is not None:
        raise error
    for rank, other in enumerate(met):
        if other is not None:
            raise RuntimeError(f"process {rank} of the group met {other}")


def raise_together_on_cpu(
    params: Sequence[Tensor], group: dist.ProcessGroup, error: Exception | None
) -> None:
    """The same in the middle of a step: one number is sent where nobody has met an error.

    On an accelerator, where the host would have to wait, only the process that met it raises.

    Args:
        params: what the step is about; the same on all processes.
        group: the processes.
        error: of this process, or None.

    Raises:
        Exception: as :func:`raise_together`.
    """
    if all(p.device.type == "cpu" for p in params):
        met = torch.tensor(float(error is not None))
        dist.all_reduce(met, dist.ReduceOp.MAX, group=group)
        if bool(met):
            raise_together(group, error)
    elif error is not None:
        raise error
