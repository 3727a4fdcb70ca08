"""What all data sets have in common, wherever they are stored."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from overparam.data.errors import DataError
from overparam.data.images import ImageData
from overparam.data.regression import RegressionData


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
class Dataset(abc.ABC):
    """A known data set; subclasses define what its numbers are and where they are stored.

    Attributes:
        name: the name under which it is loaded.
        title: one line for people.
        rows: number of examples.
        features: number of features.
        outputs: number of outputs.
        provenance: who made it and where it is published.
        licence: licence of the data.
    """

    name: str
    title: str
    rows: int
    features: int
    outputs: int
    provenance: str
    licence: str

    @property
    def source(self) -> str:
        """Provenance and licence in one line."""
        return f"{self.provenance}. Licence: {self.licence}"

    @abc.abstractmethod
    def load(self, download: bool) -> RegressionData | ImageData:
        """The data as published."""

    @abc.abstractmethod
    def status(self) -> DatasetStatus:
        """Where it is; see :func:`overparam.data.status`."""

    @abc.abstractmethod
    def fetch(self, force: bool) -> Path | None:
        """Download it; see :func:`overparam.data.fetch`."""

    def _status(
        self,
        where: str,
        path: Path | None = None,
        verified: bool | None = None,
        problem: str | None = None,
    ) -> DatasetStatus:
        sizes = (self.rows, self.features, self.outputs)
        return DatasetStatus(
            self.name, self.title, where, path, *sizes, self.licence, verified, problem
        )


@dataclass(frozen=True)
class RegressionDataset(Dataset):
    """Known regression data."""

    @abc.abstractmethod
    def load(self, download: bool) -> RegressionData:
        """The data as published; see :func:`overparam.data.load`."""

    def _data(self, features: Tensor, targets: Tensor, origin: str) -> RegressionData:
        shape = (len(features), features.shape[1], targets.shape[1])
        if shape != (self.rows, self.features, self.outputs):
            raise DataError(
                f"{self.name} from {origin} has (rows, features, outputs) = {shape}, expected "
                f"{(self.rows, self.features, self.outputs)}: it is another version of the data."
            )
        return RegressionData(self.name, self.title, features, targets, self.source, origin)


@dataclass(frozen=True)
class ImageDataset(Dataset):
    """A known set of images with one class each: features are pixels, outputs are classes."""

    @abc.abstractmethod
    def load(self, download: bool) -> ImageData:
        """The images as published; see :func:`overparam.data.load_images`."""
