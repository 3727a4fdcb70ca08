"""A claim of the paper, what was measured of it, and the verdict that follows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import comb, isfinite, sqrt

from overparam.lab.paper.measurements import Interval
from overparam.lab.theory.check import FAILS, HOLDS, IN_PART

UNDECIDED = "not decided"
_FEW = 3


@dataclass(frozen=True)
class Finding:
    """A sentence with its numbers.

    Attributes:
        text: what was measured.
        agrees: whether it agrees with the claim; None where it decides nothing, say because
            intervals over seeds overlap.
    """

    text: str
    agrees: bool | None


@dataclass(frozen=True)
class Claim:
    """What somebody says, and what we found.

    Attributes:
        statement: the claim, one sentence.
        authors: what the authors showed; empty for a question of ours.
        findings: what decides.
        why: what explains the verdict or limits it.
    """

    statement: str
    authors: str
    findings: tuple[Finding, ...]
    why: str = ""

    @property
    def verdict(self) -> str:
        """``holds`` where every finding that decides agrees, ``holds in part`` where some do."""
        decided = [finding.agrees for finding in self.findings if finding.agrees is not None]
        if not decided:
            return UNDECIDED
        if all(decided):
            # One finding that decides nothing keeps the claim from holding as a whole.
            return HOLDS if len(decided) == len(self.findings) else IN_PART
        return IN_PART if any(decided) else FAILS

    @property
    def measured(self) -> str:
        """The findings in short: all of them where they are few, else how they divide."""
        if len(self.findings) <= _FEW:
            return " ".join(finding.text for finding in self.findings)
        counts = Counter(finding.agrees for finding in self.findings)
        words = {True: "agree", False: "disagree", None: "decide nothing"}
        parts = [f"{counts[key]} {word}" for key, word in words.items() if counts[key]]
        return f"Of {len(self.findings)} comparisons, listed below, {', '.join(parts)}."


def order(better: str, first: Interval, worse: str, second: Interval, what: str) -> Finding:
    """Whether one method's number is below another's, over all seeds.

    Args:
        better: name of the method that should be lower.
        first: its number.
        worse: name of the other.
        second: its number.
        what: the quantity, such as "distance from the optimum".

    Example:
        >>> order("A", Interval(1, 1, 2), "B", Interval(4, 3, 5), "Loss")
        Finding(text='Loss: A 1 [1, 2] is below B 4 [3, 5].', agrees=True)
    """
    if first.below(second):
        agrees, verb = True, "is below"
    elif second.below(first):
        agrees, verb = False, "is above"
    else:
        agrees, verb = None, "overlaps over seeds with"
    sentence = f"{what[:1].upper()}{what[1:]}: {better} {first} {verb} {worse} {second}."
    return Finding(sentence, agrees)


def too_early(finding: Finding, iterations: int, needed: int) -> Finding:
    """The finding, which decides nothing in a run of fewer iterations than are needed.

    Example:
        >>> too_early(Finding("Nothing moves.", True), 10, 1000)
        Finding(text='Nothing moves. Too early to tell before 1,000 iterations.', agrees=None)
    """
    if iterations >= needed:
        return finding
    return Finding(f"{finding.text} Too early to tell before {needed:,} iterations.", None)


def unless_at_edge(finding: Finding, names: tuple[str, str], edges: tuple[bool, bool]) -> Finding:
    """The finding, undecided where a wider grid might help the one that is behind.

    Args:
        finding: of :func:`order`.
        names: of the method that should be lower, and of the other.
        edges: whether the best rate of each is the smallest or the largest tried.

    Example:
        >>> unless_at_edge(Finding("A is below B.", True), ("A", "B"), (False, True))
        Finding(text='A is below B. But the best rate of B is the last of the grid.', agrees=None)
    """
    behind = 1 if finding.agrees else 0
    if finding.agrees is None or not edges[behind]:
        return finding
    text = f"{finding.text} But the best rate of {names[behind]} is the last of the grid."
    return Finding(text, None)


def order_of_shares(
    better: str, first: Interval, worse: str, second: Interval, what: str, count: int
) -> Finding:
    """:func:`order` of two shares of a sample, undecided within its sampling error.

    A share ``p`` of ``n`` draws has the standard error ``sqrt(p (1 - p) / n)``. Medians must differ
    by two standard errors of the difference of independent shares. Of two networks tested on the
    same images the errors are rather alike, so that this asks for too much, never for too little.

    Args:
        better: name of the method that should be lower.
        first: its share, from 0 to 1; infinite where it diverged.
        worse: name of the other.
        second: its share.
        what: the quantity.
        count: size of the sample that each share was counted on.

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
    text = f"{found.text} On a sample of {count:,} two standard errors of the difference are"
    return Finding(f"{text} {2 * error:.2g}: too few to tell.", None)


def within(text: str, value: Interval, low: float, high: float) -> Finding:
    """Whether a number lies within bounds for every seed; undecided where only for some.

    Example:
        >>> within("Ratio", Interval(1.0, 0.95, 1.05), 0.9, 1.1).agrees
        True
    """
    inside = low <= value.low and value.high <= high
    outside = value.high < low or value.low > high
    agrees = True if inside else False if outside else None
    # A digit more than elsewhere: a value may lie near a bound.
    shown = value.text(4)
    return Finding(f"{text}: {shown}, between {low:.3g} and {high:.3g} would agree.", agrees)


def chance_of_order(seeds: int) -> float:
    """How often :func:`order` decides though two methods do not differ: ``2 / C(2n, n)``.

    Of the orders of ``2n`` independent draws of one distribution, those with all of one method
    first.

    Example:
        >>> chance_of_order(3)
        0.1
    """
    return 2 / comb(2 * seeds, seeds)
