"""What torch.compile leaves alone."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def uncompiled(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """A function that runs as it is where it is called from compiled code.

    Elsewhere it is called directly: torch's own wrapper costs as much as a small kernel.
    """
    outside: Callable[_Arguments, _Result] = torch._disable_dynamo(function)  # pyright: ignore

    @functools.wraps(function)
    def call(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        if torch.compiler.is_compiling():
            return outside(*args, **kwargs)
        return function(*args, **kwargs)

    return call
