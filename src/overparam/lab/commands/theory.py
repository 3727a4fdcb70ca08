"""The command `overparam theory`: run every check, print the verdicts, write the page."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path

import altair as alt
import vl_convert
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from overparam._files import write_whole
from overparam.data import DataUnavailable, load, standardize
from overparam.lab.executor import single_thread
from overparam.lab.prepare import check_output
from overparam.lab.report.page import Section, html_list, html_table, write_page
from overparam.lab.terminal import open_console, say, show_table
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
from overparam.lab.theory.check import FAILS, HOLDS, IN_PART, Evidence, TheoryCheck
from overparam.lab.theory.theme import themed

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

    Takes under a minute on one core. The regression losses are those of the Ethanol data if it is
    on this machine, else of scikit-learn's diabetes data.

    Examples:
        overparam theory
        overparam theory --output somewhere
    """

    output: Path = Path("runs/theory")
    """Folder for theory.html and the charts."""


_COLOUR = {HOLDS: "green", IN_PART: "yellow", FAILS: "red"}


def run_theory(output: Path, console: Console | None = None) -> int:
    """Run every check, print a table of verdicts, write ``theory.html`` and an SVG of each chart.

    Args:
        output: folder, created if it is missing.
        console: where to print; by default the terminal.

    Returns:
        0, even if a claim does not hold: that is a result, not an error.

    Raises:
        OSError: the folder cannot be written.
    """
    console = console or open_console()
    check_output(output)
    features, targets, data, remark = regression_data()
    if remark:
        say(console, remark)
    with single_thread():
        results = [
            module.check(features, targets, data) if module is circulation else module.check()
            for module in CHECKS
        ]
    pairs = zip(CHECKS, results, strict=True)
    charts = [themed(module.chart(result.rows)) for module, result in pairs]
    show_table(console, _verdict_table(results))
    for result, chart in zip(results, charts, strict=True):
        svg = vl_convert.vegalite_to_svg(chart.to_json())
        name = result.name.replace(" ", "_")
        write_whole(output / f"theory_{name}.svg", svg.encode("utf-8"))
    agreeing = sum(result.verdict == HOLDS for result in results)
    write_page(
        output / "theory.html",
        title="The theory, checked",
        lead=(
            f"{agreeing} of {len(results)} claims hold in every number measured. Each verdict "
            f"compares numbers with stated bounds. {remark}"
        ),
        sections=list(map(_section, results, charts)),
    )
    say(console, f"Report: {output / 'theory.html'}")
    return 0


def regression_data() -> tuple[Tensor, Tensor, str, str]:
    """Ethanol if it is on this machine, else the diabetes data that scikit-learn embeds.

    Returns:
        Features, targets, the name of the data, and a remark if it is not Ethanol.
    """
    remark = ""
    try:
        data = load("ethanol", download=False)
    except DataUnavailable:
        data = load("diabetes")
        remark = (
            "Ethanol is not on this machine (`overparam data fetch ethanol` downloads it); the "
            "regression losses use scikit-learn's diabetes data instead."
        )
    data = standardize(data)
    return data.features, data.targets.flatten(), f"the {data.name} data", remark


def _verdict_table(results: list[TheoryCheck]) -> Table:
    table = Table(title="The theory, checked", show_lines=True)
    for heading in ("Check", "Verdict", "Measured"):
        table.add_column(heading)
    for result in results:
        numbers = "\n".join(
            f"{'' if m.agrees else 'NOT '}within {_bounds(m)}: {m.value:.4g}, {m.what}"
            for m in result.evidence
        )
        table.add_row(result.name, Text(result.verdict, _COLOUR[result.verdict]), Text(numbers))
    return table


def _section(result: TheoryCheck, chart: alt.TopLevelMixin | None) -> Section:
    rows = [
        (m.what, f"{m.value:.4g}", _bounds(m), "yes" if m.agrees else "no") for m in result.evidence
    ]
    body = (
        f"<p>{escape(result.claim)}</p><p>Source: {escape(result.source)}.</p>"
        + html_table(("Measured", "Value", "Bounds", "Agrees"), rows)
        + html_list(result.notes)
    )
    return Section(
        heading=f"{result.name.capitalize()}: {result.verdict}",
        body_html=body,
        chart=chart,
    )


def _bounds(evidence: Evidence) -> str:
    return f"[{evidence.low:g}, {evidence.high:g}]"
