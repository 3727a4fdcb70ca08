"""The form in which the end-to-end rule sees a weight: whole matrices, rows or entries."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from overparam.layers.table import PLAIN
from overparam.layers.views import MatrixView

GRANULARITIES = ("auto", "matrix", "row", "tensor", "entry")


@dataclass(frozen=True)
class Route:
    """How one parameter is updated.

    Attributes:
        rule: "matrix" (the end-to-end rule), "row" (the same for a single output, in closed
            form), "entry" (the same for rows of one entry) or "plain" (the inner optimizer alone).
        batch: matrices, or groups of rows that share a normalization.
        rows: ``m <= n`` of one matrix, or number of rows.
        columns: ``n`` of one matrix, or length of a row.
        turned: whether memory holds the matrices by columns.
        transposed: whether the rule works on ``W^T``, whose factors come in the opposite order.
        note: what to add to the report.
    """

    rule: str
    batch: int
    rows: int
    columns: int
    turned: bool = False
    transposed: bool = False
    note: str = ""

    def split(self, stack: Tensor) -> Tensor:
        """One parameter of this route, or ``(k, *shape)``, as ``(k * batch, rows, columns)``."""
        if self.turned:
            return stack.reshape(-1, self.columns, self.rows).mT
        return stack.reshape(-1, self.rows, self.columns)

    def join(self, matrices: Tensor, shape: tuple[int, ...], count: int) -> Sequence[Tensor]:
        """The inverse of :meth:`split` for ``count`` parameters of the given shape."""
        stored = matrices.mT if self.turned else matrices
        return stored.reshape(count, *shape).unbind() if count > 1 else (stored.reshape(shape),)


# Every step asks this of every parameter, so each answer is found once. (torch.compile warns of
# functools.cache.)
_KNOWN: dict[tuple[Any, ...], Route] = {}


def route(shape: tuple[int, ...], view: MatrixView | None, granularity: str, depth: float) -> Route:
    """Choose the form of the rule for a parameter; without a view it is not chosen.

    Example:
        >>> from overparam.layers import linear_view
        >>> route((2, 3), linear_view((2, 3)), "auto", 2.0).rule
        'matrix'
    """
    # Views are equal whatever their kind; the depth may change at every step.
    key = (shape, view, view and view.kind, granularity, depth == 1)
    known = _KNOWN.get(key)
    if known is None:
        known = _KNOWN[key] = _route(shape, view, granularity, depth == 1)
    return known


def route_of(p: Tensor, view: MatrixView | None, group: Mapping[str, Any]) -> Route:
    """The route of a parameter of a group; complex ones, which no view is for, have no rule."""
    granularity = "auto" if p.is_complex() else group["granularity"]
    return route(p.shape, view, granularity, group["depth"])


def _route(
    shape: tuple[int, ...], view: MatrixView | None, granularity: str, inner_alone: bool
) -> Route:
    size = math.prod(shape)
    if size == 0 or inner_alone:
        note = "empty: nothing to update" if size == 0 else "depth 1 is the inner optimizer"
        return Route(PLAIN, 1, 1, size, note=note)
    if granularity == "tensor":
        return Route("row", 1, 1, size, note="the whole tensor as one single-output layer")
    if granularity == "entry":
        batch = 1 if view is None else view.batch
        return Route("entry", batch, size // batch, 1, note="each entry as a product of numbers")
    if view is None:
        return Route(PLAIN, 1, 1, size)
    batch, rows, columns = view.batch, view.rows, view.columns
    if granularity == "row" or (granularity == "auto" and view.kind == "embedding"):
        note = "each row as a single-output layer"
        if granularity == "auto":
            note += ", so that rows without gradient stay"
        return Route("row", batch, rows, columns, view.transposed, note=note)
    if min(rows, columns) == 1:
        note = "one row or column, so the rule has a closed form"
        return Route("row", batch, 1, rows * columns, transposed=rows > columns, note=note)
    # The rule works on the shorter side.
    small, large, tall = min(rows, columns), max(rows, columns), rows > columns
    return Route("matrix", batch, small, large, view.transposed != tall, tall)
