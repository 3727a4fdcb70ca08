"""The tables of docs/mechanism.md, and the small file that they are made of.

python benchmarks/mechanism_tables.py --thin runs/mechanism     # writes results/mechanism.parquet
python benchmarks/mechanism_page.py                             # writes the page from it
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import polars as pl
from mechanism import Cell, cells
from origin import recorded

from overparam.lab.methods import OPTIMIZERS, parse_method
from overparam.lab.paper.mechanism import cell_grid, part_table
from overparam.lab.paper.studies import MECHANISM_OPTIMIZERS
from overparam.lab.summary import tuned

STORED = Path(__file__).parents[1] / "results" / "mechanism.parquet"
ITERATIONS = 20_000
_HEADINGS = {
    "distance": "Distance from the optimum after {:,} steps, median and range over seeds.",
    "speed_up": "How many times fewer steps than the same optimizer on the plain weight.",
}


def thinned(units: pl.DataFrame) -> pl.DataFrame:
    """What the tables need of the curves of one problem and schedule.

    The ends of all runs at full length, and whole curves for the last stage at the best rate of
    each method and at rates that come below a millionth of the first distance. Four digits.
    """
    run = ["stage", "method", "rate", "seed"]
    first, last = pl.col("step").min().over(run), pl.col("step").max().over(run)
    ends = (pl.col("step") == first) | (pl.col("step") == last)
    # Rounded before the best rate is chosen, so that it is the one chosen from what is stored.
    rows = units.filter(pl.col("stage") != "scan")
    rows = rows.with_columns(pl.col("distance").round_sig_figs(4))
    fine = rows.filter(pl.col("stage") == "fine")
    start = fine.filter(pl.col("step") == 0)["distance"].median()
    near = fine.filter(pl.col("distance") <= 2e-6 * start)  # pyright: ignore[reportOperatorIssue]
    best = tuned(as_curves(fine))
    kept = pl.concat([table.select("method", "rate") for table in (near, best)]).unique()
    curves = fine.join(kept, on=["method", "rate"], how="semi", maintain_order="left")
    thin = pl.concat([rows.filter(ends), curves]).unique()
    return thin.sort(*run, "step")


def as_curves(rows: pl.DataFrame) -> pl.DataFrame:
    """The curves that the lab's functions take, for an optimal loss of 0."""
    loss = pl.col("distance").cast(pl.Float64).alias("loss")
    return rows.select("method", "rate", "seed", "step", loss, "diverged_at")


def parts_of(rows: pl.DataFrame) -> pl.DataFrame:
    """The table of the parts of one problem and schedule; the edge is that of all rates tried."""
    tried = rows.group_by("method").agg(
        pl.col("rate").min().alias("lowest"), pl.col("rate").max().alias("highest")
    )
    table = part_table(as_curves(rows.filter(pl.col("stage") == "fine")), 0.0)
    edge = (pl.col("rate") == pl.col("lowest")) | (pl.col("rate") == pl.col("highest"))
    joined = table.join(tried, on="method", maintain_order="left")
    return joined.with_columns(edge.alias("edge")).drop("lowest", "highest")


def each_cell(stored: pl.DataFrame) -> Iterator[tuple[Cell, pl.DataFrame]]:
    """The rows of each problem and schedule, in the order of their importance."""
    for cell in cells(ITERATIONS):
        same = [pl.col(name) == value for name, value in cell._asdict().items()]
        rows = stored.filter(*same)
        if len(rows):
            yield cell, rows


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; a bar would end a cell."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines
    )


def title(cell: Cell) -> str:
    """A problem and a schedule for people."""
    lr = (
        "constant learning rate"
        if cell.schedule == "constant"
        else "warmed-up, decayed learning rate"
    )
    steps = "" if cell.iterations == ITERATIONS else f", {cell.iterations:,} steps"
    return f"{cell.data}, p = {cell.power:g}, {lr}{steps}"


def tables(parts: Mapping[Cell, pl.DataFrame]) -> dict[str, str]:
    """Every table of the page by its heading, from the parts of each problem and schedule."""
    return {
        f"{title(cell)}. {heading.format(cell.iterations)}": markdown(*cell_grid(table, quantity))
        for cell, table in parts.items()
        for quantity, heading in _HEADINGS.items()
    }


def not_run(stored: pl.DataFrame) -> list[str]:
    """What was planned and is not stored: problems and schedules, or some of their optimizers."""
    lines, there = [], dict(each_cell(stored))
    for cell in cells(ITERATIONS):
        names = there[cell]["method"].unique() if cell in there else ()
        found = {parse_method(name).optimizer for name in names}
        missing = [OPTIMIZERS[name].label for name in MECHANISM_OPTIMIZERS if name not in found]
        if missing:
            which = f": {', '.join(missing)}" if found else ""
            lines.append(f"{title(cell)}{which}")
    return lines


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--thin", type=Path, required=True, help="folder of mechanism.py")
    folder = parser.parse_args().thin
    units = pl.concat(pl.read_parquet(file) for file in sorted(folder.glob("*.parquet")))
    whole = pl.concat(thinned(rows) for _, rows in each_cell(units))
    whole = whole.with_columns(*recorded("python benchmarks/mechanism.py"))
    if STORED.exists():  # what the folder does not have stays
        others = pl.read_parquet(STORED).join(whole, on=Cell._fields, how="anti")
        whole = pl.concat([others, whole.select(others.columns)])
    STORED.parent.mkdir(exist_ok=True)
    whole.write_parquet(STORED, compression="zstd", compression_level=19)
    print(f"{STORED}: {len(whole):,} rows, {STORED.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
