"""Known files: in the folder ``OVERPARAM_DATA``, in the cache, or on servers."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import torch
from torch import Tensor

from overparam._files import check_writable, write_whole
from overparam.data.errors import ContentError, DataError, DataUnavailable, import_extra

CACHE_VARIABLE = "OVERPARAM_CACHE"
FOLDER_VARIABLE = "OVERPARAM_DATA"
CONNECT_SECONDS = 5.0
SILENCE_SECONDS = 20.0
TOTAL_SECONDS = 300.0


@dataclass(frozen=True)
class KnownFile:
    """A file whose content is known by its checksum; subclasses know more about it.

    Attributes:
        path: path below ``OVERPARAM_DATA``.
        cached: path below the cache folder.
        urls: addresses on servers, tried in this order.
        sha256: SHA-256 of the content.
    """

    path: str
    cached: str
    urls: tuple[str, ...]
    sha256: str

    def unpack(self, download: bytes) -> bytes:
        """The file in what a server sent; raises ContentError if that is not the right one."""
        self.parse(download)
        return download

    def read(self, path: Path, where: str) -> tuple[Tensor, ...]:
        """The tensors in a file in the folder or the cache; raises ContentError or DataError."""
        return self.parse(read_file(path))

    def parse(self, content: bytes) -> tuple[Tensor, ...]:
        """The tensors in a content; raises ContentError if it is not the right one."""
        if (found := sha256_of(content)) != self.sha256:
            raise ContentError(f"found SHA-256 {found}, expected {self.sha256}")
        return (torch.frombuffer(bytearray(content), dtype=torch.uint8),)

    def store(self, path: Path, content: bytes) -> None:
        """Write the file in the cache."""
        write_whole(path, content)


class Location(NamedTuple):
    """Where files are: ``folder``, ``cache``, or ``download`` if they have just come there."""

    where: str
    paths: tuple[Path, ...]

    @property
    def path(self) -> Path:
        """The only file, or the folder of several."""
        return self.paths[0] if len(self.paths) == 1 else self.paths[0].parent


def locate(files: Sequence[KnownFile]) -> Location | None:
    """Where files are on this machine, or None.

    Raises:
        DataError: the folder ``OVERPARAM_DATA`` does not exist or lacks a file.
    """
    folder = data_folder()
    if folder is None:
        paths = _in_cache(files)
        return Location("cache", paths) if all(path.is_file() for path in paths) else None
    problem = "" if folder.is_dir() else "is not a folder"
    for file in files:
        if not problem and not (folder / file.path).is_file():
            problem = f"has no file {file.path}"
    if problem:
        raise DataError(
            f"{FOLDER_VARIABLE} is {folder}, which {problem}; put the file there, or correct or "
            f"unset {FOLDER_VARIABLE}."
        )
    return Location("folder", tuple(folder / file.path for file in files))


def download(name: str, files: Sequence[KnownFile], force: bool = False) -> Location:
    """Download to the cache what it lacks, or all by ``force``.

    Args:
        name: of the data set, for messages.
        files: what to download.
        force: whether to replace what is in the cache.

    Raises:
        DataError: the cache cannot be written, or a server has another file.
        DataUnavailable: no server answers.
    """
    paths = _in_cache(files)
    folder = paths[0].parent
    try:
        check_writable(folder)
        for file, path in zip(files, paths, strict=True):
            if force or not path.is_file():
                file.store(path, _from_servers(name, file, needed(files)))
    except OSError as error:
        raise DataError(
            f"{name} cannot be stored in {folder}: {error.strerror or error}; "
            f"make room there or set {CACHE_VARIABLE} to a folder that is writable."
        ) from error
    return Location("cache", paths)


def _from_servers(name: str, file: KnownFile, wanted: str) -> bytes:
    problems, kind, last = [], DataUnavailable, None
    for url in file.urls:
        try:
            return file.unpack(fetch_content(url))
        except ConnectionError as error:
            problems.append(str(error))
            last = error
        except ContentError as error:
            problems.append(f"the download from {url} is wrong: {error}")
            kind, last = DataError, error
    remedy = (
        "Check the network and try again, or"
        if kind is DataUnavailable
        else "Try again later. If that does not help, the server's copy has changed:"
    )
    raise kind(
        f"{name} cannot be downloaded: {'; '.join(problems)}. {remedy} set {FOLDER_VARIABLE} to a "
        f"folder that contains {wanted}."
    ) from last


def fetch_content(url: str) -> bytes:
    """The content of one file on a server; never waits longer than ``TOTAL_SECONDS``.

    The download runs in a thread, because the timeouts of a socket limit neither the look-up of a
    name nor a server that sends one byte at a time.

    Raises:
        ConnectionError: the server does not answer, or does not send the whole file.
    """
    # Not streamed: pooch leaves the connection of a streamed response open when it fails.
    fetch = import_extra("pooch").HTTPDownloader(
        timeout=(CONNECT_SECONDS, SILENCE_SECONDS), stream=False
    )
    network_error = import_extra("requests").exceptions.RequestException
    outcome: Future[bytes] = Future()

    def work() -> None:
        content = io.BytesIO()
        try:
            fetch(url, content, None)
            outcome.set_result(content.getvalue())
        except Exception as error:
            outcome.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    host = urlsplit(url).netloc
    try:
        return outcome.result(TOTAL_SECONDS)
    except TimeoutError:
        raise ConnectionError(f"{host} did not send the file within {TOTAL_SECONDS:g} s") from None
    except network_error as error:
        status = getattr(error.response, "status_code", None)
        reason = type(error).__name__ if status is None else f"HTTP status {status}"
        raise ConnectionError(f"{host} does not provide the file ({reason})") from error


def needed(files: Sequence[KnownFile]) -> str:
    """The files below ``OVERPARAM_DATA``, for messages."""
    return ", ".join(file.path for file in files)


def _in_cache(files: Sequence[KnownFile]) -> tuple[Path, ...]:
    return tuple(cache_folder() / file.cached for file in files)


def cache_folder() -> Path:
    """Where downloads are kept: ``OVERPARAM_CACHE``, or the system's cache folder."""
    return _named_folder(CACHE_VARIABLE) or Path(import_extra("pooch").os_cache("overparam"))


def data_folder() -> Path | None:
    """The folder named by ``OVERPARAM_DATA``, or None if it is not set."""
    return _named_folder(FOLDER_VARIABLE)


def _named_folder(variable: str) -> Path | None:
    """The folder that an environment variable names; ``~`` is the home, ``./~`` a folder."""
    named = os.environ.get(variable)
    # Not Path.expanduser, which takes ./~ for the home, and fails if there is no such user.
    return Path(os.path.expanduser(named)) if named else None  # noqa: PTH111


def read_file(path: Path) -> bytes:
    """The content of a file.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error


def sha256_of(content: bytes) -> str:
    """SHA-256 of the content, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()
