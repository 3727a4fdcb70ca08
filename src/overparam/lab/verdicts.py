"""The verdict that follows from the evidence for and against a claim: one system for the lab."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum


class Verdict(StrEnum):
    """What evidence says about a claim."""

    YES = "yes"
    MOSTLY = "mostly"
    MIXED = "mixed"
    MOSTLY_NO = "mostly no"
    NO = "no"
    TOO_EARLY = "too early"


def verdict_of(agreeing: Iterable[bool | None]) -> Verdict:
    """The verdict on a claim from comparisons that agree, contradict, or decide nothing.

    - too early: nothing is decided, or less than a quarter of the comparisons;
    - yes, no: all are decided, and the same way;
    - mostly, mostly no: at least two thirds of what is decided goes one way;
    - mixed: neither way has two thirds.

    Example:
        >>> verdict_of([True] * 9 + [False] * 25 + [None] * 29)
        <Verdict.MOSTLY_NO: 'mostly no'>
    """
    found = list(agreeing)
    agree, against = found.count(True), found.count(False)
    decided = agree + against
    if 4 * decided < len(found) or not decided:
        return Verdict.TOO_EARLY
    if decided == len(found) and not (agree and against):
        return Verdict.YES if agree else Verdict.NO
    if 3 * agree >= 2 * decided:
        return Verdict.MOSTLY
    return Verdict.MOSTLY_NO if 3 * against >= 2 * decided else Verdict.MIXED
