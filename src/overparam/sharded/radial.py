"""Vectors of weights that several processes hold: sums are made together, or tensors gathered."""

from __future__ import annotations

from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor

from overparam.layers.views import MatrixView
from overparam.sharded import local
from overparam.sharded.layout import Layout, gathered, laid_out_as, layout_of, sliced
from overparam.sharded.vectors import Vectors


@dataclass(frozen=True)
class PartsOfOne(Vectors):
    """One vector that is cut: its sums are those of the parts.

    Attributes:
        layout: of the weight, simple.
    """

    layout: Layout

    def split(self, tensor: Tensor) -> Tensor:
        """What this process holds of the vector."""
        return local(tensor).reshape(-1)

    def total(self, sums: Tensor) -> Tensor:
        """The sums over all processes."""
        dist.all_reduce(sums, group=self.layout.group)
        return sums

    def write(self, vectors: Tensor, p: Tensor) -> None:
        """Write this process's part of the vector to the weight."""
        part = local(p)
        part.copy_(vectors.reshape(part.shape))


@dataclass(frozen=True)
class WholeRows(Vectors):
    """Rows that are not cut: nothing is sent."""

    def split(self, tensor: Tensor) -> Tensor:
        """The rows of this process."""
        return local(tensor).reshape(-1, self.view.columns)

    def write(self, vectors: Tensor, p: Tensor) -> None:
        """Write this process's rows to the weight."""
        part = local(p)
        part.copy_(vectors.reshape(part.shape))


@dataclass(frozen=True)
class Gathered(Vectors):
    """Whole tensors on all processes, for what is cut in other ways.

    Attributes:
        p: the weight.
    """

    p: Tensor

    def split(self, tensor: Tensor) -> Tensor:
        """The vectors of the whole tensor."""
        return super().split(gathered(laid_out_as(local(tensor), self.p)))

    def write(self, vectors: Tensor, p: Tensor) -> None:
        """Write what this process holds of the vectors."""
        view = self.view
        shape = (view.batch, view.rows, view.columns)
        one = self.granularity == "tensor"
        whole = vectors.reshape(view.shape) if one else view.join(vectors.reshape(shape))
        local(p).copy_(local(sliced(whole, p)))


def vectors_of(p: Tensor, view: MatrixView, granularity: str) -> Vectors:
    """The vectors of a DTensor."""
    layout = layout_of(p)
    one = granularity == "tensor" or (granularity == "matrix" and view.batch == 1)
    if layout.has_owner and one:
        return PartsOfOne(view, granularity, layout)
    if layout.dim == 0 and granularity == "row" and has_whole_rows(p, view):
        return WholeRows(view, granularity)
    return Gathered(view, granularity, p)


def has_whole_rows(p: Tensor, view: MatrixView) -> bool:
    """Whether a cut along the first dimension leaves each row in one piece."""
    return not view.transposed and view.batch == 1 and view.rows == p.shape[0]
