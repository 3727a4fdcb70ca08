"""A user's own data: one table in a CSV or Parquet file, one column of it to predict."""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from overparam._words import did_you_mean
from overparam.data._known import read_file
from overparam.data._text import finite_number, kind_of_file
from overparam.data.errors import DataError, import_extra, shorten
from overparam.data.regression import RegressionData

_MISSING = ("", "na", "n/a", "nan", "null", "none", "?", ".", "-")
_SHOWN = 12


def load_table(path: Path, target: str | None, features: Sequence[str] = ()) -> RegressionData:
    """Load one table as regression data, not standardized.

    A Parquet file is recognized by its content; any other file is read as CSV: UTF-8, columns
    separated by commas, their names in the first line.

    Args:
        path: the file.
        target: name of the column to predict.
        features: names of the columns to predict it from; all others if none is named.

    Raises:
        DataError: the file cannot be read, a column is missing, named twice, or constant, or a
            value is missing or not a finite number; the message names the row and the column.
        ModuleNotFoundError: the file is Parquet and the ``lab`` extra is not installed.
    """
    content = read_file(path)
    table = (_parquet if content.startswith(b"PAR1") else _csv)(path, content)
    target, chosen = _choose(path, table.names, target, features)
    names = [*chosen, target]
    values = torch.stack([_numbers(path, table, name) for name in names], dim=1)
    _check_spread(path, names, values)
    several = f"{len(chosen)} features" if len(chosen) > 1 else f"feature {chosen[0]}"
    return RegressionData(
        name=path.name,
        title=f"{target} from {several} of {path.name}",
        features=values[:, :-1].contiguous(),
        targets=values[:, -1:].contiguous(),
        source=f"columns {_listed(chosen)}",
        origin=f"file: {path.absolute()}",
    )


class _Table(NamedTuple):
    """Names of columns; rows of cells, which are texts in CSV; the line of each row in a CSV."""

    names: Sequence[str]
    rows: Sequence[Sequence[Any]]
    lines: Sequence[int] = ()


def _numbers(path: Path, table: _Table, name: str) -> Tensor:
    """A column as float64; raises DataError for the first cell that is not a finite number."""
    column = table.names.index(name)
    numbers = []
    for row, cells in enumerate(table.rows):
        number = _number(cells[column])
        if number is None:
            where = f"row {row + 1}" + (f" (line {table.lines[row]})" if table.lines else "")
            raise DataError(
                f"{path}: {where}, column {name!r}: {_complaint(cells[column])}, or leave the "
                "column out by naming the others with --features."
            )
        numbers.append(number)
    return torch.tensor(numbers, dtype=torch.float64)


def _number(cell: Any) -> float | None:
    if isinstance(cell, str):
        return finite_number(cell.strip())
    try:
        number = math.nan if cell is None or isinstance(cell, bool) else float(cell)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _complaint(cell: Any) -> str:
    if cell is None or (isinstance(cell, str) and cell.strip().lower() in _MISSING):
        shown = "" if cell in (None, "") else f" ({cell!r})"
        return f"the value is missing{shown}; fill it in, remove the row"
    return f"{shorten(str(cell))} is not a finite number; correct it, encode it as a number"


def _choose(
    path: Path, names: Sequence[str], target: str | None, features: Sequence[str]
) -> tuple[str, list[str]]:
    """The target and the features, checked against the columns of the table."""
    if len(names) == 1:
        raise DataError(
            f"{path} has one column, {shorten(names[0])}; a target and at least one feature are "
            "needed, with columns separated by commas and their names in the first line."
        )
    known = f"The columns are {_listed(names)}."
    if target is None:
        raise DataError(f"{path}: name the column to predict with --target. {known}")
    for name in (target, *features):
        if name not in names:
            remedy = did_you_mean(name, names)
            if all(finite_number(other) is not None for other in names):
                remedy = " The first line must hold the names of the columns; it holds numbers."
            raise DataError(f"{path} has no column {name!r}.{remedy} {known}")
    if target in features:
        raise DataError(f"{target!r} is both the target and a feature; name it only once.")
    chosen = list(features) or [name for name in names if name != target]
    if "" in (target, *chosen):
        raise DataError(
            f"{path}: column {names.index('') + 1} has no name (row numbers?); give it one, or "
            "name the columns to use with --features."
        )
    for name in (target, *chosen):
        if features and chosen.count(name) > 1:
            raise DataError(f"the feature {name!r} is named twice; name it only once.")
        if names.count(name) > 1:
            first, second = [i + 1 for i, other in enumerate(names) if other == name][:2]
            raise DataError(
                f"{path}: columns {first} and {second} are both named {name!r}; rename one of them."
            )
    return target, chosen


def _check_spread(path: Path, names: Sequence[str], values: Tensor) -> None:
    """Refuse what cannot be standardized, by name; the last column is the target."""
    rows, target = len(values), names[-1]
    if rows < 2:
        raise DataError(
            f"{path} has {rows} row{'' if rows else 's'} below its names; a standard deviation "
            "needs at least two."
        )
    same = (values == values[0]).all(dim=0).tolist()
    if same[-1]:
        raise DataError(
            f"{path}: the target {target!r} is {values[0, -1].item():g} in every row; there is "
            "nothing to predict. Name another --target."
        )
    if any(same):
        constant = list(itertools.compress(names, same))
        others = [name for name in names[:-1] if name not in constant]
        remedy = f"use --features {_listed(others, ' ')}" if others else "add a feature that varies"
        raise DataError(
            f"{path}: {_listed(constant)} has the same value in every row and carries no "
            f"information; {remedy}."
        )
    for name, column in zip(names, values.unbind(dim=1), strict=True):
        deviation = column.std(correction=1).item()
        scaled = (column - column.mean()) / deviation
        if not (math.isfinite(deviation) and bool(scaled.isfinite().all())):
            raise DataError(
                f"{path}: column {name!r} has standard deviation {deviation} in float64; rescale "
                "it first."
            )


def _csv(path: Path, content: bytes) -> _Table:
    reader = csv.reader(io.StringIO(_text(path, content), newline=""), strict=True)
    names: list[str] = []
    rows, lines = [], []
    try:
        for cells in reader:
            if not cells:
                continue
            if not names:
                names = [name.strip() for name in cells]
                for separator in (";", "\t", "|"):
                    if len(names) == 1 and separator in names[0]:
                        raise DataError(
                            f"{path}: the columns are separated by {separator!r}; save the file "
                            "with commas, and with a point in decimal numbers."
                        )
            elif len(cells) != len(names):
                raise DataError(
                    f"{path}: row {len(rows) + 1} (line {reader.line_num}) has {len(cells)} values "
                    f"for {len(names)} columns; put quotes around a value with a comma."
                )
            else:
                rows.append(cells)
                lines.append(reader.line_num)
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: {error}; correct the quotes.") from None
    if not names:
        raise DataError(f"{path} is empty; the first line must hold the names of the columns.")
    return _Table(names, rows, lines)


def _text(path: Path, content: bytes) -> str:
    kind = kind_of_file(content)
    if kind in ("a gzip file", "a zip file"):
        raise DataError(f"{path} is {kind}, not CSV; unpack it, or save the spreadsheet as CSV.")
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"{path} is encoded as UTF-16; save it as UTF-8.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}: line {line}: byte 0x{content[error.start]:02x} is not UTF-8; save the file "
            "as UTF-8."
        ) from None


def _parquet(path: Path, content: bytes) -> _Table:
    polars = import_extra("polars")
    try:
        # As bytes, because polars reads a path with [, * or ? as a pattern.
        frame = polars.read_parquet(io.BytesIO(content))
    except (polars.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path} is a damaged Parquet file ({error}); write it again.") from None
    if not frame.columns:
        raise DataError(f"{path} has no columns; a target and at least one feature are needed.")
    return _Table(frame.columns, frame.rows())


def _listed(names: Sequence[str], separator: str = ", ") -> str:
    shown = separator.join(map(repr, names[:_SHOWN]))
    more = len(names) - _SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
