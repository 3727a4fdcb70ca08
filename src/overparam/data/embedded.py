"""Real data sets that come with scikit-learn and need neither a file nor the network."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from typing import Any

import torch

from overparam.data._dataset import Dataset, DatasetStatus, ImageDataset, RegressionDataset
from overparam.data._extras import import_extra
from overparam.data.images import ImageData
from overparam.data.regression import RegressionData

_DIGITS_SOURCE = (
    "UCI 80, Optical Recognition of Handwritten Digits, test set, DOI 10.24432/C50P49; the copy in "
    "scikit-learn"
)
_DIGITS_LEVELS = 16
_DIGITS_TEST = 297


class _Embedded(Dataset):
    """A data set inside scikit-learn."""

    def status(self) -> DatasetStatus:
        """Embedded if scikit-learn is installed."""
        if importlib.util.find_spec("sklearn") is None:
            return self._status("not here", problem='run: pip install "overparam[lab]"')
        return self._status("embedded")

    def fetch(self, force: bool) -> None:
        """Do nothing, because there is nothing to download."""


@dataclass(frozen=True)
class EmbeddedDataset(_Embedded, RegressionDataset):
    """Regression data inside scikit-learn.

    Attributes:
        loader: name of the function in ``sklearn.datasets``.
        options: its keyword arguments.
        one_hot: whether the target is a class, to be encoded as one output (0 or 1) per class.
    """

    loader: str
    options: dict[str, Any] = field(default_factory=dict)
    one_hot: bool = False

    def load(self, download: bool) -> RegressionData:
        """The data as published."""
        bunch = getattr(import_extra("sklearn.datasets"), self.loader)(**self.options)
        features = torch.tensor(bunch.data, dtype=torch.float64)
        if self.one_hot:
            classes = torch.tensor(bunch.target, dtype=torch.int64)
            targets = torch.nn.functional.one_hot(classes, self.outputs).double()
        else:
            targets = torch.tensor(bunch.target, dtype=torch.float64).reshape(len(features), -1)
        return self._data(features, targets, "embedded")


@dataclass(frozen=True)
class EmbeddedDigits(_Embedded, ImageDataset):
    """The 8 x 8 digits inside scikit-learn, of which the last 297 of 1797 are for testing."""

    def load(self, download: bool) -> ImageData:
        """The images, with their 17 levels of grey spread over 0 to 255."""
        bunch = import_extra("sklearn.datasets").load_digits()
        levels = torch.tensor(bunch.images, dtype=torch.float64)
        images = (levels * (255 / _DIGITS_LEVELS)).round().to(torch.uint8)
        labels = torch.tensor(bunch.target, dtype=torch.int64)
        return ImageData(
            self.name,
            self.title,
            images[:-_DIGITS_TEST],
            labels[:-_DIGITS_TEST],
            images[-_DIGITS_TEST:],
            labels[-_DIGITS_TEST:],
            self.outputs,
            self.source,
            "embedded",
        )


EMBEDDED = (
    EmbeddedDataset(
        name="diabetes",
        title="Progression of diabetes after one year from ten measurements",
        rows=442,
        features=10,
        outputs=1,
        provenance="Efron, Hastie, Johnstone, Tibshirani (2004), Least Angle Regression; the copy "
        "in scikit-learn",
        licence="published with the article; the copy in scikit-learn is under BSD-3-Clause",
        loader="load_diabetes",
        options={"scaled": False},
    ),
    EmbeddedDataset(
        name="breast_cancer",
        title="Benign (1) or malignant (0) from 30 features of cell nuclei, as a number",
        rows=569,
        features=30,
        outputs=1,
        provenance="UCI 17, Breast Cancer Wisconsin (Diagnostic), DOI 10.24432/C5DW2B; the copy "
        "in scikit-learn",
        licence="CC BY 4.0",
        loader="load_breast_cancer",
    ),
    EmbeddedDataset(
        name="digits",
        title="Handwritten digit from 8 x 8 pixels, one output per digit",
        rows=1797,
        features=64,
        outputs=10,
        provenance=_DIGITS_SOURCE,
        licence="CC BY 4.0",
        loader="load_digits",
        one_hot=True,
    ),
    EmbeddedDataset(
        name="linnerud",
        title="Weight, waist and pulse from three exercises",
        rows=20,
        features=3,
        outputs=3,
        provenance="Tenenhaus (1998), La regression PLS: theorie et pratique; the copy in "
        "scikit-learn",
        licence="published with the book; the copy in scikit-learn is under BSD-3-Clause",
        loader="load_linnerud",
    ),
)

# The same digits as images, under the same name; load and load_images choose between the two.
EMBEDDED_DIGITS = EmbeddedDigits(
    name="digits",
    title="Handwritten digits, 8 x 8 pixels",
    rows=1797,
    features=64,
    outputs=10,
    provenance=_DIGITS_SOURCE,
    licence="CC BY 4.0",
)
