"""Prepares a study for training: loads its data, finds its optimum, checks its directory."""

from __future__ import annotations

import dataclasses
import functools
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from overparam._files import check_writable
from overparam.data import DataUnavailable, RegressionData, load, standardize
from overparam.lab.report.study import package_versions
from overparam.lab.store import StudyDirectory
from overparam.lab.study import Study
from overparam.lab.terminal import say
from overparam.lab.training.optimum import Optimum, find_optimum


@dataclass(frozen=True)
class PreparedStudy:
    """A study with its data.

    Attributes:
        study: the settings.
        identity: hash of settings and data.
        data: standardized data.
        fingerprint: fingerprint of the data as published.
        optimum: the optimum of the loss on these data.
        directory: where the curves go; it holds no curves of another study.
        seconds: training time already spent on this study, according to its manifest.
    """

    study: Study
    identity: str
    data: RegressionData
    fingerprint: str
    optimum: Optimum
    directory: StudyDirectory
    seconds: float

    def write_manifest(self, finished: bool, seconds: float) -> None:
        """Store the settings of the study and its progress.

        Args:
            finished: whether every run has been trained to its end.
            seconds: wall time of training so far.
        """
        optimum = dataclasses.asdict(self.optimum)
        del optimum["weight"]
        self.directory.write_manifest(
            {
                "study": dataclasses.asdict(self.study),
                "identity": self.identity,
                "data": {
                    "name": self.data.name,
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
    """Check that a float64 tensor can be created on a device and read from it.

    Raises:
        ValueError: it cannot.
    """
    try:
        torch.ones(1, device=device, dtype=torch.float64).item()
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {device!r} cannot be used here ({reason}); use cpu.") from None


def folder_inside(output: Path, name: str) -> Path:
    """The folder of that name in the output folder.

    Raises:
        ValueError: the name leads out of it.
    """
    path = Path(name)
    if not path.name or path.is_absolute() or ".." in path.parts:
        raise ValueError(
            f"name is {name!r}, which names no folder inside {output}; choose another --name, or "
            "the folder with --output."
        )
    return output / path


def check_output(folder: Path, *subfolders: str) -> None:
    """Check that results can be written, before the work that makes them.

    Raises:
        OSError: a file cannot be made in the folder or in one of its subfolders.
    """
    try:
        check_writable(folder, *subfolders)
    except OSError as error:
        raise OSError(
            f"{error.filename or folder} cannot be written ({error.strerror or error}); choose "
            "another --output."
        ) from None


def load_or_fallback(name: str, fallback: str | None, console: Console) -> RegressionData:
    """Load a data set, or the fallback if it can be neither found nor downloaded.

    Raises:
        DataUnavailable: it is not available, and there is no fallback.
        DataError: the name is unknown, or the file is broken.
    """
    try:
        return load(name)
    except DataUnavailable as error:
        if fallback is None:
            raise
        say(console, f"{error} Using the embedded set {fallback!r} instead.")
        return load(fallback, download=False)


def prepare_study(
    study: Study, raw: RegressionData, directory: StudyDirectory, overwrite: bool = False
) -> PreparedStudy:
    """Check the directory, standardize the data and find the optimum.

    Args:
        study: the settings.
        raw: the data as published.
        directory: where the curves will go.
        overwrite: whether another study that is stored there may be replaced.

    Raises:
        ValueError: another study is stored there, or the manifest is damaged, and
            ``overwrite`` is false.
    """
    identity = study.identity(raw.fingerprint)
    seconds = _check_directory(directory, identity, overwrite)
    data = _standardized(raw)
    optimum = _optimum(data.features, data.targets, study.power)
    return PreparedStudy(study, identity, data, raw.fingerprint, optimum, directory, seconds)


# The studies of one command often share their data object, which never changes.
_standardized, _optimum = functools.cache(standardize), functools.cache(find_optimum)


def _check_directory(directory: StudyDirectory, identity: str, overwrite: bool) -> float:
    """Make sure that no other study is stored there; returns the seconds spent on this one."""
    if directory.manifest.exists():
        try:
            stored = directory.read_manifest()
            if stored["identity"] == identity:
                return float(stored["wall_seconds"])
            raise ValueError(
                f"{directory.path} holds another study. To keep both, choose another --output (or, "
                "for overparam run, another --name); to replace it, use --overwrite."
            )
        except ValueError:  # that, or a manifest that cannot be read
            if not overwrite:
                raise
    # Without the manifest of this study, the curves may be those of any other.
    directory.clear_curves()
    return 0.0
