"""The page docs/reproduction.md says what its stored results say, and no number is typed twice."""

import re
import sys
from pathlib import Path

import polars as pl
import pytest

from overparam.lab.verdicts import Verdict, verdict_of

ROOT = Path(__file__).parents[2]
# Numbers of settings, grids and the paper, which nobody measured here.
SETTINGS = {"2.13", "2.4e-2", "1.8e-2", "5.6e-5", "7.5e-5", "5.6e-3", "7.5e-3", "3.2e-6", "1.2",
            "1.5"}  # fmt: skip
MODULES = ("figures", "origin", "reproduction_numbers", "reproduction_page")


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import reproduction_page

    yield reproduction_page
    for name in MODULES:
        del sys.modules[name]


@pytest.fixture
def results(module):
    return module.stored_results()


@pytest.fixture
def stored(results):
    return results["reproduction"]


@pytest.fixture
def template(module):
    return module.TEMPLATE.read_text(encoding="utf-8")


def test_the_page_is_that_of_the_stored_results(module, results, template):
    assert module.PAGE.read_text(encoding="utf-8") == module.page(results, template)


def test_another_result_gives_another_page(module, results, stored, template):
    cell = (pl.col("table") == "adam") & (pl.col("row") == 1) & (pl.col("column") == 2)
    changed = stored.with_columns(
        pl.when(cell).then(pl.lit("0.0023 [0.0022, 0.0024]")).otherwise("text").alias("text")
    )
    slower = results["depth_map"].with_columns(
        pl.when(pl.col("optimizer") == "Adam")
        .then(pl.lit("slower"))
        .otherwise("outcome")
        .alias("outcome")
    )
    page = module.page(results | {"reproduction": changed, "depth_map": slower}, template)
    assert "| Adam, 1 layer | 1.15e-2 | 0.0023 [0.0022, 0.0024] |" in page
    assert "by a factor of 1.4 to 5." in page  # and the sentence that divides by it
    assert "it is faster in 0 of 105 cells and slower in 105." in page


def test_every_verdict_is_a_word_of_today_that_follows_from_its_counts(module):
    text = module.PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\|.*\| \*\*([\w ]+)\*\*: ([^|]+) \| ([^|]+) \|$", text, re.MULTILINE)
    verdicts = [(word, counts) for word, counts, _ in rows]
    verdicts += [short.split(": ") for *_, short in rows if short != "not asked"]
    assert len(verdicts) == 17 + 16
    for word, counts in verdicts:
        agree, total, against, open_ = map(
            int,
            re.fullmatch(r"(\d+) of (\d+) for, (\d+) against(?:, (\d+) open)?", counts).groups("0"),
        )
        assert agree + against + open_ == total
        assert word == verdict_of([True] * agree + [False] * against + [None] * open_)
    prose = re.findall(r"\*: \*\*([\w ]+)\*\*", text)
    assert prose
    assert set(prose) <= set(Verdict)
    assert not re.search(r"holds? in part|\*\*holds?\*\*|does not hold", text)


def test_counts_of_the_map_are_those_of_its_tiles(module, results, stored):
    found = module.Results(stored)
    cells = module.DepthMap(results["depth_map"])
    for row, texts in enumerate(found.cells("claims")):
        if "cells" in texts[2]:
            counts = {
                outcome: cells.count(outcome, optimizer=texts[0].partition(" is faster")[0])
                for outcome in ("faster", "slower", "not decided")
            }
            assert found.claim(row).cases == tuple(counts.values())
            assert [int(n) for n in re.findall(r"(\d+) of 105", texts[2])] == list(counts.values())


def test_other_counts_give_another_verdict(module, results, stored, template):
    cell = (pl.col("table") == "claims") & (pl.col("row") == 10) & (pl.col("column") == 4)
    changed = stored.with_columns(pl.when(cell).then(pl.lit("9")).otherwise("text").alias("text"))
    page = module.page(results | {"reproduction": changed}, template)
    assert "| **mostly no**: 3 of 12 for, 9 against | too early: 0 of 3 for" in page
    assert "*Near zero, 4 and 8 layers do not train*: **mostly no**." in page


def test_the_template_holds_tables_and_measured_numbers_by_name_only(template):
    prose = re.sub(r"\{\{.*?\}\}|\{%.*?%\}", "", template)
    lines = [line for line in prose.splitlines() if not line.startswith("    ")]
    assert not [line for line in lines if line.lstrip().startswith("|")]
    text = "\n".join(lines)
    numbers = re.findall(r"(?<![\w.^-])\d[\d,]*\.\d+(?:e-?\d+)?", re.sub(r"`[^`]*`", "", text))
    assert set(numbers) <= SETTINGS
    # Shares, factors, times and counts are results too.
    assert not re.findall(
        r"\d+ %|factors? of (?!\s)\d(?!\.2| known)[^ ]*|\d+ (?:minutes|hours)", text
    )
    counted = re.findall(r"\b(\w+) of (\d+)\b", text)
    assert not [pair for pair in counted if pair[0].isdigit()]


def test_every_table_and_fact_is_shown(module, stored, template):
    shown = set(re.findall(r'table\("(\w+)"\)', template)) | {
        "facts",
        "emulation",
        "claims",
        "quick",
    }
    assert shown == set(stored["table"])
    facts = stored.filter((pl.col("table") == "facts") & (pl.col("row") > 0))
    names = facts.filter(pl.col("column") == 0)["text"].to_list()
    assert set(re.findall(r'fact\("([^"]+)"\)', template)) == set(names)
    assert len(set(names)) == len(names)


def test_every_table_names_its_command_commit_and_machine(stored):
    columns = ["command", "commit", "date", "machine", "status"]
    sources = stored.select("table", *columns).unique()
    assert len(sources) == stored["table"].n_unique()
    assert (stored.select(pl.col(columns).str.len_chars().min()).row(0)) > (0,) * len(columns)


def test_a_number_that_is_not_there_is_an_error(module, stored):
    results = module.Results(stored)
    assert results.n("l2", "2 layers", 2, "high") == "0.00351"
    with pytest.raises(ValueError, match="has no number 'low'"):
        results.n("l4", "1 layer", 3, "low")
    with pytest.raises(KeyError, match="0 rows named '9 layers'"):
        results.n("l4", "9 layers", 1)
