"""The tables of docs/transport.md from the results of transport.py.

python benchmarks/transport_tables.py transport.jsonl
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]
# Which losses: number k is that after k updates. The first, of no update, is the same for all.
WINDOWS = {"1": (1, 2), "1-10": (1, 11), "11-50": (11, 51), "251-300": (251, 301)}
WAYS = ("velocity", "gradient", "closed", "damped", "recorded", "fresh", "kept")
EXPERIMENT = ("start", "goal", "task", "optimizer", "rate", "own")


def measures(row: Row) -> dict[str, float]:
    """Mean loss of each window and the largest loss in the first 50; infinite where not finite."""
    losses = [loss if math.isfinite(loss) else math.inf for loss in row["losses"]]
    means = {name: statistics.fmean(losses[a:b]) for name, (a, b) in WINDOWS.items()}
    return {**means, "largest": max(losses[1:51])}


def number(value: float, digits: int = 3) -> str:
    """A few digits."""
    return f"{value:.{digits}f}" if abs(value) < 100 else f"{value:.0e}"


def spread(values: Iterable[float], digits: int = 3) -> str:
    """Median and range."""
    values = sorted(values)
    if not values:
        return ""
    low, middle, high = values[0], statistics.median(values), values[-1]
    return f"{number(middle, digits)} [{number(low, digits)}, {number(high, digits)}]"


def grouped(rows: Iterable[Row], names: Iterable[str]) -> dict[tuple[Any, ...], list[Row]]:
    """Rows by the values of these names."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return groups


def table(header: Iterable[str], lines: Iterable[Iterable[str]]) -> None:
    """As markdown."""
    header = list(header)
    print(f"\n| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for line in lines:
        print(f"| {' | '.join(line)} |")


def paired(rows: Iterable[Row], one: str, other: str) -> list[tuple[Row, Row]]:
    """The runs of two ways that have everything else in common."""
    alike = grouped(rows, (*EXPERIMENT, "seed")).values()
    found = ({row["way"]: row for row in group} for group in alike)
    return [(each[one], each[other]) for each in found if one in each and other in each]


def compare(rows: list[Row], one: str, other: str) -> None:
    """How often one way has the lower loss, and by how much."""
    lines = []
    for (way, optimizer), group in grouped(rows, ("direction", "optimizer")).items():
        pairs = [(measures(a), measures(b)) for a, b in paired(group, one, other)]
        cells = []
        for name in (*WINDOWS, "largest"):
            both = [(a[name], b[name]) for a, b in pairs if math.isfinite(a[name] + b[name])]
            wins = sum(a < b for a, b in both)
            cells.append(f"{wins} of {len(both)}: {spread(a - b for a, b in both)}" if both else "")
        if pairs:
            lines.append([way, optimizer, *cells])
    print(f"\nLoss with {one} less that with {other}: where it is lower, median and range.")
    table(["direction", "optimizer", *WINDOWS, "largest of 1-50"], lines)


def nearness(rows: list[Row]) -> None:
    """How far the losses are from those with the recorded state."""
    lines = []
    for (optimizer, start), group in sorted(grouped(rows, ("optimizer", "start")).items()):
        cells = []
        for way in (*WAYS[:4], "fresh"):
            both = [
                (a["losses"][1:51], b["losses"][1:51]) for a, b in paired(group, way, "recorded")
            ]
            gaps = [statistics.fmean(abs(x - y) for x, y in zip(*e, strict=True)) for e in both]
            cells.append(spread(gaps, 4) if gaps else "")
        if start > 1:
            lines.append([optimizer, str(start), *cells])
    print("\nMean distance of losses 1-50 from those with the recorded state.")
    table(["optimizer", "depth", *WAYS[:4], "fresh"], lines)


def states(rows: list[Row]) -> None:
    """The carried moments themselves, before any step."""
    lines = []
    carried = [row for row in rows if row["own"] and row["way"] not in ("fresh", "kept")]
    names = ("direction", "task", "optimizer", "start", "goal", "way")
    for (way, task, optimizer, start, goal, state), runs in sorted(grouped(carried, names).items()):
        cells = [
            *(spread([run[n] for run in runs if n in run], 2) for n in ("size", "cosine")),
            *(spread([run["adam"][n] for run in runs if "adam" in run], 2) for n in range(4)),
        ]
        took = f"{1e3 * statistics.median(run['seconds'] for run in runs):.0f}"
        lines.append([way, f"{task}, {optimizer}, {max(start, goal)}", state, *cells, took])
    print("\nThe carried moments.")
    header = ["direction", "problem, depth", "state", "size of m", "cosine of m"]
    table([*header, "v at 5 %", "v at 50 %", "v at 95 %", "first step", "ms"], lines)


def losses(rows: list[Row]) -> None:
    """Every experiment, a line for each way."""
    for (way,), group in grouped(rows, ["direction"]).items():
        lines = []
        for key, runs in sorted(grouped(group, EXPERIMENT).items()):
            start, goal, task, optimizer, rate, own = key
            for name in WAYS:
                found = [measures(run) for run in runs if run["way"] == name]
                label = f"{task}, {optimizer}, {max(start, goal)}"
                cells = [spread(m[w] for m in found) for w in (*WINDOWS, "largest")]
                if found:
                    lines.append([label, f"{rate:g}{', own' if own else ''}", name, *cells])
        print(f"\nLosses, {way}.")
        table(["problem, depth", "rate", "state", *WINDOWS, "largest of 1-50"], lines)


def main() -> None:
    """Print all of them."""
    rows = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    for row in rows:
        row["direction"] = "factors to weight" if row["goal"] == 1 else "weight to factors"
    compare(rows, "gradient", "velocity")
    compare(rows, "gradient", "fresh")
    compare(rows, "closed", "gradient")
    compare(rows, "damped", "gradient")
    nearness(rows)
    states(rows)
    losses(rows)


if __name__ == "__main__":
    main()
