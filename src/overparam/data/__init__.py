"""Real regression problems: by verified download and cache, from a folder, or embedded."""

from overparam.data._dataset import DatasetStatus
from overparam.data.errors import DataError, DataUnavailable
from overparam.data.registry import fetch, load, names, status, verify
from overparam.data.regression import RegressionData, fingerprint, standardize

__all__ = [
    "DataError",
    "DataUnavailable",
    "DatasetStatus",
    "RegressionData",
    "fetch",
    "fingerprint",
    "load",
    "names",
    "standardize",
    "status",
    "verify",
]
