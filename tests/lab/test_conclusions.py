import math

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overparam.lab.conclusions import conclusions


def curves_of(**finals):
    """Final losses per method name (``_`` for ``:``), one per seed, at the middle of three lrs.

    The other two lrs end higher by 1; an infinite loss means that the run diverged.
    """
    rows = []
    for name, losses in finals.items():
        method = name.replace("_", ":").replace("__", "+")
        for seed, loss in enumerate(losses):
            for rate in (0.1, 1.0, 10.0):
                last = loss + (rate != 1.0)
                diverged = 7 if last == math.inf else None
                rows.append((method, rate, seed, 0, 9.0, diverged))
                if diverged is None:
                    rows.append((method, rate, seed, 20_000, last, None))
    schema = ["method", "rate", "seed", "step", "loss", "diverged_at"]
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(
        pl.col("diverged_at").cast(pl.Int64)
    )


def text_of(optimum=0.2, **finals):
    return conclusions(curves_of(**finals), optimum)


def test_depth_helps():
    sentences = text_of(gd=[0.8, 0.82], rule_2=[0.5, 0.51], rule_3=[0.6, 0.61])
    assert sentences == [
        "Depth helps gradient descent here. Depth 2 (rule) (0.505) and Depth 3 (rule) (0.605) "
        "end lower than plain gradient descent (0.81).",
        "All losses are after 20,000 iterations, each method at its best learning rate; the "
        "optimal loss is 0.2.",
    ]


def test_depths_on_both_sides_are_both_named():
    assert text_of(gd=[0.8, 0.82], rule_2=[0.5, 0.51], rule_3=[0.9, 0.94])[0] == (
        "Depth helps gradient descent here. Depth 2 (rule) (0.505) ends lower than plain gradient "
        "descent (0.81); Depth 3 (rule) (0.92) ends higher than it."
    )


def test_losses_equal_to_three_digits_are_not_ordered():
    text = text_of(gd=[0.60541, 0.60541], rule_2=[0.60539, 0.60539], adam=[0.60538, 0.60538])
    assert text[0] == (
        "Depth does not help gradient descent here. Depth 2 (rule) (0.605) ends, to three digits, "
        "equal to plain gradient descent (0.605)."
    )
    assert text[2] == (
        "On the plain weight: Adam (0.605) ends, to three digits, equal to the best depth, "
        "Depth 2 (rule) (0.605)."
    )


def arriving(finals, **arrivals):
    """Runs that reach a loss of 0.21 at a step, for each seed, and then end at ``finals``."""
    rows = [
        (name.replace("_", ":"), 0.1 * scale, seed, step, loss, None)
        for name, steps in arrivals.items()
        for seed, reached in enumerate(steps)
        for scale in (0.5, 1.0, 2.0)
        for step, loss in (
            (0, 9.0),
            (round(reached / scale), 0.2099),
            (20_000, finals.get(name, 0.2) + abs(scale - 1)),
        )
    ]
    schema = ["method", "rate", "seed", "step", "loss", "diverged_at"]
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(
        pl.col("diverged_at").cast(pl.Int64)
    )


def test_methods_that_have_all_arrived_are_compared_by_their_iterations():
    curves = arriving({}, gd=[1128, 1128], rule_2=[296, 296], rule_4=[2000, 2000], adam=[20, 20])
    text = conclusions(curves, 0.2)
    assert text[0] == (
        "Depth helps gradient descent here. Depth 2 (rule) (148 iterations) gets to a loss of 0.21 "
        "sooner than plain gradient descent (564 iterations); Depth 4 (rule) (1,000 iterations) "
        "gets to a loss of 0.21 later than it. These all end at the optimum, to three digits."
    )
    assert text[2] == (
        "On the plain weight: Adam (10 iterations) gets to a loss of 0.21 sooner than the best "
        "depth, Depth 2 (rule) (148 iterations). These all end at the optimum, to three digits."
    )


@pytest.mark.parametrize(
    ("rule", "claim", "clause"),
    [
        ([300, 700], "It is not established that depth helps", "overlaps over seeds with"),
        ([500, 500], "Depth does not help", "gets to a loss of 0.21 later than"),
        ([400, 400], "Depth does not help", "gets to a loss of 0.21 as soon as"),
    ],
)
def test_iterations_are_ordered_by_the_rules_for_losses(rule, claim, clause):
    found = conclusions(arriving({}, gd=[400, 400], rule_2=rule), 0.2)[0]
    assert found.startswith(f"{claim} gradient descent here. Depth 2 (rule)")
    assert f"{clause} plain gradient descent (200 iterations)" in found


def test_who_has_not_arrived_is_compared_by_loss():
    curves = arriving({"rule_4": 0.3}, gd=[400], rule_2=[300], rule_4=[100])
    assert conclusions(curves, 0.2)[0] == (
        "Depth helps gradient descent here. Depth 2 (rule) (150 iterations) gets to a loss of 0.21 "
        "sooner than plain gradient descent (200 iterations). These all end at the optimum, to "
        "three digits. Depth 4 (rule) (0.3) ends higher than plain gradient descent (0.2)."
    )
    late = conclusions(arriving({"gd": 0.3}, gd=[400], rule_2=[300]), 0.2)[0]
    assert late.endswith("Depth 2 (rule) (0.2) ends lower than plain gradient descent (0.3).")


def test_depth_does_not_help():
    sentence = text_of(gd=[0.4, 0.41], rule_2=[0.5, 0.51])[0]
    assert sentence.startswith("Depth does not help gradient descent here. ")


@pytest.mark.parametrize(
    ("gd", "rule"),
    [([0.4, 0.6], [0.5, 0.55]), ([0.5, 0.55], [0.4, 0.52])],
)
def test_overlapping_seeds_establish_nothing(gd, rule):
    text = " ".join(text_of(gd=gd, rule_2=rule))
    assert "It is not established that depth helps gradient descent here. Depth 2" in text
    assert "overlaps over seeds with plain gradient descent" in text
    assert "Depth helps" not in text
    assert "Depth does not help" not in text


def test_one_seed_has_no_interval():
    sentences = text_of(gd=[0.5], rule_2=[0.4])
    assert "Depth helps gradient descent here" in sentences[0]
    assert any("There is only one seed" in sentence for sentence in sentences)
    assert not any("one seed" in s for s in text_of(gd=[0.5, 0.5], rule_2=[0.4, 0.4]))


def test_plain_optimizers_against_the_best_depth():
    text = text_of(gd=[0.8], rule_2=[0.5], rule_3=[0.45], adam=[0.3], momentum=[0.4], adagrad=[0.7])
    assert (
        "On the plain weight: Adam (0.3) and Heavy ball (0.4) end lower than the best depth, "
        "Depth 3 (rule) (0.45); AdaGrad (0.7) ends higher than it." in text
    )


def test_plain_optimizers_that_overlap_with_depth_are_not_ordered():
    text = " ".join(text_of(gd=[0.8, 0.81], rule_2=[0.49, 0.57], adam=[0.45, 0.5]))
    assert "Adam (0.475) overlaps over seeds with the best depth, Depth 2 (rule) (0.53)." in text


def test_rule_against_factors_of_the_same_depth_only():
    text = text_of(gd=[0.8], rule_2=[0.5], factors_2=[0.52], factors_3=[0.6])
    matches = [sentence for sentence in text if "explicit factors" in sentence]
    assert matches == [
        "Depth 2: the end-to-end rule ends at 0.5, the product of explicit factors ends at 0.52."
    ]


def test_methods_that_diverge_at_every_rate_are_named():
    text = text_of(gd=[math.inf], rule_2=[0.5], adam=[math.inf])
    assert "Depth 2 (rule) (0.5) ends lower than plain gradient descent (diverged)." in text[0]
    assert any("Adam (diverged) ends higher than the best depth" in sentence for sentence in text)
    assert not any(" inf" in sentence or "edge" in sentence for sentence in text)
    both = text_of(gd=[math.inf, math.inf], rule_2=[math.inf, math.inf])
    assert "Depth helps" not in " ".join(both)


def test_nothing_is_claimed_without_something_to_compare():
    for only in ({"gd": [0.5]}, {"rule_2": [0.5]}, {"adam": [0.5]}, {"gd": [0.5], "adam": [0.4]}):
        text = " ".join(text_of(**only))
        assert "depth" not in text.lower().replace("depth 2 (rule)", "")


def test_an_edge_of_the_grid_is_named():
    curves = curves_of(gd=[0.8], rule_2=[0.5], adam=[0.3])
    assert not any("edge" in sentence for sentence in conclusions(curves, 0.2))
    cut = curves.filter(~(pl.col("rate") == 10.0))
    assert any(
        "is at the edge of the grid for Adam, Depth 2 (rule) and Gradient descent: a wider"
        in sentence
        for sentence in conclusions(cut, 0.2)
    )


@pytest.mark.parametrize(
    "kept",
    [
        (pl.col("method") != "rule:2") | (pl.col("step") == 0),  # fewer iterations
        (pl.col("method") != "rule:2") | (pl.col("rate") < 5),  # fewer rates
    ],
)
def test_an_unfinished_study_compares_nothing(kept):
    text = conclusions(curves_of(gd=[0.8], rule_2=[0.5], adam=[0.3]).filter(kept), 0.2)
    assert len(text) == 1
    assert text[0].startswith("Unfinished: ")


def test_a_study_said_to_be_unfinished_compares_nothing():
    curves = curves_of(gd=[0.8], rule_2=[0.5])
    assert conclusions(curves, 0.2, finished=False)[0].startswith("Unfinished: ")


def test_a_diverged_run_does_not_make_a_study_unfinished():
    assert not text_of(gd=[0.8, math.inf], rule_2=[0.5, 0.6])[0].startswith("Unfinished")


losses = st.lists(st.floats(0.21, 5), min_size=3, max_size=3)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(gd=losses, rule=losses, adam=losses, data=st.data())
def test_every_claim_follows_from_the_numbers_in_any_order_of_rows(gd, rule, adam, data):
    curves = curves_of(gd=gd, rule_2=rule, adam=adam)
    text = conclusions(curves, 0.2)
    claim = text[0].split(" gradient descent here")[0]
    middle = {name: sorted(values)[1] for name, values in [("gd", gd), ("2", rule), ("a", adam)]}
    equal = f"{middle['gd']:.3g}" == f"{middle['2']:.3g}"
    if max(rule) < min(gd) and not equal:
        assert claim == "Depth helps"
    elif max(gd) < min(rule) or equal:
        assert claim == "Depth does not help"
    else:
        assert claim == "It is not established that depth helps"
    lower = "Adam" in text[2] and "lower than the best depth" in text[2]
    assert lower == (max(adam) < min(rule) and f"{middle['a']:.3g}" != f"{middle['2']:.3g}")
    medians = {sorted(values)[1] for values in (gd, rule, adam)}
    if len(medians) == 3:
        order = data.draw(st.permutations(range(len(curves))))
        assert conclusions(curves[list(order)], 0.2) == text
