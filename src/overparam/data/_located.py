"""Data sets in files: in a named folder, in the cache, or on a server."""

from __future__ import annotations

import abc
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from overparam.data._dataset import Dataset, DatasetStatus
from overparam.data._files import FOLDER_VARIABLE
from overparam.data.errors import DataError, DataUnavailable
from overparam.data.images import ImageData
from overparam.data.regression import RegressionData

Problem = TypeVar("Problem", RegressionData, ImageData)


@dataclass(frozen=True)
class Place:
    """Where files are: ``folder``, ``cache`` or ``download``; and their path."""

    where: str
    path: Path

    @property
    def origin(self) -> str:
        """For people."""
        return f"{self.where}: {self.path}"


@dataclass(frozen=True)
class LocatedDataset(Dataset, Generic[Problem]):
    """A data set in files.

    It is looked for in the folder ``OVERPARAM_DATA``, then in the cache, then on its server.
    """

    @property
    @abc.abstractmethod
    def needed(self) -> str:
        """Its files below ``OVERPARAM_DATA``, for messages."""

    @abc.abstractmethod
    def _locate(self) -> Place | None:
        """Where it is on this machine; raises DataError where the folder lacks a file."""

    @abc.abstractmethod
    def _read(self, place: Place) -> Problem:
        """The checked content; raises DataError."""

    @abc.abstractmethod
    def _download(self, force: bool) -> Place:
        """Bring to the cache what it lacks, or everything; raises DataError."""

    def load(self, download: bool) -> Problem:
        """The raw problem, downloaded only where ``download`` allows it."""
        place = self._locate()
        if place is not None:
            return self._read(place)
        if not download:
            raise DataUnavailable(
                f"{self.name} is not on this machine; run `overparam data fetch {self.name}` "
                f"or set {FOLDER_VARIABLE} to a folder that has {self.needed}."
            )
        return self._read(dataclasses.replace(self._download(force=False), where="download"))

    def status(self) -> DatasetStatus:
        """Where the files are, and whether they are right."""
        try:
            place = self._locate()
        except DataError as error:
            return self._status("not here", problem=str(error))
        if place is None:
            return self._status("not here", problem=f"run `overparam data fetch {self.name}`")
        try:
            self._read(place)
        except DataError as error:
            return self._status(place.where, place.path, verified=False, problem=str(error))
        return self._status(place.where, place.path, verified=True)

    def fetch(self, force: bool) -> Path:
        """The path of the files, downloaded to the cache if they are nowhere or by ``force``."""
        place = (None if force else self._locate()) or self._download(force)
        self._read(place)
        return place.path

    def _remedy(self, place: Place) -> str:
        """What to do about a broken file."""
        if place.where == "folder":
            return f"Replace it by the original ({self.provenance}), or unset {FOLDER_VARIABLE}."
        return f"Run `overparam data fetch {self.name} --force`."
