"""How a DTensor is laid out over processes, and which layouts the optimizers take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.placement_types import Placement

from overparam.sharded import is_dtensor

_KNOWN = ("Shard", "_StridedShard", "Replicate")


@dataclass(frozen=True)
class Layout:
    """Where the parts of a parameter lie.

    Attributes:
        mesh: of the processes of a DTensor.
        axis: the dimension of the mesh over which it is sharded, where that is one; the processes
            along the others hold copies.
        dim: the dimension of the tensor that is cut; None where each process has all of it.
        among: the processes that divide the work on a plain tensor, which all of them hold.
    """

    mesh: DeviceMesh | None
    axis: int | None
    dim: int | None
    among: dist.ProcessGroup | None = None

    @property
    def has_owner(self) -> bool:
        """Whether one process of a group does the work, and not each of them all."""
        return self.axis is not None or self.among is not None

    @property
    def group(self) -> dist.ProcessGroup:
        """The processes among which the owner is."""
        return self.groups[0] if self.axis is None else self.groups[self.axis]

    @property
    def groups(self) -> list[dist.ProcessGroup]:
        """The groups that reach all processes, one after the other."""
        if self.mesh is None:
            assert self.among is not None
            return [self.among]
        return [self.mesh.get_group(axis) for axis in range(self.mesh.ndim)]

    @property
    def alike(self) -> Any:
        """The same for parameters that the same processes hold in the same way."""
        return (self.mesh, self.axis, self.among)


def check_layout(name: str, p: Tensor) -> None:
    """Raise where a DTensor is laid out in a way that the optimizers do not take.

    Raises:
        ValueError: partial sums, or a placement that is not known.
    """
    for placement in as_dtensor(p).placements:
        if type(placement).__name__ not in _KNOWN:
            raise ValueError(
                f"{name} is a DTensor with the placement {placement!r}; the optimizers of "
                "overparam take Shard and Replicate, as fully_shard and tensor parallelism make "
                "them. Redistribute it first."
            )


def layout_of(p: Tensor, among: dist.ProcessGroup | None = None) -> Layout:
    """The layout of a DTensor that :func:`check_layout` accepts, or of a plain tensor.

    Args:
        p: the parameter.
        among: the processes that divide the work on plain tensors.
    """
    if not is_dtensor(p):
        return Layout(None, None, None, among)
    tensor = as_dtensor(p)
    cut = [(axis, each) for axis, each in enumerate(tensor.placements) if not is_copy(each)]
    if len(cut) == 1 and type(cut[0][1]) is Shard:
        return Layout(tensor.device_mesh, cut[0][0], cut[0][1].dim % max(p.ndim, 1))
    return Layout(tensor.device_mesh, None, None)


def is_copy(placement: Placement) -> bool:
    """Whether every process along this dimension of the mesh holds the same."""
    return isinstance(placement, Replicate)


def as_dtensor(p: Tensor) -> DTensor:
    """For the type checker."""
    assert isinstance(p, DTensor)
    return p


def laid_out_as(value: Tensor, p: Tensor) -> Tensor:
    """What this process holds of ``p``, changed to ``value``: a DTensor if ``p`` is one."""
    if not is_dtensor(p):
        return value
    tensor = as_dtensor(p)
    return DTensor.from_local(
        value,
        tensor.device_mesh,
        tensor.placements,
        run_check=False,
        shape=tensor.shape,
        stride=tensor.stride(),
    )


def cut_like(part: Tensor, p: Tensor, dim: int, shape: tuple[int, ...]) -> Tensor:
    """A DTensor of another shape, cut along ``dim`` over the processes that share ``p``.

    Args:
        part: what this process holds of it.
        p: is cut along one dimension; for a plain tensor the part is all there is.
        dim: of the new tensor.
        shape: of the whole.
    """
    if not is_dtensor(p):
        return part
    tensor = as_dtensor(p)
    placements = [each if is_copy(each) else Shard(dim) for each in tensor.placements]
    return _of_parts(part, tensor.device_mesh, placements, shape)


def cut_among(part: Tensor, among: dist.ProcessGroup, dim: int, shape: tuple[int, ...]) -> Tensor:
    """The same for processes that hold plain tensors."""
    mesh = DeviceMesh.from_group(among, part.device.type)
    return _of_parts(part, mesh, [Shard(dim)], shape)


def _of_parts(
    part: Tensor, mesh: DeviceMesh, placements: Sequence[Placement], shape: tuple[int, ...]
) -> Tensor:
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(
        part, mesh, placements, run_check=False, shape=torch.Size(shape), stride=stride
    )


def gathered(tensor: Tensor) -> Tensor:
    """All of a DTensor, on every process; other tensors as they are."""
    return as_dtensor(tensor).full_tensor() if is_dtensor(tensor) else tensor


def sliced(whole: Tensor, p: Tensor) -> Tensor:
    """A tensor that every process has, as a DTensor like ``p``: nothing is sent."""
    tensor = as_dtensor(p)
    copies = [Replicate()] * tensor.device_mesh.ndim
    spread = DTensor.from_local(whole, tensor.device_mesh, copies, run_check=False)
    return spread.redistribute(placements=tensor.placements)


def gradient_like(p: Tensor, gradient: Tensor) -> Tensor:
    """A gradient in the layout of its parameter: pending sums are made."""
    if not is_dtensor(p):
        return gradient
    given, tensor = as_dtensor(gradient), as_dtensor(p)
    if given.placements == tensor.placements:
        return given
    return given.redistribute(placements=tensor.placements)
