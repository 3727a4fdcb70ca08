"""Which rule each parameter gets, and why: a table to read before a run, or after trouble."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from overparam.layers.views import MatrixView, flat_view

# The kind of a view that knows no more than a shape.
BY_SHAPE = "by shape"

GRANULARITIES = ("auto", "matrix", "row", "tensor")


@dataclass(frozen=True)
class Route:
    """How one parameter is updated.

    Attributes:
        rule: "matrix" (the end-to-end rule), "vectors" (the same for a single output, in closed
            form) or "gradient" (plain gradient step).
        batch: matrices, or groups of vectors that share a normalization.
        rows: ``m <= n`` of one matrix, or number of vectors.
        columns: ``n`` of one matrix, or length of a vector.
        view: the matrices of the parameter; None where it is taken flat.
        turned: whether memory holds the matrices by columns.
        reason: in plain words.
    """

    rule: str
    batch: int
    rows: int
    columns: int
    view: MatrixView | None
    turned: bool
    reason: str

    def split(self, stack: Tensor) -> Tensor:
        """Parameters ``(k, *shape)`` of this route as ``(k * batch, rows, columns)``."""
        if self.turned:
            return stack.reshape(-1, self.columns, self.rows).mT
        return stack.reshape(-1, self.rows, self.columns)

    def join(self, matrices: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The inverse of :meth:`split` for parameters of the given shape."""
        stored = matrices.mT if self.turned else matrices
        return stored.reshape(-1, *shape)


def route(shape: tuple[int, ...], view: MatrixView | None, granularity: str, depth: float) -> Route:
    """Choose the rule of a parameter.

    Args:
        shape: of the parameter.
        view: its matrices, None for a vector or scalar.
        granularity: "auto", "matrix", "row" or "tensor".
        depth: ``N``.

    Returns:
        The route, with its reason.

    Example:
        >>> from overparam.layers.views import linear_view
        >>> route((2, 3), linear_view((2, 3)), "auto", 2.0).rule
        'matrix'
        >>> route((3,), None, "auto", 2.0).reason
        'vector or scalar: no matrix to factor, plain gradient step'
    """
    size = math.prod(shape)
    if size == 0:
        return Route("gradient", 1, 1, 0, None, False, "empty: nothing to update")
    if depth == 1:
        return Route("gradient", 1, 1, size, None, False, "depth 1 is gradient descent")
    if granularity == "tensor":
        return Route("vectors", 1, 1, size, None, False, "whole tensor as one single-output layer")
    if view is None:
        reason = "vector or scalar: no matrix to factor, plain gradient step"
        return Route("gradient", 1, 1, size, None, False, reason)
    batch, rows, columns = view.batch, view.rows, view.columns
    if granularity == "row" or (granularity == "auto" and view.kind == "embedding"):
        reason = f"{view.kind}: each row as a single-output layer"
        if granularity == "auto":
            reason += ", so that rows without gradient stay"
        return Route("vectors", batch, rows, columns, view, view.transposed, reason)
    if min(rows, columns) == 1:
        reason = f"{view.kind}: one row or column, so the rule has a closed form"
        return Route("vectors", batch, 1, rows * columns, view, False, reason)
    reason = view.kind if batch == 1 else f"{view.kind}: {batch} matrices"
    # The rule works on the shorter side.
    small, large = min(rows, columns), max(rows, columns)
    turned = view.transposed != (rows > columns)
    return Route("matrix", batch, small, large, view, turned, reason)


def view_by_shape(shape: tuple[int, ...], name: str | None = None) -> MatrixView | None:
    """The reading of a parameter whose layer is unknown, from its shape and perhaps its name.

    Example:
        >>> view_by_shape((6, 2), "attention.in_proj_weight").batch
        3
        >>> view_by_shape((6, 2)).kind
        'by shape'
    """
    if len(shape) < 2:
        return None
    rest = math.prod(shape[1:])
    if len(shape) == 2 and (name or "").endswith("in_proj_weight") and shape[0] % 3 == 0:
        return MatrixView("packed attention, by name", shape, 3, shape[0] // 3, rest)
    return flat_view(shape, BY_SHAPE)


class RoutingEntry(dict[str, Any]):
    """One row of the report: name, shape, rule, matrices, depth, reason."""


class RoutingReport:
    """What :meth:`EndToEnd.routing` returns: iterate over it, or print it."""

    def __init__(self, entries: list[RoutingEntry]) -> None:
        self._entries = entries

    def __iter__(self) -> Iterator[RoutingEntry]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __str__(self) -> str:
        header = ["parameter", "shape", "rule", "matrices", "depth", "reason"]
        lines = [header, *([str(value) for value in entry.values()] for entry in self._entries)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
        padded = (
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            for line in lines
        )
        return "\n".join(line.rstrip() for line in padded)


def entry(
    name: str, shape: tuple[int, ...], depth: float, chosen: Route, state: dict[str, Any]
) -> RoutingEntry:
    """One row of the report for a parameter, with what went wrong so far."""
    matrices = ""
    if chosen.rule == "matrix":
        assert chosen.view is not None
        matrices = f"{chosen.batch} x {(chosen.view.rows, chosen.view.columns)}"
    elif chosen.rule == "vectors":
        matrices = f"{chosen.batch * chosen.rows} x ({chosen.columns},)"
    return RoutingEntry(
        parameter=name,
        shape=shape,
        rule=chosen.rule,
        matrices=matrices,
        depth=f"{depth:g}",
        reason="; ".join([chosen.reason, *_troubles(state)]),
    )


def _troubles(state: dict[str, Any]) -> Iterator[str]:
    """The failures counted in the state of a parameter, in words; reads them from the device."""
    told = {
        "skipped": "steps skipped for a non-finite gradient",
        "basis_failures": "times the old basis was kept",
    }
    for name, words in told.items():
        counts = state.get(name)
        if counts is not None and not counts.is_meta and (number := int(counts.sum())):
            yield f"{number} {words}"
