"""A study made ready to train: its data, its optimum, and a directory that is its own."""

from __future__ import annotations

import dataclasses
import functools
import os
from dataclasses import dataclass

import torch
from rich.console import Console

from overparam.data import DataUnavailable, RegressionData, load, standardize
from overparam.lab.report.study import package_versions
from overparam.lab.store import RunDirectory
from overparam.lab.study import Study
from overparam.lab.training.optimum import Optimum, find_optimum


@dataclass(frozen=True)
class PreparedStudy:
    """A study on its data.

    Attributes:
        study: the settings.
        identity: hash of settings and data.
        data: standardized.
        fingerprint: of the data as published.
        optimum: of the loss on these data.
        directory: where curves go; holds no curves of another study.
        seconds: training time already spent on this study, by the manifest found there.
    """

    study: Study
    identity: str
    data: RegressionData
    fingerprint: str
    optimum: Optimum
    directory: RunDirectory
    seconds: float

    def write_manifest(self, finished: bool, seconds: float) -> None:
        """Store what the study is and how far it has come.

        Args:
            finished: whether every run was trained to its end.
            seconds: wall time of training so far.
        """
        optimum = dataclasses.asdict(self.optimum)
        del optimum["weight"]
        self.directory.write_manifest(
            {
                "study": dataclasses.asdict(self.study),
                "identity": self.identity,
                "data": {
                    "title": self.data.title,
                    "source": self.data.source,
                    "origin": self.data.origin,
                    "rows": self.data.features.shape[0],
                    "features": self.data.features.shape[1],
                    "fingerprint": self.fingerprint,
                },
                "optimum": optimum,
                "finished": finished,
                "wall_seconds": seconds,
                "cpus": os.cpu_count(),
                "versions": package_versions(),
            }
        )


def check_device(device: str) -> None:
    """Raise unless a float64 tensor can be made on a device and read from it.

    Raises:
        ValueError: it cannot.
    """
    try:
        torch.ones(1, device=device, dtype=torch.float64).item()
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {device!r} cannot be used here ({reason}); use cpu.") from None


def load_or_fallback(name: str, fallback: str | None, console: Console) -> RegressionData:
    """Load a data set, or another one where it can be neither found nor downloaded.

    Raises:
        DataUnavailable: it is not to be had, and there is no fallback.
        DataError: the name is unknown, or its file is broken.
    """
    try:
        return load(name)
    except DataUnavailable as error:
        if fallback is None:
            raise
        message = f"{error} Using the embedded set {fallback!r} instead."
        console.print(message, markup=False, soft_wrap=True)
        return load(fallback, download=False)


def prepare_study(
    study: Study, raw: RegressionData, directory: RunDirectory, overwrite: bool = False
) -> PreparedStudy:
    """Standardize the data, find the optimum and claim the directory.

    Args:
        study: the settings.
        raw: the data as published.
        directory: where curves will go.
        overwrite: whether another study that is stored there may be replaced.

    Raises:
        ValueError: another study is stored there, or the manifest is damaged, and
            ``overwrite`` is false.
    """
    identity = study.identity(raw.fingerprint)
    seconds = _claim(directory, identity, overwrite)
    data = _standardized(raw)
    optimum = _optimum(data, study.power)
    return PreparedStudy(study, identity, data, raw.fingerprint, optimum, directory, seconds)


# Many studies of one command share their data. Kept by the object: data are never changed.
_standardized = functools.cache(standardize)


@functools.cache
def _optimum(data: RegressionData, power: float) -> Optimum:
    return find_optimum(data.features, data.targets, power)


def _claim(directory: RunDirectory, identity: str, overwrite: bool) -> float:
    """Check what is stored there; returns the seconds already spent on this study."""
    if not directory.manifest.exists():
        # Shards without a manifest may be of any study.
        directory.clear_shards()
        return 0.0
    try:
        stored = directory.read_manifest()
    except ValueError:
        if not overwrite:
            raise
        directory.clear_shards()
        return 0.0
    if stored["identity"] == identity:
        return float(stored["wall_seconds"])
    if not overwrite:
        raise ValueError(
            f"{directory.path} holds another study. Keep both by another --output (or, of "
            "overparam run, --name), or replace it with --overwrite."
        )
    directory.clear_shards()
    return 0.0
