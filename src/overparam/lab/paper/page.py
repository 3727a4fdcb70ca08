"""The page of all experiments: claims with verdicts first, then figures and tables."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from html import escape
from pathlib import Path

from overparam._files import write_whole
from overparam.lab.paper.claims import Claim
from overparam.lab.paper.experiments import EXPERIMENTS
from overparam.lab.paper.results import ExperimentReport
from overparam.lab.report.claims import ClaimRow, claims_html, tally
from overparam.lab.report.page import Section, slug, write_page


def write_reproduction(
    folder: Path,
    *,
    reports: Mapping[str, ExperimentReport],
    missing: Mapping[str, str],
    lead: str,
    reading: str,
    remarks: Sequence[str],
) -> None:
    """Write ``report.html``, ``verdicts.json`` and one SVG per chart.

    The same stored curves give the same bytes.

    Args:
        folder: where to write.
        reports: the finished experiments, by name.
        missing: the command that completes each unfinished experiment, by name.
        lead: the paragraph below the title.
        reading: how verdicts are made, the last section.
        remarks: sentences about this run as a whole, for example on data that could not be found.
    """
    figures = folder / "figures"
    for stale in figures.glob("*.svg"):
        stale.unlink()
    sections = [Section("Claims and verdicts", _overview(reports, missing, remarks))]
    for name, report in reports.items():
        sections.append(Section(report.title, anchor=name, subsections=report.sections))
        for section in report.sections:
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
    claims = [
        {"experiment": name, "verdict": claim.verdict} | dataclasses.asdict(claim)
        for name, report in reports.items()
        for claim in report.claims
    ]
    verdicts = json.dumps({"claims": claims, "not finished": sorted(missing)}, indent=2)
    write_whole(folder / "verdicts.json", f"{verdicts}\n".encode())


def answer(reports: Mapping[str, ExperimentReport], missing: Collection[str]) -> str:
    """How many claims got which verdict, in one sentence."""
    verdicts = [claim.verdict for report in reports.values() for claim in report.claims]
    if not verdicts:
        return "Too early to say: no experiment is finished."
    open_ones = "1 experiment is" if len(missing) == 1 else f"{len(missing)} experiments are"
    rest = f" {open_ones} not finished." if missing else ""
    return f"Of {len(verdicts)} claims: {tally(verdicts)}.{rest}"


def _overview(
    reports: Mapping[str, ExperimentReport], missing: Mapping[str, str], remarks: Sequence[str]
) -> str:
    rows = [
        ClaimRow(c.verdict, c.statement, c.number, c.authors, _evidence(c), name)
        for name, report in reports.items()
        for c in report.claims
    ]
    for name, command in missing.items():
        how = f"<p>To complete it: <code>{escape(command)}</code></p>"
        rows.append(ClaimRow("not finished", EXPERIMENTS[name].title, "", evidence_html=how))
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
