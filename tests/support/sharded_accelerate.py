"""Accelerate, which shards the model after its optimizer is made, saves both and loads them."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from torch import nn

from support.optim_cases import mixed
from support.sharded_cases import assert_equal, loss_of, train
from support.sharded_checkpoints import FOLDER, MAKES


@contextmanager
def accelerator(sharded: bool) -> Iterator[Any]:
    """Of these processes; it shards on accelerators alone unless it is made to."""
    import accelerate
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    with pytest.MonkeyPatch.context() as patch:
        rank, world = str(dist.get_rank()), str(dist.get_world_size())
        for name in ("RANK", "LOCAL_RANK"):
            patch.setenv(name, rank)
        for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
            patch.setenv(name, world)
        made = accelerate.Accelerator(cpu=True)
        if sharded:
            accelerate.PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            made.state.distributed_type = DistributedType.FSDP
            made.state.fsdp_plugin = FullyShardedDataParallelPlugin(
                fsdp_version=2,
                state_dict_type="SHARDED_STATE_DICT",
                cpu_ram_efficient_loading=True,
                auto_wrap_policy="size_based_wrap",
                min_num_params=50,
            )
        yield made
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


def steps(of: Any, model: nn.Module, optimizer: Any) -> None:
    for _ in range(2):
        optimizer.zero_grad()
        of.backward(loss_of(model))
        optimizer.step()


def accelerate_goes_on() -> None:
    """``save_state`` and ``load_state``: under FSDP2, and with a copy on each process."""
    if importlib.util.find_spec("accelerate") is None:
        return
    for make, sharded in (("exact", True), ("factors", True), ("factors", False)):
        folder = Path(os.environ[FOLDER], f"accelerate-{make}-{sharded}")
        alone, models = mixed(), []
        train(alone, MAKES[make](alone), 4)
        for seed in (0, 1):
            with accelerator(sharded) as of:
                model = mixed(seed=seed)
                model, optimizer = of.prepare(model, MAKES[make](model))
                models.append(model)
                if seed == 1:
                    of.load_state(str(folder))
                steps(of, model, optimizer)
                if seed == 0:
                    of.save_state(str(folder))
                    steps(of, model, optimizer)
        for model in models:
            assert hasattr(next(model.parameters()), "placements") == sharded
            assert_equal(model, alone)


CASES = (accelerate_goes_on,)
