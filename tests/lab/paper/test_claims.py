import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from overparam.lab.paper.claims import (
    Claim,
    Evidence,
    order,
    order_of_shares,
    within,
)
from overparam.lab.paper.distances import Interval, interval
from overparam.lab.verdicts import Verdict


def claim(*answers):
    return Claim("A", "B", tuple(Evidence(f"Number {i}.", a) for i, a in enumerate(answers)))


@pytest.mark.parametrize(
    ("answers", "verdict"),
    [
        ((True,), Verdict.YES),
        ((True, True), Verdict.YES),
        ((True, False), Verdict.MIXED),
        ((True, None), Verdict.MOSTLY),
        ((False,), Verdict.NO),
        ((False, None), Verdict.MOSTLY_NO),
        ((None, None), Verdict.TOO_EARLY),
    ],
)
def test_verdict_follows_from_the_evidence(answers, verdict):
    assert claim(*answers).verdict == verdict


@given(st.lists(st.sampled_from([True, False, None]), max_size=6))
def test_no_claim_holds_with_evidence_that_does_not_agree(answers):
    agree = bool(answers) and all(a is True for a in answers)
    assert (claim(*answers).verdict == Verdict.YES) == agree


def test_the_number_of_a_claim_counts_its_cases():
    assert claim(True, False).number == "1 of 2 for, 1 against"
    assert claim(True, True, False, None).number == "2 of 4 for, 1 against, 1 open"


def test_the_sentence_counts_cases_where_the_evidence_sums_them_up():
    words = ("faster in {} of {} cells", "slower in {}")
    made = Claim("A", "B", claim(True, False, None).evidence, "", (9, 25, 29), words)
    assert made.verdict == Verdict.MOSTLY_NO
    assert made.sentence == "Faster in 9 of 63 cells, slower in 25, 29 undecided: mostly no."
    assert made.number == "9 of 63 for, 25 against, 29 open"


def test_order_needs_ranges_that_do_not_overlap():
    low, high, between = Interval(1, 0.5, 2), Interval(4, 3, 5), Interval(2.5, 1.5, 3.5)
    assert order("a", low, "b", high, "x").agrees is True
    assert order("a", high, "b", low, "x").agrees is False
    assert order("a", low, "b", between, "x").agrees is None
    text = order("a", high, "b", low, "Loss").text
    assert text == "Loss: a 4 [3, 5] is above b 1 [0.5, 2]."


@pytest.mark.parametrize(
    ("value", "agrees"),
    [
        (Interval(1, 0.95, 1.05), True),
        (Interval(1, 0.85, 1.05), None),
        (Interval(2, 1.5, 3), False),
        (Interval(0.1, 0.05, 0.2), False),
    ],
)
def test_within_asks_every_seed(value, agrees):
    assert within("x", value, 0.9, 1.1).agrees is agrees


def test_shares_of_equal_methods_are_seldom_told_apart():
    """Binomial draws with the same error; ignoring the sampling error, one in four would decide."""
    draws = np.random.default_rng(0).binomial(1000, 0.05, size=(4000, 2)) / 1000
    found = [
        order_of_shares("a", interval([a]), "b", interval([b]), "error", 1000) for a, b in draws
    ]
    wrong = np.mean([item.agrees is not None for item in found])
    # Two standard errors: 4.6 % of a normal distribution lie beyond.
    assert wrong == pytest.approx(0.046, abs=0.012)


def test_shares_that_differ_by_more_are():
    for count, agrees in ((100, None), (10_000, True)):
        found = order_of_shares("a", interval([0.03]), "b", interval([0.06]), "error", count)
        assert found.agrees is agrees
    back = order_of_shares("a", interval([0.06]), "b", interval([0.03]), "error", 10_000)
    assert back.agrees is False


def test_a_share_of_a_diverged_run_is_above_every_other():
    lost = interval([math.inf])
    found = order_of_shares("a", interval([0.1]), "b", lost, "error", 10)
    assert found.agrees is True
