"""The ways in which a model is spread over processes, each as a function of the model."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)


def by_layer(model: nn.Module) -> None:
    """FSDP2, some layers apart; the last shards of short ones are empty."""
    for name in ("mix", "head"):
        fully_shard(model.get_submodule(name))
    fully_shard(model)


def by_columns(model: nn.Module) -> None:
    """FSDP2, cut along the second dimension where that comes out even."""
    world = dist.get_world_size()
    fully_shard(
        model,
        shard_placement_fn=lambda p: Shard(1) if p.ndim > 1 and p.shape[1] % world == 0 else None,
    )


def hybrid(model: nn.Module) -> None:
    """HSDP: copies of shards."""
    world = dist.get_world_size()
    mesh = init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("copies", "shards"))
    fully_shard(model, mesh=mesh)


def in_half_precision(model: nn.Module) -> None:
    """FSDP2 with a policy: parameters and their gradients stay wide."""
    fully_shard(model, mp_policy=MixedPrecisionPolicy(torch.bfloat16, torch.float32))


_PLAN = {"first": ColwiseParallel(), "second": RowwiseParallel()}


def tensor_parallel(model: nn.Module) -> None:
    """Columns, then rows."""
    parallelize_module(model, init_device_mesh("cpu", (dist.get_world_size(),)), _PLAN)


def tensor_parallel_and_sharded(model: nn.Module) -> None:
    """Tensor parallel in pairs, and FSDP2 across the pairs."""
    world = dist.get_world_size()
    mesh = init_device_mesh("cpu", (world // 2, 2), mesh_dim_names=("dp", "tp"))
    parallelize_module(model, mesh["tp"], _PLAN)
    fully_shard(model, mesh=mesh["dp"])
