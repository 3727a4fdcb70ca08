"""Tiny Shakespeare: 1.1 million characters of plays, as Karpathy (2015) cut them."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from overparam._files import write_whole
from overparam.data._download import fetch_content
from overparam.data._local_files import (
    FOLDER_VARIABLE,
    cache_folder,
    explaining_write_errors,
    file_in_data_folder,
    read_file,
    sha256_of,
)
from overparam.data.errors import DataError, DataUnavailable

_FILE = "tinyshakespeare/input.txt"
_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"


@functools.cache
def tinyshakespeare() -> tuple[Tensor, Tensor, str]:
    """Characters as numbers, the first nine tenths and the rest, and the characters themselves.

    Raises:
        DataError: the file is not the expected one.
        DataUnavailable: the file is not on this machine and cannot be downloaded.
    """
    content = _content()
    if sha256_of(content) != _SHA256:
        raise DataError(f"{_FILE} is not the expected text; replace it with the one at {_URL}.")
    text = content.decode("ascii")
    characters = "".join(sorted(set(text)))
    numbers = torch.tensor([characters.index(c) for c in text])
    part = len(text) * 9 // 10
    return numbers[:part], numbers[part:], characters


def _content() -> bytes:
    path = file_in_data_folder(_FILE)
    if path is not None:
        return read_file(path)
    path = cache_folder() / "tinyshakespeare.txt"
    if path.is_file():
        return read_file(path)
    try:
        content = fetch_content(_URL)
    except ConnectionError as error:
        raise DataUnavailable(
            f"tinyshakespeare is not on this machine and {error}; check the network, or set "
            f"{FOLDER_VARIABLE} to a folder that contains {_FILE}."
        ) from error
    with explaining_write_errors("tinyshakespeare", path.parent):
        write_whole(path, content)
    return content
