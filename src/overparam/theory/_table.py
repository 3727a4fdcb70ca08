"""Rows of a figure's data, turned into columns."""

from __future__ import annotations

from collections.abc import Sequence

Row = tuple[float | str, ...]


def columns(names: Sequence[str], rows: Sequence[Row]) -> dict[str, tuple[float | str, ...]]:
    """Columns of equal length from rows.

    Example:
        >>> columns(("x", "y"), [(1.0, "a"), (2.0, "b")])
        {'x': (1.0, 2.0), 'y': ('a', 'b')}
    """
    return dict(zip(names, zip(*rows, strict=True), strict=True))
