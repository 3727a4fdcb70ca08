"""Processes that are forks of one that has imported PyTorch and the lab, which takes seconds."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import torch

IMPORTS = [
    "overparam.lab.commands.reproduce",
    "torch.distributed.checkpoint.state_dict",
    "torch.distributed.fsdp",
    "torch.distributed.tensor.parallel",
]


def start(function: Callable[..., None], arguments: tuple[Any, ...], count: int = 1) -> Any:
    """Start ``function(rank, *arguments)`` on so many processes.

    Returns:
        What has ``processes`` and ``join(timeout)``; that raises what one of them raised.
    """
    torch.multiprocessing.set_forkserver_preload(IMPORTS)
    started = torch.multiprocessing.start_processes(
        _here, (function, arguments, dict(os.environ)), count, join=False, start_method="forkserver"
    )
    assert started is not None
    return started


def _here(
    rank: int, function: Callable[..., None], arguments: tuple[Any, ...], variables: Mapping
) -> None:
    """In the environment of now: a fork has that of the first test that started one."""
    os.environ.clear()
    os.environ.update(variables)
    function(rank, *arguments)


def run(function: Callable[..., None], arguments: tuple[Any, ...], count: int = 1) -> None:
    """The same to the end."""
    started = start(function, arguments, count)
    while not started.join():
        pass
