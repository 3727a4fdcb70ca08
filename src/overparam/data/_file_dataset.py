"""Data sets that are one text file: in a named folder, in the cache, or on a server."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from overparam._files import write_whole
from overparam.data._dataset import DatasetStatus, RegressionDataset
from overparam.data._download import fetch_content
from overparam.data._files import (
    FOLDER_VARIABLE,
    cache_folder,
    file_in_data_folder,
    keeping,
    read_file,
    sha256_of,
)
from overparam.data.errors import ContentError, DataError, DataUnavailable
from overparam.data.regression import RegressionData, fingerprint


@dataclass(frozen=True)
class _Place:
    """A file that is there, the SHA-256 it must have, and what to do if it has not."""

    where: str
    path: Path
    expected_sha256: str
    remedy: str

    @property
    def origin(self) -> str:
        return f"{self.where}: {self.path}"


@dataclass(frozen=True)
class FileDataset(RegressionDataset):
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

    def load(self, download: bool) -> RegressionData:
        """The raw problem, downloaded only where ``download`` allows it."""
        place = self._locate()
        if place is not None:
            return self._read(place)
        if not download:
            raise DataUnavailable(
                f"{self.name} is not on this machine; run `overparam data fetch {self.name}` "
                f"or set {FOLDER_VARIABLE} to a folder that has {self.file}."
            )
        return self._read(dataclasses.replace(self._download(), where="download"))

    def status(self) -> DatasetStatus:
        """Where the file is, and whether it is right."""
        try:
            place = self._locate()
        except DataError as error:
            return self._status("not here", problem=str(error))
        if place is None:
            return self._status("not here", problem=f"run `overparam data fetch {self.name}`")
        try:
            self._read(place)
        except DataError as error:
            return self._status(place.where, place.path, verified=False, problem=str(error))
        return self._status(place.where, place.path, verified=True)

    def fetch(self, force: bool) -> Path:
        """The file's path, downloaded to the cache if it is nowhere or by ``force``."""
        place = None if force else self._locate()
        if place is None:
            place = self._download()
        self._read(place)
        return place.path

    def _locate(self) -> _Place | None:
        path = file_in_data_folder(self.file)
        if path is None:
            return self._cached()
        remedy = f"Replace it by the original ({self.provenance}), or unset {FOLDER_VARIABLE}."
        return _Place("folder", path, self.sha256, remedy)

    def _cached(self) -> _Place | None:
        path = cache_folder() / Path(self.file).name
        if not path.is_file():
            return None
        try:
            expected = _checksum_path(path).read_text(encoding="ascii").split()[0]
        except (OSError, ValueError, IndexError):
            expected = "a checksum beside it"
        remedy = f"Run `overparam data fetch {self.name} --force`."
        return _Place("cache", path, expected, remedy)

    def _read(self, place: _Place) -> RegressionData:
        content = read_file(place.path)
        try:
            features, targets = self.parse(content)
        except ContentError as error:
            raise DataError(f"{place.path}, {error}. {place.remedy}") from error
        found = sha256_of(content)
        if found != place.expected_sha256 and fingerprint(features, targets) != self.numbers:
            raise DataError(
                f"{place.path}: every line is well formed, but the numbers are not those of "
                f"{self.name}: found SHA-256 {found}, expected {place.expected_sha256}. "
                f"{place.remedy}"
            )
        return self._data(features, targets, place.origin)

    def _download(self) -> _Place:
        path = cache_folder() / Path(self.file).name
        with keeping(self.name, path.parent):
            content = self._checked_content(self._archive())
            # The checksum goes first: a kill in between leaves no file without one.
            line = f"{sha256_of(content)}  {path.name}\n"
            write_whole(_checksum_path(path), line.encode("ascii"))
            write_whole(path, content)
        place = self._cached()
        if place is None:
            raise DataError(f"{path} was removed while {self.name} was fetched; try again.")
        return place

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


def _checksum_path(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")
