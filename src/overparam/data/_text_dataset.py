"""Data sets that are one text file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from overparam._files import write_whole
from overparam.data._dataset import RegressionDataset
from overparam.data._dataset_in_files import DatasetInFiles, Location
from overparam.data._download import fetch_content
from overparam.data._local_files import (
    FOLDER_VARIABLE,
    cache_folder,
    explaining_write_errors,
    file_in_data_folder,
    read_file,
    sha256_of,
)
from overparam.data.errors import ContentError, DataError, DataUnavailable
from overparam.data.regression import RegressionData, fingerprint


@dataclass(frozen=True)
class TextDataset(DatasetInFiles[RegressionData], RegressionDataset):
    """A data set in one text file.

    A file is right if its SHA-256 is right, or if it holds exactly the known numbers in another
    spelling (for example, with other line ends). A download is right if the SHA-256 of the archive
    is right, or that of the file if the archive's is not known.

    Attributes:
        file: path of the file below ``OVERPARAM_DATA``; in the cache, the name alone.
        sha256: SHA-256 of the original file.
        numbers: :func:`overparam.data.regression.fingerprint` of the original file's content.
        url: address of the zip archive.
        archive_sha256: SHA-256 of the zip archive, or None if it is not known.
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

    def _locate(self) -> Location | None:
        path = file_in_data_folder(self.file)
        if path is not None:
            return Location("folder", path)
        path = cache_folder() / Path(self.file).name
        return Location("cache", path) if path.is_file() else None

    def _read(self, location: Location) -> RegressionData:
        content, remedy = read_file(location.path), self._remedy(location)
        try:
            features, targets = self.parse(content)
        except ContentError as error:
            raise DataError(f"{location.path}, {error}. {remedy}") from error
        found = sha256_of(content)
        expected = self.sha256 if location.where == "folder" else _kept_checksum(location.path)
        if found != expected and fingerprint(features, targets) != self.numbers:
            raise DataError(
                f"{location.path}: every line is well formed, but the numbers are not those of "
                f"{self.name}: found SHA-256 {found}, expected {expected}. {remedy}"
            )
        return self._data(features, targets, location.origin)

    def _download(self, force: bool) -> Location:
        path = cache_folder() / Path(self.file).name
        with explaining_write_errors(self.name, path.parent):
            content = self._checked_content(self._archive())
            # The checksum first, so that a kill in between leaves no file without a checksum.
            line = f"{sha256_of(content)}  {path.name}\n"
            write_whole(_checksum_path(path), line.encode("ascii"))
            write_whole(path, content)
        if not path.is_file():
            raise DataError(f"{path} was removed while {self.name} was fetched; try again.")
        return Location("cache", path)

    def _archive(self) -> bytes:
        try:
            return fetch_content(self.url)
        except ConnectionError as error:
            raise DataUnavailable(
                f"{self.name} is not on this machine and {error}; check the network, or set "
                f"{FOLDER_VARIABLE} to a folder that contains {self.file}."
            ) from error

    def _checked_content(self, archive: bytes) -> bytes:
        remedy = (
            "Try again later. If that does not help, the server's copy has changed: set "
            f"{FOLDER_VARIABLE} to a folder that contains {self.file}."
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
    """The checksum stored beside a downloaded file; if there is none, words for the message."""
    try:
        return _checksum_path(path).read_text(encoding="ascii").split()[0]
    except (OSError, ValueError, IndexError):
        return "a checksum beside it"


def _checksum_path(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")
