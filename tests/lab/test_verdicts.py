import pytest
from hypothesis import given
from hypothesis import strategies as st

from overparam.lab.verdicts import Verdict, verdict_of


@pytest.mark.parametrize(
    ("agree", "against", "undecided", "verdict"),
    [
        (0, 0, 0, Verdict.TOO_EARLY),
        (0, 0, 5, Verdict.TOO_EARLY),
        (1, 0, 4, Verdict.TOO_EARLY),  # too little is decided
        (1, 0, 3, Verdict.MOSTLY),
        (3, 0, 0, Verdict.YES),
        (2, 1, 0, Verdict.MOSTLY),
        (3, 2, 0, Verdict.MIXED),
        (1, 2, 0, Verdict.MOSTLY_NO),
        (9, 25, 29, Verdict.MOSTLY_NO),
        (0, 4, 1, Verdict.MOSTLY_NO),
        (0, 4, 0, Verdict.NO),
    ],
)
def test_the_verdict_follows_from_the_counts(agree, against, undecided, verdict):
    assert verdict_of([True] * agree + [None] * undecided + [False] * against) == verdict


@given(st.lists(st.sampled_from([True, False, None])))
def test_turning_all_evidence_round_turns_the_verdict_round(answers):
    turned = {
        Verdict.YES: Verdict.NO,
        Verdict.MOSTLY: Verdict.MOSTLY_NO,
        Verdict.MOSTLY_NO: Verdict.MOSTLY,
        Verdict.NO: Verdict.YES,
    }
    verdict = verdict_of(answers)
    opposite = verdict_of(None if a is None else not a for a in answers)
    assert opposite == turned.get(verdict, verdict)
