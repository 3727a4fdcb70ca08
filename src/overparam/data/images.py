"""Images and their classes."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from overparam.data.errors import DataError
from overparam.data.regression import fingerprint


@dataclass(frozen=True, eq=False)
class ImageData:
    """Grey images with one class each, for training and for testing.

    Attributes:
        name: the name under which it is loaded.
        title: one line for people.
        images: ``(B, height, width)``, uint8: 0 is the background, 255 full ink.
        labels: ``(B,)``, int64, from 0 to ``classes - 1``.
        test_images: ``(T, height, width)``, uint8.
        test_labels: ``(T,)``, int64.
        classes: number of classes.
        source: provenance and licence.
        origin: where it came from: ``embedded``, ``folder``, ``cache`` or ``download``, with the
            path.
        fingerprint: SHA-256 of shapes and values, the identity of the numbers.

    Raises:
        DataError: shapes or dtypes do not fit, or a label is out of range.
    """

    name: str
    title: str
    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: int
    source: str
    origin: str
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        for images, labels in ((self.images, self.labels), (self.test_images, self.test_labels)):
            if images.dtype != torch.uint8 or images.ndim != 3 or images.numel() == 0:
                raise DataError(
                    f"{self.name}: images are {images.dtype} of shape {tuple(images.shape)}; pass "
                    "a non-empty uint8 tensor (images, height, width)."
                )
            if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
                raise DataError(
                    f"{self.name}: labels are {labels.dtype} of shape {tuple(labels.shape)} for "
                    f"{len(images)} images; pass one int64 label for each."
                )
            if not 0 <= labels.min().item() <= labels.max().item() < self.classes:
                raise DataError(
                    f"{self.name}: labels go from {labels.min().item()} to {labels.max().item()}; "
                    f"they must lie in 0..{self.classes - 1}."
                )
        if self.images.shape[1:] != self.test_images.shape[1:]:
            raise DataError(
                f"{self.name}: images to train on have the shape {tuple(self.images.shape[1:])} "
                f"and those to test on {tuple(self.test_images.shape[1:])}; resize one of them."
            )
        tensors = (self.images, self.labels, self.test_images, self.test_labels)
        object.__setattr__(self, "fingerprint", fingerprint(*tensors))

    def __repr__(self) -> str:
        height, width = self.images.shape[1:]
        return (
            f"<ImageData {self.name!r}: {len(self.images)} + {len(self.test_images)} images of "
            f"{height} x {width}, {self.classes} classes, {self.origin}>"
        )
