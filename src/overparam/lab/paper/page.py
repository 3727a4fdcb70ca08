"""The page of all experiments: claims with verdicts first, then figures and tables."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import vl_convert

from overparam._files import write_whole
from overparam.lab.paper.claims import Claim
from overparam.lab.paper.results import ExperimentReport
from overparam.lab.report.page import Section, write_page
from overparam.lab.verdicts import Verdict

_CLASSES = {
    Verdict.YES: "holds",
    Verdict.MOSTLY: "holds",
    Verdict.NO: "fails",
    Verdict.MOSTLY_NO: "fails",
}


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
    remarks: Sequence[str],
) -> None:
    """Write ``report.html``, ``verdicts.json`` and one SVG per chart.

    The same stored curves give the same bytes.

    Args:
        folder: where to write.
        reports: the finished experiments, by name.
        missing: the unfinished experiments, by name.
        lead: the paragraph below the title.
        remarks: sentences about this run as a whole, for example on data that could not be found.
    """
    figures = folder / "figures"
    for stale in figures.glob("*.svg"):
        stale.unlink()
    sections = [Section("Claims and verdicts", _overview(reports, missing, remarks))]
    for name, report in reports.items():
        details = "".join(map(_claim_html, report.claims))
        sections.append(Section(report.title, details, anchor=name))
        sections += [dataclasses.replace(section, level=3) for section in report.sections]
        for section in report.sections:
            if section.chart is not None:
                svg = vl_convert.vegalite_to_svg(section.chart.to_dict())
                file = figures / f"{name}-{_slug(section.heading)}.svg"
                write_whole(file, svg.encode("utf-8"))
    write_page(
        folder / "report.html",
        title="Implicit acceleration by overparameterization, rerun",
        lead=lead,
        sections=sections,
    )
    write_whole(folder / "verdicts.json", _verdicts(reports, missing).encode("utf-8"))


def _overview(
    reports: Mapping[str, ExperimentReport], missing: Mapping[str, Missing], remarks: Sequence[str]
) -> str:
    rows = "".join(
        f"<tr><td><a href='#{name}'>{escape(claim.statement)}</a></td>"
        f"<td>{escape(claim.authors)}</td>"
        f"<td>{escape(claim.evidence_in_short)}</td>"
        f"<td class='{_CLASSES.get(claim.verdict, 'part')}'>{escape(claim.verdict)}</td>"
        f"<td>{escape(claim.why)}</td></tr>"
        for name, report in reports.items()
        for claim in report.claims
    )
    rows += "".join(
        f"<tr><td>{escape(experiment.title)}</td><td></td><td></td>"
        "<td class='part'>not finished</td>"
        f"<td>To complete it: <code>{escape(experiment.command)}</code></td></tr>"
        for experiment in missing.values()
    )
    head = "".join(
        f"<th scope='col'>{name}</th>"
        for name in ("Claim", "What the authors showed", "Our evidence", "Verdict", "Remarks")
    )
    notes = "".join(f"<p class='note'>{escape(remark)}</p>" for remark in remarks)
    table = f"<table class='claims'><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f"{notes}<div class='scroll'>{table}</div>"


def _claim_html(claim: Claim) -> str:
    marks = {True: "agrees", False: "disagrees", None: "decides nothing"}
    items = "".join(
        f"<li>{escape(item.text)} <span class='note'>({marks[item.agrees]})</span></li>"
        for item in claim.evidence
    )
    return (
        f"<h3>{escape(claim.statement)} "
        f"<span class='{_CLASSES.get(claim.verdict, 'part')}'>{escape(claim.verdict)}</span></h3>"
        f"<p class='note'>The authors: {escape(claim.authors)}</p>"
        f"<p>{escape(claim.sentence)}</p><ul>{items}</ul>"
        f"<p>{escape(claim.why)}</p>"
    )


def _verdicts(reports: Mapping[str, ExperimentReport], missing: Mapping[str, Missing]) -> str:
    claims = [
        {"experiment": name, "verdict": claim.verdict} | dataclasses.asdict(claim)
        for name, report in reports.items()
        for claim in report.claims
    ]
    return json.dumps({"claims": claims, "not finished": sorted(missing)}, indent=2) + "\n"


def _slug(heading: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")
