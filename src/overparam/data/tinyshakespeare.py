"""Tiny Shakespeare: 1.1 million characters of plays, as Karpathy (2015) cut them."""

from __future__ import annotations

import functools

from torch import Tensor

from overparam.data._known import KnownFile, download, locate
from overparam.data.errors import ContentError, DataError

_FILE = KnownFile(
    path="tinyshakespeare/input.txt",
    cached="tinyshakespeare.txt",
    urls=(
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    ),
    sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
)


@functools.cache
def tinyshakespeare() -> tuple[Tensor, Tensor, str]:
    """Characters as numbers, the first nine tenths and the rest, and the characters themselves.

    Raises:
        DataError: the file is not the expected one.
        DataUnavailable: the file is not on this machine and cannot be downloaded.
    """
    location = locate([_FILE]) or download("tinyshakespeare", [_FILE])
    try:
        (codes,) = _FILE.read(location.path, location.where)
    except ContentError as error:
        raise DataError(
            f"{location.path}: {error}; replace it with the one at {_FILE.urls[0]}."
        ) from error
    characters, numbers = codes.unique(return_inverse=True)
    part = len(numbers) * 9 // 10
    return numbers[:part], numbers[part:], bytes(characters.tolist()).decode("ascii")
