"""The runs of a study as jobs for a pool of processes: one file each, found again and resumed."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from overparam.data import DataError, ImageData, load_images
from overparam.lab.problems.mnist_cnn.penalty import FORMS, PenaltyAlone
from overparam.lab.problems.mnist_cnn.study import VARIANTS, CnnStudy
from overparam.lab.problems.mnist_cnn.training import CnnTraining
from overparam.lab.store import read_state, read_table, write_state, write_table

# Raised whenever the same settings would give other numbers, so that stored runs are not mixed.
_FORMAT = 1

_CHUNK_STEPS = 5
_CHECKPOINT_SECONDS = 30.0

# The network whose penalty alone is integrated beside that of every study.
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
    """One run, the unit of work, of storage and of resuming.

    Attributes:
        study: the settings.
        kind: ``training``, or ``penalty`` for the penalty integrated alone, without data.
        variant: what is trained; empty for the penalty, which is integrated for all variants.
        rate: initial learning rate.
        seed: of weights and dropout.
        fingerprint: of the data; empty for the penalty.
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
        """Core-seconds of the whole run, roughly; see :func:`step_cost`."""
        return self.study.steps * step_cost(self.study, self.variant)

    @property
    def identity(self) -> str:
        """Hash of everything that determines the numbers, and of nothing else.

        A study with more variants, rates or seeds so finds the runs of a smaller one.
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
        """Where the curves of the finished run are."""
        parts = (self.variant or self.kind, f"rate{self.rate:g}", f"seed{self.seed}")
        return self.path / f"{'-'.join((*parts, self.identity[:16]))}.parquet"

    @property
    def checkpoint(self) -> Path:
        """Where the state of the unfinished run is."""
        return self.file.with_suffix(".checkpoint")

    def finished(self) -> bool:
        """Whether the curves of the run are stored."""
        return self.file.exists()

    def train(self, stop: Callable[[], bool], on_cost: Callable[[float], None]) -> bool:
        """Go on from the last checkpoint, bit for bit, to the end or until told to stop.

        Raises:
            DataError: the images are not on this machine any more, or other ones.
        """
        run = self._start()
        saved = read_state(self.checkpoint, {"identity", "run"})
        if saved is not None and saved["identity"] == self.identity:
            run.load_state_dict(saved["run"])
        unit = step_cost(self.study, self.variant)
        on_cost(unit * run.step)
        last_saved = time.monotonic()
        while not run.finished:
            before = run.step
            run.advance(_CHUNK_STEPS)
            on_cost(unit * ((self.study.steps if run.finished else run.step) - before))
            stopping = stop() and not run.finished
            if stopping or time.monotonic() - last_saved > _CHECKPOINT_SECONDS:
                write_state(self.checkpoint, {"identity": self.identity, "run": run.state_dict()})
                last_saved = time.monotonic()
            if stopping:
                return False
        write_table(self.file, self._table(run.state_dict()))
        self.checkpoint.unlink(missing_ok=True)
        return True

    def curves(self) -> pl.DataFrame:
        """What is stored of the run: all of it, or as far as its checkpoint goes.

        Raises:
            ValueError: the file is damaged.
        """
        if self.finished():
            return read_table(self.file)
        saved = read_state(self.checkpoint, {"identity", "run"})
        if saved is None or saved["identity"] != self.identity:
            return pl.DataFrame(schema=PENALTY_SCHEMA if self.kind == PENALTY else CURVES_SCHEMA)
        return self._table(saved["run"])

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
        """The records in a run's state, one row per step (and form of the penalty)."""
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
        data: the images of that name.
        path: directory of the files.
    """
    return training_jobs(study, data.fingerprint, path) + penalty_jobs(study, path)


def training_jobs(study: CnnStudy, fingerprint: str, path: Path) -> list[CnnJob]:
    """One job for each variant, rate and seed; those of the first seed come first."""
    return [
        CnnJob(study, TRAINING, variant, rate, seed, fingerprint, path)
        for seed in study.seeds
        for rate in study.rates
        for variant in study.variants
    ]


def penalty_jobs(study: CnnStudy, path: Path) -> list[CnnJob]:
    """The penalty alone at the size of the study, and at the paper's if that is another."""
    own = [
        CnnJob(study, PENALTY, "", rate, seed, "", path)
        for seed in study.seeds
        for rate in study.rates
    ]
    paper = paper_penalty_job(study, path)
    return own if paper.file in {job.file for job in own} else [*own, paper]


def paper_penalty_job(study: CnnStudy, path: Path) -> CnnJob:
    """The penalty alone at the paper's size, rate and horizon, for the first seed."""
    return CnnJob(PAPER, PENALTY, "", PAPER.rates[0], study.seeds[0], "", path)


def load_curves(jobs: Sequence[CnnJob]) -> pl.DataFrame:
    """The curves of some jobs, finished or not.

    Args:
        jobs: all of one kind; see :func:`training_jobs` and :func:`penalty_jobs`.

    Returns:
        Columns ``variant, rate, seed, step`` and, for training, ``batch_cross_entropy`` (of the
        batch trained last, after its step, as the tutorial prints it), ``cross_entropy`` (mean
        over the batches since the last record, each before its step), ``penalty``,
        ``validation_error`` and ``test_error`` (shares, null where not measured) and
        ``diverged_at`` (null unless the run diverged); for the penalty alone, ``penalty``.

    Raises:
        ValueError: a file is damaged.
    """
    return pl.concat([job.curves() for job in jobs])


def step_cost(study: CnnStudy, variant: str) -> float:
    """Core-seconds of one step, estimated from its multiplications; empty for the penalty alone.

    The rate, measured on one core, is the right order on others; costs are for progress bars.
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


_MULTIPLICATIONS = 25e9


@functools.cache
def _images(name: str) -> ImageData:
    """Read once in each worker."""
    return load_images(name, download=False)
