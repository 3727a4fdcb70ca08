"""What a result says, with outcomes that are made up."""

from pathlib import Path

import pytest
from support.comparison_cases import play, power_law

from overparam.lab.comparison.costs import Cost, Costs
from overparam.lab.comparison.page import write_result
from overparam.lab.comparison.plans import PlanFile
from overparam.lab.comparison.protocol import Plan
from overparam.lab.comparison.result import Result, interval, ratio
from overparam.lab.comparison.statistics import SpeedUp, decide
from overparam.lab.verdicts import Verdict

PLAIN = ("adamw", "sgd")


def result_of(speeds, asked, noise=0.002, **plan) -> Result:
    """Methods with these planted speed-ups in steps; those with depth cost twice the time."""
    made = power_law(0, noise, 1.0)

    def loss(trial):
        return made(trial) * speeds[trial.method] ** -0.7

    baselines = tuple(name for name in speeds if name in PLAIN)
    findings = play(Plan(dict.fromkeys(speeds, 0.1), baselines, 100, **plan), loss)
    costs = {name: Cost(0.001 * (1 + ("+" in name)), 100.0, 10, 20) for name in speeds}
    stored = PlanFile(Path("plan.json"), {}, Costs(costs, 100.0, 0.0), 100)
    return Result("made up", "training loss", stored, findings, tuple(asked))


SLOWER = {"adamw": 1.0, "adamw+factors:2": 0.9, "adamw+radial:2": 1.3}


def test_the_headline_is_about_the_methods_asked_for_and_controls_come_after_it():
    result = result_of(SLOWER, ["adamw", "adamw+factors:2"])
    assert result.verdict is Verdict.NO
    answer, _, control = result.sentence.partition(" Control: ")
    assert answer.startswith("No. adamw alone is faster (adamw+factors:2: speed-up 0.89, ")
    assert control == "adamw+radial:2 is faster (1.29)."
    both = result_of(SLOWER, SLOWER)
    assert both.verdict is Verdict.YES
    assert both.sentence.startswith("Yes. adamw+radial:2 reaches")
    assert "Control" not in both.sentence


def test_a_bound_is_one_in_flops_and_seconds_too(tmp_path):
    result = result_of({"adamw": 1.0, "sgd": 0.1, "adamw+factors:2": 1.0}, ["adamw"])
    header, rows = result.table()
    (row,) = (dict(zip(header, row, strict=True)) for row in rows if row[0] == "sgd")
    assert row["speed-up in steps"].startswith("≤ 0.5")
    assert row["in flops"].startswith("≤ 0.")
    assert row["in seconds"].startswith("≤ 0.")
    write_result(result, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    for text in (str(result), page):
        assert text.count("≤ and ≥ mark bounds") == 1
    assert "mark bounds" not in str(result_of(SLOWER, SLOWER))


def test_over_its_own_optimizer_where_that_is_not_the_baseline():
    speeds = {"adamw": 1.0, "sgd": 0.8, "adamw+factors:2": 1.0, "sgd+rule:2": 0.96}
    result = result_of(speeds, speeds)
    header, rows = result.table()
    (column,) = (i for i, name in enumerate(header) if name == "over its own optimizer")
    cells = {row[0]: row[column] for row in rows}
    own, found = result.over_own("sgd+rule:2")
    assert own == "sgd"
    assert found.median == pytest.approx(1.2, abs=0.02)
    assert cells["sgd+rule:2"] == f"{interval(found)} faster"
    in_steps = dict(zip(header, next(r for r in rows if r[0] == "adamw+factors:2"), strict=True))
    assert cells["adamw+factors:2"].startswith(in_steps["speed-up in steps"])
    assert cells["adamw"] == cells["sgd"] == cells["A/A: adamw, other batches"] == ""
    assert all(len(row) == len(header) for row in rows)
    assert "over its own optimizer" not in result_of(SLOWER, SLOWER).table()[0]


@pytest.mark.parametrize(
    ("numbers", "shown"),
    [
        ((0.917, 0.882, 0.9961), "0.917 [0.882, 0.996]"),
        ((0.91, 0.88, 0.93), "0.91 [0.88, 0.93]"),
        ((1.2, 1.0004, 1.4), "1.2000 [1.0004, 1.4000]"),
        ((1.0, 1.0, 1.0), "1.00 [1.00, 1.00]"),
    ],
)
def test_as_many_digits_as_decide(numbers, shown):
    assert interval(SpeedUp((1.0,), *numbers, decide(*numbers), 1.1)) == shown


def test_a_ratio_without_costs_is_empty():
    found = SpeedUp((2.0, 2.0), 2.0, 2.0, 2.0, "faster", 1.1, censored=2)
    assert ratio(found, 1.5) == "≥ 1.50"
    assert ratio(found, float("nan")) == ""


def test_the_page_says_how_many_lengths_there_were(tmp_path):
    for rungs, lengths in (((0.7, 1.0, 1.4), "3 lengths, from 0.7 to 1.4 times"), (None, "5 len")):
        given = {"rungs": rungs, "extended": False} if rungs else {}
        write_result(result_of(SLOWER, SLOWER, **given), tmp_path / "page.html")
        page = (tmp_path / "page.html").read_text()
        assert f"trained with {lengths}" in page
        assert f"runs of {lengths[0]} lengths" in page
        assert ("The grid is extended" in page) is (rungs is None)
        assert "costs few flops, but time in Python on small models" in page


def test_one_smallest_effect_only(tmp_path):
    result = result_of({"adamw": 1.0, "adamw+rule:2": 1.02}, ["adamw", "adamw+rule:2"], noise=0.08)
    assert result.verdict is Verdict.TOO_EARLY
    write_result(result, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("smallest effect that could have been seen is") == 1
    assert "the smallest that" not in page
