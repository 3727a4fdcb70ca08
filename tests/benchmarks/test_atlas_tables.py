"""The page docs/atlas.md says what its stored results say; the scripts beside it run."""

import sys
from pathlib import Path

import polars as pl
import pytest
import torch

from overparam.lab.comparison.methods import DEPTH

ROOT = Path(__file__).parents[2]


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import atlas_tables
    import transformer

    yield atlas_tables, transformer
    for name in ("atlas_tables", "transformer"):
        del sys.modules[name]


def test_the_page_is_that_of_the_stored_results(scripts):
    tables, _ = scripts
    stored = pl.read_parquet(tables.STORED)
    gpu = pl.read_parquet(tables.GPU) if tables.GPU.exists() else None
    page = tables.PAGE.read_text(encoding="utf-8")
    assert f"{tables.BEGIN}\n\n{tables.generated(stored, gpu)}\n\n{tables.END}" in page
    for atlas in stored["atlas"].unique():
        assert (tables.FIGURE / f"{atlas}.svg").exists()


def test_a_folder_without_runs_gives_no_cells(scripts, tmp_path):
    assert len(scripts[0].thinned(tmp_path)) == 0


def test_a_tiny_transformer_is_trained_once(scripts, tmp_path, monkeypatch, capsys):
    _, transformer = scripts
    text = torch.arange(400) % 5
    monkeypatch.setattr(transformer, "tinyshakespeare", lambda: (text, text[:100], "abcde"))
    chosen = [transformer.Run("adamw", 1e-2), transformer.Run("momentum+rule:2", 0.1, 1.0)]
    monkeypatch.setattr(transformer, "runs", lambda: chosen)
    sizes = {"layers": 1, "width": 8, "heads": 2, "context": 8, "batch": 4, "steps": 30}
    given = [f"--{name}={value}" for name, value in sizes.items()]
    folder, output = tmp_path / "runs", tmp_path / "all.parquet"
    monkeypatch.setattr(
        sys, "argv", ["transformer.py", "--folder", str(folder), "--output", str(output), *given]
    )
    transformer.main()
    assert "| momentum+rule:2, clipped | 0.1 | 0.1 (edge) |" in capsys.readouterr().out
    first = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert len(first) == len(pl.read_parquet(output)) == 2
    losses = pl.read_parquet(output)["curve"][0]
    assert losses[-1] < losses[0]
    transformer.main()
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == first


def test_the_answer_at_the_top_of_the_page_is_that_of_the_table():
    table = pl.read_parquet(ROOT / "results" / "atlas.parquet")
    over_best = pl.col("over") == "over the best method without depth"
    cells = table.filter(pl.col("atlas") == "atlas", over_best, pl.col("kind").is_in(DEPTH))
    faster = cells.filter(pl.col("decision") == "faster")
    assert faster["problem"].n_unique() < cells["problem"].n_unique() / 2
    assert (faster["in_seconds"] < 1).all()
    factors = cells.filter(pl.col("problem").str.starts_with("matrix"), pl.col("kind") == "factors")
    lower = factors.filter(pl.col("measured") < 0.95 * pl.col("measured_than"))
    assert len(lower) > len(factors) / 2
    assert (lower["in_seconds"] < 1).all()
