"""Models on several processes, and the same on one: shared by the tests in tests/sharded."""

from __future__ import annotations

import datetime
import os
import traceback
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from support.optim_cases import TARGETS, TOKENS, mixed

Case = Callable[[], None]
Make = Callable[[nn.Module], torch.optim.Optimizer]


class Pair(nn.Module):
    """Two linear layers, as tensor parallelism cuts them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.second = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).tanh())


def pair() -> Pair:
    torch.manual_seed(0)
    return Pair().double()


X = torch.randn(8, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.randn(8, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def loss_of(model: nn.Module) -> Tensor:
    if isinstance(model, Pair):
        return (model(X) - Y).square().mean()
    return nn.functional.cross_entropy(model(TOKENS), TARGETS)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()


def whole(tensor: Tensor) -> Tensor:
    """All of a DTensor; every process asks."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # pyright: ignore


def difference(model: nn.Module, alone: nn.Module) -> float:
    """The largest between parameters."""
    pairs = zip(model.parameters(), alone.parameters(), strict=True)
    return max(float((whole(p.detach()) - q.detach()).abs().max()) for p, q in pairs)


def assert_equal(model: nn.Module, alone: nn.Module, most: float = 1e-12) -> None:
    found = difference(model, alone)
    assert found <= most, f"differs by {found}"


def assert_same_run(
    shard: Callable[[nn.Module], Any],
    make: Make,
    build: Callable[[], nn.Module] = mixed,
    steps: int = 3,
    most: float = 1e-12,
) -> None:
    """A run on all processes is that of this one alone."""
    model, alone = build(), build()
    shard(model)
    train(model, make(model), steps)
    train(alone, make(alone), steps)
    assert_equal(model, alone, most)
    assert difference(model, build()) > 1e-4  # it did move


def run_all(rank: int, world: int, folder: str, cases: Iterable[Case]) -> None:
    """One process: runs the cases one after the other and writes down what failed."""
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "FSDP2-wrapped module")  # no one writes to what it returns
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=world,
        timeout=datetime.timedelta(seconds=60),
    )
    warnings.filterwarnings("ignore", "all-zero weights")
    warnings.filterwarnings("ignore", "TypedStorage is deprecated")  # torch 2.9 in its checkpoints
    report, case = Path(folder, f"report-{rank}"), None
    try:
        for case in cases:
            report.write_text(f"{case.__name__} did not end")
            case()
        report.write_text("")
    except BaseException:
        name = getattr(case, "__name__", "no case")
        report.write_text(f"{name} on process {rank} of {world}:\n{traceback.format_exc()}")
        os._exit(1)  # the others must not wait for this one
    dist.destroy_process_group()
