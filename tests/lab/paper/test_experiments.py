"""Verdicts of the experiments on made-up curves for which the answer is known."""

import dataclasses
import math

import polars as pl
import pytest
from support.reproduce_curves import OPTIMUM, STUDIES, best_rate, depths, study_result

from overparam.lab.paper import (
    controls,
    depth_map,
    emulation,
    initialization,
    tuned,
)
from overparam.lab.paper.scale import PAPER
from overparam.lab.paper.studies import regression_studies


def at_the_authors_horizon(result):
    """The same curves, with every step counted as a thousand."""
    study = dataclasses.replace(result.study, iterations=1000 * result.study.iterations)
    return dataclasses.replace(
        result, study=study, curves=result.curves.with_columns(pl.col("step") * 1000)
    )


def narrower(result):
    """The same without the largest lr, so that the best one is the largest."""
    largest = pl.col("rate") == result.study.rates[-1]
    return dataclasses.replace(result, curves=result.curves.filter(~largest))


def verdicts(report):
    return [claim.verdict for claim in report.claims]


def fixed(depth2, depth3, wide2, wide3, gd=0.5):
    ends = {"gd": gd, "factors:2": depth2, "rule:2": depth2, "factors:3": depth3, "rule:3": depth3}
    wide = {"factors:2": wide2, "factors:3": wide3}
    return {
        f"{loss}-{kind}": study_result(f"{loss}-{kind}", values)
        for loss in ("l2", "l4")
        for kind, values in (("fixed", ends), ("fixed-wide", wide))
    }


def test_equal_curves_hold_and_a_wider_layer_that_differs_does_not():
    made = emulation.report(fixed(0.2, 0.1, 0.1, 0.02))
    assert verdicts(made) == ["yes", "no", "yes"]
    made = emulation.report(fixed(0.2, 0.3, 0.2, 0.3, gd=0.1))
    assert verdicts(made) == ["yes", "yes", "no"]


def test_curves_that_differ_say_how_much_later_the_higher_one_catches_up():
    made = emulation.report(fixed(0.2, 0.1, 0.1, 0.02)).claims
    assert "further apart" not in "".join(item.text for item in made[0].evidence)
    # Width 100 ends lower than width 1 ever gets.
    texts = [e.text for e in made[1].evidence if "along the way" in e.text]
    assert all(text.endswith("never catches up in 2 of 2 seeds.") for text in texts)
    early = pl.DataFrame({"step": [1, 9, 99], "distance": [9.0, 4.0, 1.0]})
    late = pl.DataFrame({"step": [1, 9, 99], "distance": [9.0, 8.0, 1.0]})
    never = late.with_columns(distance=pl.Series([9.0, 8.0, 2.0]))
    text = emulation._lag({0: early, 1: early}, {0: late, 1: never}, 99)
    # From 8 at step 9 to 4, on the way to 1 at step 99. The other one ends at 2, above 1.
    lag = 9 * 11 ** (math.log(2) / math.log(8)) - 9
    expected = f" {lag:.0f} of 99 iterations later and never catches up in 1 of 2 seeds."
    assert text.endswith(expected)


def test_curves_that_have_not_moved_decide_nothing():
    made = emulation.report(fixed(0.98, 0.99, 0.98, 0.99, gd=0.5))
    assert verdicts(made)[:2] == ["too early", "too early"]


def test_one_that_has_moved_and_one_that_has_not_decide_nothing():
    rule, width, faster = emulation.report(fixed(0.2, 0.98, 0.2, 0.1, gd=0.5)).claims
    assert [e.agrees for e in rule.evidence] == [True, True, None, True, True, None]
    assert [e.agrees for e in width.evidence] == [True, True, None, True, True, None]
    assert [e.agrees for e in faster.evidence] == [None, True, None, True]


def test_a_rule_that_ends_elsewhere_is_found():
    results = fixed(0.2, 0.1, 0.2, 0.1)
    ends = {"gd": 0.5, "factors:2": 0.2, "rule:2": 0.3, "factors:3": 0.1, "rule:3": 0.1}
    results["l4-fixed"] = study_result("l4-fixed", ends)
    claim = emulation.report(results).claims[0]
    assert claim.verdict == "mostly"
    bad = [item.text for item in claim.evidence if item.agrees is False]
    assert [text[:11] for text in bad] == ["L4, depth 2"]


@pytest.mark.parametrize(
    ("l2", "l4", "expected"),
    [
        ((0.1, 0.2, 0.3), (0.3, 0.2, 0.1), ["yes", "yes"]),
        ((0.3, 0.2, 0.1), (0.1, 0.2, 0.3), ["no", "no"]),
        ((0.1, 0.2, 0.15), (0.3, 0.3, 0.1), ["mixed", "mostly"]),
    ],
)
def test_order_of_depths(l2, l4, expected):
    results = {
        "l2-tuned": study_result("l2-tuned", depths(*l2)),
        "l4-tuned": study_result("l4-tuned", depths(*l4)),
    }
    made = tuned.report(results)
    assert verdicts(made) == expected
    # The table has the best of the three lrs, and the distance on the paper's grid alone.
    html = made.sections[1].body_html
    assert f">{best_rate(STUDIES['l2-tuned']):.3g}</td>" in html
    # Without the largest lr, the best one is the largest: a wider grid might reverse the order.
    made = tuned.report({name: narrower(result) for name, result in results.items()})
    assert verdicts(made) == ["too early", "too early"]
    assert f"{best_rate(STUDIES['l2-tuned']):.3g} (edge of the grid)" in made.sections[1].body_html
    assert "is at the edge of the grid" in made.claims[0].evidence[0].text


def test_an_order_that_the_grid_decides_is_undecided():
    """Three layers are ahead at a single lr, and behind two layers at all others."""
    results = {
        "l2-tuned": study_result("l2-tuned", depths(0.1, 0.2, 0.3)),
        "l4-tuned": study_result("l4-tuned", depths(0.5, 0.2, 0.1)),
    }
    assert [e.agrees for e in tuned.report(results).claims[1].evidence] == [True, True]
    lucky = results["l4-tuned"]
    rate = best_rate(lucky.study)
    worse = pl.when(pl.col("rate") != rate, pl.col("method") == "factors:3", pl.col("step") > 0)
    curves = lucky.curves.with_columns(worse.then(OPTIMUM + 0.5).otherwise("loss").alias("loss"))
    results["l4-tuned"] = dataclasses.replace(lucky, curves=curves)
    three_two, two_one = tuned.report(results).claims[1].evidence
    assert (three_two.agrees, two_one.agrees) == (None, True)
    assert three_two.text.endswith("With only every other learning rate this is not always so.")


def test_layers_that_wait_near_their_start_are_judged_at_the_authors_horizon_alone():
    results = {
        "l2-tuned": study_result("l2-tuned", depths(0.1, 0.2, 0.3)),
        "l4-tuned": study_result("l4-tuned", depths(0.3, 0.2, 0.97)),
    }
    three_two, two_one = tuned.report(results).claims[1].evidence
    assert (three_two.agrees, two_one.agrees) == (None, True)
    assert "A seed of 3 layers is near its start. Too early to tell" in three_two.text
    results["l4-tuned"] = study_result("l4-tuned", depths(0.3, 0.2, 5.0))
    assert tuned.report(results).claims[1].evidence[0].agrees is False  # far above its start
    assert "start" not in tuned.report(results).claims[1].evidence[0].text
    results["l4-tuned"] = study_result(
        "l4-tuned", depths(0.3, 0.2, 0.97), spread=0.5
    )  # one seed waits
    assert tuned.report(results).claims[1].evidence[0].agrees is None
    results["l4-tuned"] = study_result("l4-tuned", depths(0.3, 0.2, 0.8))
    assert tuned.report(results).claims[1].evidence[0].agrees is False  # has left it
    lost = study_result("l4-tuned", depths(0.3, 0.2, 0.97))
    diverged = pl.when(pl.col("method") == "factors:3").then(60)
    curves = lost.curves.with_columns(diverged.otherwise("diverged_at").alias("diverged_at"))
    results["l4-tuned"] = dataclasses.replace(lost, curves=curves)
    assert "start" not in tuned.report(results).claims[1].evidence[0].text
    late = study_result("l4-tuned", depths(0.3, 0.2, 0.97))
    late = at_the_authors_horizon(at_the_authors_horizon(late))
    results["l4-tuned"] = late
    assert [e.agrees for e in tuned.report(results).claims[1].evidence] == [False, True]


def test_depth_against_adaptive_methods():
    results = {
        "l4-tuned": study_result("l4-tuned", depths(0.3, 0.2, 0.1)),
        "l4-adaptive": study_result("l4-adaptive", {"adagrad": 0.2, "adadelta": 0.05}),
    }
    assert verdicts(tuned.adaptive_report(results)) == ["mixed"]


def test_depth_for_adam():
    ends = {"adam": 0.3, "adam+factors:2": 0.2, "adam+factors:3": 0.1}
    assert verdicts(tuned.adam_report({"l4-adam": study_result("l4-adam", ends)})) == ["yes"]
    same = dict.fromkeys(ends, 0.2)
    assert verdicts(tuned.adam_report({"l4-adam": study_result("l4-adam", same)})) == ["too early"]


def test_initialization():
    near = {"gd": 0.2, "factors:4": 0.97, "factors:8": 0.99}
    results = {
        "l4-near-zero": study_result("l4-near-zero", near),
        "l4-residual": study_result("l4-residual", {"factors:4": 0.1, "factors:8": 0.05}),
    }
    early = initialization.report(results)
    assert verdicts(early) == ["too early", "yes"]
    results["l4-near-zero"] = at_the_authors_horizon(results["l4-near-zero"])
    assert verdicts(initialization.report(results)) == ["yes", "yes"]
    results["l4-identity"] = study_result("l4-identity", {"factors:4": 0.3, "factors:8": 0.4})
    assert verdicts(initialization.report(results)) == ["yes", "mixed"]
    # One layer is compared only at the lrs that the full identity has too.
    near_zero = results["l4-near-zero"]
    fine = next(r for r in near_zero.study.rates if r not in results["l4-identity"].study.rates)
    better = near_zero.curves.filter(pl.col("rate") == near_zero.study.rates[-1]).with_columns(
        pl.lit(fine).alias("rate"),
        pl.when(pl.col("step") > 0, pl.col("method") == "gd")
        .then(OPTIMUM + 0.01)
        .otherwise("loss")
        .alias("loss"),
    )
    curves = pl.concat([near_zero.curves, better])
    results["l4-near-zero"] = dataclasses.replace(near_zero, curves=curves)
    texts = [item.text for item in initialization.report(results).claims[1].evidence]
    assert ["1 layer 0.01" in text for text in texts] == [False, True, True, False, False, False]
    assert all("1 layer 0.2" in text for text in texts[4:])
    near = {"gd": 0.2, "factors:4": 0.01, "factors:8": 0.01}
    results["l4-near-zero"] = study_result("l4-near-zero", near)
    assert verdicts(initialization.report(results))[0] == "no"


def test_eight_layers_above_four_may_be_below_one():
    near = {"gd": 0.2, "factors:4": 0.97, "factors:8": 0.99}
    results = {
        "l4-near-zero": study_result("l4-near-zero", near),
        "l4-residual": study_result("l4-residual", {"factors:4": 0.1, "factors:8": 0.15}),
    }
    evidence = initialization.report(results).claims[1].evidence
    assert [item.agrees for item in evidence] == [False, True, True]


def diverging(result, method, seeds=(0, 1)):
    """Seeds of a method diverge right after the first record, at which all are at their start."""
    lost = (pl.col("method") == method) & pl.col("seed").is_in(seeds)
    curves = result.curves.filter(~lost | (pl.col("step") < 10)).with_columns(
        diverged_at=pl.when(lost).then(7).otherwise("diverged_at")
    )
    return dataclasses.replace(result, curves=curves)


def test_what_diverges_is_not_near_its_start():
    results = fixed(0.2, 0.1, 0.2, 0.1)
    results["l4-fixed"] = diverging(results["l4-fixed"], "rule:3")
    rule, width, faster = emulation.report(results).claims
    assert [e.agrees for e in rule.evidence] == [True] * 6 + [False]
    assert rule.evidence[-1].text.endswith("of 2 seeds each, 2 of rule, 0 of layers diverge.")
    results["l4-fixed"] = diverging(diverging(results["l4-fixed"], "factors:3"), "factors:2", [1])
    rule, width, faster = emulation.report(results).claims
    assert [e.agrees for e in rule.evidence] == [True] * 4 + [None, None]
    assert rule.evidence[-1].text.endswith("2 of rule, 2 of layers diverge.")
    assert rule.evidence[-2].text.endswith("0 of rule, 1 of layers diverge.")
    assert [e.agrees for e in width.evidence[4:]] == [None, False]
    # Three layers diverge and are behind two, of which one seed diverges: not decided. None waits.
    assert [e.agrees for e in faster.evidence[2:]] == [None, None]
    assert "start" not in "".join(e.text for e in faster.evidence)
    results["l4-fixed"] = diverging(fixed(0.2, 0.1, 0.2, 0.1)["l4-fixed"], "factors:3")
    faster = emulation.report(results).claims[2]
    assert [e.agrees for e in faster.evidence[2:]] == [False, True]


def test_round_off_agrees_with_round_off():
    ends = {"gd": 0.5, "factors:2": 1e-9, "rule:2": 3e-9, "factors:3": 1e-9, "rule:3": 1e-12}
    results = fixed(0.2, 0.1, 0.2, 0.1) | {"l4-fixed": study_result("l4-fixed", ends)}
    rule = emulation.report(results).claims[0]
    assert [e.agrees for e in rule.evidence if "last distance" in e.text] == [True] * 4


def test_controls_are_compared_with_the_best_depth():
    others = {"momentum": 0.05, "nesterov": 0.2, "normalized": 0.2, "loss_scaled": 0.2, "adam": 0.2}
    assert "loss_scaled" not in STUDIES["l2-controls"].methods
    results = {}
    for loss in ("l2", "l4"):
        results[f"{loss}-tuned"] = study_result(f"{loss}-tuned", depths(0.3, 0.1, 0.2))
        results[f"{loss}-controls"] = study_result(f"{loss}-controls", others)
        results[f"{loss}-adaptive"] = study_result(
            f"{loss}-adaptive", {"adagrad": 0.2, "adadelta": 0.2}
        )
    newton = pl.DataFrame({"method": ["Newton"] * 2, "step": [0, 1], "loss": [1.25, OPTIMUM]})
    made = controls.report(
        results, {"l2": newton, "l4": newton}, {"l4": {"gd": 2.0, "Newton": 3.0}}
    )
    l4, l2 = made.claims
    assert (l4.verdict, l2.verdict) == ("mostly", "mostly")
    assert [e.agrees for e in l4.evidence] == [False, True, True, True, True]
    assert len(l2.evidence) == 4  # at p = 2 the step scaled by the loss is gradient descent
    table = made.sections[2].body_html
    assert "1 · 3 s" in table
    assert "not reached" in table


def map_result_of(gd, deeper, power=4):
    name = f"map-diabetes-p{power}"
    methods = STUDIES[name].methods
    ends = {m: deeper if "+" in m or ":" in m else gd for m in methods}
    return study_result(name, ends)


@pytest.mark.parametrize(
    ("plain", "deep", "outcome", "agrees"),
    [(0.1, 1e-4, "faster", True), (1e-4, 0.1, "slower", False), (0.1, 0.02, "not decided", None)],
)
def test_cells_of_the_map(plain, deep, outcome, agrees):
    table = depth_map.depth_table([map_result_of(plain, deep)])
    assert set(table["outcome"]) == {outcome}
    assert len(table) == 3 * 7
    assert not table["edge"].any()
    # The logarithms of geometric curves have the same ratio at every step. Below the
    # step of the grid, 10^(1/3), nothing is decided.
    expected = math.log(deep) / math.log(plain)
    assert table["speed_up"].to_list() == pytest.approx([expected] * 21, rel=0.4)
    grids = (
        depth_map.report({f"map-diabetes-p{p}": map_result_of(plain, deep, p) for p in (2, 4, 6)})
        .sections[0]
        .body_html
    )
    for p in (2, 4, 6):
        rates = STUDIES[f"map-diabetes-p{p}"].rates
        assert f"{len(rates)} from {rates[0]:.2g} to {rates[-1]:.2g} at p = {p}" in grids
    edge = depth_map.depth_table([narrower(map_result_of(plain, deep))])
    assert (set(edge["outcome"]), edge["edge"].all()) == ({"not decided"}, True)
    results = {f"map-diabetes-p{p}": map_result_of(plain, deep, p) for p in (2, 4, 6)}
    for claim in depth_map.report(results).claims:
        assert [item.agrees for item in claim.evidence] == [agrees]
        assert "in 21 of 21 cells (p = 2: 7, p = 4: 7, p = 6: 7)" in claim.evidence[0].text


def test_slower_cells_say_where_depth_waits_near_its_start():
    results = {f"map-diabetes-p{p}": map_result_of(0.1, 0.97, p) for p in (2, 4)}
    results["map-diabetes-p6"] = map_result_of(1e-4, 0.1, 6)
    for claim in depth_map.report(results).claims:
        assert claim.evidence[0].text.endswith(
            "in 21 of 21 cells (p = 2: 7, p = 4: 7, p = 6: 7); in 14 of them a seed of depth "
            "is near its start."
        )


def test_seeds_on_both_sides_of_one_decide_nothing():
    result = map_result_of(0.1, 0.1)
    curves = result.curves.with_columns(
        pl.when((pl.col("method") == "rule:2") & (pl.col("seed") == 0) & (pl.col("step") > 0))
        .then(OPTIMUM + (pl.col("loss") - OPTIMUM) * 0.5)
        .when((pl.col("method") == "rule:2") & (pl.col("seed") == 1) & (pl.col("step") > 0))
        .then(OPTIMUM + (pl.col("loss") - OPTIMUM) * 2)
        .otherwise("loss")
        .alias("loss")
    )
    table = depth_map.depth_table([dataclasses.replace(result, curves=curves)])
    cell = table.filter((pl.col("optimizer") == "Gradient descent") & (pl.col("depth") == "rule 2"))
    assert cell["outcome"].to_list() == ["not decided"]
    assert cell["low"].item() < 1 < cell["high"].item()


def test_authors_values_are_shown_beside_ours_with_a_note_if_horizons_differ():
    studies = regression_studies(PAPER, "ethanol", 128, "cpu")
    results = {
        "l2-tuned": study_result("l2-tuned", depths(0.1, 0.2, 0.3)),
        "l4-tuned": study_result("l4-tuned", depths(0.3, 0.2, 0.1)),
    }
    assert "Not comparable" in tuned.report(results).sections[0].body_html
    same = {
        name: dataclasses.replace(result, study=studies[name]) for name, result in results.items()
    }
    html = tuned.report(same).sections[0].body_html
    assert "Not comparable" not in html
    assert "2.7e-3" in html
