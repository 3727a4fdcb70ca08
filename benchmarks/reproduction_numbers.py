"""Numbers that docs/reproduction.md derives from stored results: shares, counts, ends of curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import polars as pl
from figures import fixed_result

from overparam.lab.methods import OPTIMIZERS
from overparam.lab.paper.distances import Interval, curve_gap, seed_distances, tuned_distances
from overparam.lab.paper.results import StudyResult

WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
# The map has four learning rates per decade; a range over seeds beyond this factor is shown.
MAP_STEP, _SHOWN_RANGE = 10**0.25, 1.2


def word(number: int) -> str:
    """A small number as a word.

    Example:
        >>> word(3), word(12)
        ('three', '12')
    """
    return WORDS[number] if number < len(WORDS) else str(number)


def significant(number: str | float, digits: int) -> str:
    """A number with fewer digits.

    Example:
        >>> significant("1.577", 3), significant("85.2", 2)
        ('1.58', '85')
    """
    return f"{float(number):.{digits}g}"


def ratio(first: str | float, second: str | float, digits: int) -> str:
    """The quotient of two numbers.

    Example:
        >>> ratio("0.108", "0.0433", 2)
        '2.5'
    """
    return f"{float(first) / float(second):.{digits}g}"


def share(first: str | float, second: str | float) -> str:
    """The first number as a share of the second.

    Example:
        >>> share("0.00097", "0.0105")
        '9 %'
    """
    return f"{float(first) / float(second):.0%}".replace("%", " %")


def below(first: str | float, second: str | float) -> str:
    """By how much the first number is below the second.

    Example:
        >>> below("0.0305", "0.032")
        '5 %'
    """
    return share(float(second) - float(first), second)


def within(*pairs: tuple[str | float, str | float]) -> str:
    """The whole number of percent within which the first number of each pair is of the second.

    Example:
        >>> within(("1.02", "1"), ("0.945", "1"))
        '6 %'
    """
    gaps = (abs(float(first) / float(second) - 1) for first, second in pairs)
    return f"{math.ceil(100 * max(gaps) - 1e-9)} %"


class DepthMap:
    """The map of depths.

    Args:
        cells: results/depth_map.parquet.
    """

    def __init__(self, cells: pl.DataFrame) -> None:
        self._cells = cells

    def count(self, outcome: str = "", **wanted: object) -> int:
        """How many cells there are of an outcome; a list allows several values of a column."""
        return len(self._of(wanted | ({"outcome": outcome} if outcome else {})))

    def largest(self, digits: int = 2, **wanted: object) -> str:
        """The largest speed-up among some cells."""
        found = self._of(wanted)["speed_up"].max()
        assert isinstance(found, float), wanted
        return significant(found, digits)

    def beyond_a_step(self) -> int:
        """How many undecided cells exceed a step of the grid in every seed."""
        open_ = self._of({"outcome": "not decided"})
        return len(open_.filter((pl.col("low") > MAP_STEP) | (pl.col("high") < 1 / MAP_STEP)))

    def counts(self) -> list[list[str]]:
        """A table: a row per optimizer, a column per power."""
        powers = self._cells["power"].unique().sort().to_list()
        each = self.count() // len(powers) // len(self.optimizers)
        rows = [
            [f"faster / slower / not decided, of {each} cells", *map("p = {:g}".format, powers)]
        ]
        for name in self.optimizers:
            outcomes = [
                " / ".join(
                    str(self.count(outcome, optimizer=name, power=power))
                    for outcome in ("faster", "slower", "not decided")
                )
                for power in powers
            ]
            rows.append([name, *outcomes])
        return rows

    def speed_ups(self, depth: str, heading: str) -> list[list[str]]:
        """A table of one depth: a row per data set, a column per optimizer and power."""
        columns = self._cells.select("optimizer", "power").unique(maintain_order=True).rows()
        rows = [[heading, *(f"{optimizer}, p = {power:g}" for optimizer, power in columns)]]
        for data in self._cells["data"].unique(maintain_order=True):
            found = [
                self._of({"data": data, "depth": depth, "optimizer": o, "power": p}).row(
                    0, named=True
                )
                for o, p in columns
            ]
            rows.append([data, *map(_factor, found)])
        return rows

    @property
    def optimizers(self) -> list[str]:
        """Their names."""
        known = [optimizer.label for optimizer in OPTIMIZERS.values()]
        return [name for name in known if name in set(self._cells["optimizer"])]

    def _of(self, wanted: Mapping[str, object]) -> pl.DataFrame:
        tests = [
            pl.any_horizontal(pl.col(name) == each for each in value)
            if isinstance(value, list)
            else pl.col(name) == value
            for name, value in wanted.items()
        ]
        return self._cells.filter(*tests)


def _factor(cell: Mapping[str, object]) -> str:
    found = {name: float(str(cell[name])) for name in ("speed_up", "low", "high")}
    text = f"{found['speed_up']:.3g}"
    if cell["outcome"] != "not decided":
        text = f"**{text}**"
    if found["high"] > _SHOWN_RANGE * found["low"]:
        text += f" [{found['low']:.3g}, {found['high']:.3g}]"
    return text


class Fixed:
    """The runs on L4 at one learning rate.

    Args:
        stored: results/fixed.parquet.
    """

    def __init__(self, stored: pl.DataFrame) -> None:
        self._of = {name: fixed_result(stored, name) for name in ("l4-fixed", "l4-fixed-wide")}

    def end(self, method: str, study: str = "l4-fixed") -> str:
        """The last distance, over seeds."""
        return str(self._distance(method, study))

    def rows(self, authors: Sequence[str]) -> list[list[str]]:
        """The rows of the table on L4, below those of L2 and with the authors' row first."""
        wide = ("factors:2", "factors:3")
        return [
            list(authors),
            ["layers of width 1", *(self.end(method) for method in ("gd", *wide))],
            ["layers of width 100", "", *(self.end(method, "l4-fixed-wide") for method in wide)],
            ["end-to-end rule", "", self.end("rule:2"), self.end("rule:3")],
        ]

    def ends_apart(self, kind: str) -> str:
        """By how much the ends of rule (or wide layers) and layers differ, at most over seeds."""
        gaps = [curve_gap(*self._pair(kind, depth))[0] for depth in (2, 3)]
        return within(*((end, 1) for gap in gaps for end in (gap.low, gap.high)))

    def on_the_way(self, kind: str, depth: int) -> str:
        """The largest factor between two curves at one iteration."""
        ours, theirs = self._pair(kind, depth)
        return significant(curve_gap(ours, theirs)[1].high, 2)

    def deeper_is_lower(self) -> tuple[int, int]:
        """In how many seeds each depth ends below the next smaller one, and in how many not."""
        ends = [
            {seed: curve["distance"][-1] for seed, curve in self._seeds("l4-fixed", name).items()}
            for name in ("gd", "factors:2", "factors:3")
        ]
        lower = [b[seed] < a[seed] for a, b in pairwise(ends) for seed in a]
        return sum(lower), len(lower) - sum(lower)

    def _pair(self, kind: str, depth: int) -> tuple[dict, dict]:
        study, method = ("l4-fixed", "rule") if kind == "rule" else ("l4-fixed-wide", "factors")
        ours = self._seeds(study, f"{method}:{depth}")
        return ours, self._seeds("l4-fixed", f"factors:{depth}")

    def _seeds(self, study: str, method: str) -> dict[int, pl.DataFrame]:
        result: StudyResult = self._of[study]
        return seed_distances(result.curves, result.optimum, method)

    def _distance(self, method: str, study: str) -> Interval:
        result = self._of[study]
        return tuned_distances(result.curves, result.optimum)[method]


def penalty_alone(network: pl.DataFrame, method: str, step: int, digits: int = 3) -> str:
    """The penalty of the paper's network trained without data, at a step; -1 is the last one.

    Args:
        network: results/network.parquet.
        method: ``plain`` or ``product``.
        step: one that is stored.
        digits: of the number.
    """
    rows = network.filter(pl.col("kind") == "paper penalty", pl.col("method") == method)
    wanted = rows["step"].max() if step < 0 else step
    return significant(rows.filter(pl.col("step") == wanted)["penalty"].item(), digits)
