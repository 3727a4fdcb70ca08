"""A known data set: what its numbers are, and whether files or scikit-learn hold them."""

from __future__ import annotations

import abc
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from torch import Tensor

from overparam.data._known import FOLDER_VARIABLE, KnownFile, Location, download, locate, needed
from overparam.data.errors import ContentError, DataError, DataUnavailable
from overparam.data.images import ImageData
from overparam.data.regression import RegressionData

Data = TypeVar("Data", RegressionData, ImageData)


@dataclass(frozen=True)
class DatasetStatus:
    """Where a data set is and whether it is intact, found without the network.

    Attributes:
        name: the name under which it is loaded.
        title: one line for people.
        where: ``embedded``, ``folder``, ``cache`` or ``not here``.
        path: the file or folder, or None if there is none.
        rows: number of examples.
        features: number of features.
        outputs: number of outputs.
        licence: licence of the data.
        verified: whether the file holds the right numbers; None if there is no file to verify.
        problem: why the data set cannot be loaded, or None.
    """

    name: str
    title: str
    where: str
    path: Path | None
    rows: int
    features: int
    outputs: int
    licence: str
    verified: bool | None
    problem: str | None = None


@dataclass(frozen=True)
class Dataset(abc.ABC, Generic[Data]):
    """A known data set, in files or in scikit-learn.

    Attributes:
        name: the name under which it is loaded.
        title: one line for people.
        rows: number of examples.
        features: number of features; for images, of pixels.
        outputs: number of outputs; for images, of classes.
        provenance: who made it and where it is published.
        licence: licence of the data.
        files: the files whose tensors it consists of.
        embedded: makes the tensors from scikit-learn, if there are no files.
    """

    name: str
    title: str
    rows: int
    features: int
    outputs: int
    provenance: str
    licence: str
    files: tuple[KnownFile, ...] = ()
    embedded: Callable[[], Sequence[Tensor]] | None = None

    @property
    def source(self) -> str:
        """Provenance and licence in one line."""
        return f"{self.provenance}. Licence: {self.licence}"

    @abc.abstractmethod
    def _data(self, tensors: Sequence[Tensor], origin: str) -> Data:
        """The data of these tensors; raises DataError if they do not fit."""

    def load(self, allow_download: bool) -> Data:
        """The data as published; see :func:`overparam.data.load`."""
        if self.embedded:
            return self._data(self.embedded(), "embedded")
        location = locate(self.files)
        if location is not None:
            return self._read(location)
        if not allow_download:
            raise DataUnavailable(
                f"{self.name} is not on this machine; run `overparam data fetch {self.name}` or "
                f"set {FOLDER_VARIABLE} to a folder that contains {needed(self.files)}."
            )
        return self._read(download(self.name, self.files)._replace(where="download"))

    def fetch(self, force: bool) -> Path | None:
        """Download it if it is not here, or by ``force``; see :func:`overparam.data.fetch`."""
        if self.embedded:
            return None
        location = (None if force else locate(self.files)) or download(self.name, self.files, force)
        self._read(location)
        return location.path

    def status(self) -> DatasetStatus:
        """Where it is, and whether it is right; see :func:`overparam.data.status`."""
        where, path, verified, problem = "not here", None, None, None
        try:
            if self.embedded and importlib.util.find_spec("sklearn"):
                where = "embedded"
            elif self.embedded:
                problem = 'run: pip install "overparam[lab]"'
            elif location := locate(self.files):
                where, path, verified = location.where, location.path, False
                self._read(location)
                verified = True
            else:
                problem = f"run `overparam data fetch {self.name}`"
        except DataError as error:
            problem = str(error)
        sizes = (self.rows, self.features, self.outputs)
        return DatasetStatus(
            self.name, self.title, where, path, *sizes, self.licence, verified, problem
        )

    def _read(self, location: Location) -> Data:
        """The checked data in files; raises DataError."""
        tensors: list[Tensor] = []
        for file, path in zip(self.files, location.paths, strict=True):
            try:
                tensors += file.read(path, location.where)
            except ContentError as error:
                remedy = f"Run `overparam data fetch {self.name} --force`."
                if location.where == "folder":
                    original = f"the original ({self.provenance})"
                    remedy = f"Replace it with {original}, or unset {FOLDER_VARIABLE}."
                joint = ", " if str(error).startswith("line ") else ": "
                raise DataError(f"{path}{joint}{error}. {remedy}") from error
        return self._data(tensors, f"{location.where}: {location.path}")


class RegressionDataset(Dataset[RegressionData]):
    """Known regression data: its tensors are features and targets."""

    def _data(self, tensors: Sequence[Tensor], origin: str) -> RegressionData:
        features, targets = tensors
        shape = (len(features), features.shape[1], targets.shape[1])
        if shape != (self.rows, self.features, self.outputs):
            raise DataError(
                f"{self.name} from {origin} has (rows, features, outputs) = {shape}, expected "
                f"{(self.rows, self.features, self.outputs)}: it is another version of the data."
            )
        return RegressionData(self.name, self.title, features, targets, self.source, origin)


class ImageDataset(Dataset[ImageData]):
    """Known images with one class each: its tensors are those to train on and those to test on."""

    def _data(self, tensors: Sequence[Tensor], origin: str) -> ImageData:
        images, labels, test_images, test_labels = tensors
        parts = (images, labels.long(), test_images, test_labels.long())
        return ImageData(self.name, self.title, *parts, self.outputs, self.source, origin)
