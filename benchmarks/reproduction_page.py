"""The page docs/reproduction.md, from the stored results and a template.

python benchmarks/reproduction_page.py             # writes docs/reproduction.md
python benchmarks/reproduction_page.py --list l4   # prints the cells of a table

The runs behind the page took days. What most of their curves gave is kept as it was measured, cell
by cell, in results/reproduction.parquet and, for the map, results/depth_map.parquet; the curves of
the figures are stored (see figures.py). The template docs/reproduction.md.j2 holds the words; it
names results, so each number stands in one place.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path

import jinja2
import polars as pl
from figures import stored_tables
from reproduction_numbers import (
    MAP_STEP,
    DepthMap,
    Fixed,
    below,
    penalty_alone,
    ratio,
    share,
    significant,
    within,
    word,
)

from overparam.lab.paper.claims import Claim
from overparam.lab.verdicts import Verdict

ROOT = Path(__file__).parents[1]
STORED = ROOT / "results" / "reproduction.parquet"
TEMPLATE = ROOT / "docs" / "reproduction.md.j2"
PAGE = ROOT / "docs" / "reproduction.md"
_SHOWN = {"fixed": "L4 at one learning rate, with its figure",
          "network": "penalty alone and its figure", "depth_map": "the map"}  # fmt: skip
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
        return markdown(self.cells(name))

    def cells(self, name: str) -> list[list[str]]:
        """The rows of a table, header first."""
        return [[self._resolved(text) for text in row] for row in self.tables[name]]

    def claim(self, row: int, table: str = "claims") -> Claim:
        """A claim with the counts that were measured; its verdict is that of today's rule."""
        name, *texts = self.cells(table)[row]
        return Claim(name, "", (), counts=_three(texts[-3:]))

    def quick(self, row: int) -> Claim | None:
        """The same claim with --quick; None if it is not asked there."""
        names = [cells[0] for cells in self.tables["quick"]]
        name = self.tables["claims"][row][0]
        return self.claim(names.index(name), "quick") if name in names else None

    def claims(self) -> str:
        """The table of all claims, with the words and the counts of the command."""
        header, *rows = self.cells("claims")
        shown = [[*header[:3], "verdict", "with `--quick`"]]
        for i, row in enumerate(rows, start=1):
            whole, quick = self.claim(i), self.quick(i)
            verdict = f"**{whole.verdict}**: {whole.number}"
            short = f"{quick.verdict}: {quick.number}" if quick else "not asked"
            shown.append([*row[:3], verdict, short])
        return markdown(shown)

    def differing(self, quick: str = "") -> int:
        """How many claims have another verdict with --quick, or this one."""
        pairs = [(self.claim(i), self.quick(i)) for i in range(1, len(self.tables["claims"]))]
        found = [
            short.verdict for whole, short in pairs if short and short.verdict != whole.verdict
        ]
        return found.count(Verdict(quick)) if quick else len(found)

    def machine(self, table: str) -> str:
        """Where the numbers of a table were measured."""
        return self.stored.filter(pl.col("table") == table)["machine"][0].partition(", torch")[0]

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

    def _resolved(self, text: str) -> str:
        return _REFERENCE.sub(
            lambda m: self.n(
                m[1], int(m[2]) if m[2].isdigit() else m[2], int(m[3]), m[4] or "median"
            ),
            text,
        )


def page(stored: Mapping[str, pl.DataFrame], template: str) -> str:
    """The page, from the stored results and the template.

    Args:
        stored: from :func:`stored_results`.
        template: of Jinja.
    """
    results = Results(stored["reproduction"])
    fixed = Fixed(stored["fixed"])

    def emulation() -> str:
        *l2, authors = results.cells("emulation")
        return markdown([*l2, *fixed.rows(authors)])

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        autoescape=False,  # Markdown, not HTML
    )
    environment.filters["sig"] = significant
    of_results = ("table", "n", "text", "whole", "fact", "claim", "claims", "differing", "machine")
    names = {name: getattr(results, name) for name in of_results}
    names |= {each.__name__: each for each in (below, markdown, ratio, share, within, word)}
    names |= {"map": DepthMap(stored["depth_map"]), "map_step": MAP_STEP, "fixed": fixed}
    names |= {
        "emulation": emulation,
        "alone": partial(penalty_alone, stored["network"]),
        "images": lambda first, second: round(100 * (float(first) - float(second))),
        "sources": lambda: markdown(sources(stored)),
    }
    return environment.from_string(template).render(names)


def stored_results() -> dict[str, pl.DataFrame]:
    """What the page is made of, by name."""
    tables = {name: table for name, table in stored_tables().items() if name != "demo"}
    return {"reproduction": pl.read_parquet(STORED), **tables}


def sources(stored: Mapping[str, pl.DataFrame]) -> list[list[str]]:
    """When and where each table and figure was measured."""
    columns = ["commit", "date", "machine", "status"]
    rows = []
    for name, table in stored.items():
        label = pl.col("table") if name == "reproduction" else pl.lit(_SHOWN.get(name))
        shown = table.select(label.alias("table"), *columns, "command")
        for *row, command in shown.unique(maintain_order=True).rows():
            again = f"`{command}`" if name in ("fixed", "network") else ""
            rows.append([*row[:-1], f"{row[-1]}{': ' if again else ''}{again}"])
    return [["table or figure", "recorded in", "date", "machine", ""], *rows]


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, header first."""
    header, *body = rows
    lines = [header, ["---"] * len(header), *body]
    return "\n".join(
        "|" + "|".join("---" if c == "---" else f" {c} " if c else " " for c in row) + "|"
        for row in lines
    )


def _three(counts: Sequence[str]) -> tuple[int, int, int]:
    agree, against, undecided = map(int, counts)
    return agree, against, undecided


def _plain(text: str) -> str:
    """A cell without marks of emphasis."""
    return text.replace("*", "").strip()


def main() -> None:
    """Write the page, or list the cells of a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", metavar="TABLE", help="print the cells of a table")
    chosen = parser.parse_args().list
    if chosen is None:
        text = page(stored_results(), TEMPLATE.read_text(encoding="utf-8"))
        PAGE.write_text(text, encoding="utf-8")
        return
    for i, row in enumerate(Results(pl.read_parquet(STORED)).tables[chosen]):
        for j, cell in enumerate(row):
            print(f"{chosen}/{i}/{j}: {cell}")


if __name__ == "__main__":
    main()
