"""Files on this machine: the folders to look in, checksums, and the lines of a text."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from overparam._files import check_writable
from overparam.data._extras import import_extra
from overparam.data.errors import ContentError, DataError, line_error

CACHE_VARIABLE = "OVERPARAM_CACHE"
FOLDER_VARIABLE = "OVERPARAM_DATA"

_SIGNATURES = {b"\x1f\x8b": "a gzip file", b"PK\x03\x04": "a zip file", b"<": "a web page"}


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


def file_in_data_folder(file: str) -> Path | None:
    """The path of a file below ``OVERPARAM_DATA``, or None if that is not set.

    Raises:
        DataError: the folder does not exist or lacks the file.
    """
    folder = data_folder()
    if folder is None:
        return None
    path = folder / file
    if not folder.is_dir():
        problem = f"{FOLDER_VARIABLE} is {folder}, which is not a folder"
    elif not path.is_file():
        problem = f"{FOLDER_VARIABLE} is {folder}, which has no file {file}"
    else:
        return path
    raise DataError(f"{problem}; put the file there, or correct or unset {FOLDER_VARIABLE}.")


@contextlib.contextmanager
def explaining_write_errors(name: str, folder: Path) -> Iterator[None]:
    """Create the folder of a download; if writing fails, say what to do.

    Raises:
        DataError: in place of any OSError inside.
    """
    try:
        check_writable(folder)
        yield
    except OSError as error:
        raise DataError(
            f"{name} cannot be stored in {folder}: {error.strerror or error}; "
            f"make room there or set {CACHE_VARIABLE} to a folder that is writable."
        ) from error


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


def kind_of_file(content: bytes) -> str | None:
    """Whether some content is an archive or a web page, judged by its first bytes; or None.

    Example:
        >>> kind_of_file(b"<html>404</html>")
        'a web page'
    """
    start = content[:64].lstrip()
    kinds = (kind for signature, kind in _SIGNATURES.items() if start.startswith(signature))
    return next(kinds, None)


def text_lines(content: bytes) -> list[str]:
    r"""The lines of an ASCII text, without line ends and without blank lines at the end.

    Raises:
        ContentError: the content is empty, not ASCII text, an archive or a web page.

    Example:
        >>> text_lines(b"1 2\r\n3 4\r\n\r\n")
        ['1 2', '3 4']
    """
    if (kind := kind_of_file(content)) is not None:
        raise line_error(1, kind, "plain text; unpack or download the file itself")
    if not content.isascii():
        try:
            content.decode("ascii")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            raise line_error(line, f"byte 0x{content[error.start]:02x}", "ASCII text") from None
    lines = [line.decode("ascii") for line in content.splitlines()]
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise ContentError("line 1: found an empty file, expected data")
    return lines
