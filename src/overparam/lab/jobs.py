"""The jobs of a study of linear regression, and the curves that they store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch

from overparam.data import RegressionData
from overparam.lab.resume import train_resumably
from overparam.lab.store import StudyDirectory, read_state, read_table, write_table
from overparam.lab.study import DTYPES, Study, Work, cut_into_jobs
from overparam.lab.training.batched import Sweep
from overparam.lab.training.objective import PowerLoss

_CHUNK_STEPS = 50  # a fraction of a second


@dataclass(frozen=True)
class StudyJob:
    """One job of a study: what a worker needs to train some of its runs.

    Attributes:
        study: the settings.
        identity: identity of the study on this data; other checkpoints are not used.
        data: standardized data.
        work: the number of the job, and its runs.
        path: directory of the study.
        step_cost: cost of one gradient step of the job.
    """

    study: Study
    identity: str
    data: RegressionData
    work: Work
    path: Path
    step_cost: float = 1.0

    @property
    def cost(self) -> float:
        """The cost of all gradient steps."""
        return self.step_cost * self.study.iterations

    def finished(self) -> bool:
        """Whether the curves of the job are stored."""
        return StudyDirectory(self.path).curves_file(self.work).exists()

    def train(self, stop: Callable[[], bool], on_cost: Callable[[float], None]) -> bool:
        """Train to the end, or to a checkpoint if asked to stop."""
        study, directory = self.study, StudyDirectory(self.path)
        dtype = DTYPES[study.dtype]
        objective = PowerLoss(
            self.data.features, self.data.targets, study.power, dtype, study.device
        )
        sweep = Sweep(objective, study, self.work.runs)
        if not train_resumably(
            sweep,
            study.iterations,
            directory.checkpoint_file(self.work),
            self.identity,
            "sweep",
            chunk_steps=_CHUNK_STEPS,
            step_cost=self.step_cost,
            stop=stop,
            on_cost=on_cost,
        ):
            return False
        table = curve_table(study, self.work, sweep.losses, sweep.diverged_at)
        write_table(directory.curves_file(self.work), table)
        directory.checkpoint_file(self.work).unlink(missing_ok=True)
        return True


def study_jobs(
    study: Study,
    identity: str,
    data: RegressionData,
    directory: StudyDirectory,
    step_cost: Callable[[Work], float] = lambda work: 1.0,
) -> list[StudyJob]:
    """The jobs of a study on standardized data; by default a step costs 1.

    The stored curves depend on the study and the data only, not on interruptions or on where the
    jobs run.
    """
    return [
        StudyJob(study, identity, data, work, directory.path, step_cost(work))
        for work in cut_into_jobs(study)
    ]


def load_curves(study: Study, directory: StudyDirectory) -> pl.DataFrame:
    """The curves of every finished job, and of unfinished jobs up to their checkpoints.

    Columns: ``method``, ``rate`` (the lr), ``seed``, ``step``, ``loss``, ``diverged_at`` (null
    unless the run diverged). One row per run and recorded step that was reached.
    """
    tables = []
    for work in cut_into_jobs(study):
        file, checkpoint = directory.curves_file(work), directory.checkpoint_file(work)
        if file.exists():
            tables.append(read_table(file))
        elif (state := read_state(checkpoint, {"identity", "sweep"})) is not None:
            losses, diverged = state["sweep"]["losses"], state["sweep"]["diverged_at"]
            tables.append(curve_table(study, work, losses, diverged))
    return pl.concat(tables) if tables else pl.DataFrame(schema=_SCHEMA)


_SCHEMA = {
    "method": pl.String,
    "rate": pl.Float64,
    "seed": pl.Int64,
    "step": pl.Int64,
    "loss": pl.Float64,
    "diverged_at": pl.Int64,
}


def curve_table(
    study: Study, work: Work, losses: torch.Tensor, diverged_at: torch.Tensor
) -> pl.DataFrame:
    """Losses ``(runs, points)`` as a table with one row per run and recorded step."""
    rows: list[tuple[Any, ...]] = []
    for run, curve, diverged in zip(work.runs, losses.tolist(), diverged_at.tolist(), strict=True):
        for step, loss in zip(study.record_steps, curve, strict=True):
            if loss == loss:  # NaN marks a step that was not reached
                at = diverged if diverged >= 0 else None
                rows.append((run.method.name, run.rate, run.seed, step, loss, at))
    return pl.DataFrame(rows, schema=_SCHEMA, orient="row")
