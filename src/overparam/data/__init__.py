"""Real data for regression and image classification: downloaded, in a folder, or embedded."""

from overparam.data._dataset import DatasetStatus
from overparam.data.errors import DataError, DataUnavailable
from overparam.data.images import ImageData
from overparam.data.registry import (
    fetch,
    image_names,
    load,
    load_images,
    names,
    regression_names,
    status,
    verify,
)
from overparam.data.regression import RegressionData, fingerprint, standardize
from overparam.data.table import load_table

__all__ = [
    "DataError",
    "DataUnavailable",
    "DatasetStatus",
    "ImageData",
    "RegressionData",
    "fetch",
    "fingerprint",
    "image_names",
    "load",
    "load_images",
    "load_table",
    "names",
    "regression_names",
    "standardize",
    "status",
    "verify",
]
