"""How a weight is laid out as factors: shapes, the product, and a balanced factorization.

A layout is plain data, so that it can be written into a checkpoint and read back without a model.
Factors are ordered from the input, as everywhere in this package. A batch of one matrix drops its
leading dimension, so that the factors of a linear layer look like weights of linear layers.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from overparam._checks import plain_numbers, whole_depth
from overparam.factors import chain
from overparam.factors.balance import balanced_factors
from overparam.factors.product import multiplied
from overparam.layers.views import MatrixView

STRATEGIES = ("matrix", "sides", "kernels")


@dataclass(frozen=True)
class MatrixLayout:
    """A weight as a product of matrices, ``W = W_N ... W_1``, one for each matrix of its view.

    Example:
        >>> from overparam.layers.views import convolution_view
        >>> MatrixLayout(convolution_view((8, 4, 3, 3)), widths=(8,)).shapes
        ((8, 36), (8, 8))
    """

    view: MatrixView
    widths: tuple[int, ...]

    @property
    def depth(self) -> int:
        """``N``, the number of factors."""
        return len(self.widths) + 1

    @property
    def least_widths(self) -> tuple[int, ...]:
        """The narrowest hidden layers that hold any weight."""
        return (min(self.view.rows, self.view.columns),) * len(self.widths)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight."""
        return self.view.shape

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of the factors."""
        sizes = (self.view.columns, *self.widths, self.view.rows)
        batch = () if self.view.batch == 1 else (self.view.batch,)
        return tuple((*batch, rows, columns) for columns, rows in itertools.pairwise(sizes))

    @property
    def product_flops(self) -> int:
        """Floating-point operations of one product (a multiplication and an addition are two)."""
        rows, columns = self.view.rows, self.view.columns
        sizes = (columns, *self.widths, rows)
        outer = min(rows, columns)
        inner = sizes[1:] if columns < rows else sizes[:-1]
        return 2 * self.view.batch * outer * sum(a * b for a, b in itertools.pairwise(inner))

    def product(self, factors: Sequence[Tensor]) -> Tensor:
        """The weight, of :attr:`shape`."""
        matrices = multiplied(factors)
        return self.view.join(matrices.reshape(self.view.batch, self.view.rows, self.view.columns))

    def balanced(self, weight: Tensor) -> tuple[Tensor, ...]:
        """Balanced factors whose product is ``weight``."""
        factors = balanced_factors(self.view.split(weight), self.depth, self.widths)
        pairs = zip(factors, self.shapes, strict=True)
        # Contiguous, as fully_shard and safetensors demand of parameters.
        return tuple(factor.reshape(shape).contiguous() for factor, shape in pairs)

    def neighbours(self, factors: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Each pair of neighbouring factors as matrices that share the hidden units."""
        return list(itertools.pairwise(factors))


@dataclass(frozen=True)
class ChainLayout:
    """A convolution kernel as a chain of smaller kernels, one chain for each group.

    Attributes:
        shape: of the kernel, ``(groups * out, in, k...)``.
        groups: of the convolution.
        sizes: kernel sizes of the chain, from the input.
        widths: hidden channels of one group.

    Example:
        >>> ChainLayout((8, 4, 3, 3), 1, ((1, 1), (3, 3), (1, 1)), (4, 8)).shapes
        ((4, 4, 1, 1), (8, 4, 3, 3), (8, 8, 1, 1))
    """

    shape: tuple[int, ...]
    groups: int
    sizes: tuple[tuple[int, ...], ...]
    widths: tuple[int, ...]

    @property
    def depth(self) -> int:
        """``N``, the number of kernels of the chain."""
        return len(self.sizes)

    @property
    def least_widths(self) -> tuple[int, ...]:
        """The narrowest hidden layers that hold any kernel."""
        return chain.least_widths(self.shape[0] // self.groups, self.shape[1], self.sizes)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of the factors, each like the weight of a convolution with as many groups."""
        channels = (self.shape[1], *self.widths, self.shape[0] // self.groups)
        pairs = zip(itertools.pairwise(channels), self.sizes, strict=True)
        return tuple((self.groups * high, low, *size) for (low, high), size in pairs)

    @property
    def product_flops(self) -> int:
        """Floating-point operations of one product (a multiplication and an addition are two)."""
        channels = (self.shape[1], *self.widths, self.shape[0] // self.groups)
        total = 0
        for j in range(1, self.depth):
            low = math.prod(chain.composed_size(self.sizes[:j]))
            pairs = low * math.prod(self.sizes[j])
            total += 2 * channels[j + 1] * channels[j] * channels[0] * pairs
        return self.groups * total

    def product(self, factors: Sequence[Tensor]) -> Tensor:
        """The kernel, of :attr:`shape`."""
        return chain.compose([self._by_group(factor) for factor in factors]).reshape(self.shape)

    def balanced(self, weight: Tensor) -> tuple[Tensor, ...]:
        """A chain whose composition is ``weight``, balanced pair by pair."""
        grouped = weight.detach().double().reshape(self.groups, -1, *self.shape[1:])
        kernels = chain.start(grouped, self.sizes)
        for j, (width, least) in enumerate(zip(self.widths, self.least_widths, strict=True)):
            kernels[j] = _pad_channels(kernels[j], dim=1, count=width - least)
            kernels[j + 1] = _pad_channels(kernels[j + 1], dim=2, count=width - least)
        balanced = chain.balance(kernels)
        pairs = zip(balanced, self.shapes, strict=True)
        return tuple(k.to(weight.dtype).reshape(shape).contiguous() for k, shape in pairs)

    def neighbours(self, factors: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Each pair of neighbouring kernels as matrices that share the hidden channels.

        A convolution of one group drops the leading dimension.
        """
        pairs = chain.neighbours([self._by_group(factor) for factor in factors])
        return [(low[0], high[0]) for low, high in pairs] if self.groups == 1 else pairs

    def _by_group(self, factor: Tensor) -> Tensor:
        return factor.unflatten(0, (self.groups, -1))


Layout = MatrixLayout | ChainLayout


def make_layout(
    view: MatrixView,
    strategy: str,
    depth: int,
    width: int | float | Sequence[int] | None,
) -> Layout:
    """The layout of one weight from the user's words.

    Args:
        view: the weight's reading.
        strategy: ``"matrix"``, ``"sides"`` or ``"kernels"``.
        depth: number of factors of the strategy 'matrix'; the other two set their own.
        width: hidden width. None for the narrowest that holds any weight, an integer, a ratio of
            that width (a float), or one integer for each hidden layer.

    Raises:
        TypeError: depth or width of a wrong type.
        ValueError: an unknown strategy, a depth below 1, a strategy that does not fit the weight.

    Example:
        >>> from overparam.layers.views import linear_view
        >>> make_layout(linear_view((4, 6)), "matrix", depth=3, width=1.5).shapes
        ((6, 6), (6, 6), (4, 6))
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy={strategy!r} is unknown; choose one of {STRATEGIES}.")
    depth = whole_depth(depth)
    if strategy == "matrix":
        layout = MatrixLayout(view, (0,) * (depth - 1))
    else:
        layout = _chain_layout(view, strategy)
    return dataclasses.replace(layout, widths=_resolve_widths(width, layout.least_widths))


def resized(layout: Layout, shape: tuple[int, ...]) -> Layout:
    """The layout for a matrix of another size: hidden layers as wide as they were, where they may.

    A hidden layer that was the narrowest that holds any weight is so again.

    Raises:
        ValueError: the weight is not one matrix, so that its new shape could be read in many ways.

    Example:
        >>> from overparam.layers.views import embedding_view
        >>> resized(MatrixLayout(embedding_view((50, 8)), (8,)), (60, 8)).shapes
        ((8, 8), (60, 8))
    """
    if (
        not isinstance(layout, MatrixLayout)
        or layout.view.batch > 1
        or not len(layout.shape) == len(shape) == 2
    ):
        raise ValueError(
            f"a weight of shape {tuple(shape)} is put in the place of a product of shape "
            f"{layout.shape}; change shapes before you overparameterize."
        )
    rows, columns = reversed(shape) if layout.view.transposed else shape
    view = dataclasses.replace(layout.view, shape=tuple(shape), rows=rows, columns=columns)
    least, now = min(layout.view.rows, layout.view.columns), min(rows, columns)
    widths = tuple(now if width == least else max(width, now) for width in layout.widths)
    return MatrixLayout(view, widths)


def chain_fits(view: MatrixView, strategy: str) -> str | None:
    """Why a weight cannot be a chain of kernels, or None where it can."""
    if view.kind != "convolution":
        return f"strategy {strategy!r} is for convolutions; this weight is {view.kind}"
    if strategy == "kernels" and max(view.shape[2:]) <= 3:
        return f"its kernel {view.shape[2:]} is one 3x3 already; use 'sides' or 'matrix'"
    return None


def encode_layout(layout: Layout) -> Tensor:
    """The layout as a tensor of bytes, which every checkpoint format can hold.

    Example:
        >>> from overparam.layers.views import linear_view
        >>> layout = MatrixLayout(linear_view((2, 3)), (2,))
        >>> decode_layout(encode_layout(layout)) == layout
        True
    """
    name = "matrix" if isinstance(layout, MatrixLayout) else "chain"
    text = json.dumps({name: dataclasses.asdict(layout)}, sort_keys=True)
    return torch.tensor(list(text.encode()), dtype=torch.uint8, device="cpu")


def decode_layout(encoded: Tensor) -> Layout:
    """The layout that :func:`encode_layout` wrote.

    Raises:
        ValueError: the tensor holds no layout.
    """
    try:
        content = json.loads(bytes(encoded.cpu().tolist()))
        name = "matrix" if "matrix" in content else "chain"
        fields = content[name]
        fields = {key: _tuples(value) for key, value in fields.items()}
        if name == "matrix":
            view = {key: _tuples(value) for key, value in fields["view"].items()}
            return MatrixLayout(MatrixView(**view), fields["widths"])
        return ChainLayout(**fields)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"this entry of the checkpoint holds no layout of factors: {error}."
        ) from None


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _chain_layout(view: MatrixView, strategy: str) -> ChainLayout:
    misfit = chain_fits(view, strategy)
    if misfit is not None:
        raise ValueError(f"{misfit}.")
    size = tuple(view.shape[2:])
    sizes = chain.sides_sizes(size) if strategy == "sides" else chain.kernels_sizes(size)
    return ChainLayout(tuple(view.shape), view.batch, sizes, (0,) * (len(sizes) - 1))


def _resolve_widths(
    width: int | float | Sequence[int] | None, least: tuple[int, ...]
) -> tuple[int, ...]:
    """The hidden widths that the user's words stand for."""
    width = plain_numbers(width)
    if width is None:
        return least
    if isinstance(width, (bool, str)) or not isinstance(width, (int, float, Sequence)):
        raise TypeError(f"width is {width!r}; use None, an integer, a ratio or a list of integers.")
    if isinstance(width, float):
        if not (math.isfinite(width) and width > 0):
            raise ValueError(f"width is the ratio {width!r}; a ratio is a number above 0.")
        return tuple(max(1, round(width * value)) for value in least)
    widths = (width,) * len(least) if isinstance(width, int) else tuple(width)
    if len(widths) != len(least):
        raise ValueError(f"width lists {len(widths)} hidden layers; there are {len(least)}.")
    for value in widths:
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"width holds {value!r}; a hidden width is an integer.")
        if value < 1:
            raise ValueError(f"width holds {value}; a hidden layer needs at least one unit.")
    return widths


def _pad_channels(kernel: Tensor, dim: int, count: int) -> Tensor:
    """``count`` channels of zeros appended along ``dim``."""
    shape = list(kernel.shape)
    shape[dim] = count
    return torch.cat((kernel, kernel.new_zeros(shape)), dim)
