"""Forward and backward of an overparameterized layer against the plain one, and the prediction.

Run ``python benchmarks/reparam.py``. The plain step, the overparameterized step and the planner's
products are timed in turn, so that a change of the machine's speed hits all of them. Times are
processor time of the thread: medians and quartiles over the rounds, ratios within a round. The
prediction is the plain step plus the products by themselves. A second table compares one
materialized kernel with running the convolutions of the chain one after another.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from measure import print_load, print_table, quartiles, seconds
from torch import Tensor, nn

from overparam.reparam import overparameterize, plan_overparameterization
from overparam.reparam.attach import factors_of, places
from overparam.reparam.cost import product_step


@dataclass(frozen=True)
class Case:
    """One layer and the inputs of a batch."""

    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[int], tuple[Tensor, ...]]
    batches: tuple[int, ...]


def _tokens(batch: int) -> tuple[Tensor, ...]:
    return (torch.randint(0, 2000, (batch, 64)),)


def _attention(batch: int) -> tuple[Tensor, ...]:
    x = torch.randn(batch, 64, 256)
    return (x, x, x)


CASES = (
    Case(
        "Linear 512x512",
        lambda: nn.Linear(512, 512),
        lambda b: (torch.randn(b, 512),),
        (16, 256, 2048),
    ),
    Case(
        "Linear 1024x256",
        lambda: nn.Linear(256, 1024),
        lambda b: (torch.randn(b, 256),),
        (16, 256, 2048),
    ),
    Case(
        "Conv2d 64x64 3x3, 28x28",
        lambda: nn.Conv2d(64, 64, 3, padding=1),
        lambda b: (torch.randn(b, 64, 28, 28),),
        (1, 8),
    ),
    Case(
        "Conv2d depthwise 128 3x3, 14x14",
        lambda: nn.Conv2d(128, 128, 3, padding=1, groups=128),
        lambda b: (torch.randn(b, 128, 14, 14),),
        (4, 16),
    ),
    Case(
        "MultiheadAttention 256, 64 tokens",
        lambda: nn.MultiheadAttention(256, 8, batch_first=True),
        _attention,
        (1, 8),
    ),
    Case(
        "LSTM 128, 32 steps",
        lambda: nn.LSTM(128, 128),
        lambda b: (torch.randn(32, b, 128),),
        (4, 32),
    ),
    Case("Embedding 2000x128, 64 tokens", lambda: nn.Embedding(2000, 128), _tokens, (4, 32)),
)


def step_of(model: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[], None]:
    """Forward and backward of the sum of the first output, gradients accumulated."""

    def step() -> None:
        output = model(*inputs)
        (output[0] if isinstance(output, tuple) else output).sum().backward()

    return step


def time_in_turn(calls: list[Callable[[], object]], least: float) -> list[list[float]]:
    """Milliseconds of each call in each round, one round of all after another."""
    for call in calls:
        call()
    times: list[list[float]] = [[] for _ in calls]
    begin = time.perf_counter()
    while time.perf_counter() - begin < least or len(times[0]) < 5:
        for call, kept in zip(calls, times, strict=True):
            kept.append(1e3 * seconds(call, "cpu"))
    return times


def ratios(times: list[float], base: list[float]) -> str:
    """Of the times in the same round."""
    return quartiles([a / b for a, b in zip(times, base, strict=True)])


def compare_layers(depth: int, least: float) -> float:
    """Print the first table; the largest relative error of the prediction."""
    lines, worst = [], 0.0
    for case in CASES:
        for batch in case.batches:
            torch.manual_seed(0)
            plain, inputs = case.make(), case.inputs(batch)
            plan = plan_overparameterization(plain, depth, targets="all")
            factored = overparameterize(copy.deepcopy(plain), depth, targets="all")
            # The planner's own steps, timed in turn with the others.
            products = [
                product_step(entry.layout, torch.float32, torch.device("cpu"))
                for entry in plan.entries
            ]
            calls = [step_of(plain, inputs), step_of(factored, inputs), *products]
            before, after, *each = time_in_turn(calls, least)
            predicted = [sum(parts) for parts in zip(before, *each, strict=True)]
            error = statistics.median(predicted) / statistics.median(after) - 1
            worst = max(worst, abs(error))
            shown = [quartiles(before), quartiles(after), ratios(after, before)]
            lines.append([case.name, f"{batch}", *shown, quartiles(predicted), f"{error:+.0%}"])
    header = ["layer", "batch", "plain ms", "factored ms", "ratio", "predicted ms", "error"]
    print_table(header, lines)
    return worst


def run_sequence(layer: nn.Conv2d, factors: list[Tensor], x: Tensor) -> Tensor:
    """The convolutions of a chain one after another, all padding before the first."""
    x = nn.functional.pad(x, [p for p in reversed(layer.padding) for _ in range(2)])
    for factor in factors:
        x = nn.functional.conv2d(x, factor)
    return x


def compare_sequences(least: float) -> None:
    """Print the second table."""
    lines = []
    for strategy, size, width in (("sides", 3, 4.0), ("kernels", 7, None)):
        for batch in (1, 8):
            torch.manual_seed(0)
            layer = nn.Conv2d(32, 32, size, padding=size // 2, bias=False)
            x = torch.randn(batch, 32, 28, 28)
            factored = copy.deepcopy(layer)
            overparameterize(factored, targets="all", strategy=strategy, width=width)
            factors: list[Tensor] = list(factors_of(next(places(factored)).factors))
            # The same function, so that the comparison is fair.
            torch.testing.assert_close(
                factored(x), run_sequence(layer, factors, x), rtol=1e-3, atol=1e-4
            )

            def sequence(
                layer: nn.Conv2d = layer, factors: list[Tensor] = factors, x: Tensor = x
            ) -> None:
                run_sequence(layer, factors, x).sum().backward()

            calls = [step_of(layer, (x,)), step_of(factored, (x,)), sequence]
            plain, one, many = time_in_turn(calls, least)
            hidden = "-".join(str(factor.shape[0]) for factor in factors[:-1])
            name = f"{strategy}, 32 to 32 channels, {size}x{size}, hidden {hidden}"
            shown = [quartiles(each) for each in (plain, one, many)]
            lines.append([name, f"{batch}", *shown, ratios(many, one)])
    times = ["plain ms", "materialized ms", "sequence ms", "sequence / materialized"]
    print_table(["chain", "batch", *times], lines)


def main() -> None:
    """Parse the arguments and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each row")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.threads} thread(s), depth {arguments.depth}")
    print_load()
    worst = compare_layers(arguments.depth, arguments.seconds)
    print(f"\nLargest error of the prediction: {worst:.0%}.\n")
    compare_sequences(arguments.seconds)


if __name__ == "__main__":
    main()
