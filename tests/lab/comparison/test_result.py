"""What a result says, with outcomes that are made up."""

import math
from pathlib import Path

import pytest
from support.comparison_cases import play, power_law

from overparam.lab.comparison.costs import Cost, Costs
from overparam.lab.comparison.methods import parse_method
from overparam.lab.comparison.page import write_result
from overparam.lab.comparison.plans import PlanFile
from overparam.lab.comparison.protocol import Outcome, Plan, Trial
from overparam.lab.comparison.result import Result, interval, ratio
from overparam.lab.comparison.statistics import SpeedUp, decide
from overparam.lab.verdicts import Verdict

PLAIN = ("adamw", "sgd")


def result_of(speeds, asked, noise=0.002, after=1.0, **plan) -> Result:
    """Methods with these planted speed-ups in steps; those with depth cost twice the time.

    The losses of the confirmation are ``after`` times higher than those of tuning.
    """
    made = power_law(0, noise, 1.0)

    def loss(trial):
        late = after if trial.seed < 1000 else 1.0
        return made(trial) * speeds[trial.method] ** -0.7 * late

    baselines = tuple(name for name in speeds if parse_method(name).is_baseline)
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


def test_its_own_optimizer_is_the_one_with_most_of_its_options():
    decayed = "sgd(weight_decay=0.5)"
    speeds = {"adamw": 1.2, "sgd": 1.0, decayed: 0.8, f"{decayed}+rule:2": 0.8, "sgd+rule:2": 1.0}
    result = result_of(speeds, speeds)
    assert result.over_own(f"{decayed}+rule:2")[0] == decayed
    assert result.over_own("sgd+rule:2")[0] == "sgd"


def test_options_may_be_lists():
    name = "adamw(betas=[0.9, 0.95])"
    result = result_of({name: 1.0, f"{name}+factors:2": 1.0}, [name])
    assert result.over_own(f"{name}+factors:2")[0] == name


def test_where_no_method_with_depth_was_asked_for_the_answer_says_so():
    result = result_of({"adamw": 1.0, "sgd": 0.5}, PLAIN)
    failed = Outcome(math.inf, failure="diverged at step 3")
    result.findings.outcomes[Trial("sgd", 99.0, 100, 0)] = failed
    assert result.failures
    assert result.sentence == (
        "adamw is the best of the methods without depth; none with depth was compared."
    )


def test_what_the_lengths_do_not_show_is_not_known():
    """The confirmation ends higher than the target of tuning, for all methods alike."""
    speeds = {"adamw": 1.0, "adamw+factors:2": 1.0, "adamw+radial:2": 1.0}
    result = result_of(speeds, ["adamw", "adamw+factors:2"], after=10.0)
    assert result.verdict is Verdict.TOO_EARLY
    assert result.sentence == (
        "Too early to say. For 5 of 5 seeds neither adamw nor adamw+factors:2 reaches the loss of "
        "the tuning within the lengths that were run, or both do in the shortest. "
        "Control: adamw+radial:2 is undecided (not known)."
    )
    header, rows = result.table()
    cells = [dict(zip(header, row, strict=True)) for row in rows]
    shown = [(c["speed-up in steps"], c["in flops"], c["in seconds"], c["verdict"]) for c in cells]
    assert shown[1:] == [("not known", "", "", "too early")] * 2 + [("not known", "", "", "")]
    assert "were run: adamw+factors:2 (5 of 5), adamw+radial:2 (5 of 5). Fewer" in str(result)


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
