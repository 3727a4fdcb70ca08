import re
from fractions import Fraction
from pathlib import Path

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


# docs/howto/report.md, word for word: its table is checked against the rule on every count.
QUARTER, TWO_THIRDS = Fraction(1, 4), Fraction(2, 3)
CONDITIONS = {
    "nothing is decided, or less than a quarter of the comparisons": (
        lambda a, b, n: a + b == 0 or Fraction(a + b, n) < QUARTER
    ),
    "all are decided, and all are for": lambda a, b, n: a == n,
    "all are decided, and all are against": lambda a, b, n: b == n,
    "at least two thirds of the decided are for": lambda a, b, n: Fraction(a, a + b) >= TWO_THIRDS,
    "at least two thirds of the decided are against": (
        lambda a, b, n: Fraction(b, a + b) >= TWO_THIRDS
    ),
    "neither side has two thirds of the decided": lambda a, b, n: True,
}


def explained() -> list[tuple[str, str, str]]:
    page = Path(__file__).parents[2] / "docs" / "howto" / "report.md"
    section = page.read_text(encoding="utf-8").partition("## Words of a verdict")[2]
    rows = re.findall(r"^\| ([^|-]+) \| ([^|]+) \| ([^|]+) \|$", section, re.MULTILINE)
    return rows[1:]


def counted(agree: int, against: int, undecided: int) -> Verdict:
    return verdict_of([True] * agree + [False] * against + [None] * undecided)


def test_the_guide_explains_every_word():
    assert sorted(word for word, *_ in explained()) == sorted(Verdict)
    assert {condition for _, condition, _ in explained()} == set(CONDITIONS)


@pytest.mark.parametrize(("word", "condition", "example"), explained())
def test_examples_of_the_guide_have_its_words(word, condition, example):
    agree, against, undecided = map(int, example.split(","))
    assert counted(agree, against, undecided) == word
    assert CONDITIONS[condition](agree, against, agree + against + undecided)


def test_the_first_row_of_the_guide_that_applies_is_the_rule():
    rows = explained()
    for agree in range(9):
        for against in range(9):
            for undecided in range(25):
                total = agree + against + undecided
                word = next(w for w, c, _ in rows if CONDITIONS[c](agree, against, total))
                assert counted(agree, against, undecided) == word, (agree, against, undecided)
