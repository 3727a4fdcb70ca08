"""The page docs/mechanism.md says what its stored results say."""

import itertools
import re
import sys
from pathlib import Path

import polars as pl
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def modules(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import mechanism_page
    import mechanism_tables

    yield mechanism_page, mechanism_tables
    for name in ("mechanism", "mechanism_page", "mechanism_tables", "origin"):
        del sys.modules[name]


@pytest.fixture
def tables(modules):
    return modules[1]


def every_table(tables, rows):
    return tables.tables({cell: tables.parts_of(own) for cell, own in tables.each_cell(rows)})


def test_the_page_is_that_of_the_stored_results(modules):
    page, tables = modules
    template = page.TEMPLATE.read_text(encoding="utf-8")
    stored = pl.read_parquet(tables.STORED)
    assert page.PAGE.read_text(encoding="utf-8") == page.page(stored, template)
    assert page.CELLS.read_text(encoding="utf-8") == page.cells_page(stored)
    # Another result gives another page: its sentences too, not only its tables.
    cell = (pl.col("data") == "ethanol") & (pl.col("power") == 4) & (pl.col("method") == "gd")
    worse = pl.when(cell).then(2 * pl.col("distance")).otherwise("distance")
    only = stored.filter(pl.col("data") == "ethanol")
    changed = page.page(only.with_columns(worse.alias("distance")), template)
    before = page.page(only, template)
    for line in ("gradient descent {} and heavy ball", "ends at {} instead of {}"):
        pattern = line.replace("{}", r"([\d.]+)")
        first, second = (re.search(pattern, " ".join(text.split())) for text in (before, changed))
        assert first[0] != second[0]


def test_measured_numbers_of_the_template_are_named(modules):
    template = modules[0].TEMPLATE.read_text(encoding="utf-8")
    prose = re.sub(r"\{\{.*?\}\}|\{%.*?%\}|\$[^$]*\$", "", template, flags=re.DOTALL)
    numbers = re.findall(r"(?<![\w.^-])\d[\d,]*\.\d+(?:e-?\d+)?|\d+ %|\d+ times", prose)
    assert set(numbers) <= {"0.01", "5 %"}


def test_the_page_on_imbalance_says_what_the_stored_results_say(modules):
    slow, changed = ("gd", "momentum"), "rule:2,lam=1"
    stored = pl.read_parquet(modules[1].STORED).filter(
        pl.col("data").is_in(["ethanol", "linnerud"]), pl.col("schedule") == "constant"
    )
    results = modules[0].Results(stored)
    text = " ".join((ROOT / "docs" / "learn" / "imbalance.md").read_text("utf-8").split())
    for power, name, part in itertools.product((2, 4), slow, ("rule:2,lam=0.3", changed)):
        both = [results.row(name, each, power=power)["speed_up"] for each in (part, "rule:2")]
        assert 0.8 < both[0] / both[1] < 1.2
    after, before = (
        " and ".join(results.faster(name, part, power=6) for name in slow)
        for part in (changed, "rule:2")
    )
    assert f"{after} times as fast as on the plain weight in place of {before}." in text
    brief = {"data": "linnerud", "iterations": 200}
    first, second, third = (results.faster("gd", "rule:2", power=p, **brief) for p in (2, 4, 6))
    assert f"{first}, {second} and {third} times as fast as on the plain weight ($p = 2$" in text
    arrive = [results.row("gd", changed, power=p, **brief)["arrive"] for p in (2, 4, 6)]
    assert arrive == [True, True, False]
    assert f"with $p = 6$ it is {results.faster('gd', changed, power=6, **brief)} times" in text


def test_verdicts_need_every_seed_and_a_rate_within_the_grid(modules):
    page, tables = modules
    results = page.Results(made_up(tables))
    assert results.verdicts(["gd"], "radial:2") == (1, 0, 1)
    assert results.counted(["adam"], "radial:2") == "not run"
    fewer = made_up(tables).filter(pl.col("rate") >= 0.2)
    assert page.Results(fewer).verdicts(["gd"], "radial:2") == (0, 0, 1)


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
    assert every_table(tables, thin) == every_table(tables, rounded)
    distances, faster = every_table(tables, thin).values()
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
    assert missing[0] == f"{tables.title(cell)}: Heavy ball, Normalized gradient, Adam"
    assert len(missing) == len(list(tables.cells(tables.ITERATIONS)))
