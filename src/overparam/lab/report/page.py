"""A self-contained HTML page of text, tables and interactive charts, without external requests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import altair as alt
import jinja2
import vl_convert

from overparam._files import write_whole


@dataclass(frozen=True)
class Section:
    """A heading with text, and perhaps a chart below it.

    Attributes:
        heading: plain text.
        body_html: HTML, already escaped.
        chart: an Altair chart.
        caption: plain text below the chart.
        anchor: target name for links on the page to this section.
        level: level of the heading: 2, or 3 for a subsection.
    """

    heading: str
    body_html: str = ""
    chart: alt.TopLevelMixin | None = None
    caption: str = ""
    anchor: str = ""
    level: int = 2


def write_page(path: Path, *, title: str, lead: str, sections: Sequence[Section]) -> None:
    """Write a page that opens in a browser without a network.

    Args:
        path: the file to write; an old one is replaced as a whole.
        title: heading of the page, plain text.
        lead: the paragraph below the heading, plain text.
        sections: the content.
    """
    loader = jinja2.PackageLoader("overparam.lab.report")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    charts = [
        # "</" would end the script element that holds the specification.
        (number, json.dumps(section.chart.to_dict(), allow_nan=False).replace("</", "<\\/"))
        for number, section in enumerate(sections, start=1)
        if section.chart is not None
    ]
    # Without a snippet: vega, vega-lite and vega-embed as globals. The stub wrongly requires one.
    bundle = vl_convert.javascript_bundle() if charts else ""  # pyright: ignore[reportCallIssue]
    html = environment.get_template("page.html").render(
        title=title, lead=lead, sections=sections, charts=charts, bundle=bundle
    )
    # A path may hold bytes that are no text; a page with them shown as numbers is still a page.
    write_whole(path, html.encode("utf-8", errors="backslashreplace"))


def html_list(items: Sequence[str]) -> str:
    """An HTML list of plain sentences."""
    return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"


def html_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    classes: Mapping[tuple[int, int], str] | None = None,
) -> str:
    """An HTML table of plain cells.

    Args:
        header: column names.
        rows: cells, one sequence per row.
        classes: CSS classes of cells, "best" or "none", by (row, column).
    """
    classes = classes or {}
    head = "".join(f"<th scope='col'>{escape(name)}</th>" for name in header)
    body = []
    for i, row in enumerate(rows):
        cells = []
        for j, cell in enumerate(row):
            mark = f" class='{classes[i, j]}'" if (i, j) in classes else ""
            cells.append(f"<td{mark}>{escape(cell)}</td>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f"<div class='scroll'><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )
