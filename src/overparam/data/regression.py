"""Regression data and their standardization."""

from __future__ import annotations

import ctypes
import dataclasses
import hashlib
from dataclasses import dataclass, field

import torch
from torch import Tensor

from overparam.data.errors import DataError


@dataclass(frozen=True, eq=False)
class RegressionData:
    """Data for regression: B examples, n features, m outputs.

    Attributes:
        name: the name under which it is loaded.
        title: one line for people.
        features: ``(B, n)``, float64, finite.
        targets: ``(B, m)``, float64, finite.
        source: provenance and licence.
        origin: where the numbers came from: ``embedded``, ``folder``, ``cache``, ``download`` or
            ``file``, with the path.
        standardized: whether :func:`standardize` has been applied.
        dropped: constant columns of the raw features, which :func:`standardize` left out.
        fingerprint: SHA-256 of shapes and values, the identity of the numbers.

    Raises:
        DataError: shapes or dtypes do not fit, or a value is not finite.
    """

    name: str
    title: str
    features: Tensor
    targets: Tensor
    source: str
    origin: str
    standardized: bool = False
    dropped: tuple[int, ...] = ()
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        for part, values in (("features", self.features), ("targets", self.targets)):
            if values.dtype != torch.float64 or values.ndim != 2 or values.numel() == 0:
                raise DataError(
                    f"{self.name}: {part} is {values.dtype} of shape {tuple(values.shape)}; "
                    "pass a non-empty float64 matrix with one row per example."
                )
            if not bool(values.isfinite().all()):
                row, column = (~values.isfinite()).nonzero()[0].tolist()
                raise DataError(
                    f"{self.name}: {part}[{row}, {column}] is {values[row, column].item()}; "
                    "remove or replace values that are not finite."
                )
        if len(self.features) != len(self.targets):
            raise DataError(
                f"{self.name}: {len(self.features)} rows of features and {len(self.targets)} of "
                "targets; there must be as many of both."
            )
        object.__setattr__(self, "fingerprint", fingerprint(self.features, self.targets))

    def __repr__(self) -> str:
        rows, features, outputs = *self.features.shape, self.targets.shape[1]
        kind = "standardized " if self.standardized else ""
        return (
            f"<{kind}RegressionData {self.name!r}: {rows} examples, {features} features, "
            f"{outputs} outputs, {self.origin}>"
        )


def fingerprint(*tensors: Tensor) -> str:
    """SHA-256 of the shapes, dtypes and values of some tensors, in hexadecimal digits.

    Example:
        >>> one, two = torch.zeros(2, 3, dtype=torch.float64), torch.ones(2, 1, dtype=torch.float64)
        >>> fingerprint(one, two)[:12]
        '05ed44cc2214'
    """
    digest = hashlib.sha256()
    for values in tensors:
        held = values.detach().cpu().contiguous()
        digest.update(f"{tuple(held.shape)} {held.dtype};".encode())
        # Not Tensor.numpy(), because numpy may not be installed.
        digest.update(ctypes.string_at(held.data_ptr(), held.numel() * held.element_size()))
    return digest.hexdigest()


def standardize(data: RegressionData) -> RegressionData:
    """Shift and scale every feature and every output to mean 0 and standard deviation 1.

    This is done as in the experiments of Arora, Cohen, Hazan (2018). The standard deviation has
    B - 1 in its denominator (ddof 1). Constant features carry no information and are left out;
    their column numbers are in ``dropped``. Data that are standardized already are returned
    unchanged.

    Raises:
        DataError: fewer than two examples, a constant output, no feature left, or a column whose
            standard deviation is not representable.

    Example:
        >>> raw = RegressionData(
        ...     "toy", "A toy", torch.tensor([[1.0, 7.0], [3.0, 7.0]], dtype=torch.float64),
        ...     torch.tensor([[2.0], [6.0]], dtype=torch.float64), "none", "embedded")
        >>> ready = standardize(raw)
        >>> ready.features.tolist(), ready.dropped
        ([[-0.7071067811865475], [0.7071067811865475]], (1,))
    """
    if data.standardized:
        return data
    if len(data.features) < 2:
        raise DataError(f"{data.name} has one example; a standard deviation needs at least two.")
    constant = (data.features == data.features[0]).all(dim=0)
    for column in (data.targets == data.targets[0]).all(dim=0).nonzero().flatten().tolist():
        raise DataError(
            f"{data.name}: output {column} is {data.targets[0, column].item():g} in every example "
            "and cannot be scaled to standard deviation 1; remove this output."
        )
    if bool(constant.all()):
        raise DataError(f"{data.name}: every feature is constant; there is nothing to learn from.")
    return dataclasses.replace(
        data,
        features=_standard_columns(data.features[:, ~constant], f"{data.name}: features"),
        targets=_standard_columns(data.targets, f"{data.name}: targets"),
        standardized=True,
        dropped=tuple(constant.nonzero().flatten().tolist()),
    )


def _standard_columns(values: Tensor, what: str) -> Tensor:
    deviation = values.std(dim=0, correction=1)
    scaled = (values - values.mean(dim=0)) / deviation
    usable = scaled.isfinite().all(dim=0) & deviation.isfinite() & (deviation > 0)
    for column in (~usable).nonzero().flatten().tolist():
        raise DataError(
            f"{what}: column {column} (not counting constant columns) has standard deviation "
            f"{deviation[column].item()} in float64; rescale it first."
        )
    return scaled
