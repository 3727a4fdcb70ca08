"""How fast is a batched learning-rate grid: against the same grid run by run with torch.optim.

    python benchmarks/sweep.py [--data ethanol] [--runs 64] [--steps 400] [--repeats 5]

Full-batch linear regression, loss mean |error|^4, one thread. The one-by-one side is what one
would write with torch.nn.Linear and torch.optim.SGD. First both sides must agree.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from measure import measure, print_rows, product_rate
from torch import Tensor

from overparam.data import RegressionData, load, standardize
from overparam.lab.methods import Method
from overparam.lab.study import Run, Study
from overparam.lab.training.batched import Sweep
from overparam.lab.training.objective import BLOCK_ROWS, PowerLoss

POWER = 4.0


def one_by_one(x: Tensor, y: Tensor, starts: Tensor, rates: list[float], steps: int) -> Tensor:
    """Each run alone: nn.Linear, autograd, torch.optim.SGD. Returns the final weights."""
    finals = []
    for start, rate in zip(starts, rates, strict=True):
        layer = torch.nn.Linear(x.shape[1], y.shape[1], bias=False, dtype=x.dtype)
        with torch.no_grad():
            layer.weight.copy_(start)
        optimizer = torch.optim.SGD(layer.parameters(), lr=rate)
        for _ in range(steps):
            optimizer.zero_grad()
            (layer(x) - y).pow(4).mean().backward()
            optimizer.step()
        finals.append(layer.weight.detach())
    return torch.stack(finals)


def compare(data: RegressionData, dtype: str, runs: int, steps: int, repeats: int) -> None:
    """Time both sides, one repeat of each in turn, after checking that they agree."""
    torch_dtype = getattr(torch, dtype)
    rates = torch.logspace(-6, -3.7, runs).tolist()
    # One recorded point, at the end: the loop of gradient steps is what is measured.
    study = Study(iterations=steps, points=1, dtype=dtype, seeds=(0,))
    members = [Run(Method(), rate, 0) for rate in rates]
    objective = PowerLoss(data.features, data.targets, POWER, torch_dtype)
    x, y = data.features.to(torch_dtype), data.targets.to(torch_dtype)

    def batched() -> Tensor:
        sweep = Sweep(objective, study, members)
        sweep.advance(steps + 1)
        return sweep.weights()

    starts = Sweep(objective, study, members).weights()

    def sequential() -> Tensor:
        return one_by_one(x, y, starts, rates, steps)

    expected = sequential()
    error = float((batched() - expected).norm() / expected.norm())
    print(
        f"\n{dtype}: {runs} runs of {steps} steps; relative difference of the weights {error:.1e}"
    )
    seconds = measure({"batched": batched, "one by one": sequential}, repeats)
    print_rows(seconds, against="batched")
    break_down(objective, starts, torch_dtype, statistics.median(seconds["batched"]) / steps)


def break_down(objective: PowerLoss, weights: Tensor, dtype: torch.dtype, step: float) -> None:
    """Where a step's time goes, and how far it is from the machine's matrix-product rate."""
    block = torch.randn(objective.inputs + 1, BLOCK_ROWS, dtype=dtype)
    features = block[: objective.inputs]
    flat = weights.reshape(-1, objective.inputs)
    extended = torch.cat((flat, torch.ones(flat.shape[0], 1, dtype=dtype)), dim=1)
    residual = torch.zeros(flat.shape[0], BLOCK_ROWS, dtype=dtype)
    total = torch.zeros_like(flat)
    blocks = objective.rows / BLOCK_ROWS
    parts = {
        "residuals: [W, -1] [X, y]^T": lambda: torch.mm(extended, block, out=residual),
        "cube": lambda: torch.pow(features[: flat.shape[0]], 3, out=residual),
        "gradient: cubes X": lambda: total.addmm_(residual, features.mT),
        "whole gradient": lambda: objective.gradient(weights),
    }
    seconds = {name: statistics.median(times) for name, times in measure(parts, 300).items()}
    for name in list(parts)[:-1]:
        share = seconds[name] * blocks / step
        print(f"    {name:32} {1e3 * seconds[name] * blocks:7.3f} ms  {share:5.0%} of a step")
    rest = step - seconds["whole gradient"]
    print(f"    {'outside the gradient':32} {1e3 * rest:7.3f} ms  {rest / step:5.0%} of a step")
    flops = 4 * objective.rows * objective.inputs * flat.shape[0]
    peak = product_rate(dtype)
    print(
        f"    one step {1e3 * step:.3f} ms = {flops / step / 1e9:.1f} Gflop/s, "
        f"{flops / step / peak:.0%} of the machine's matrix-product rate ({peak / 1e9:.1f})"
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="ethanol")
    parser.add_argument("--runs", type=int, default=64)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = standardize(load(arguments.data))
    print(f"{arguments.data}: {tuple(data.features.shape)}, torch {torch.__version__}, one thread")
    for dtype in ("float64", "float32"):
        compare(data, dtype, arguments.runs, arguments.steps, arguments.repeats)


if __name__ == "__main__":
    main()
