"""The jobs of a study of the network, one for each run, and the curves that they store."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from overparam.data import DataError, ImageData, load_images
from overparam.lab.problems.mnist_cnn.penalty import FORMS, PenaltyAlone
from overparam.lab.problems.mnist_cnn.study import VARIANTS, CnnStudy
from overparam.lab.problems.mnist_cnn.training import CnnTraining
from overparam.lab.resume import load_checkpoint, train_resumably
from overparam.lab.store import read_table, write_table

# Raised whenever the same settings would give other numbers, so that stored runs are not mixed.
_FORMAT = 1

_CHUNK_STEPS = 5

# Every study also descends the penalty alone of this network.
PAPER = CnnStudy()
TRAINING, PENALTY = "training", "penalty"

_KEYS = {"variant": pl.String, "rate": pl.Float64, "seed": pl.Int64, "step": pl.Int64}
CURVES_SCHEMA = {
    **_KEYS,
    "batch_cross_entropy": pl.Float64,
    "cross_entropy": pl.Float64,
    "penalty": pl.Float64,
    "validation_error": pl.Float64,
    "test_error": pl.Float64,
    "diverged_at": pl.Int64,
}
PENALTY_SCHEMA = {**_KEYS, "penalty": pl.Float64}


@dataclass(frozen=True)
class CnnJob:
    """One run: the unit of work, of storage and of resuming.

    Attributes:
        study: the settings.
        kind: ``training``, or ``penalty`` for descending the penalty alone, without data.
        variant: the network to train; empty for the penalty, which covers all variants.
        rate: initial learning rate.
        seed: seed of weights and dropout.
        fingerprint: fingerprint of the data; empty for the penalty.
        path: directory of the files.
    """

    study: CnnStudy
    kind: str
    variant: str
    rate: float
    seed: int
    fingerprint: str
    path: Path

    @property
    def cost(self) -> float:
        """Approximate core-seconds of the whole run; see :func:`step_cost`."""
        return self.study.steps * step_cost(self.study, self.variant)

    @property
    def identity(self) -> str:
        """Hash of everything that determines the numbers, and of nothing else.

        So a study with more variants, learning rates or seeds finds the runs of a smaller one.
        """
        settings = dataclasses.asdict(self.study)
        unused = ["variants", "rates", "seeds"]
        if self.kind == PENALTY:
            unused += ["data", "dropout", "held_out", "evaluate_every", "evaluated", "device"]
        for name in unused:
            del settings[name]
        own = (_FORMAT, self.kind, self.variant, self.rate, self.seed, self.fingerprint)
        text = json.dumps([settings, own], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def file(self) -> Path:
        """The file with the curves of the finished run."""
        words = (self.variant or self.kind, f"rate{self.rate:g}", f"seed{self.seed}")
        return self.path / f"{'-'.join((*words, self.identity[:16]))}.parquet"

    @property
    def checkpoint(self) -> Path:
        """The file with the state of the unfinished run."""
        return self.file.with_suffix(".checkpoint")

    def finished(self) -> bool:
        """Whether the curves of the run are stored."""
        return self.file.exists()

    def train(self, stop: Callable[[], bool], on_cost: Callable[[float], None]) -> bool:
        """Continue from the last checkpoint, bit for bit, to the end or until asked to stop.

        Raises:
            DataError: the images are no longer on this machine, or have changed.
        """
        run = self._start()
        if not train_resumably(
            run,
            self.study.steps,
            self.checkpoint,
            self.identity,
            "run",
            chunk_steps=_CHUNK_STEPS,
            step_cost=step_cost(self.study, self.variant),
            stop=stop,
            on_cost=on_cost,
        ):
            return False
        write_table(self.file, self._table(run.state_dict()))
        self.checkpoint.unlink(missing_ok=True)
        return True

    def curves(self) -> pl.DataFrame:
        """The stored curves: all of them, or those up to the checkpoint.

        Raises:
            ValueError: the file is damaged.
        """
        if self.finished():
            return read_table(self.file)
        saved = load_checkpoint(self.checkpoint, self.identity, "run")
        if saved is None:
            return pl.DataFrame(schema=PENALTY_SCHEMA if self.kind == PENALTY else CURVES_SCHEMA)
        return self._table(saved)

    def _start(self) -> CnnTraining | PenaltyAlone:
        if self.kind == PENALTY:
            return PenaltyAlone(self.study, self.rate, self.seed)
        data = _images(self.study.data)
        if data.fingerprint != self.fingerprint:
            raise DataError(
                f"{self.study.data} from {data.origin} has changed since this work was planned; "
                "run the command again."
            )
        return CnnTraining(self.study, self.variant, self.rate, self.seed, data)

    def _table(self, state: dict) -> pl.DataFrame:
        """The records in the state of a run, one row per step (and form of the penalty)."""
        if self.kind == PENALTY:
            rows = [
                (form, self.rate, self.seed, step, value)
                for step, *values in state["records"]
                for form, value in zip(FORMS, values, strict=True)
            ]
            return pl.DataFrame(rows, schema=PENALTY_SCHEMA, orient="row")
        rows = [
            (self.variant, self.rate, self.seed, *record, state["diverged_at"])
            for record in state["records"]
        ]
        return pl.DataFrame(rows, schema=CURVES_SCHEMA, orient="row").with_columns(
            pl.col("validation_error", "test_error").fill_nan(None)
        )


def cnn_jobs(study: CnnStudy, data: ImageData, path: Path) -> list[CnnJob]:
    """Every run of a study: the training runs, then the penalty alone.

    Args:
        study: the settings.
        data: the images that the study names.
        path: directory of the files.
    """
    return training_jobs(study, data.fingerprint, path) + penalty_jobs(study, path)


def training_jobs(study: CnnStudy, fingerprint: str, path: Path) -> list[CnnJob]:
    """One job for each variant, lr and seed; those of the first seed come first."""
    return [
        CnnJob(study, TRAINING, variant, rate, seed, fingerprint, path)
        for seed in study.seeds
        for rate in study.rates
        for variant in study.variants
    ]


def penalty_jobs(study: CnnStudy, path: Path) -> list[CnnJob]:
    """The penalty alone at the size of the study, and at the paper's size if that is different."""
    own = [
        CnnJob(study, PENALTY, "", rate, seed, "", path)
        for seed in study.seeds
        for rate in study.rates
    ]
    paper = paper_penalty_job(study, path)
    return own if paper.file in {job.file for job in own} else [*own, paper]


def paper_penalty_job(study: CnnStudy, path: Path) -> CnnJob:
    """The penalty alone at the paper's size, lr and horizon, for the first seed."""
    return CnnJob(PAPER, PENALTY, "", PAPER.rates[0], study.seeds[0], "", path)


def load_curves(jobs: Sequence[CnnJob]) -> pl.DataFrame:
    """The curves of some jobs, finished or not.

    Args:
        jobs: jobs of the same kind; see :func:`training_jobs` and :func:`penalty_jobs`.

    Returns:
        Columns ``variant, rate, seed, step`` and, for training, ``batch_cross_entropy`` (of the
        last batch, after its step, as the tutorial prints it), ``cross_entropy`` (mean over the
        batches since the previous record, each before its step), ``penalty``,
        ``validation_error`` and ``test_error`` (shares, null if not evaluated) and ``diverged_at``
        (null unless the run diverged); for the penalty alone, ``penalty``.

    Raises:
        ValueError: a file is damaged.
    """
    return pl.concat([job.curves() for job in jobs])


def step_cost(study: CnnStudy, variant: str) -> float:
    """Core-seconds of one step, estimated from its multiplications; for progress bars.

    Args:
        study: the settings.
        variant: the network; empty for the penalty alone.
    """
    shape, per_image = study.shape, 0
    hidden, features = shape.hidden, shape.features
    if variant:
        second = -(-study.side // 2)
        first_channels, second_channels = shape.channels
        per_image = 25 * first_channels * (study.side**2 + second_channels * second**2)
        per_image += hidden * features
    depth, on = (2, "weights") if not variant else VARIANTS[variant][1:]
    width = features if variant else min(hidden, features)
    product = hidden * hidden * width if depth > 1 and on == "weights" else 0
    return 3 * (study.batch * per_image + product) / _MULTIPLICATIONS


_MULTIPLICATIONS = 25e9  # per second, on the core on which it was measured


@functools.cache
def _images(name: str) -> ImageData:
    """Images, which each worker reads once."""
    return load_images(name, download=False)
