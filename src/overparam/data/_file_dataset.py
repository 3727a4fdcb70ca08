"""Data sets that are one text file: in a named folder, in the cache, or on a server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from overparam._files import write_whole
from overparam.data._dataset import RegressionDataset
from overparam.data._download import fetch_content
from overparam.data._files import (
    FOLDER_VARIABLE,
    cache_folder,
    file_in_data_folder,
    keeping,
    read_file,
    sha256_of,
)
from overparam.data._located import LocatedDataset, Place
from overparam.data.errors import ContentError, DataError, DataUnavailable
from overparam.data.regression import RegressionData, fingerprint


@dataclass(frozen=True)
class FileDataset(LocatedDataset[RegressionData], RegressionDataset):
    """A data set in one text file.

    It is looked for in the folder ``OVERPARAM_DATA``, then in the cache, then on its server. A
    file is right if its SHA-256 is, or if it holds exactly the known numbers in another spelling
    (say, other line ends). A download is right if the archive's SHA-256 is; where that is not
    known, the file's own.

    Attributes:
        file: path of the file below ``OVERPARAM_DATA``; its last part is its name in the cache.
        sha256: of the original file.
        numbers: :func:`overparam.data.regression.fingerprint` of the original file's content.
        url: of the zip archive.
        archive_sha256: of the zip archive, or None.
        extract: makes the file's content from the archive; raises ContentError.
        parse: makes features and targets from the file's content; raises ContentError.
    """

    file: str
    sha256: str
    numbers: str
    url: str
    archive_sha256: str | None
    extract: Callable[[bytes], bytes]
    parse: Callable[[bytes], tuple[Tensor, Tensor]]

    @property
    def needed(self) -> str:
        """Its file below ``OVERPARAM_DATA``."""
        return self.file

    def _locate(self) -> Place | None:
        path = file_in_data_folder(self.file)
        if path is not None:
            return Place("folder", path)
        path = cache_folder() / Path(self.file).name
        return Place("cache", path) if path.is_file() else None

    def _read(self, place: Place) -> RegressionData:
        content, remedy = read_file(place.path), self._remedy(place)
        try:
            features, targets = self.parse(content)
        except ContentError as error:
            raise DataError(f"{place.path}, {error}. {remedy}") from error
        found = sha256_of(content)
        expected = self.sha256 if place.where == "folder" else _kept_checksum(place.path)
        if found != expected and fingerprint(features, targets) != self.numbers:
            raise DataError(
                f"{place.path}: every line is well formed, but the numbers are not those of "
                f"{self.name}: found SHA-256 {found}, expected {expected}. {remedy}"
            )
        return self._data(features, targets, place.origin)

    def _download(self, force: bool) -> Place:
        path = cache_folder() / Path(self.file).name
        with keeping(self.name, path.parent):
            content = self._checked_content(self._archive())
            # The checksum goes first: a kill in between leaves no file without one.
            line = f"{sha256_of(content)}  {path.name}\n"
            write_whole(_checksum_path(path), line.encode("ascii"))
            write_whole(path, content)
        if not path.is_file():
            raise DataError(f"{path} was removed while {self.name} was fetched; try again.")
        return Place("cache", path)

    def _archive(self) -> bytes:
        try:
            return fetch_content(self.url)
        except ConnectionError as error:
            raise DataUnavailable(
                f"{self.name} is not on this machine and {error}; check the network, or set "
                f"{FOLDER_VARIABLE} to a folder that has {self.file}."
            ) from error

    def _checked_content(self, archive: bytes) -> bytes:
        remedy = (
            "Try again later; if it stays so, the server's copy has changed: set "
            f"{FOLDER_VARIABLE} to a folder that has {self.file}."
        )
        found, expected = sha256_of(archive), self.archive_sha256
        try:
            if expected not in (None, found):
                raise ContentError(f"found SHA-256 {found}, expected {expected}")
            content = self.extract(archive)
            self.parse(content)
            if expected is None and sha256_of(content) != self.sha256:
                raise ContentError(
                    f"found a file of SHA-256 {sha256_of(content)}, expected {self.sha256}"
                )
        except ContentError as error:
            raise DataError(f"the download from {self.url} is wrong: {error}. {remedy}") from error
        return content


def _kept_checksum(path: Path) -> str:
    """The checksum that was kept beside a downloaded file, or what is missing."""
    try:
        return _checksum_path(path).read_text(encoding="ascii").split()[0]
    except (OSError, ValueError, IndexError):
        return "a checksum beside it"


def _checksum_path(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")
