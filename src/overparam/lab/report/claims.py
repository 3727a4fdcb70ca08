"""Claims on a page: rows of verdict, sentence, number and the authors' value, evidence folded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from overparam.lab.verdicts import Verdict

_MARKS: Mapping[str, tuple[str, str]] = {
    Verdict.YES: ("holds", "✓"),
    Verdict.MOSTLY: ("holds", "✓"),
    Verdict.MIXED: ("part", "≈"),
    Verdict.MOSTLY_NO: ("fails", "✗"),
    Verdict.NO: ("fails", "✗"),
}
_OPEN = ("open", "?")


@dataclass(frozen=True)
class ClaimRow:
    """One claim.

    Attributes:
        verdict: a word of :class:`~overparam.lab.verdicts.Verdict`, or of one's own.
        sentence: the claim, plain text.
        number: what was measured, in a few words.
        authors: what the authors showed, plain text; may be empty.
        evidence_html: everything behind it, HTML.
        link: target on the page with charts and tables; may be empty.
    """

    verdict: str
    sentence: str
    number: str
    authors: str = ""
    evidence_html: str = ""
    link: str = ""


def claims_html(rows: Sequence[ClaimRow], whose: str = "Authors") -> str:
    """The rows, each a button that unfolds its evidence; ``whose`` names the last column."""
    return f"<div class='claims'>{''.join(_row(row, whose) for row in rows)}</div>"


def tally(verdicts: Iterable[str]) -> str:
    """How often each verdict was given, in words.

    Example:
        >>> tally(["yes", "no", "yes", "too early"])
        '2 yes, 1 no, 1 too early'
    """
    found = Counter(map(str, verdicts))
    order = [str(v) for v in Verdict]
    names = sorted(found, key=lambda name: order.index(name) if name in order else len(order))
    return ", ".join(f"{found[name]} {name}" for name in names)


def _row(row: ClaimRow, whose: str) -> str:
    kind, mark = _MARKS.get(row.verdict, _OPEN)
    authors = escape(f"{whose}: {row.authors}") if row.authors else ""
    head = (
        f"<span class='verdict {kind}'><span aria-hidden='true'>{mark}</span> "
        f"{escape(row.verdict)}</span><span class='sentence'>{escape(row.sentence)}</span>"
        f"<span class='number'>{escape(row.number)}</span><span class='authors'>{authors}</span>"
    )
    link = f"<p><a href='#{row.link}'>Figures and tables</a></p>" if row.link else ""
    if not row.evidence_html and not link:
        return f"<div class='claim'><div class='head'>{head}</div></div>"
    return (
        f"<details class='claim'><summary class='head'>{head}</summary>"
        f"<div class='evidence'>{row.evidence_html}{link}</div></details>"
    )
