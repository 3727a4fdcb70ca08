"""The figures of docs/, drawn from stored results by the charts of the commands.

    python benchmarks/figures.py --thin runs     # stores what the figures need of the runs
    python benchmarks/figures.py                 # draws docs/figures/*.svg

``runs`` is the folder of the commands in :data:`RUNS`. The map of depths took hours: its cells are
kept as they were measured, and nothing here writes them.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import altair as alt
import polars as pl
from origin import recorded

from overparam.data import load_images
from overparam.lab.charts.study import loss_chart
from overparam.lab.comparison.plans import machine
from overparam.lab.paper.depth_map import map_chart
from overparam.lab.paper.emulation import distance_lines
from overparam.lab.paper.network_charts import penalty_chart
from overparam.lab.paper.network_curves import load_curves
from overparam.lab.paper.network_study import (
    AUTHORS_LOSS,
    SCALES,
    alone_jobs,
    paper_jobs,
    training_jobs,
)
from overparam.lab.paper.results import StudyResult
from overparam.lab.paper.scale import PAPER
from overparam.lab.paper.studies import regression_studies
from overparam.lab.paper.tables import series_chart
from overparam.lab.report.page import Section
from overparam.lab.store import StudyDirectory
from overparam.lab.summary import tuned

ROOT = Path(__file__).parents[1]
RESULTS, FIGURES = ROOT / "results", ROOT / "docs" / "figures"
_FIXED = (
    "overparam run --name {} --width {} --iterations 250000 --methods {} --lowest-rate 1e-4 "
    "--highest-rate 1e-4"
)
RUNS = {
    "demo": "overparam run --name demo",
    "network": "overparam reproduce --quick --only network",
    "l4-fixed": _FIXED.format("l4-fixed", 1, "gd factors:2 factors:3 rule:2 rule:3"),
    "l4-fixed-wide": _FIXED.format("l4-fixed-wide", 100, "factors:2 factors:3"),
}
"""What to run for the figures, by the name under which it is stored."""

Stored = Mapping[str, pl.DataFrame]


def stored_tables() -> dict[str, pl.DataFrame]:
    """The tables that the figures are drawn from, by name."""
    names = ("demo", "network", "fixed", "depth_map")
    return {name: pl.read_parquet(RESULTS / f"{name}.parquet") for name in names}


def thinned(curves: pl.DataFrame) -> pl.DataFrame:
    """The ends of all runs, and the whole curves of each method at its best learning rate."""
    run = ["method", "rate", "seed"]
    first, last = pl.col("step").min().over(run), pl.col("step").max().over(run)
    best = tuned(curves).select("method", "rate", pl.lit(True).alias("best"))
    marked = curves.join(best, on=["method", "rate"], how="left", maintain_order="left")
    kept = (pl.col("step") == first) | (pl.col("step") == last) | pl.col("best").is_not_null()
    return marked.filter(kept).drop("best")


def fixed_result(stored: pl.DataFrame, name: str) -> StudyResult:
    """One of the studies at one learning rate."""
    study = regression_studies(PAPER, "ethanol", 0, "cpu")[name]
    curves = stored.filter(pl.col("study") == name)
    columns = ["method", "rate", "seed", "step", "loss", "diverged_at"]
    return StudyResult(study, curves.select(columns), curves["optimum"][0])


def _demo(stored: Stored) -> alt.TopLevelMixin:
    return loss_chart(stored["demo"], stored["demo"]["optimum"][0])


def _emulation(stored: Stored) -> alt.TopLevelMixin:
    narrow, wide = (fixed_result(stored["fixed"], name) for name in ("l4-fixed", "l4-fixed-wide"))
    about = "L4 distance from the optimum against iterations at the learning rate 1e-4."
    return series_chart(distance_lines(narrow, wide), about)


def _network(stored: Stored) -> alt.TopLevelMixin:
    of = dict(stored["network"].group_by("kind"))
    return penalty_chart(of["training",], of["penalty",], of["paper penalty",])


def _map(stored: Stored) -> alt.TopLevelMixin:
    return map_chart(stored["depth_map"])


CHARTS: Mapping[str, Callable[[Stored], alt.TopLevelMixin]] = {
    "ethanol_l4": _demo,
    "emulation_l4": _emulation,
    "mnist_penalty": _network,
    "depth_map": _map,
}


def drawing(name: str, stored: Stored) -> bytes:
    """A figure as SVG, on white where a page does not draw it itself."""
    drawn = Section(name, chart=CHARTS[name](stored)).svg
    return drawn.replace(b">", b'><rect width="100%" height="100%" fill="white"/>', 1)


def skeleton(svg: str) -> list[str]:
    """What a figure says: lines, values and words, without the sizes that its fonts have."""
    return re.findall(r'\s(?:d|fill|stroke|aria-label)="[^"]*"|>[^<>]+<', svg)


def about(name: str, **others: object) -> list[pl.Expr]:
    """The columns that say how a table came about."""
    here = {"machine": machine(), "date": time.strftime("%Y-%m-%d"), "status": "can be run again"}
    return [*recorded(RUNS[name]), *(pl.lit(v).alias(k) for k, v in (here | others).items())]


def store(runs: Path) -> None:
    """Write the tables from the finished runs."""

    def study(name: str) -> pl.DataFrame:
        optimum = StudyDirectory(runs / name).read_manifest()["optimum"]["loss"]
        curves = thinned(pl.read_parquet(runs / name / "curves.parquet"))
        return curves.with_columns(*about(name, study=name, optimum=optimum))

    write("demo", study("demo"))
    write("fixed", pl.concat([study(name) for name in RUNS if "fixed" in name]))
    quick, path = SCALES["quick"], runs / "reproduce-quick" / "network"
    trained = training_jobs(quick, load_images(quick.data, download=False).fingerprint, path)
    alone, of_paper = alone_jobs(quick, path), paper_jobs(quick, path)
    kinds = {"training": trained, "penalty": alone, "paper penalty": of_paper}
    tables = [
        load_curves(jobs)
        .filter(pl.col("method").is_in(list(AUTHORS_LOSS)))
        .with_columns(*about("network", kind=kind))
        for kind, jobs in kinds.items()
    ]
    write("network", pl.concat(tables, how="diagonal"))


def write(name: str, table: pl.DataFrame) -> None:
    """Write a table to results/."""
    file = RESULTS / f"{name}.parquet"
    table.write_parquet(file, compression="zstd", compression_level=19)
    print(f"{file}: {len(table):,} rows, {file.stat().st_size / 1e3:.0f} kB")


def main() -> None:
    """Store, or draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--thin", type=Path, help="folder of the runs")
    if runs := parser.parse_args().thin:
        store(runs)
    stored = stored_tables()
    for name in CHARTS:
        (FIGURES / f"{name}.svg").write_bytes(drawing(name, stored))
        print(FIGURES / f"{name}.svg")


if __name__ == "__main__":
    main()
