"""A claim of the paper, the evidence for and against it, and the verdict that follows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import comb, isfinite, sqrt

from overparam.lab.paper.distances import Interval
from overparam.lab.verdicts import Verdict, verdict_of


@dataclass(frozen=True)
class Evidence:
    """A comparison of numbers, in one sentence.

    Attributes:
        text: the sentence.
        agrees: whether it agrees with the claim; None if it decides nothing, for example because
            the ranges over seeds overlap.
    """

    text: str
    agrees: bool | None

    def but(self, text: str, agrees: bool | None = None) -> Evidence:
        """The evidence with another sentence behind it, by default one that leaves it undecided."""
        return Evidence(f"{self.text} {text}", agrees)


@dataclass(frozen=True)
class Claim:
    """A sentence that can be true or false, and what we know about it.

    Attributes:
        statement: the sentence.
        authors: what the authors showed, or that they did not ask.
        evidence: the comparisons that decide.
        why: what explains the verdict or limits it.
        counts: how many cases are for, against and undecided, where the evidence sums them up; by
            default each piece of evidence is one case.
        words: how to say the first two of them.
    """

    statement: str
    authors: str
    evidence: tuple[Evidence, ...]
    why: str = ""
    counts: tuple[int, int, int] | None = None
    words: tuple[str, str] = ("{} of {} comparisons agree", "{} disagree")

    @property
    def cases(self) -> tuple[int, int, int]:
        """How many cases are for, against and undecided."""
        found = Counter(item.agrees for item in self.evidence)
        return self.counts or (found[True], found[False], found[None])

    @property
    def verdict(self) -> Verdict:
        """What all cases say, see :func:`overparam.lab.verdicts.verdict_of`."""
        agree, against, undecided = self.cases
        return verdict_of([True] * agree + [False] * against + [None] * undecided)

    @property
    def sentence(self) -> str:
        """The verdict in one sentence that carries its numbers."""
        agree, against, undecided = self.cases
        good, bad = self.words
        text = f"{good.format(agree, agree + against + undecided)}, {bad.format(against)}"
        text += f", {undecided} undecided" if undecided else ""
        return f"{text[:1].upper()}{text[1:]}: {self.verdict}."

    @property
    def number(self) -> str:
        """How many cases are for it, against it and undecided, in a few words."""
        agree, against, undecided = self.cases
        text = f"{agree} of {agree + against + undecided} for, {against} against"
        return text + (f", {undecided} open" if undecided else "")


def order(better: str, first: Interval, worse: str, second: Interval, what: str) -> Evidence:
    """Whether one method's number is below another's for all seeds.

    Args:
        better: name of the method that should be lower.
        first: its number.
        worse: name of the other method.
        second: its number.
        what: the quantity, such as "distance from the optimum".

    Example:
        >>> order("A", Interval(1, 1, 2), "B", Interval(4, 3, 5), "Loss")
        Evidence(text='Loss: A 1 [1, 2] is below B 4 [3, 5].', agrees=True)
    """
    if first.below(second):
        agrees, verb = True, "is below"
    elif second.below(first):
        agrees, verb = False, "is above"
    else:
        agrees, verb = None, "overlaps over seeds with"
    sentence = f"{what[:1].upper()}{what[1:]}: {better} {first} {verb} {worse} {second}."
    return Evidence(sentence, agrees)


def too_early(evidence: Evidence, iterations: int, needed: int) -> Evidence:
    """The evidence, undecided if the run has fewer iterations than needed.

    Example:
        >>> too_early(Evidence("Nothing moves.", True), 10, 1000)
        Evidence(text='Nothing moves. Too early to tell before 1,000 iterations.', agrees=None)
    """
    if iterations >= needed:
        return evidence
    return evidence.but(f"Too early to tell before {needed:,} iterations.")


def undecided_at_edge(
    evidence: Evidence, better: tuple[str, bool], worse: tuple[str, bool]
) -> Evidence:
    """The evidence, undecided if a wider grid might help the method that is behind.

    Args:
        evidence: from :func:`order`.
        better: the method that should be lower, and whether its best lr is the smallest or the
            largest tried.
        worse: the same for the other one.

    Example:
        >>> undecided_at_edge(Evidence("A is below B.", True), ("A", False), ("B", True))
        Evidence(text='A is below B. But the best lr of B is at the edge of the grid.', agrees=None)
    """
    behind, at_edge = worse if evidence.agrees else better
    if evidence.agrees is None or not at_edge:
        return evidence
    return evidence.but(f"But the best lr of {behind} is at the edge of the grid.")


def order_of_shares(
    better: str, first: Interval, worse: str, second: Interval, what: str, count: int
) -> Evidence:
    """:func:`order` of two shares of a sample, undecided within the sampling error.

    A share ``p`` of ``n`` draws has the standard error ``sqrt(p (1 - p) / n)``. The medians must
    differ by two standard errors of the difference between independent shares. Two networks that
    are tested on the same images make similar errors, so this asks for too much, never too little.

    Args:
        better: name of the method that should be lower.
        first: its share, from 0 to 1; infinite if it diverged.
        worse: name of the other method.
        second: its share.
        what: the quantity.
        count: size of the sample behind each share.

    Example:
        >>> a, b = Interval(0.03, 0.03, 0.031), Interval(0.04, 0.039, 0.04)
        >>> order_of_shares("A", a, "B", b, "Error", 10_000).agrees
        True
        >>> order_of_shares("A", a, "B", b, "Error", 1000).agrees is None
        True
    """
    found = order(better, first, worse, second, what)
    shares = (first.median, second.median)
    if found.agrees is None or not all(map(isfinite, shares)):
        return found
    error = sqrt(sum(share * (1 - share) for share in shares) / count)
    if abs(shares[0] - shares[1]) >= 2 * error:
        return found
    return found.but(
        f"On a sample of {count:,} this is less than two standard errors of the difference "
        f"({2 * error:.2g}): too small to tell."
    )


def within(text: str, value: Interval, low: float, high: float) -> Evidence:
    """Whether a number lies within bounds for every seed; undecided if only for some.

    Example:
        >>> within("Ratio", Interval(1.0, 0.95, 1.05), 0.9, 1.1).agrees
        True
    """
    inside = low <= value.low and value.high <= high
    outside = value.high < low or value.low > high
    agrees = True if inside else False if outside else None
    # One digit more than elsewhere, because a value may lie close to a bound.
    shown = value.text(4)
    return Evidence(f"{text}: {shown}; the claim needs {low:.3g} to {high:.3g}.", agrees)


def chance_of_order(seeds: int) -> float:
    """How often :func:`order` decides between two equal methods: ``2 / C(2n, n)``.

    This is the share of orderings of ``2n`` independent draws from one distribution in which all
    draws of one method come first.

    Example:
        >>> chance_of_order(3)
        0.1
    """
    return 2 / comb(2 * seeds, seeds)
