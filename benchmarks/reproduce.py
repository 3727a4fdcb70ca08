"""Microseconds per step of a sweep, and what `overparam reproduce` would take with it.

    python benchmarks/reproduce.py [--device cuda] [--scale standard] [--only l4 map-abalone]

First the paper's methods on Ethanol, p = 4: gradient descent, five methods, all nine, with 27 runs
each. On a GPU, eager steps beside captured ones, with blocks of runs one after the other and side
by side, the launches per step, and the distance to the losses of the CPU. Then every job, times its
iterations: an estimate, since runs that diverge later make the batch smaller. Beside it, what the
matrix products of the gradient alone take, measured at the shapes of the job.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections import Counter

import torch
from measure import quartiles
from torch.utils._python_dispatch import TorchDispatchMode

from overparam.data import RegressionData, load, standardize
from overparam.lab.methods import parse_method
from overparam.lab.paper.scale import PAPER, QUICK, STANDARD, Scale
from overparam.lab.paper.studies import map_studies, mechanism_studies, regression_studies
from overparam.lab.study import DTYPES, PAPER_METHODS, Run, Study, cut_into_jobs
from overparam.lab.training.batch import Batch
from overparam.lab.training.batched import LOOK_EVERY, Sweep
from overparam.lab.training.objective import PowerLoss
from overparam.lab.training.replay import Capture, cuda_graph

_SCALES = {scale.name: scale for scale in (QUICK, STANDARD, PAPER)}
_SETS = (("gd",), PAPER_METHODS[:5], PAPER_METHODS)
_REPEATS = 5
_FIRST_STEPS = 30


class _Launches(TorchDispatchMode):
    """Counts operations that are neither views nor allocations."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.count += not (func.is_view or "empty" in str(func))
        return result


def _one_lane(work):
    """A CUDA graph whose blocks run one after the other."""
    return cuda_graph(lambda lanes: work(None))


def _refused(work):
    raise RuntimeError("asked to stay eager")


def on_gpu(device: str) -> bool:
    """Whether a device is a GPU."""
    return device.startswith("cuda")


def _microseconds(sweep: Sweep, steps: int) -> list[float]:
    """Times of a step; the CPU's are processor time, which other work delays less."""
    waits = on_gpu(sweep.objective.device.type)
    clock = time.perf_counter if waits else time.process_time

    def now() -> float:
        if waits:
            torch.cuda.synchronize()
        return clock()

    # Most runs that diverge do so in their first steps.
    sweep.advance(3 * LOOK_EVERY if waits else _FIRST_STEPS)
    times = []
    for _ in range(_REPEATS):
        start = now()
        sweep.advance(steps)
        times.append(1e6 * (now() - start) / steps)
    return times


def _sweep(
    data: RegressionData, study: Study, runs: tuple[Run, ...], capture: Capture | None = None
) -> Sweep:
    objective = PowerLoss(
        data.features, data.targets, study.power, DTYPES[study.dtype], study.device
    )
    # So long, and recorded so rarely, that no loss is computed while the clock runs.
    endless = dataclasses.replace(study, iterations=10**6, points=1)
    return Sweep(objective, endless, runs, capture=capture)


def methods_table(data: RegressionData, device: str) -> None:
    """The methods of the paper at rates that do not diverge."""
    ways: dict[str, Capture | None] = {"steps": None}
    if device.startswith("cuda"):
        ways = {"eager": _refused, "graph, one lane": _one_lane, "graph": cuda_graph}
    print(f"microseconds per step, {device}\n\n| runs | dtype | launches | {' | '.join(ways)} |")
    for methods in _SETS:
        runs = tuple(
            Run(parse_method(name), rate * 1e-6, seed)
            for name in methods
            for seed in range(3)
            for rate in range(1, 10)
        )
        for dtype in DTYPES:
            study = Study(methods=methods, dtype=dtype, width=1, device=device)
            found = [quartiles(_microseconds(_sweep(data, study, runs, way), 200))
                     for way in ways.values()]  # fmt: skip
            print(f"| {len(runs)} | {dtype} | {_launches(data, study, runs):.0f} | "
                  f"{' | '.join(found)} |", flush=True)  # fmt: skip
            if device != "cpu" and dtype == "float64":
                print(f"  losses against the CPU: {_distance(data, study, runs):.1e}")


def _launches(data: RegressionData, study: Study, runs: tuple[Run, ...]) -> float:
    objective = PowerLoss(data.features, data.targets, study.power, DTYPES[study.dtype])
    batch = Batch(objective, study, runs)
    batch.steps(1)
    with _Launches() as seen:
        batch.steps(10, torch.empty(10, len(runs), dtype=DTYPES[study.dtype]))
    return seen.count / 10


def _distance(data: RegressionData, study: Study, runs: tuple[Run, ...]) -> float:
    """The largest relative difference of any recorded loss in 300 steps."""
    losses = []
    for device in (study.device, "cpu"):
        short = dataclasses.replace(study, iterations=300, points=40, device=device)
        objective = PowerLoss(data.features, data.targets, 4.0, torch.float64, device)
        sweep = Sweep(objective, short, runs)
        sweep.advance(300)
        losses.append(sweep.losses)
    return float(((losses[0] - losses[1]).abs() / losses[1]).max())


def plan(scale: Scale, data: RegressionData, device: str, only: tuple[str, ...]) -> None:
    """The estimate, study by study."""
    studies = {
        **regression_studies(scale, data.name, data.features.shape[1], device),
        **map_studies(scale, device),
        **mechanism_studies(scale, device),
    }
    sets, total, steps = {data.name: data}, Counter[str](), 200 if on_gpu(device) else 10
    print("\n| study | jobs | us per step | s | products alone, s | share |")
    for name, study in studies.items():
        if only and not name.startswith(only):
            continue
        if study.data not in sets:
            sets[study.data] = standardize(load(study.data, download=False))
        found, products = [], 0.0
        for work in cut_into_jobs(study):
            sweep = _sweep(sets[study.data], study, work.runs)
            if device != "cpu" and not sweep.replayable:
                continue
            found.append(statistics.median(_microseconds(sweep, steps)))
            products += 0.0 if on_gpu(device) else _products(sweep)
        skipped = len(cut_into_jobs(study)) - len(found)
        seconds = sum(found) * 1e-6 * study.iterations
        products *= 1e-6 * study.iterations
        kind = name.split("-")[0] if name.startswith(("map", "mechanism")) else "regression"
        total[kind] += seconds
        total[f"{kind}, products alone"] += products
        print(f"| {name} | {len(found)} | {statistics.mean(found or [0]):.1f} | {seconds:.0f} | "
              f"{products:.0f} | {products / seconds if seconds else 0:.0%} |"
              f"{f' {skipped} jobs left out (SVD)' * bool(skipped)}", flush=True)  # fmt: skip
    print(f"\n{scale.name}, seconds of one worker, without the network")
    for name, seconds in total.items():
        print(f"| {name} | {seconds:.0f} |")


def _by_gram(objective: PowerLoss) -> bool:
    """Whether the gradient takes the Gram matrix of the data in the place of the data."""
    return objective.power == 2 and objective.rows > objective.inputs


def _products(sweep: Sweep) -> float:
    """Microseconds of the matrix products of one gradient, by themselves, for the runs left."""
    objective, weights = sweep.objective, sweep.weights()
    flat = weights.reshape(-1, objective.inputs)
    rows = objective.inputs if _by_gram(objective) else objective.rows
    matrix = torch.randn(objective.inputs, rows, dtype=flat.dtype)
    made, total = flat.new_empty(len(flat), rows), torch.empty_like(flat)
    times = []
    for _ in range(30):
        start = time.thread_time()
        torch.mm(flat, matrix, out=made)
        if not _by_gram(objective):
            torch.mm(made, matrix.mT, out=total)
        times.append(time.thread_time() - start)
    return 1e6 * statistics.median(times)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scale", choices=(*_SCALES, "none"), default="standard")
    parser.add_argument("--only", nargs="*", default=())
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = standardize(load("ethanol", download=False))
    if not arguments.only:
        methods_table(data, arguments.device)
    if arguments.scale != "none":
        plan(_SCALES[arguments.scale], data, arguments.device, tuple(arguments.only))


if __name__ == "__main__":
    main()
