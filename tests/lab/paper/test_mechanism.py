"""The experiment on the parts of depth, on made-up curves for which the answer is known."""

import polars as pl
import pytest
from support.reproduce_curves import best_rate, study_result

from overparam.lab.methods import parse_method
from overparam.lab.paper import mechanism
from overparam.lab.paper.scale import PAPER, QUICK, STANDARD
from overparam.lab.paper.studies import (
    MECHANISM_OPTIMIZERS,
    MECHANISM_PARTS,
    mechanism_methods,
    mechanism_studies,
)

NAME = "mechanism-diabetes-p4-constant"
# The parts of gradient descent from best to worst, and what Adam gains from each.
GD = {"metric:2": 0.01, "rule:2,lam=1": 0.02, "rule:2": 0.04, "norm:2": 0.08, "": 0.2}
ADAM = {"radial:4": 0.001, "factors:2": 0.002, "": 0.004, "radial:0": 0.9}


def result():
    ends = {}
    for name in mechanism_methods():
        method = parse_method(name)
        part = name.removeprefix(method.optimizer).removeprefix("+")
        known = ADAM if method.optimizer == "adam" else GD
        ends[name] = known.get(part, known[""])
    ends["normalized"] = 0.02
    return study_result(NAME, ends)


def test_every_method_is_an_optimizer_with_or_without_a_part():
    names = mechanism_methods()
    assert len(set(names)) == len(names) == 4 + 4 * len(MECHANISM_PARTS) - 2
    assert [name for name in names if "metric" in name] == ["metric:2", "momentum+metric:2"]
    assert {parse_method(name).optimizer for name in names} == set(MECHANISM_OPTIMIZERS)


def test_the_largest_scale_is_that_of_the_question():
    studies = mechanism_studies(PAPER, "cpu")
    assert len(studies) == 5 * 3 * 2
    decayed = studies["mechanism-ethanol-p6-cosine"]
    assert (decayed.iterations, decayed.warm_up, decayed.schedule) == (20_000, 1_000, "cosine")
    constant = studies["mechanism-ethanol-p6-constant"]
    assert (constant.warm_up, constant.schedule) == (0, "constant")
    assert (constant.rates_per_decade, constant.seeds) == (8, (0, 1, 2))
    assert set(mechanism_studies(QUICK, "cpu")) == {NAME}
    assert len(mechanism_studies(STANDARD, "cpu")) == 2


def test_the_table_has_the_ends_and_the_speed_ups_of_every_method():
    made = result()
    table = mechanism.part_table(made.curves, made.optimum)
    assert set(table["method"]) == set(mechanism_methods())
    rows = {row["method"]: row for row in table.to_dicts()}
    rule = rows["momentum+rule:2"]
    assert (rule["optimizer"], rule["part"]) == ("momentum", "rule:2")
    assert rule["rate"] == best_rate(made.study)
    assert not rule["edge"]
    assert rule["distance_low"] == pytest.approx(0.04)
    assert rule["distance_high"] == pytest.approx(0.0404)
    assert rows["adam+radial:4"]["speed_up"] > 1 > rows["adam+radial:0"]["speed_up"]
    # Two curves of equal ends are compared a little above them.
    assert rows["radial:8"]["speed_up"] == rows["gd"]["speed_up"] == 1


def test_cells_say_what_diverged_and_what_lies_at_the_edge():
    made = result()
    largest = made.study.rates[-1]
    lost = pl.when(pl.col("method") == "rule:3").then(5)
    narrower = made.curves.filter((pl.col("method") != "norm:2") | (pl.col("rate") == largest))
    curves = narrower.with_columns(lost.otherwise("diverged_at").alias("diverged_at"))
    header, rows = mechanism.cell_grid(mechanism.part_table(curves, made.optimum), "distance")
    assert header == ["Part", "Gradient descent", "Heavy ball", "Normalized gradient", "Adam"]
    cells = {row[0]: row[1:] for row in rows}
    assert cells["Depth 3 (rule)"][0] == "diverged"
    assert cells["Depth 2 (norm factor)"][0] == "0.161 [0.16, 0.162] *"
    assert cells["Depth 2 (metric step)"][2:] == ["", ""]
    assert cells["Plain"][3] == "0.00402 [0.004, 0.00404]"
    _, faster = mechanism.cell_grid(mechanism.part_table(curves, made.optimum), "speed_up")
    assert [row[0] for row in faster] == [row[0] for row in rows[1:]]


def test_two_that_arrive_at_the_optimum_get_no_speed_up():
    ends = dict.fromkeys(mechanism_methods(), 1e-8) | {"rule:2": 0.1}
    made = study_result(NAME, ends)
    table = mechanism.part_table(made.curves, made.optimum)
    _, rows = mechanism.cell_grid(table, "speed_up")
    cells = {row[0]: row[1:] for row in rows}
    assert cells["Depth 2 (norm factor)"][0] == "both arrive"
    assert float(cells["Depth 2 (rule)"][0].split()[0]) < 1
    _, ends = mechanism.cell_grid(table, "distance")
    assert ends[0] == ["Plain", "0", "0", "0", "0"]


def test_claims_have_the_verdicts_of_the_ends():
    made = mechanism.report({NAME: result(), "l4-adam": None})
    verdicts = {claim.statement: claim.verdict for claim in made.claims}
    assert list(verdicts) == list(mechanism.QUESTIONS)
    assert verdicts["The stretch alone makes gradient descent faster."] == "too early"
    assert verdicts["Norm factor and stretch together are faster than either alone."] == "yes"
    assert verdicts["The metric step of depth 2 is faster than the normalized gradient."] == "yes"
    assert verdicts["Adam stretched four times is faster than Adam on two factors."] == "yes"
    # Of three stretches one is faster and two are not told apart; of three imbalances, one and two.
    evidence = {claim.statement: [e.agrees for e in claim.evidence] for claim in made.claims}
    assert evidence["A stretch makes Adam faster."] == [None, True, None]
    assert evidence["An imbalance makes the rule of depth 2 faster."] == [False, True, False]
    assert len(made.sections) == 1
    assert "diabetes, p = 4, constant lr" in made.sections[0].heading
