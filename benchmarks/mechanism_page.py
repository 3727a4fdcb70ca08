"""The pages docs/mechanism.md and mechanism_cells.md, from results/mechanism.parquet.

    python benchmarks/mechanism_tables.py --thin runs/mechanism     # stores the results
    python benchmarks/mechanism_page.py                             # writes the page

The template docs/mechanism.md.j2 holds the words. It names results by optimizer, part of depth and
problem, so that each number comes from what is stored; problems that have been run appear by
themselves.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

import jinja2
import polars as pl
from mechanism import EASY, Cell
from mechanism_tables import ITERATIONS, STORED, each_cell, markdown, not_run, parts_of, tables

from overparam.lab.methods import OPTIMIZERS, label_of
from overparam.lab.paper.distances import Interval
from overparam.lab.paper.studies import MECHANISM_OPTIMIZERS, MECHANISM_PARTS

ROOT = Path(__file__).parents[1]
TEMPLATE = ROOT / "docs" / "mechanism.md.j2"
PAGE = ROOT / "docs" / "mechanism.md"
CELLS = ROOT / "docs" / "mechanism_cells.md"
SCHEDULES = {"constant": "constant", "cosine": "warmed up and decayed"}
# Two neighbouring learning rates of the grid differ by this factor: smaller gains decide nothing.
STEP = 10 ** (1 / 8)
SHORT = ITERATIONS // 100
_COMPACT = ("norm:2", "radial:2", "radial:4", "rule:2", "rule:2,lam=1", "metric:2", "factors:2")


class Results:
    """The stored results, by problem, schedule, optimizer and part.

    Args:
        stored: results/mechanism.parquet.
    """

    def __init__(self, stored: pl.DataFrame) -> None:
        self.stored = stored
        self._tables = {cell: parts_of(rows) for cell, rows in each_cell(stored)}
        self._rows = {
            (cell, row["optimizer"], row["part"]): row
            for cell, table in self._tables.items()
            for row in table.to_dicts()
        }

    def row(self, optimizer: str, part: str = "", schedule: str = "constant", data: str = "ethanol",
            power: float = 4, iterations: int = ITERATIONS) -> dict:  # fmt: skip
        """What is known of a method on a problem; an empty part is the plain weight.

        Raises:
            KeyError: it was not run.
        """
        return self._rows[Cell(data, float(power), schedule, iterations), optimizer, part]

    def faster(
        self, optimizer: str, *parts: str, digits: int = 2, ranged: bool = False, **cell: object
    ) -> str:
        """How many times fewer steps some parts need, with the range over seeds if asked."""
        found = [self.row(optimizer, part, **cell) for part in parts]
        return _listed(_number(row, "speed_up", digits, ranged) for row in found)

    def end(self, optimizer: str, *parts: str, digits: int = 3, **cell: object) -> str:
        """The distance at the end, of the plain weight if no part is given."""
        found = [self.row(optimizer, part, **cell) for part in parts or ("",)]
        return _listed(_number(row, "distance", digits) for row in found)

    def lr(self, optimizer: str, part: str = "", **cell: object) -> float:
        """The best learning rate."""
        return self.row(optimizer, part, **cell)["rate"]

    def span(self, optimizers: Sequence[str], *parts: str, digits: int = 2, **cell: object) -> str:
        """The smallest and the largest of several speed-ups; those of the metric step may lack."""
        wanted = [self.row(name, part, **cell)["speed_up"] for name in optimizers for part in parts]
        return " to ".join(dict.fromkeys(f"{x:.{digits}g}" for x in (min(wanted), max(wanted))))

    def problems(self, main: bool = False, **wanted: object) -> list[Cell]:
        """What was run, or of that the length that speaks for each data set."""
        return [
            cell
            for cell in self._tables
            if all(getattr(cell, k) == v for k, v in wanted.items())
            and (not main or cell.iterations == (SHORT if cell.data in EASY else ITERATIONS))
        ]

    def verdicts(
        self, optimizers: Iterable[str], part: str, **wanted: object
    ) -> tuple[int, int, int]:
        """In how many cases a part is faster, slower, and how many there are.

        A case is decided if every seed agrees by more than one step of the grid of learning rates,
        and the slower one's best learning rate is not at the edge of those tried. It is none where
        both arrive at the optimum: which rate is best then is a matter of round-off.
        """
        count = {"faster": 0, "slower": 0, "": 0}
        for cell in self.problems(**wanted):
            for optimizer in optimizers:
                row = self._rows.get((cell, optimizer, part))
                if row is not None and not row["arrive"]:
                    count[self._verdict(row, self._rows[cell, optimizer, ""])] += 1
        return count["faster"], count["slower"], sum(count.values())

    def counted(self, optimizers: Iterable[str], *parts: str, **wanted: object) -> str:
        """The verdicts of some parts together as words, a dash if nothing was run."""
        found = [self.verdicts(optimizers, part, **wanted) for part in parts]
        faster, slower, every = map(sum, zip(*found, strict=True))
        return f"faster in {faster} and slower in {slower} of {every}" if every else "not run"

    def limited(self, optimizers: Iterable[str], **wanted: object) -> str:
        """For how many parts the rate above the best one diverges in some seed, of those tried."""
        found: list[bool] = []
        asked = self.problems(**wanted)
        for cell, rows in each_cell(self.stored):
            if cell not in asked:
                continue
            for row in self._tables[cell].filter(pl.col("optimizer").is_in(optimizers)).to_dicts():
                above = (pl.col("rate") / (row["rate"] * STEP)).log().abs() < 0.1
                next_rate = rows.filter(above, pl.col("method") == row["method"])
                if len(next_rate):
                    found.append(next_rate["diverged_at"].is_not_null().any())
        return f"{sum(found)} of {len(found)}"

    @staticmethod
    def _verdict(row: dict, plain: dict) -> str:
        if row["arrive"]:
            return ""
        if row["speed_up_low"] > STEP and not plain["edge"]:
            return "faster"
        return "slower" if row["speed_up_high"] < 1 / STEP and not row["edge"] else ""

    def overview(self, schedule: str) -> str:
        """A table over all problems: a row per part, a column per optimizer."""
        rows = []
        for part in MECHANISM_PARTS:
            cells = [self._over_problems(name, part, schedule) for name in MECHANISM_OPTIMIZERS]
            if any(cells):
                rows.append([label_of(part), *cells])
        return markdown(["part", *(OPTIMIZERS[name].label for name in MECHANISM_OPTIMIZERS)], rows)

    def _over_problems(self, optimizer: str, part: str, schedule: str) -> str:
        cells = self.problems(main=True, schedule=schedule)
        found = [
            row
            for cell in cells
            if (row := self._rows.get((cell, optimizer, part))) and not row["arrive"]
        ]
        if not found:
            return ""
        median = pl.Series([row["speed_up"] for row in found]).median()
        faster, slower, count = self.verdicts([optimizer], part, main=True, schedule=schedule)
        return f"{median:.2g} (+{faster} -{slower} of {count})"

    def compact(self, data: str, power: float, iterations: int = ITERATIONS) -> str:
        """How many times as fast on one problem: constant / decayed learning rate."""
        rows = []
        for part in _COMPACT:
            cells = [self._both(name, part, data, power, iterations)
                     for name in MECHANISM_OPTIMIZERS]  # fmt: skip
            if any(cells):
                rows.append([label_of(part), *cells])
        return markdown(["part", *(OPTIMIZERS[name].label for name in MECHANISM_OPTIMIZERS)], rows)

    def _both(self, optimizer: str, part: str, data: str, power: float, iterations: int) -> str:
        shown = []
        for schedule in SCHEDULES:
            row = self._rows.get((Cell(data, power, schedule, iterations), optimizer, part))
            plain = self._rows.get((Cell(data, power, schedule, iterations), optimizer, ""))
            if row is None or plain is None:
                shown.append("-")
                continue
            text = "both arrive" if row["arrive"] else _number(row, "speed_up", 2)
            shown.append(f"**{text}**" if self._verdict(row, plain) else text)
        return "" if set(shown) == {"-"} else " / ".join(shown)

    def on_each_problem(self) -> list[tuple[str, float, int, str]]:
        """Data, power, steps and the compact table of each problem."""
        order = {name: i for i, name in enumerate(dict.fromkeys(c.data for c in self._tables))}
        wanted = {(cell.data, cell.power, cell.iterations) for cell in self._tables}
        ordered = sorted(wanted, key=lambda each: (each[2], order[each[0]], each[1]))
        return [(*problem, self.compact(*problem)) for problem in ordered]

    def arriving(self, *data: str) -> tuple[int, int]:
        """How many pairs of the main lengths both arrive at the optimum, and of how many."""
        asked = [cell for cell in self.problems(main=True) if not data or cell.data in data]
        pairs = [
            row["arrive"] for (cell, _, part), row in self._rows.items() if part and cell in asked
        ]
        return sum(pairs), len(pairs)

    def every_cell(self) -> dict[str, str]:
        """The full tables by heading."""
        return tables(self._tables)

    def not_run(self) -> list[str]:
        """What was planned and is not stored."""
        return not_run(self.stored)

    def share(self, first: str, second: str, optimizer: str = "adam", **cell: object) -> str:
        """How much of the gain of the second part the first has, on a logarithmic scale."""
        ends = [
            pl.Series([self.row(optimizer, part, **cell)["distance"]]).log()[0]
            for part in ("", first, second)
        ]
        return f"{(ends[0] - ends[1]) / (ends[0] - ends[2]):.0%}".replace("%", " %")

    def made(self) -> dict[str, str]:
        """When, where and in how much time."""
        unit = ["data", "power", "schedule", "iterations", "seconds", "machine", "date"]
        units = self.stored.select(unit).unique()
        dates = units["date"].unique().sort().to_list()
        seconds = float(units["seconds"].sum())
        return {
            "dates": " to ".join(dict.fromkeys((dates[0], dates[-1]))),
            "hours": f"{seconds / 3600:.1f} hours"
            if seconds > 7200
            else f"{seconds / 60:.0f} minutes",
            "machines": "; ".join(units["machine"].unique().sort()),
        }


def _number(row: dict, quantity: str, digits: int, ranged: bool = False) -> str:
    if row["distance"] == float("inf"):
        return "diverged"
    text = f"{row[quantity]:.{digits}g}"
    if "e" in text:
        text = f"{float(text):g}"
    value = Interval(*(row[f"{quantity}{end}"] for end in ("", "_low", "_high")))
    return str(value) if ranged else text


def _listed(words: Iterable[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last


def page(stored: pl.DataFrame, template: str) -> str:
    """The page, from the stored results and the template."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, trim_blocks=True,
        lstrip_blocks=True, autoescape=False,  # Markdown, not HTML
    )  # fmt: skip
    results = Results(stored)
    names = ("faster", "end", "lr", "span", "counted", "limited", "verdicts", "overview",
             "problems", "share", "row", "on_each_problem", "arriving", "not_run")  # fmt: skip
    known = {name: getattr(results, name) for name in names}
    return environment.from_string(template).render(**known, **results.made(), step=STEP)


def cells_page(stored: pl.DataFrame) -> str:
    """The page with every distance and speed-up."""
    tables = Results(stored).every_cell().items()
    folded = (
        f"<details>\n<summary>{heading}</summary>\n\n{table}\n\n</details>\n"
        for heading, table in tables
    )
    lead = (
        "<!-- Written by benchmarks/mechanism_page.py from results/mechanism.parquet. -->\n\n"
        "# The parts of depth, every cell\n\n"
        "The numbers behind [the page on the parts of depth](mechanism.md). A star marks a best "
        "learning rate at the edge of those tried; distances below a millionth of the first count "
        "as 0.\n"
    )
    return "\n".join([lead, *folded])


def main() -> None:
    """Write the pages."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    stored = pl.read_parquet(STORED)
    PAGE.write_text(page(stored, TEMPLATE.read_text(encoding="utf-8")), encoding="utf-8")
    CELLS.write_text(cells_page(stored), encoding="utf-8")
    print(f"{PAGE}: {len(Results(stored).problems())} problems and schedules")


if __name__ == "__main__":
    main()
