"""Data sets by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from overparam._words import did_you_mean
from overparam.data._dataset import Dataset, DatasetStatus, ImageDataset, RegressionDataset
from overparam.data.abalone import ABALONE
from overparam.data.embedded import EMBEDDED, EMBEDDED_DIGITS
from overparam.data.errors import DataError
from overparam.data.ethanol import ETHANOL
from overparam.data.images import ImageData
from overparam.data.mnist import MNIST
from overparam.data.regression import RegressionData

_DATASETS: dict[str, Dataset] = {data.name: data for data in (ETHANOL, ABALONE, MNIST, *EMBEDDED)}
_IMAGES: dict[str, ImageDataset] = {data.name: data for data in (MNIST, EMBEDDED_DIGITS)}


def names() -> tuple[str, ...]:
    """The names of all data sets.

    Example:
        >>> names()
        ('ethanol', 'abalone', 'mnist', 'diabetes', 'breast_cancer', 'digits', 'linnerud')
    """
    return tuple(_DATASETS)


def regression_names() -> tuple[str, ...]:
    """The names that :func:`load` takes.

    Example:
        >>> regression_names()
        ('ethanol', 'abalone', 'diabetes', 'breast_cancer', 'digits', 'linnerud')
    """
    return tuple(n for n, data in _DATASETS.items() if isinstance(data, RegressionDataset))


def image_names() -> tuple[str, ...]:
    """The names that :func:`load_images` takes.

    Example:
        >>> image_names()
        ('mnist', 'digits')
    """
    return tuple(_IMAGES)


def load(name: str, *, download: bool = True) -> RegressionData:
    """Load regression data as published, not standardized.

    A file is taken from the folder ``OVERPARAM_DATA`` if that is set, otherwise from the cache or
    from its server. It is checked each time.

    Args:
        name: one of :func:`regression_names`.
        download: whether the network may be used.

    Raises:
        DataError: the name is unknown or belongs to images, or the file is broken or not the
            expected one.
        DataUnavailable: the data are not on this machine, and cannot or must not be downloaded.
        ModuleNotFoundError: the ``lab`` extra is not installed.

    Example:
        >>> load("diabetes").features.shape
        torch.Size([442, 10])
    """
    data = _find(name)
    if not isinstance(data, RegressionDataset):
        raise DataError(
            f"{name} is a set of images, not regression data; call load_images({name!r}), or use "
            f"one of {', '.join(regression_names())}."
        )
    return data.load(download)


def load_images(name: str, *, download: bool = True) -> ImageData:
    """Load images with one class each; they are found and checked as in :func:`load`.

    Args:
        name: one of :func:`image_names`.
        download: whether the network may be used.

    Raises:
        DataError: the name is unknown or belongs to regression data, or a file is broken or not
            the expected one.
        DataUnavailable: the data are not on this machine, and cannot or must not be downloaded.
        ModuleNotFoundError: the ``lab`` extra is not installed.

    Example:
        >>> load_images("digits").images.shape
        torch.Size([1500, 8, 8])
    """
    if name not in _IMAGES:
        _find(name)
        raise DataError(
            f"{name} is regression data and has no images; use one of {', '.join(_IMAGES)}."
        )
    return _IMAGES[name].load(download)


def status() -> tuple[DatasetStatus, ...]:
    """Where each data set is and whether its file is right.

    This uses no network and raises no DataError.

    Raises:
        ModuleNotFoundError: the ``lab`` extra is not installed and ``OVERPARAM_DATA`` is not set.
    """
    return tuple(data.status() for data in _DATASETS.values())


def fetch(name: str, force: bool = False) -> Path | None:
    """Download a data set if it is not on this machine.

    Args:
        name: one of :func:`names`.
        force: download it to the cache even if it is here, for example to replace a broken file.
            A file in ``OVERPARAM_DATA`` still takes precedence over the cache.

    Returns:
        The path of the checked file, or None for an embedded data set.

    Raises:
        DataError: the name is unknown, the file is wrong, or the cache cannot be written.
        DataUnavailable: the data cannot be downloaded.
        ModuleNotFoundError: the ``lab`` extra is not installed.
    """
    return _find(name).fetch(force)


def verify(name: str) -> DatasetStatus:
    """Read and check a data set on this machine.

    Returns:
        Its status, with ``verified`` True.

    Raises:
        DataError: the name is unknown, or the file is broken or not the expected one.
        DataUnavailable: the data are not on this machine.
        ModuleNotFoundError: the ``lab`` extra is not installed.
    """
    data = _find(name)
    data.load(allow_download=False)
    return dataclasses.replace(data.status(), verified=True)


def _find(name: str) -> Dataset:
    if name in _DATASETS:
        return _DATASETS[name]
    hint = did_you_mean(str(name).lower(), _DATASETS)
    raise DataError(f"no data set is named {name!r}.{hint} Known: {', '.join(_DATASETS)}.")
