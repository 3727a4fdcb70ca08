"""The figures of docs/ say what the stored results say."""

import re
import sys
from pathlib import Path

import polars as pl
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def figures(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import figures

    yield figures
    for name in ("figures", "origin"):
        del sys.modules[name]


@pytest.fixture
def stored(figures):
    return figures.stored_tables()


def test_every_drawing_is_that_of_the_stored_results(figures, stored):
    for name in figures.CHARTS:
        drawn = (figures.FIGURES / f"{name}.svg").read_text(encoding="utf-8")
        again = figures.drawing(name, stored).decode()
        assert figures.skeleton(drawn) == figures.skeleton(again), name


def test_no_drawing_is_there_by_hand(figures):
    by_hand = {file.stem for file in figures.FIGURES.iterdir()} - set(figures.CHARTS)
    assert {re.sub(r"^atlas.*", "atlas", name) for name in by_hand} <= {"atlas"}


def test_another_result_gives_another_drawing(figures, stored):
    for name, table, column in (
        ("ethanol_l4", "demo", "loss"),
        ("emulation_l4", "fixed", "loss"),
        ("mnist_penalty", "network", "penalty"),
        ("depth_map", "depth_map", "speed_up"),
    ):
        changed = stored[table].with_columns(pl.col(column) * 1.5)
        before = figures.skeleton(figures.drawing(name, stored).decode())
        after = figures.skeleton(figures.drawing(name, stored | {table: changed}).decode())
        assert before != after, name


def test_thinned_curves_give_the_drawing_of_the_whole(figures):
    whole = pl.DataFrame(
        [
            {"method": method, "rate": rate, "seed": seed, "step": step, "diverged_at": None,
             "loss": 1 + best ** (step / 100) + abs(rate - 0.2) * step / 100}
            for method, best in (("gd", 0.3), ("adam", 0.1))
            for rate in (0.1, 0.2, 0.4)
            for seed in range(2)
            for step in range(0, 101, 10)
        ],
        schema_overrides={"diverged_at": pl.Int64},
    )  # fmt: skip
    thin = figures.thinned(whole)
    assert len(thin) == 4 * 11 + 8 * 2
    one, two = (figures.loss_chart(curves, 1.0).to_dict() for curves in (whole, thin))
    assert one == two


def test_stored_results_name_their_command_commit_and_machine(stored):
    for table in stored.values():
        about = table.select("command", "commit", "machine", "date", "status").unique()
        assert about.null_count().sum_horizontal().sum() == 0
    assert sum(file.stat().st_size for file in (ROOT / "results").iterdir()) < 10e6
