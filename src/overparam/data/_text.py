"""Data sets that are one text file: how it is recognized, downloaded and read."""

from __future__ import annotations

import io
import math
import re
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from torch import Tensor

from overparam._files import write_whole
from overparam.data._known import KnownFile, read_file, sha256_of
from overparam.data.errors import ContentError, line_error
from overparam.data.regression import fingerprint

_SIGNATURES = {b"\x1f\x8b": "a gzip file", b"PK\x03\x04": "a zip file", b"<": "a web page"}
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


@dataclass(frozen=True)
class TextFile(KnownFile):
    """A text with features and targets, of which servers have a zip archive.

    A file is right if its SHA-256 is right, or if it holds exactly the known numbers in another
    spelling (for example, with other line ends). A download is right if the SHA-256 of the archive
    is right, or that of the file if the archive's is not known; its file may be spelled in another
    way, so its own SHA-256 is kept beside it.

    Attributes:
        numbers: :func:`overparam.data.regression.fingerprint` of features and targets.
        archive_sha256: SHA-256 of the zip archive, or None if it is not known.
        extract: makes the file's content from the archive; raises ContentError.
        parser: makes features and targets from the file's content; raises ContentError.
    """

    numbers: str
    archive_sha256: str | None
    extract: Callable[[bytes], bytes]
    parser: Callable[[bytes], tuple[Tensor, Tensor]]

    def unpack(self, download: bytes) -> bytes:
        """The file in an archive."""
        found, expected = sha256_of(download), self.archive_sha256
        if expected not in (None, found):
            raise ContentError(f"found SHA-256 {found}, expected {expected}")
        content = self.extract(download)
        self.parser(content)
        if expected is None and (found := sha256_of(content)) != self.sha256:
            raise ContentError(f"found a file of SHA-256 {found}, expected {self.sha256}")
        return content

    def read(self, path: Path, where: str) -> tuple[Tensor, ...]:
        """Features and targets."""
        content = read_file(path)
        tensors = self.parser(content)
        found, expected = sha256_of(content), self.sha256
        if where != "folder":
            try:
                expected = _checksum_path(path).read_text(encoding="ascii").split()[0]
            except (OSError, ValueError, IndexError):
                expected = "a checksum beside it"
        if found != expected and fingerprint(*tensors) != self.numbers:
            raise ContentError(
                "every line is well formed, but the numbers are not those of "
                f"{Path(self.path).stem}: found SHA-256 {found}, expected {expected}"
            )
        return tensors

    def store(self, path: Path, content: bytes) -> None:
        """Write the file and its checksum in the cache."""
        # The checksum first, so that a kill in between leaves no file without a checksum.
        line = f"{sha256_of(content)}  {path.name}\n"
        write_whole(_checksum_path(path), line.encode("ascii"))
        write_whole(path, content)


def _checksum_path(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def zip_members(archive: bytes, names: Iterable[str]) -> dict[str, bytes]:
    """Members of a zip archive by file name, in any folder or inner zip archive.

    Raises:
        ContentError: the archive is broken or a member is missing.

    Example:
        >>> buffer = io.BytesIO()
        >>> with zipfile.ZipFile(buffer, "w") as file:
        ...     file.writestr("folder/a.dat", "text")
        >>> zip_members(buffer.getvalue(), ["a.dat"])
        {'a.dat': b'text'}
    """
    wanted = set(names)
    found: dict[str, bytes] = {}
    pending = [archive]
    try:
        while pending:
            with zipfile.ZipFile(io.BytesIO(pending.pop())) as file:
                for info in file.infolist():
                    name = PurePosixPath(info.filename).name
                    if name in wanted and name not in found:
                        found[name] = file.read(info)
                    elif name.lower().endswith(".zip"):
                        pending.append(file.read(info))
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, EOFError) as error:
        raise ContentError(f"the archive is not a readable zip file ({error})") from error
    if missing := sorted(wanted - found.keys()):
        raise ContentError(f"the archive has no file {', '.join(missing)}")
    return found


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


def kind_of_file(content: bytes) -> str | None:
    """Whether some content is an archive or a web page, judged by its first bytes; or None.

    Example:
        >>> kind_of_file(b"<html>404</html>")
        'a web page'
    """
    start = content[:64].lstrip()
    kinds = (kind for signature, kind in _SIGNATURES.items() if start.startswith(signature))
    return next(kinds, None)


def finite_number(text: str) -> float | None:
    """The finite decimal number that a text spells in ASCII, or None.

    Stricter than ``float``: no blanks, underscores, infinities or non-ASCII digits.

    Example:
        >>> finite_number("-1.5e3"), finite_number("1_0"), finite_number("nan")
        (-1500.0, None, None)
    """
    if not _NUMBER.fullmatch(text):
        return None
    value = float(text)
    return value if math.isfinite(value) else None
