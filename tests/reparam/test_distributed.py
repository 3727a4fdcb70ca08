"""Two gloo processes: DistributedDataParallel and fully_shard train what one process trains."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from support import forks
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from overparam.reparam import (
    clip_grad_norm_,
    collapse_state_dict,
    overparameterize,
    set_weight_decay_on,
)

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="torch was built without gloo"
)


def make_model() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(4, 6, 3, groups=2), nn.Flatten(), nn.Linear(24, 5))
    return overparameterize(model, depth=2, targets="all")


def make_batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(4, 4, 6, generator=generator), torch.randn(4, 5, generator=generator)


def train_on(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """Momentum, with decay and clipping that need whole products."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1)
    set_weight_decay_on(model, optimizer, "product")
    for _ in range(2):
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        clip_grad_norm_(model, 0.5)
        optimizer.step()


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    try:
        x, y = (tensor.chunk(2)[rank] for tensor in make_batch())
        parallel = nn.parallel.DistributedDataParallel(make_model())
        train_on(parallel, x, y)
        sharded = make_model()
        for child in sharded:
            if list(child.parameters()):
                dist.fsdp.fully_shard(child)
        dist.fsdp.fully_shard(sharded)
        train_on(sharded, x, y)
        whole = get_model_state_dict(sharded, options=StateDictOptions(full_state_dict=True))
        if rank == 0:
            torch.save({"module.": parallel.state_dict(), "": whole}, f"{folder}/states.pt")
    finally:
        dist.destroy_process_group()


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    forks.run(worker, (str(tmp_path),), count=2)
    alone = make_model()
    train_on(alone, *make_batch())
    expected = collapse_state_dict(alone.state_dict())
    for prefix, state in torch.load(tmp_path / "states.pt", weights_only=True).items():
        plain = collapse_state_dict(state)
        assert sorted(plain) == sorted(prefix + key for key in expected)
        for key, value in expected.items():
            torch.testing.assert_close(plain[prefix + key], value)
