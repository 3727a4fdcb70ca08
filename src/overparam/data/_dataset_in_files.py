"""Data sets that are files: in the folder ``OVERPARAM_DATA``, in the cache, or on a server."""

from __future__ import annotations

import abc
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from overparam.data._dataset import Dataset, DatasetStatus
from overparam.data._local_files import FOLDER_VARIABLE
from overparam.data.errors import DataError, DataUnavailable
from overparam.data.images import ImageData
from overparam.data.regression import RegressionData

Data = TypeVar("Data", RegressionData, ImageData)


@dataclass(frozen=True)
class Location:
    """Where files are (``folder``, ``cache`` or ``download``) and their path."""

    where: str
    path: Path

    @property
    def origin(self) -> str:
        """The location in words."""
        return f"{self.where}: {self.path}"


@dataclass(frozen=True)
class DatasetInFiles(Dataset, Generic[Data]):
    """A data set in files.

    They are looked for in the folder ``OVERPARAM_DATA``, then in the cache, then on the server.
    """

    @property
    @abc.abstractmethod
    def needed(self) -> str:
        """Its files below ``OVERPARAM_DATA``, for messages."""

    @abc.abstractmethod
    def _locate(self) -> Location | None:
        """Where the files are on this machine; raises DataError if the folder lacks a file."""

    @abc.abstractmethod
    def _read(self, location: Location) -> Data:
        """The checked data; raises DataError."""

    @abc.abstractmethod
    def _download(self, force: bool) -> Location:
        """Download the files that the cache lacks, or all by ``force``; raises DataError."""

    def load(self, download: bool) -> Data:
        """The data as published, downloaded only if ``download`` allows it."""
        location = self._locate()
        if location is not None:
            return self._read(location)
        if not download:
            raise DataUnavailable(
                f"{self.name} is not on this machine; run `overparam data fetch {self.name}` "
                f"or set {FOLDER_VARIABLE} to a folder that contains {self.needed}."
            )
        return self._read(dataclasses.replace(self._download(force=False), where="download"))

    def status(self) -> DatasetStatus:
        """Where the files are, and whether they are right."""
        try:
            location = self._locate()
        except DataError as error:
            return self._status("not here", problem=str(error))
        if location is None:
            return self._status("not here", problem=f"run `overparam data fetch {self.name}`")
        try:
            self._read(location)
        except DataError as error:
            return self._status(location.where, location.path, verified=False, problem=str(error))
        return self._status(location.where, location.path, verified=True)

    def fetch(self, force: bool) -> Path:
        """The path of the files; they are downloaded if they are not here, or by ``force``."""
        location = (None if force else self._locate()) or self._download(force)
        self._read(location)
        return location.path

    def _remedy(self, location: Location) -> str:
        """What to do about a broken file."""
        if location.where == "folder":
            return f"Replace it with the original ({self.provenance}), or unset {FOLDER_VARIABLE}."
        return f"Run `overparam data fetch {self.name} --force`."
