"""Weights as vectors: whole, each matrix, or each row; on several processes too."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from overparam.layers.views import MatrixView


@dataclass(frozen=True)
class Vectors:
    """A weight as vectors along the last dimension.

    Attributes:
        view: of the weight.
        granularity: "tensor", "matrix" or "row".
    """

    view: MatrixView
    granularity: str

    def split(self, tensor: Tensor) -> Tensor:
        """The vectors of a tensor that is laid out as the weight."""
        if self.granularity == "tensor":
            return tensor.reshape(-1)
        matrices = self.view.split(tensor)
        return matrices if self.granularity == "row" else matrices.flatten(1)

    def total(self, sums: Tensor) -> Tensor:
        """The sums over all processes."""
        return sums

    def write(self, vectors: Tensor, p: Tensor) -> None:
        """Write vectors to the weight."""
        view = self.view
        if self.granularity == "tensor":
            p.copy_(vectors.reshape(view.shape))
        else:
            p.copy_(view.join(vectors.reshape(view.batch, view.rows, view.columns)))
