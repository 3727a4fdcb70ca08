"""A weight tensor seen as a batch of matrices, and back.

The end-to-end rule and products of factors speak of matrices ``(..., m, n)``, rows for outputs
and columns for inputs. A layer's weight is one or several of them, laid out in some other shape:

==================  =============================  ==================================
weight              tensor                         matrices
==================  =============================  ==================================
linear              (out, in)                      (1, out, in)
transposed linear   (in, out)                      (1, out, in)
convolution         (out, in / g, k...)            (g, out / g, in / g * k...)
transposed conv.    (in, out / g, k...)            (g, out / g * k..., in / g)
embedding           (entries, features)            (1, entries, features)
packed projections  (blocks * out, in)             (blocks, out, in)
experts             (experts..., out, in)          (experts, out, in)
bilinear            (out, in1, in2)                (1, out, in1 * in2)
vector              (in,)                          (1, 1, in)
==================  =============================  ==================================

Every view is one reshape to three dimensions, for some followed by a transposition: no entry is
copied where the tensor is contiguous.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class MatrixView:
    """How a tensor of one shape is read as a batch of matrices.

    Attributes:
        kind: what sort of weight it is, in one word: ``targets`` chooses by it. The library's own
            layers have "linear", "convolution", "attention", "recurrent", "experts", "bilinear"
            and "embedding"; "unknown" is a layer that is not registered, "by shape" a tensor
            without a layer, "vector" one row that was named. Two kinds are treated in their own
            way: EndToEnd takes an "embedding" row by row, and a "convolution" may become a chain
            of kernels.
        shape: of the tensor.
        batch: number of matrices.
        rows: ``m``, outputs of one matrix.
        columns: ``n``, inputs of one matrix.
        transposed: whether the tensor stores each matrix by columns.

    Example:
        >>> import torch
        >>> view = convolution_view((8, 2, 3, 3), groups=4)
        >>> kernel = torch.arange(144.0).reshape(8, 2, 3, 3)
        >>> view.split(kernel).shape
        torch.Size([4, 2, 18])
        >>> torch.equal(view.join(view.split(kernel)), kernel)
        True
    """

    kind: str = field(compare=False)
    shape: tuple[int, ...]
    batch: int
    rows: int
    columns: int
    transposed: bool = False

    def split(self, tensor: Tensor) -> Tensor:
        """The matrices ``(batch, rows, columns)`` of ``tensor``; a view of it where possible.

        Raises:
            ValueError: the tensor has another shape than the view was made for.
        """
        if tuple(tensor.shape) != self.shape:
            raise ValueError(
                f"tensor has shape {tuple(tensor.shape)}; this view ({self.kind}) was made for "
                f"{self.shape}: make a view for the new shape."
            )
        if self.transposed:
            return tensor.reshape(self.batch, self.columns, self.rows).mT
        return tensor.reshape(self.batch, self.rows, self.columns)

    def join(self, matrices: Tensor) -> Tensor:
        """The tensor that :meth:`split` turns into ``matrices``; a view where possible.

        Raises:
            ValueError: matrices is not of the shape ``(batch, rows, columns)``.
        """
        expected = (self.batch, self.rows, self.columns)
        if tuple(matrices.shape) != expected:
            raise ValueError(
                f"matrices have shape {tuple(matrices.shape)}; this view ({self.kind}) joins "
                f"{expected}."
            )
        return (matrices.mT if self.transposed else matrices).reshape(self.shape)

    def apply(self, function: Callable[..., Tensor], *tensors: Tensor, **options: Any) -> Tensor:
        """A function of matrices, applied to tensors of the view's shape.

        Example:
            >>> import torch
            >>> from overparam import end_to_end_update
            >>> kernel, gradient = torch.randn(2, 8, 4, 3, 3)
            >>> view = convolution_view(kernel.shape)
            >>> view.apply(end_to_end_update, kernel, gradient, depth=2).shape
            torch.Size([8, 4, 3, 3])
        """
        return self.join(function(*(self.split(tensor) for tensor in tensors), **options))

    @property
    def matrices(self) -> str:
        """The number and the size of the matrices, for tables: ``"3 x (4, 4)"``."""
        return f"{self.batch} x ({self.rows}, {self.columns})"


def linear_view(shape: Sequence[int], kind: str = "linear") -> MatrixView:
    """One matrix ``(out, in)``, as it is.

    Raises:
        ValueError: the shape does not have two dimensions.
    """
    rows, columns = _dimensions("a linear weight", shape, 2)
    return MatrixView(kind, tuple(shape), 1, rows, columns)


def transposed_linear_view(shape: Sequence[int]) -> MatrixView:
    """One matrix, stored as ``(in, out)``: the linear layer of transformers' GPT-2.

    Raises:
        ValueError: the shape does not have two dimensions.
    """
    columns, rows = _dimensions("a linear weight", shape, 2)
    return MatrixView("linear", tuple(shape), 1, rows, columns, transposed=True)


def vector_view(shape: Sequence[int]) -> MatrixView:
    """One row of all entries: a vector as a linear map to one number.

    Example:
        >>> vector_view((5,)).columns
        5
    """
    return MatrixView("vector", tuple(shape), 1, 1, math.prod(shape))


def embedding_view(shape: Sequence[int]) -> MatrixView:
    """One matrix ``(entries, features)``: an embedding is a linear layer on one-hot inputs.

    Raises:
        ValueError: the shape does not have two dimensions.
    """
    rows, columns = _dimensions("an embedding", shape, 2)
    return MatrixView("embedding", tuple(shape), 1, rows, columns)


def convolution_view(shape: Sequence[int], groups: int = 1) -> MatrixView:
    """One matrix ``(out / groups, in / groups * k...)`` per group: the map on one patch.

    Args:
        shape: ``(out, in / groups, k...)``, as torch stores it.
        groups: of the convolution.

    Raises:
        ValueError: fewer than three dimensions, or groups do not divide the outputs.

    Example:
        >>> convolution_view((8, 2, 3, 3), groups=4).columns
        18
    """
    out, fan_in = _channels("a convolution kernel", shape)
    batch = _divisor("groups", groups, out)
    return MatrixView("convolution", tuple(shape), batch, out // batch, fan_in)


def transposed_convolution_view(shape: Sequence[int], groups: int = 1) -> MatrixView:
    """One matrix ``(out / groups * k..., in / groups)`` per group: the map of one position.

    Args:
        shape: ``(in, out / groups, k...)``, as torch stores it.
        groups: of the transposed convolution.

    Raises:
        ValueError: fewer than three dimensions, or groups do not divide the inputs.

    Example:
        >>> view = transposed_convolution_view((8, 2, 3, 3), groups=4)
        >>> view.batch, view.rows, view.columns
        (4, 18, 2)
    """
    inputs, fan_out = _channels("a transposed convolution kernel", shape)
    batch = _divisor("groups", groups, inputs)
    return MatrixView("convolution", tuple(shape), batch, fan_out, inputs // batch, transposed=True)


def packed_view(shape: Sequence[int], blocks: int, kind: str = "attention") -> MatrixView:
    """Several matrices ``(out, in)`` stacked along the rows: attention projections, RNN gates.

    Args:
        shape: ``(blocks * out, in)``.
        blocks: number of matrices: 3 for queries, keys and values, 4 for an LSTM, 3 for a GRU.
        kind: "attention" or "recurrent", or a word of your own.

    Raises:
        ValueError: the shape does not have two dimensions, or blocks do not divide the rows.

    Example:
        >>> view = packed_view((12, 4), blocks=3)
        >>> view.batch, view.rows, view.columns
        (3, 4, 4)
    """
    rows, columns = _dimensions("a packed weight", shape, 2)
    batch = _divisor("blocks", blocks, rows)
    return MatrixView(kind, tuple(shape), batch, rows // batch, columns)


def expert_view(shape: Sequence[int], kind: str = "experts") -> MatrixView:
    """One matrix per leading index: ``(experts..., out, in)``.

    Raises:
        ValueError: fewer than three dimensions.
    """
    if len(shape) < 3:
        raise ValueError(
            f"the shape {tuple(shape)} has fewer than three dimensions; for one matrix use "
            "linear_view."
        )
    *leading, rows, columns = shape
    return MatrixView(kind, tuple(shape), math.prod(leading), rows, columns)


def flat_view(shape: Sequence[int], kind: str = "by shape") -> MatrixView:
    """One matrix ``(first dimension, all others)``: the view by shape alone.

    Right for linear weights, ungrouped convolutions, embeddings and bilinear weights.

    Raises:
        ValueError: fewer than two dimensions.
    """
    if len(shape) < 2:
        raise ValueError(f"the shape {tuple(shape)} is a vector or a scalar, not a matrix.")
    return MatrixView(kind, tuple(shape), 1, shape[0], math.prod(shape[1:]))


def _dimensions(what: str, shape: Sequence[int], count: int) -> tuple[int, ...]:
    if len(shape) != count:
        raise ValueError(f"{what} has {count} dimensions; got the shape {tuple(shape)}.")
    return tuple(shape)


def _channels(what: str, shape: Sequence[int]) -> tuple[int, int]:
    """The first dimension and the product of the others."""
    if len(shape) < 3:
        raise ValueError(f"{what} has three dimensions or more; got the shape {tuple(shape)}.")
    return shape[0], math.prod(shape[1:])


def _divisor(name: str, count: int, total: int) -> int:
    if count < 1 or total % count:
        raise ValueError(f"{name} is {count}; it must be at least 1 and divide {total}.")
    return count
