"""The page of all experiments: claims with verdicts first, then figures and tables."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from overparam._files import write_whole
from overparam.lab.paper.claims import Claim
from overparam.lab.paper.results import ExperimentReport
from overparam.lab.report.claims import ClaimRow, claims_html, tally
from overparam.lab.report.page import Section, slug, write_page


@dataclass(frozen=True)
class Missing:
    """An experiment that is not finished.

    Attributes:
        title: what the page calls it.
        command: the command that completes it.
    """

    title: str
    command: str


def write_reproduction(
    folder: Path,
    *,
    reports: Mapping[str, ExperimentReport],
    missing: Mapping[str, Missing],
    lead: str,
    reading: str,
    remarks: Sequence[str],
) -> None:
    """Write ``report.html``, ``verdicts.json`` and one SVG per chart.

    The same stored curves give the same bytes.

    Args:
        folder: where to write.
        reports: the finished experiments, by name.
        missing: the unfinished experiments, by name.
        lead: the paragraph below the title.
        reading: how verdicts are made, the last section.
        remarks: sentences about this run as a whole, for example on data that could not be found.
    """
    figures = folder / "figures"
    for stale in figures.glob("*.svg"):
        stale.unlink()
    sections = [Section("Claims and verdicts", _overview(reports, missing, remarks))]
    for name, report in reports.items():
        sections.append(Section(report.title, anchor=name))
        sections += report.subsections
        for section in report.subsections:
            if section.chart is not None:
                write_whole(figures / f"{name}-{slug(section.heading)}.svg", section.svg)
    sections.append(Section("How a verdict is made", f"<p>{escape(reading)}</p>"))
    write_page(
        folder / "report.html",
        title="Does the paper hold? Implicit acceleration by overparameterization, rerun",
        answer=answer(reports, missing),
        lead=lead,
        sections=sections,
    )
    write_whole(folder / "verdicts.json", _verdicts(reports, missing).encode("utf-8"))


def answer(reports: Mapping[str, ExperimentReport], missing: Mapping[str, Missing]) -> str:
    """How many claims got which verdict, in one sentence."""
    verdicts = [claim.verdict for report in reports.values() for claim in report.claims]
    if not verdicts:
        return "Too early to say: no experiment is finished."
    open_ones = "1 experiment is" if len(missing) == 1 else f"{len(missing)} experiments are"
    rest = f" {open_ones} not finished." if missing else ""
    return f"Of {len(verdicts)} claims: {tally(verdicts)}.{rest}"


def _overview(
    reports: Mapping[str, ExperimentReport], missing: Mapping[str, Missing], remarks: Sequence[str]
) -> str:
    rows = [
        ClaimRow(
            claim.verdict,
            claim.statement,
            claim.number,
            claim.authors,
            _evidence(claim),
            name,
        )
        for name, report in reports.items()
        for claim in report.claims
    ]
    rows += [
        ClaimRow(
            "not finished",
            experiment.title,
            "",
            "",
            f"<p>To complete it: <code>{escape(experiment.command)}</code></p>",
        )
        for experiment in missing.values()
    ]
    notes = "".join(f"<p class='note'>{escape(remark)}</p>" for remark in remarks)
    return notes + claims_html(rows)


def _evidence(claim: Claim) -> str:
    marks = {True: "agrees", False: "disagrees", None: "decides nothing"}
    items = "".join(
        f"<li>{escape(item.text)} <span class='note'>({marks[item.agrees]})</span></li>"
        for item in claim.evidence
    )
    why = f"<p>{escape(claim.why)}</p>" if claim.why else ""
    return f"<p>{escape(claim.sentence)}</p><ul>{items}</ul>{why}"


def _verdicts(reports: Mapping[str, ExperimentReport], missing: Mapping[str, Missing]) -> str:
    claims = [
        {"experiment": name, "verdict": claim.verdict} | dataclasses.asdict(claim)
        for name, report in reports.items()
        for claim in report.claims
    ]
    return json.dumps({"claims": claims, "not finished": sorted(missing)}, indent=2) + "\n"
