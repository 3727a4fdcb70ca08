"""The command `overparam theory`: run every check, print the verdicts, write the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import altair as alt
from rich.console import Console
from torch import Tensor

from overparam._files import write_whole
from overparam.data import DataUnavailable, load, standardize
from overparam.lab.charts.theme import styled
from overparam.lab.executor import single_thread
from overparam.lab.prepare import check_output
from overparam.lab.report.claims import ClaimRow, claims_html
from overparam.lab.report.page import Section, html_list, html_table, slug, write_page
from overparam.lab.terminal import say, say_sentence, say_verdict
from overparam.lab.theory import (
    acceleration,
    balance,
    circulation,
    emulation,
    memory,
    preconditioner,
    singular_values,
    unbalanced,
)
from overparam.lab.theory.check import Evidence, TheoryCheck
from overparam.lab.verdicts import Verdict

CHECKS = (
    memory,
    emulation,
    unbalanced,
    balance,
    preconditioner,
    circulation,
    acceleration,
    singular_values,
)
"""The checks in the order of the page: modules with a ``check`` and a ``chart`` of its rows."""


@dataclass(frozen=True)
class TheoryCommand:
    """Check the paper's theory: run every check, print the verdicts, draw the charts.

    Takes one to two minutes on one core. The regression losses are those of the Ethanol data if it
    is on this machine, else of scikit-learn's diabetes data.

    Examples:
        overparam theory
        overparam theory --output somewhere
    """

    output: Path = Path("runs/theory")
    """Folder for theory.html and the charts."""

    def run(self, console: Console) -> int:
        """Carry out `overparam theory`; returns 0 even if a claim does not hold: a result too."""
        check_output(self.output)
        features, targets, data, remark = regression_data()
        if remark:
            say_sentence(console, remark)
        say_sentence(console, f"{len(CHECKS)} checks; together they take one to two minutes.")
        with single_thread():
            results = [
                module.check(features, targets, data) if module is circulation else module.check()
                for module in CHECKS
            ]
        sentence = answer(results)
        say_sentence(console, sentence)
        sections = []
        for module, result in zip(CHECKS, results, strict=True):
            say(console, f"\n{result.name.capitalize()}")
            found = [*map(_measured, result.evidence), f"Source: {result.source}."]
            say_verdict(console, result.verdict, result.claim, found)
            section = _section(result, styled(module.chart(result.rows), result.claim))
            write_whole(self.output / f"theory_{result.name.replace(' ', '_')}.svg", section.svg)
            sections.append(section)
        claims = Section("Claims and verdicts", claims_html(list(map(_row, results)), "Source"))
        write_page(
            self.output / "theory.html",
            title="Does the paper's theory hold in numbers?",
            answer=sentence,
            lead=(
                "Each claim is checked by numbers that are computed here and compared with bounds "
                f"that were fixed before. {remark}"
            ),
            sections=[claims, *sections],
        )
        say(console, f"\nReport: {self.output / 'theory.html'}")
        return 0


def regression_data() -> tuple[Tensor, Tensor, str, str]:
    """Ethanol if it is on this machine, else the diabetes data that scikit-learn embeds.

    Returns:
        Features, targets, the name of the data, and a remark if it is not Ethanol.
    """
    try:
        data, remark = load("ethanol", download=False), ""
    except DataUnavailable:
        data = load("diabetes")
        remark = (
            "Ethanol is not on this machine (`overparam data fetch ethanol` downloads it); the "
            "regression losses use scikit-learn's diabetes data instead."
        )
    data = standardize(data)
    return data.features, data.targets.flatten(), f"the {data.name} data", remark


def answer(results: Sequence[TheoryCheck]) -> str:
    """How many claims hold in every number, in one sentence, and which do not."""
    agreeing = [result for result in results if result.verdict == Verdict.YES]
    others = [f"{r.name} {r.verdict}" for r in results if r.verdict != Verdict.YES]
    rest = f" ({', '.join(others)})" if others else ""
    return f"{len(agreeing)} of {len(results)} claims hold in every number measured{rest}."


def _row(result: TheoryCheck) -> ClaimRow:
    agreeing = sum(number.agrees for number in result.evidence)
    numbers = [
        (m.what, f"{m.value:.4g}", _bounds(m), "yes" if m.agrees else "no") for m in result.evidence
    ]
    return ClaimRow(
        result.verdict,
        result.claim,
        f"{agreeing} of {len(result.evidence)} numbers agree",
        result.source,
        html_table(("Measured", "Value", "Needed", "Agrees"), numbers),
        slug(result.name),
    )


def _section(result: TheoryCheck, chart: alt.TopLevelMixin | None) -> Section:
    return Section(
        heading=f"{result.name.capitalize()}: {result.verdict}",
        body_html=f"<p>{escape(result.claim)}</p>" + html_list(result.notes),
        chart=chart,
        anchor=slug(result.name),
    )


def _measured(evidence: Evidence) -> str:
    verb = "agrees" if evidence.agrees else "DISAGREES"
    return f"{evidence.value:.4g} {verb} (needed: {_bounds(evidence)}): {evidence.what}."


def _bounds(evidence: Evidence) -> str:
    if evidence.high == math.inf:
        return f"at least {evidence.low:g}"
    if evidence.low == 0:
        return f"at most {evidence.high:g}"
    return f"{evidence.low:g} to {evidence.high:g}"
