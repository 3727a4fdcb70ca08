"""MNIST: 70,000 handwritten digits in four compressed IDX files."""

from __future__ import annotations

import gzip
import io
import math
import zlib
from dataclasses import dataclass

import torch
from torch import Tensor

from overparam._files import write_whole
from overparam.data._dataset import ImageDataset
from overparam.data._dataset_in_files import DatasetInFiles, Location
from overparam.data._download import fetch_content
from overparam.data._local_files import (
    FOLDER_VARIABLE,
    cache_folder,
    explaining_write_errors,
    file_in_data_folder,
    kind_of_file,
    read_file,
    sha256_of,
)
from overparam.data.errors import ContentError, DataError, DataUnavailable
from overparam.data.images import ImageData

_UNSIGNED_BYTE = 0x08
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class IdxFile:
    """A compressed IDX file of unsigned bytes, and what it must hold.

    Attributes:
        name: file name, with ``.gz``.
        shape: shape of the array.
        sha256: SHA-256 of the uncompressed file, so that the compression does not matter.
    """

    name: str
    shape: tuple[int, ...]
    sha256: str

    @property
    def size(self) -> int:
        """Bytes of the uncompressed file."""
        return 4 + 4 * len(self.shape) + math.prod(self.shape)

    def read(self, compressed: bytes) -> Tensor:
        """The array, uint8.

        Raises:
            ContentError: the content is broken or not the expected one.
        """
        content = decompress(compressed, self.size)
        array = parse_idx(content, self.shape)
        found = sha256_of(content)
        if found != self.sha256:
            raise ContentError(
                f"well formed, but not the expected content: the uncompressed file has SHA-256 "
                f"{found}, expected {self.sha256}"
            )
        return array


def decompress(compressed: bytes, size: int) -> bytes:
    """The content of a gzip file, up to one byte more than ``size``; its checksum is checked.

    Raises:
        ContentError: this is not a gzip file, or a broken one.

    Example:
        >>> decompress(gzip.compress(b"digits"), 6)
        b'digits'
    """
    if not compressed.startswith(_GZIP):
        kind = kind_of_file(compressed) or f"{len(compressed)} bytes of something else"
        raise ContentError(f"found {kind}, expected a gzip file")
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(compressed)) as file:
            # Not everything, because a small file may unpack to more than fits into memory.
            return file.read(size + 1)
    except (EOFError, OSError, zlib.error) as error:
        raise ContentError(
            f"the gzip file of {len(compressed)} bytes is broken ({error})"
        ) from error


def parse_idx(content: bytes, shape: tuple[int, ...]) -> Tensor:
    """Read an IDX file of unsigned bytes.

    The format: four bytes 0, 0, 8 and the number of dimensions; the sizes, big-endian; the entries.

    Args:
        content: the uncompressed file.
        shape: the expected shape.

    Returns:
        The array, uint8.

    Raises:
        ContentError: the magic number, the sizes or the length are not as expected.

    Example:
        >>> parse_idx(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 2, 1]), (3,))
        tensor([7, 2, 1], dtype=torch.uint8)
    """
    magic = bytes([0, 0, _UNSIGNED_BYTE, len(shape)])
    if content[:4] != magic:
        raise ContentError(
            f"found magic number 0x{content[:4].hex()}, expected 0x{magic.hex()}: an IDX file of "
            f"unsigned bytes in {len(shape)} dimension{'s' if len(shape) > 1 else ''}"
        )
    start = 4 + 4 * len(shape)
    sizes = [int.from_bytes(content[i : i + 4], "big") for i in range(4, start, 4)]
    length = start + math.prod(shape)
    if len(content) >= start and tuple(sizes) != shape:
        raise ContentError(f"found {_by(sizes)} entries, expected {_by(shape)}")
    if len(content) != length:
        found = f"{len(content)} bytes" if len(content) < length else "more bytes"
        raise ContentError(f"found {found}, expected {length}")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=start).reshape(shape)


@dataclass(frozen=True)
class MnistDataset(DatasetInFiles[ImageData], ImageDataset):
    """MNIST in four IDX files: in ``OVERPARAM_DATA/mnist``, in the cache, or on several servers.

    Attributes:
        files: images and labels for training, images and labels for testing.
        mirrors: addresses of folders on servers, tried in this order.
    """

    files: tuple[IdxFile, IdxFile, IdxFile, IdxFile]
    mirrors: tuple[str, ...]

    @property
    def needed(self) -> str:
        """Its files below ``OVERPARAM_DATA``."""
        return ", ".join(f"{self.name}/{file.name}" for file in self.files)

    def _locate(self) -> Location | None:
        paths = [file_in_data_folder(f"{self.name}/{file.name}") for file in self.files]
        if paths[0] is not None:
            return Location("folder", paths[0].parent)
        folder = cache_folder() / self.name
        here = all((folder / file.name).is_file() for file in self.files)
        return Location("cache", folder) if here else None

    def _read(self, location: Location) -> ImageData:
        arrays = []
        for file in self.files:
            path = location.path / file.name
            try:
                arrays.append(file.read(read_file(path)))
            except ContentError as error:
                raise DataError(f"{path}: {error}. {self._remedy(location)}") from error
        images, labels, test_images, test_labels = arrays
        return ImageData(
            self.name,
            self.title,
            images,
            labels.to(torch.int64),
            test_images,
            test_labels.to(torch.int64),
            self.outputs,
            self.source,
            location.origin,
        )

    def _download(self, force: bool) -> Location:
        folder = cache_folder() / self.name
        with explaining_write_errors(self.name, folder):
            for file in self.files:
                path = folder / file.name
                if force or not path.is_file():
                    write_whole(path, self._checked_content(file))
        return Location("cache", folder)

    def _checked_content(self, file: IdxFile) -> bytes:
        problems = []
        kind = DataUnavailable
        for mirror in self.mirrors:
            url = mirror + file.name
            try:
                content = fetch_content(url)
                file.read(content)
            except ConnectionError as error:
                problems.append(str(error))
            except ContentError as error:
                problems.append(f"the download from {url} is wrong: {error}")
                kind = DataError
            else:
                return content
        raise kind(
            f"{self.name} is not on this machine and {'; '.join(problems)}. Check the network, or "
            f"set {FOLDER_VARIABLE} to a folder that contains {self.needed}."
        )


def _by(sizes: tuple[int, ...] | list[int]) -> str:
    return " x ".join(map(str, sizes))


MNIST = MnistDataset(
    name="mnist",
    title="Handwritten digits, 28 x 28 pixels (the paper's convolutional network)",
    rows=70_000,
    features=784,
    outputs=10,
    provenance="LeCun, Cortes, Burges, The MNIST database of handwritten digits",
    licence="CC BY-SA 3.0",
    files=(
        IdxFile(
            "train-images-idx3-ubyte.gz",
            (60_000, 28, 28),
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        ),
        IdxFile(
            "train-labels-idx1-ubyte.gz",
            (60_000,),
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        ),
        IdxFile(
            "t10k-images-idx3-ubyte.gz",
            (10_000, 28, 28),
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        ),
        IdxFile(
            "t10k-labels-idx1-ubyte.gz",
            (10_000,),
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "http://yann.lecun.com/exdb/mnist/",
    ),
)
