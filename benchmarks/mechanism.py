"""What is it in depth that helps? Trains the parts of the rule for docs/mechanism.md on one device.

    python benchmarks/mechanism.py --device cuda --seconds 230 --output mechanism.parquet

For each data set with one output, loss and schedule: every method at half decades with seed 0, then
at nine rates, 10^(1/8) apart, around its best one with three seeds. The most important studies come
first; a study that would end after the time is left out. The table is written after each study.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import polars as pl
import torch

from overparam.data import DataError, RegressionData, load, standardize
from overparam.lab.methods import Method, parse_method
from overparam.lab.paper.studies import mechanism_study
from overparam.lab.study import DTYPES, Run, Study
from overparam.lab.summary import tuned
from overparam.lab.training.batched import Sweep
from overparam.lab.training.objective import PowerLoss
from overparam.lab.training.optimum import find_optimum

# Half decades; the step of an optimizer that rescales the gradient has the size of its rate.
COARSE = {
    False: [10 ** (k / 2) for k in range(-16, 3)],
    True: [10 ** (k / 2) for k in range(-12, 3)],
}
RESCALING = ("normalized", "adam")
FINE = [10 ** (k / 8) for k in range(-4, 5)]
SEEDS = (0, 1, 2)
CHUNK = 500


class Cell(NamedTuple):
    """One problem and schedule."""

    data: str
    power: float
    schedule: str
    iterations: int


def cells(iterations: int) -> Iterator[Cell]:
    """All of them, the most important first."""
    schedules, others = ("constant", "cosine"), ("abalone", "diabetes", "breast_cancer")
    for schedule in schedules:
        yield Cell("ethanol", 4.0, schedule, iterations)
    for schedule in schedules:
        yield from (Cell("ethanol", power, schedule, iterations) for power in (2.0, 6.0))
        yield from (Cell(data, 4.0, schedule, iterations) for data in others)
    for schedule, power in itertools.product(schedules, (2.0, 6.0)):
        yield from (Cell(data, power, schedule, iterations) for data in others)
    yield Cell("ethanol", 4.0, "constant", 5 * iterations)


class OutOfTime(Exception):  # noqa: N818
    """A study would end after the time that is left."""


def train(
    objective: PowerLoss, study: Study, runs: list[Run], deadline: float, expected: float
) -> pl.DataFrame:
    """The curves of runs as one long table.

    Raises:
        OutOfTime: they would end after the deadline.
    """
    if time.monotonic() + expected > deadline:
        raise OutOfTime
    sweep, fastest = Sweep(objective, study, runs), math.inf
    while not sweep.finished:
        start = time.monotonic()
        sweep.advance(CHUNK)
        # Chunks that capture graphs are slow and few.
        fastest = min(fastest, time.monotonic() - start)
        left = (study.iterations - sweep.step) / CHUNK
        if time.monotonic() + left * fastest > deadline:
            raise OutOfTime
    points, count = len(sweep.record_steps), len(runs)
    diverged = [step if step >= 0 else None for step in sweep.diverged_at.tolist()]
    columns = {
        "method": [run.method.name for run in runs for _ in range(points)],
        "rate": [run.rate for run in runs for _ in range(points)],
        "seed": [run.seed for run in runs for _ in range(points)],
        "step": list(sweep.record_steps) * count,
        "loss": sweep.losses.flatten().tolist(),
        "diverged_at": [step for step in diverged for _ in range(points)],
    }
    schema = {"seed": pl.Int64, "step": pl.Int64, "diverged_at": pl.Int64}
    return pl.DataFrame(columns, schema_overrides=schema).filter(~pl.col("loss").is_nan())


def coarse_runs(methods: list[Method]) -> list[Run]:
    """Half decades with one seed."""
    return [
        Run(method, float(f"{rate:.6g}"), 0)
        for method in methods
        for rate in COARSE[method.optimizer in RESCALING]
    ]


def fine_runs(methods: list[Method], coarse: pl.DataFrame) -> list[Run]:
    """An eighth of a decade apart around the best rate of each method, with all seeds."""
    best = {row["method"]: row["rate"] for row in tuned(coarse).to_dicts()}
    return [
        Run(method, float(f"{best[method.name] * factor:.6g}"), seed)
        for method in methods
        for seed in SEEDS
        for factor in FINE
    ]


def thinned(curves: pl.DataFrame, optimum: float, whole: bool) -> pl.DataFrame:
    """Distances from the optimum: the first and the last of each run, or the whole curves.

    Of runs that diverge the ends are enough. Rounded to float32 after the subtraction.
    """
    run = ["method", "rate", "seed"]
    first, last = pl.col("step").min().over(run), pl.col("step").max().over(run)
    kept = (pl.col("step") == first) | (pl.col("step") == last)
    if whole:
        kept = kept | pl.col("diverged_at").is_null()
    distance = (pl.col("loss") - optimum).cast(pl.Float32).alias("distance")
    return curves.filter(kept).with_columns(distance).drop("loss")


def study_cell(
    cell: Cell, data: RegressionData, device: str, deadline: float, expected: float
) -> pl.DataFrame:
    """Both stages of one cell.

    Raises:
        OutOfTime: they would end after the deadline.
    """
    start = time.monotonic()
    study = mechanism_study(*cell, seeds=SEEDS, width=1, points=50, device=device)
    objective = PowerLoss(data.features, data.targets, cell.power, DTYPES[study.dtype], device)
    optimum = find_optimum(data.features, data.targets, cell.power).loss
    methods = [parse_method(name) for name in study.methods]
    coarse = train(objective, study, coarse_runs(methods), deadline, expected)
    half = time.monotonic()
    fine = train(objective, study, fine_runs(methods, coarse), deadline, half - start)
    stages = {"coarse": thinned(coarse, optimum, False), "fine": thinned(fine, optimum, True)}
    card = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    about = {
        **cell._asdict(),
        "optimum": optimum,
        "seconds": time.monotonic() - start,
        "machine": f"{card}, torch {torch.__version__}",
        "date": time.strftime("%Y-%m-%d"),
    }
    return pl.concat(
        [
            table.with_columns(stage=pl.lit(stage), **{k: pl.lit(v) for k, v in about.items()})
            for stage, table in stages.items()
        ]
    )


def main() -> None:
    """Train until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--output", type=Path, default=Path("mechanism.parquet"))
    parser.add_argument("--seconds", type=float, default=math.inf)
    parser.add_argument("--iterations", type=int, default=20_000)
    parser.add_argument("--data", nargs="*", help="only these data sets")
    arguments = parser.parse_args()
    deadline, tables, expected = time.monotonic() + arguments.seconds, [], 0.0
    for cell in cells(arguments.iterations):
        if arguments.data and cell.data not in arguments.data:
            continue
        start = time.monotonic()
        try:
            data = standardize(load(cell.data, download=False))
            scale = cell.iterations / arguments.iterations
            table = study_cell(cell, data, arguments.device, deadline, scale * expected)
        except (OutOfTime, DataError) as error:
            print(f"left out: {tuple(cell)}: {type(error).__name__} {error}", flush=True)
            continue
        expected = (time.monotonic() - start) / scale / 3
        tables.append(table)
        unfinished = arguments.output.with_suffix(".part")
        pl.concat(tables).write_parquet(unfinished, compression="zstd")
        unfinished.replace(arguments.output)
        print(f"{time.monotonic() - start:6.1f} s {tuple(cell)}", flush=True)


if __name__ == "__main__":
    main()
