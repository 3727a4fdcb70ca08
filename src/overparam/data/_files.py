"""Files on this machine: the cache folder, checksums, whole-or-nothing writes, text."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from overparam.data._extras import import_extra
from overparam.data.errors import ContentError, line_error

CACHE_VARIABLE = "OVERPARAM_CACHE"
FOLDER_VARIABLE = "OVERPARAM_DATA"

_SIGNATURES = {
    b"\x1f\x8b": "a gzip file",
    b"PK\x03\x04": "a zip file",
    b"<": "a web page",
}


def cache_folder() -> Path:
    """Where downloads are kept: ``OVERPARAM_CACHE``, or the system's folder for caches."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser() if named else Path(import_extra("pooch").os_cache("overparam"))


def data_folder() -> Path | None:
    """The folder of data named by ``OVERPARAM_DATA``, or None where it is not set."""
    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named).expanduser() if named else None


def sha256_of(content: bytes) -> str:
    """SHA-256 of the content, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def text_lines(content: bytes) -> list[str]:
    r"""The lines of a plain ASCII text, without their ends and without blank lines at the end.

    Raises:
        ContentError: the content is empty, no ASCII text, an archive or a web page.

    Example:
        >>> text_lines(b"1 2\r\n3 4\r\n\r\n")
        ['1 2', '3 4']
    """
    for signature, kind in _SIGNATURES.items():
        if content.lstrip().startswith(signature):
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
