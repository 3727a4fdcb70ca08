"""The page docs/reproduction.md, from the stored results and a template.

python benchmarks/reproduction_page.py             # writes docs/reproduction.md
python benchmarks/reproduction_page.py --list l4   # prints the cells of a table

The runs behind the page took days. What their curves gave is kept as it was measured, cell by cell,
in results/reproduction.parquet, with command, machine and the commit that recorded it. The template
docs/reproduction.md.j2 holds the words; it names cells, so each number stands in one place.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import jinja2
import polars as pl

ROOT = Path(__file__).parents[1]
STORED = ROOT / "results" / "reproduction.parquet"
TEMPLATE = ROOT / "docs" / "reproduction.md.j2"
PAGE = ROOT / "docs" / "reproduction.md"
_NUMBER = r"\d[\d,]*\.?\d*(?:e-?\d+)?"
_PARTS = {
    "median": rf"({_NUMBER})",
    "low": rf"\[({_NUMBER}),",
    "high": rf", ({_NUMBER})\]",
    "at": rf"at ({_NUMBER})",
}
_REFERENCE = re.compile(r"\{([^/{}]+)/([^/{}]+)/(\d+)(?:/(\w+))?\}")


class Results:
    """The stored cells.

    Args:
        stored: columns ``table, row, column, text`` (row 0 is the header), and ``command, commit,
            date, machine, status`` of each table. A text may name another cell, as
            ``{l4/1 layer/3/all}``.
    """

    def __init__(self, stored: pl.DataFrame) -> None:
        self.stored = stored

    @cached_property
    def tables(self) -> Mapping[str, list[list[str]]]:
        """The rows of each table, header first."""
        found: dict[str, list[list[str]]] = {}
        for cell in self.stored.sort("table", "row", "column", maintain_order=True).to_dicts():
            rows = found.setdefault(cell["table"], [])
            if cell["row"] == len(rows):
                rows.append([])
            rows[cell["row"]].append(cell["text"])
        return found

    def table(self, name: str) -> str:
        """A table in Markdown."""
        header, *rows = ([self._resolved(text) for text in row] for row in self.tables[name])
        lines = [header, ["---"] * len(header), *rows]
        return "\n".join(
            "|" + "|".join("---" if c == "---" else f" {c} " if c else " " for c in row) + "|"
            for row in lines
        )

    def text(self, table: str, row: str | int, column: int) -> str:
        """A cell, by its row's name or number and its column's number.

        Raises:
            KeyError: there is no such row, or several.
        """
        rows = self.tables[table]
        if isinstance(row, str):
            found = [i for i, each in enumerate(rows) if _plain(each[0]) == row]
            if len(found) != 1:
                raise KeyError(f"{table} has {len(found)} rows named {row!r}")
            row = found[0]
        return self._resolved(rows[row][column])

    def n(
        self, table: str, row: str | int, column: int, part: str = "median", after: str = ""
    ) -> str:
        """A number of a cell, as it is written there.

        Args:
            table: name.
            row: its name or number; the header is row 0.
            column: its number.
            part: ``median``, ``low`` or ``high`` of the range, the learning rate ``at``, or ``all``
                of the cell.
            after: the number that follows these words, in place of a part.

        Raises:
            ValueError: the cell has no such number.
        """
        text = _plain(self.text(table, row, column))
        if part == "all":
            return self.text(table, row, column)
        pattern = rf"{re.escape(after)} ({_NUMBER})" if after else _PARTS[part]
        match = re.search(pattern, text)
        if match is None:
            raise ValueError(f"{table}, {row}, {column}: {text!r} has no number {after or part!r}")
        return match[1]

    def whole(self, table: str, row: str | int, column: int, index: int) -> int:
        """One of several whole numbers of a cell."""
        return int(re.findall(r"\d+", self.text(table, row, column))[index])

    def fact(self, name: str) -> str:
        """A number that no table shows."""
        return self.text("facts", name, 1)

    def sources(self) -> str:
        """When and where each table was measured, in Markdown."""
        columns = ["table", "commit", "date", "machine", "status"]
        rows = self.stored.select(columns).unique(maintain_order=True).rows()
        head = ["table", "recorded in", "date", "machine", ""]
        lines = [head, ["---"] * len(head), *rows]
        return "\n".join(f"| {' | '.join(row)} |" for row in lines)

    def _resolved(self, text: str) -> str:
        return _REFERENCE.sub(
            lambda m: self.n(
                m[1], int(m[2]) if m[2].isdigit() else m[2], int(m[3]), m[4] or "median"
            ),
            text,
        )


def page(stored: pl.DataFrame, template: str) -> str:
    """The page, from the stored cells and the template."""
    results = Results(stored)
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown, not HTML
    )
    environment.filters["sig"] = significant
    names = {"table": results.table, "n": results.n, "whole": results.whole, "fact": results.fact}
    names |= {"sources": results.sources, "ratio": ratio}
    return environment.from_string(template).render(names)


def significant(number: str, digits: int) -> str:
    """A number with fewer digits.

    Example:
        >>> significant("1.577", 3), significant("85.2", 2)
        ('1.58', '85')
    """
    return f"{float(number):.{digits}g}"


def ratio(first: str, second: str, digits: int) -> str:
    """The quotient of two numbers.

    Example:
        >>> ratio("0.108", "0.0433", 2)
        '2.5'
    """
    return f"{float(first) / float(second):.{digits}g}"


def _plain(text: str) -> str:
    """A cell without marks of emphasis."""
    return text.replace("*", "").strip()


def main() -> None:
    """Write the page, or list the cells of a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", metavar="TABLE", help="print the cells of a table")
    chosen = parser.parse_args().list
    stored = pl.read_parquet(STORED)
    if chosen is None:
        PAGE.write_text(page(stored, TEMPLATE.read_text(encoding="utf-8")), encoding="utf-8")
        return
    for i, row in enumerate(Results(stored).tables[chosen]):
        for j, cell in enumerate(row):
            print(f"{chosen}/{i}/{j}: {cell}")


if __name__ == "__main__":
    main()
