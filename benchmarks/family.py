"""Cost of each member of the family against the plain rule: python benchmarks/family.py.

One step of EndToEnd with SGD inside, in float32, with the clock of the processor; contenders take
turns, and each figure is the median of the ratios to the plain rule of the same turn.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from measure import measure, print_table, quartiles
from torch import nn

from overparam import EndToEnd

PLAIN = "plain rule"
Options = dict[str, Any]

MEMBERS: dict[str, Options] = {
    PLAIN: {},
    "imbalance 0.5": {"imbalance": 0.5},
    "plain rule, depth 3": {"depth": 3},
    "three offsets, depth 3": {"depth": 3, "imbalance": (0.0, 0.5, 0.2)},
    "metric step": {"normalize": "metric"},
    "imbalance 0.5, metric step": {"imbalance": 0.5, "normalize": "metric"},
    "both sides, imbalance 0.5": {"both_sides": True, "imbalance": 0.5},
    "Muon inside": {"inner": "muon"},
    "Muon inside, imbalance 0.5": {"inner": "muon", "imbalance": 0.5},
    "Muon inside, imbalance 0.5, both sides": {
        "inner": "muon", "imbalance": 0.5, "both_sides": True,
    },
    "entries": {"granularity": "entry"},
    "entries, imbalance 0.5": {"granularity": "entry", "imbalance": 0.5},
    "entries, three offsets, depth 3": {
        "granularity": "entry", "depth": 3, "imbalance": (0.0, 0.5, 0.2),
    },
    "plain rule, each row": {"granularity": "row"},
    "rows, imbalance 0.5": {"granularity": "row", "imbalance": 0.5},
    "rows, metric step": {"granularity": "row", "normalize": "metric"},
}  # fmt: skip


def ratios(shape: tuple[int, int], basis: str, repeats: int) -> dict[str, str]:
    """Milliseconds of one step, and how much that is of the plain rule, for each member."""
    calls = {}
    for name, options in MEMBERS.items():
        layer = nn.Linear(shape[1], shape[0], bias=False)
        layer.weight.grad = 1e-3 * torch.randn_like(layer.weight)
        optimizer = EndToEnd(layer, 1e-3, basis=basis, **options)
        optimizer.step()
        calls[name] = optimizer.step
    seconds = measure(calls, repeats, time.process_time)
    cells = {}
    for name, values in seconds.items():
        over = [a / b for a, b in zip(values, seconds[PLAIN], strict=True)]
        cells[name] = f"{1e3 * statistics.median(values):.3g}; {quartiles(over)}"
    return cells


def main() -> None:
    """Print one table for each basis."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", default="256x256,256x1024,768x768")
    parser.add_argument("--repeats", type=int, default=21)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    shapes = [tuple(map(int, shape.split("x"))) for shape in options.shapes.split(",")]
    for basis in ("tracked", "exact"):
        columns = [ratios((m, n), basis, options.repeats) for m, n in shapes]
        print(f"\nbasis {basis}: milliseconds of a step; over the plain rule\n")
        lines = [[name, *(column[name] for column in columns)] for name in MEMBERS]
        print_table(["member", *(f"{m} x {n}" for m, n in shapes)], lines)


if __name__ == "__main__":
    main()
