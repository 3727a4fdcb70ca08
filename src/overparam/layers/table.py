"""One table for all doors: every parameter, how it is read, what becomes of it, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from overparam.layers.views import MatrixView

COLUMNS = ("parameter", "shape", "kind", "matrices", "depth", "rule", "reason")
PLAIN = "plain"
"""The rule of a parameter that is trained as it is."""


class WeightRow(dict[str, Any]):
    """One row: parameter, shape, kind, matrices, depth, rule, reason."""


class WeightTable:
    """Rows to iterate over, or to print.

    ``EndToEnd(model).routing()``, ``Factored(model).routing()`` and
    ``plan_overparameterization(model).table()`` return one.
    """

    def __init__(self, rows: Sequence[WeightRow]) -> None:
        self._rows = list(rows)

    def __iter__(self) -> Iterator[WeightRow]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __str__(self) -> str:
        lines = [COLUMNS, *(tuple(str(row[name]) for name in COLUMNS) for row in self._rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
        padded = (
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            for line in lines
        )
        return "\n".join(line.rstrip() for line in padded)


def weight_row(
    name: str,
    shape: tuple[int, ...],
    view: MatrixView | None,
    depth: float,
    rule: str,
    reasons: Sequence[str],
    matrices: str | None = None,
    kind: str | None = None,
) -> WeightRow:
    """One row of the table.

    Args:
        name: of the parameter.
        shape: of the parameter.
        view: how it is read; None where it acts entry by entry.
        depth: number of factors; shown where the rule is not "plain".
        rule: what the door does with it, in a word.
        reasons: why it is chosen or not, then what the door has to add.
        matrices: what to show in place of the matrices of the view.
        kind: what to show in place of the kind of the view.
    """
    chosen = rule != PLAIN
    if kind is None:
        kind = "" if view is None else view.kind
    if matrices is None:
        matrices = view.matrices if chosen and view is not None else ""
    return WeightRow(
        parameter=name,
        shape=shape,
        kind=kind,
        matrices=matrices,
        depth=f"{depth:g}" if chosen else "",
        rule=rule,
        reason="; ".join(filter(None, reasons)),
    )
