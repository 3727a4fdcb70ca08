"""Timing of contenders that take turns, so that a disturbance of the machine hits all of them."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

Contenders = dict[str, Callable[[], object]]


def measure(
    contenders: Contenders, repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of every call, the contenders taking turns after one warm-up each.

    With ``clock=time.process_time`` the seconds are those that the processor worked for this
    program, which other programs disturb less.
    """
    for call in contenders.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, call in contenders.items():
            start = clock()
            call()
            seconds[name].append(clock() - start)
    return seconds


def print_rows(seconds: dict[str, list[float]], against: str) -> None:
    """One line for each contender: median, quartiles and the ratio of medians."""
    base = statistics.median(seconds[against])
    for name, values in seconds.items():
        low, middle, high = statistics.quantiles(values, n=4)
        print(
            f"  {name:34} {1e3 * middle:9.3f} ms  [{1e3 * low:.3f}, {1e3 * high:.3f}]"
            f"  {middle / base:6.2f} x {against}"
        )


def product_rate(dtype: torch.dtype, size: int = 1024, repeats: int = 7) -> float:
    """Flops per second of a large matrix product: what the machine can do, at the best."""
    matrix = torch.randn(size, size, dtype=dtype)
    seconds = measure({"product": lambda: matrix @ matrix}, repeats)["product"]
    return 2 * size**3 / min(seconds)


def seconds(call: Callable[[], object], device: str) -> float:
    """Time of one call: on a GPU with the device waited for, on one CPU thread the thread's own.

    The thread's own time leaves out what other work on the machine takes of the core.
    """
    alone = device == "cpu" and torch.get_num_threads() == 1
    clock = time.thread_time if alone else time.perf_counter
    if device == "cuda":
        torch.cuda.synchronize()
    start = clock()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def quartiles(values: Sequence[float], digits: int = 3) -> str:
    """Median and quartiles, as the tables show them."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.{digits}g} [{low:.{digits}g}, {high:.{digits}g}]"


def print_table(header: list[str], lines: list[list[str]]) -> None:
    """A markdown table."""
    print("| " + " | ".join(header) + " |")
    print("|" + " --- |" * len(header))
    for line in lines:
        print("| " + " | ".join(line) + " |", flush=True)


def print_load() -> None:
    """How busy the machine is, besides this."""
    print(f"\nLoad over 1, 5 and 15 minutes: {os.getloadavg()}", flush=True)


class Launches(TorchDispatchMode):
    """Counts the operations of a step that an accelerator would launch something for."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name, made = function.overloadpacket.__name__, function(*args, **(kwargs or {}))
        works = not (function.is_view or name.startswith(("_record_function", "empty")))
        self.count += works and not isinstance(made, (int, float, bool))
        return made


def launches(call: Callable[[], object]) -> int:
    """Operations of one call that are not views, as the dispatcher of torch sees them."""
    with Launches() as counted:
        call()
    return counted.count


def kernels(call: Callable[[], object]) -> int:
    """What one call has run on a GPU, copies included, by the profiler."""
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        call()
        torch.cuda.synchronize()
    on_device = torch.autograd.DeviceType.CUDA
    return sum(each.device_type == on_device for each in profile.events() or ())
