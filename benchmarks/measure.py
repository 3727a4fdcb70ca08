"""Timing of contenders that take turns, so that a disturbance of the machine hits all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

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
