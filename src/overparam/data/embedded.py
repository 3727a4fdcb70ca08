"""Real data sets that come with scikit-learn and need neither a file nor the network."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from overparam.data._dataset import ImageDataset, RegressionDataset
from overparam.data.errors import import_extra

_DIGITS_SOURCE = (
    "UCI 80, Optical Recognition of Handwritten Digits, test set, DOI 10.24432/C50P49; the copy in "
    "scikit-learn"
)
_DIGITS_LEVELS = 16
_DIGITS_TEST = 297


def _numbers(loader: str, **options: Any) -> tuple[Tensor, Tensor]:
    """Features and targets from a function of ``sklearn.datasets``."""
    bunch = getattr(import_extra("sklearn.datasets"), loader)(**options)
    features = torch.tensor(bunch.data, dtype=torch.float64)
    return features, torch.tensor(bunch.target, dtype=torch.float64).reshape(len(features), -1)


def _digits() -> tuple[Tensor, Tensor]:
    """Pixels, and one target (0 or 1) per digit."""
    pixels, digits = _numbers("load_digits")
    return pixels, torch.nn.functional.one_hot(digits[:, 0].long()).double()


def _digit_images() -> tuple[Tensor, ...]:
    """The digits with their 17 levels of grey spread over 0 to 255; the last 297 are for tests."""
    levels, digits = _numbers("load_digits")
    images = (levels.view(-1, 8, 8) * (255 / _DIGITS_LEVELS)).round().to(torch.uint8)
    labels, tests = digits[:, 0], -_DIGITS_TEST
    return images[:tests], labels[:tests], images[tests:], labels[tests:]


EMBEDDED = (
    RegressionDataset(
        name="diabetes",
        title="Progression of diabetes after one year from ten measurements",
        rows=442,
        features=10,
        outputs=1,
        provenance="Efron, Hastie, Johnstone, Tibshirani (2004), Least Angle Regression; the copy "
        "in scikit-learn",
        licence="published with the article; the copy in scikit-learn is under BSD-3-Clause",
        embedded=partial(_numbers, "load_diabetes", scaled=False),
    ),
    RegressionDataset(
        name="breast_cancer",
        title="Benign (1) or malignant (0) from 30 features of cell nuclei, as a number",
        rows=569,
        features=30,
        outputs=1,
        provenance="UCI 17, Breast Cancer Wisconsin (Diagnostic), DOI 10.24432/C5DW2B; the copy "
        "in scikit-learn",
        licence="CC BY 4.0",
        embedded=partial(_numbers, "load_breast_cancer"),
    ),
    RegressionDataset(
        name="digits",
        title="Handwritten digit from 8 x 8 pixels, one output per digit",
        rows=1797,
        features=64,
        outputs=10,
        provenance=_DIGITS_SOURCE,
        licence="CC BY 4.0",
        embedded=_digits,
    ),
    RegressionDataset(
        name="linnerud",
        title="Weight, waist and pulse from three exercises",
        rows=20,
        features=3,
        outputs=3,
        provenance="Tenenhaus (1998), La regression PLS: theorie et pratique; the copy in "
        "scikit-learn",
        licence="published with the book; the copy in scikit-learn is under BSD-3-Clause",
        embedded=partial(_numbers, "load_linnerud"),
    ),
)

# The same digits as images, under the same name; load and load_images choose between the two.
EMBEDDED_DIGITS = ImageDataset(
    name="digits",
    title="Handwritten digits, 8 x 8 pixels",
    rows=1797,
    features=64,
    outputs=10,
    provenance=_DIGITS_SOURCE,
    licence="CC BY 4.0",
    embedded=_digit_images,
)
