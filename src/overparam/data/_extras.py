"""Optional packages, imported at their first use, so that the library needs only torch."""

from __future__ import annotations

import importlib
from types import ModuleType


def import_extra(module: str) -> ModuleType:
    """Import a module of the ``lab`` extra.

    Raises:
        ModuleNotFoundError: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"this data set needs the package {error.name!r}, which is not installed; "
            'run: pip install "overparam[lab]"',
            name=error.name,
        ) from error
