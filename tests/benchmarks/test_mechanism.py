"""The page docs/mechanism.md says what its stored results say."""

import sys
from pathlib import Path

import polars as pl
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import mechanism_tables

    yield mechanism_tables
    for name in ("mechanism", "mechanism_tables"):
        del sys.modules[name]


def test_the_tables_of_the_page_are_those_of_the_stored_results(tables):
    page = (ROOT / "docs" / "mechanism.md").read_text()
    stored = pl.read_parquet(tables.STORED)
    found = tables.tables(stored)
    assert len(found) >= 2
    for heading, table in found.items():
        assert f"**{heading}**\n\n{table}\n" in page, heading
    assert page.count("\n| Part |") == len(found)
    for line in tables.not_run(stored):
        assert f"- {line}\n" in page


def made_up(tables):
    """Two methods at three rates, the curves of which cross; one rate diverges for a seed."""
    ends = {("gd", 0.1): 0.4, ("gd", 0.2): 0.2, ("gd", 0.4): 0.3, ("radial:2", 0.1): 0.10004,
            ("radial:2", 0.2): 0.1, ("radial:2", 0.4): 0.5}  # fmt: skip
    cell = next(tables.cells(tables.ITERATIONS))
    rows = [
        {"stage": stage, "method": method, "rate": rate, "seed": seed, "step": step,
         "distance": end ** (step / 20_000) * (1 + seed / 100),
         "diverged_at": 7 if (rate, seed) == (0.4, 2) else None, **cell._asdict()}
        for stage in ("bracket", "fine")
        for (method, rate), end in ends.items()
        for seed in range(3)
        for step in (0, 10, 1000, 5000, 20_000)
    ]  # fmt: skip
    return pl.DataFrame(rows, schema_overrides={"distance": pl.Float32, "diverged_at": pl.Int64})


def test_the_thinned_results_give_the_same_tables(tables):
    rows = made_up(tables)
    thin = tables.thinned(rows)
    assert len(thin) < 0.8 * len(rows)
    rounded = rows.with_columns(pl.col("distance").round_sig_figs(4))
    assert tables.tables(thin) == tables.tables(rounded)
    distances, faster = tables.tables(thin).values()
    assert distances.splitlines()[2] == "| Plain | 0.202 [0.2, 0.204] |"
    # The two lower rates are equal to four digits: the lowest one is chosen.
    assert distances.splitlines()[3] == "| Stretched 2 times | 0.101 [0.1, 0.102] * |"
    assert len(faster.splitlines()) == 3


def test_the_edge_is_that_of_all_rates_tried(tables):
    rows = made_up(tables)
    cell, stored = next(tables.each_cell(rows))
    fine_only = stored.filter((pl.col("stage") == "bracket") | (pl.col("rate") == 0.2))
    assert not tables.parts_of(fine_only)["edge"].any()
    lowest = stored.filter(pl.col("rate") >= 0.2)
    assert tables.parts_of(lowest)["edge"].all()
    missing = tables.not_run(rows)
    assert (
        missing[0] == f"{tables.title(cell)}, 20,000 steps: Heavy ball, Normalized gradient, Adam"
    )
    assert len(missing) == len(list(tables.cells(tables.ITERATIONS)))
