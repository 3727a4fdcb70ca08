"""MNIST: 70,000 handwritten digits in four compressed IDX files."""

from __future__ import annotations

import gzip
import io
import math
import zlib
from dataclasses import dataclass

import torch
from torch import Tensor

from overparam.data._dataset import ImageDataset
from overparam.data._known import KnownFile, sha256_of
from overparam.data._text import kind_of_file
from overparam.data.errors import ContentError

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "http://yann.lecun.com/exdb/mnist/",
)

_UNSIGNED_BYTE = 0x08


@dataclass(frozen=True)
class IdxFile(KnownFile):
    """A compressed IDX file of unsigned bytes.

    Its checksum is that of the uncompressed file, so that the compression does not matter.

    Attributes:
        shape: shape of the array.
    """

    shape: tuple[int, ...]

    def parse(self, content: bytes) -> tuple[Tensor, ...]:
        """The array, uint8."""
        size = 4 + 4 * len(self.shape) + math.prod(self.shape)
        if not content.startswith(b"\x1f\x8b"):
            kind = kind_of_file(content) or f"{len(content)} bytes of something else"
            raise ContentError(f"found {kind}, expected a gzip file")
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
                # Not everything, because a small file may unpack to more than fits into memory.
                unpacked = file.read(size + 1)
        except (EOFError, OSError, zlib.error) as error:
            raise ContentError(
                f"the gzip file of {len(content)} bytes is broken ({error})"
            ) from error
        array = parse_idx(unpacked, self.shape)
        if (found := sha256_of(unpacked)) != self.sha256:
            raise ContentError(
                f"well formed, but not the expected content: the uncompressed file has SHA-256 "
                f"{found}, expected {self.sha256}"
            )
        return (array,)


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


def _by(sizes: tuple[int, ...] | list[int]) -> str:
    return " x ".join(map(str, sizes))


def _file(name: str, shape: tuple[int, ...], sha256: str) -> IdxFile:
    path, urls = f"mnist/{name}", tuple(mirror + name for mirror in MIRRORS)
    return IdxFile(path, path, urls, sha256, shape)


MNIST = ImageDataset(
    name="mnist",
    title="Handwritten digits, 28 x 28 pixels (the paper's convolutional network)",
    rows=70_000,
    features=784,
    outputs=10,
    provenance="LeCun, Cortes, Burges, The MNIST database of handwritten digits",
    licence="CC BY-SA 3.0",
    files=(
        _file(
            "train-images-idx3-ubyte.gz",
            (60_000, 28, 28),
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        ),
        _file(
            "train-labels-idx1-ubyte.gz",
            (60_000,),
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        ),
        _file(
            "t10k-images-idx3-ubyte.gz",
            (10_000, 28, 28),
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        ),
        _file(
            "t10k-labels-idx1-ubyte.gz",
            (10_000,),
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
)
