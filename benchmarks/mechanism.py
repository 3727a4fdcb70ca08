"""What is it in depth that helps? Trains the parts of the rule for docs/mechanism.md.

    python benchmarks/mechanism.py [--device cuda] [--seconds 2000] [--folder runs/mechanism]

Each method is tuned on the grid 10^(k/8): half decades with seed 0 and a tenth of the iterations,
then quarters of a decade around the best rate until it is bracketed, then the eighths around the
best of these with three seeds. Problems come in the order of importance. A
unit of work (a problem, a schedule, an optimizer with its parts) is stored as a whole, and the same
command continues behind the stored ones. On a GPU all optimizers of a problem are one unit.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl
import torch

from overparam.data import DataError, RegressionData, load, standardize
from overparam.lab.methods import parse_method
from overparam.lab.paper.studies import MECHANISM_OPTIMIZERS, mechanism_study
from overparam.lab.study import DTYPES, Run, Study
from overparam.lab.summary import tuned
from overparam.lab.training.batched import Sweep
from overparam.lab.training.objective import PowerLoss
from overparam.lab.training.optimum import find_optimum

# Numbers k of learning rates 10^(k/8). The step of these optimizers has the size of their rate,
# so that they need a smaller one in a longer run.
RESCALING = ("normalized", "adam")
SCANNED = {False: range(-48, 13, 4), True: range(-40, 9, 4)}
AROUND = {False: (-4, -2, 0, 2, 4), True: (-6, -4, -2, 0, 2)}
FINE, LOWER = (-1, 0, 1), (-4, -3, -2)
EXTENSIONS = 3
SEEDS = (0, 1, 2)
EASY = ("diabetes", "abalone", "linnerud")
CHUNK = 200

Numbers = Mapping[str, Sequence[int]]


class Cell(NamedTuple):
    """A problem and a schedule."""

    data: str
    power: float
    schedule: str
    iterations: int


def cells(iterations: int) -> Iterator[Cell]:
    """All of them, the most important first.

    On data that are easy the long runs arrive at the optimum, whatever the method, and a rate that
    is tuned for their last step says nothing; so these have runs of a hundredth of the length too.
    """
    schedules, powers = ("constant", "cosine"), (4.0, 2.0, 6.0)
    for schedule in schedules:
        yield Cell("ethanol", 4.0, schedule, iterations)
    for schedule, power in itertools.product(schedules, powers):
        yield from (Cell(data, power, schedule, iterations // 100) for data in EASY)
        yield from (Cell(data, power, schedule, iterations) for data in ("breast_cancer", *EASY))
    for schedule, power in itertools.product(schedules, (2.0, 6.0)):
        yield Cell("ethanol", power, schedule, iterations)
    for schedule, power in itertools.product(schedules, powers):
        yield Cell("ethanol", power, schedule, 5 * iterations)


class OutOfTime(Exception):  # noqa: N818
    """A unit would end after the time that is left."""


class Trainer:
    """Trains methods of one problem.

    Args:
        data: standardized.
        study: the settings.
        deadline: when to stop, as :func:`time.monotonic`.
    """

    def __init__(self, data: RegressionData, study: Study, deadline: float) -> None:
        self.study, self._deadline = study, deadline
        kind = DTYPES[study.dtype]
        self._objective = PowerLoss(data.features, data.targets, study.power, kind, study.device)

    def train(self, study: Study, numbers: Numbers, seeds: Iterable[int]) -> pl.DataFrame:
        """The curves of every method at its rates, as one long table with their numbers.

        Raises:
            OutOfTime: they would end after the deadline.
        """
        chosen = {
            Run(parse_method(method), rate_of(k), seed): k
            for method, ks in numbers.items()
            for seed in seeds
            for k in ks
        }
        runs, sweep = list(chosen), Sweep(self._objective, study, list(chosen))
        fastest = math.inf
        while not sweep.finished:
            start = time.monotonic()
            sweep.advance(CHUNK)
            # The first chunk is slow: graphs are captured, and runs that diverge leave.
            first = sweep.step <= CHUNK
            fastest = math.inf if first else min(fastest, time.monotonic() - start)
            left = 0.0 if first else (study.iterations - sweep.step) / CHUNK * fastest
            if time.monotonic() + left > self._deadline:
                raise OutOfTime
        points = len(sweep.record_steps)
        diverged = [step if step >= 0 else None for step in sweep.diverged_at.tolist()]
        columns = {
            "method": [run.method.name for run in runs for _ in range(points)],
            "rate": [run.rate for run in runs for _ in range(points)],
            "number": [k for k in chosen.values() for _ in range(points)],
            "seed": [run.seed for run in runs for _ in range(points)],
            "step": list(sweep.record_steps) * len(runs),
            "loss": sweep.losses.flatten().tolist(),
            "diverged_at": [step for step in diverged for _ in range(points)],
        }
        whole = dict.fromkeys(("number", "seed", "step", "diverged_at"), pl.Int64)
        return pl.DataFrame(columns, schema_overrides=whole).filter(~pl.col("loss").is_nan())


def rate_of(number: int) -> float:
    """``10^(k/8)``, to six digits."""
    return float(f"{10 ** (number / 8):.6g}")


def best_numbers(curves: pl.DataFrame) -> dict[str, int]:
    """The number of the best rate of each method."""
    return {row["method"]: round(8 * math.log10(row["rate"])) for row in tuned(curves).to_dicts()}


def beyond(curves: pl.DataFrame) -> dict[str, list[int]]:
    """Further rates for the methods whose best one is the smallest or the largest tried."""
    best, found = best_numbers(curves), {}
    for method, k in best.items():
        tried = curves.filter(pl.col("method") == method)["number"]
        if k == tried.max():
            found[method] = [k + 2, k + 4]
        elif k == tried.min():
            found[method] = [k - 2, k - 4]
    return found


def three_stages(trainer: Trainer, methods: Sequence[str]) -> dict[str, pl.DataFrame]:
    """The curves of each stage."""
    study = trainer.study
    brief = mechanism_study(
        study.data, study.power, study.schedule, study.iterations // 10,
        points=2, device=study.device,
    )  # fmt: skip
    rescales = {method: parse_method(method).optimizer in RESCALING for method in methods}
    scan = trainer.train(brief, {m: SCANNED[rescales[m]] for m in methods}, SEEDS[:1])
    best = best_numbers(scan)
    around = {m: [best[m] + j for j in AROUND[rescales[m]]] for m in methods}
    bracket = trainer.train(study, around, SEEDS[:1])
    for _ in range(EXTENSIONS):
        if further := beyond(bracket):
            bracket = pl.concat([bracket, trainer.train(study, further, SEEDS[:1])])
    best = best_numbers(bracket)
    fine = trainer.train(study, {m: [best[m] + j for j in FINE] for m in methods}, SEEDS)
    if failing := [row["method"] for row in tuned(fine).to_dicts() if row["failed"]]:
        # The other seeds need a smaller rate than the first.
        lower = {m: [best[m] + j for j in LOWER] for m in failing}
        fine = pl.concat([fine, trainer.train(study, lower, SEEDS)])
    return {"scan": scan, "bracket": bracket, "fine": fine}


def unit(cell: Cell, optimizers: Sequence[str], device: str, deadline: float) -> pl.DataFrame:
    """One unit of work as a table: distances from the optimum, in float32."""
    start = time.monotonic()
    data = standardize(load(cell.data, download=False))
    study = mechanism_study(*cell, seeds=SEEDS, points=50, device=device)
    optimum = find_optimum(data.features, data.targets, cell.power).loss
    methods = [m for m in study.methods if parse_method(m).optimizer in optimizers]
    tables = [
        table.with_columns(pl.lit(stage).alias("stage"))
        for stage, table in three_stages(Trainer(data, study, deadline), methods).items()
    ]
    card = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    about = {
        **cell._asdict(),
        "seconds": time.monotonic() - start,
        "machine": f"{card}, torch {torch.__version__}",
        "date": time.strftime("%Y-%m-%d"),
    }
    distance = (pl.col("loss") - optimum).cast(pl.Float32).alias("distance")
    constants = [pl.lit(value).alias(name) for name, value in about.items()]
    return pl.concat(tables).with_columns(distance, *constants).drop("loss", "number")


def main() -> None:
    """Train until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--folder", type=Path, default=Path("runs/mechanism"))
    parser.add_argument("--seconds", type=float, default=math.inf)
    parser.add_argument("--iterations", type=int, default=20_000)
    parser.add_argument("--data", nargs="*", help="only these data sets")
    parser.add_argument("--optimizers", nargs="*", default=MECHANISM_OPTIMIZERS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + arguments.seconds
    on_gpu = arguments.device != "cpu"
    optimizers = tuple(arguments.optimizers)
    parts = [optimizers] if on_gpu else [(name,) for name in optimizers]
    for cell, part in itertools.product(cells(arguments.iterations), parts):
        if arguments.data and cell.data not in arguments.data:
            continue
        name = "-".join(map(str, (*cell, *part)))
        file = arguments.folder / f"{name}.parquet"
        if file.exists():
            continue
        start = time.monotonic()
        try:
            table = unit(cell, part, arguments.device, deadline)
        except (OutOfTime, DataError) as error:
            print(f"left out: {name}: {type(error).__name__} {error}", flush=True)
            continue
        table.write_parquet(file.with_suffix(".part"), compression="zstd")
        file.with_suffix(".part").replace(file)
        print(f"{time.monotonic() - start:6.1f} s {name}", flush=True)


if __name__ == "__main__":
    main()
