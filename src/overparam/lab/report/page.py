"""A self-contained HTML page of text, tables and interactive charts, without external requests."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import altair as alt
import jinja2
import vl_convert

from overparam._files import write_whole
from overparam.lab.charts.theme import dark_rules
from overparam.lab.report.chart_table import chart_tables


@dataclass(frozen=True)
class Section:
    """A heading with text, and perhaps a chart below it, with its numbers folded behind it.

    Attributes:
        heading: plain text.
        body_html: HTML, already escaped.
        chart: an Altair chart.
        caption: plain text below the chart.
        anchor: target name for links on the page to this section; by default from the heading.
        subsections: what follows below headings of the next level.
    """

    heading: str
    body_html: str = ""
    chart: alt.TopLevelMixin | None = None
    caption: str = ""
    anchor: str = ""
    subsections: Sequence[Section] = ()

    @cached_property
    def specification(self) -> dict[str, Any]:
        """The chart in Vega-Lite. Made once: most of the time of a page goes into it."""
        if self.chart is None:
            raise ValueError(f"the section {self.heading!r} has no chart.")
        return self.chart.to_dict()

    @property
    def description(self) -> str:
        """What the chart shows, for readers who cannot see it."""
        return self.specification.get("description", self.heading)

    @cached_property
    def svg(self) -> bytes:
        """The chart as a file of its own; the same chart gives the same bytes."""
        drawn, names = vl_convert.vegalite_to_svg(self.specification), {}
        drawn = drawn.replace("<svg", f'<svg role="img" aria-label="{escape(self.description)}"', 1)
        # Vega numbers some elements on from the chart that it drew before.
        return re.sub(
            r'(?<=["#])(clip|gradient_)\d+',
            lambda found: names.setdefault(found[0], f"{found[1]}{len(names)}"),
            drawn,
        ).encode("utf-8")


def write_page(
    path: Path, *, title: str, answer: str, lead: str, sections: Sequence[Section]
) -> None:
    """Write a page that opens in a browser without a network.

    Args:
        path: the file to write; an old one is replaced as a whole.
        title: the question that the page answers, plain text.
        answer: the verdict in one sentence, plain text.
        lead: how it was found, plain text.
        sections: the content.
    """
    loader = jinja2.PackageLoader("overparam.lab.report")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    shown = []
    for section in sections:
        for level, each in ((2, section), *((3, below) for below in section.subsections)):
            shown.append(_shown(each, level, len(shown) + 1))
    # Without a snippet: vega, vega-lite and vega-embed as globals. The stub wrongly requires one.
    charts = any(section["chart"] for section in shown)
    bundle = vl_convert.javascript_bundle() if charts else ""  # pyright: ignore[reportCallIssue]
    html = environment.get_template("page.html").render(
        title=title,
        answer=answer,
        lead=lead,
        sections=shown,
        bundle=bundle,
        dark=dark_rules(".chart"),
    )
    # A path may hold bytes that are no text; a page with them shown as numbers is still a page.
    write_whole(path, html.encode("utf-8", errors="backslashreplace"))


def _shown(section: Section, level: int, number: int) -> dict[str, object]:
    """What the template shows of a section."""
    anchor = section.anchor or f"{slug(section.heading)}-{number}"
    shown: dict[str, object] = {
        "heading": section.heading,
        "body": _named_tables(section.body_html, anchor),
        "level": level,
        "anchor": anchor,
        "caption": section.caption,
        "chart": "",
    }
    if section.chart is not None:
        spec = section.specification
        tables = (html_table(t.header, t.rows, caption=t.title) for t in chart_tables(spec))
        # "</" would end the script element that holds the specification.
        shown["chart"] = json.dumps(spec, allow_nan=False).replace("</", "<\\/")
        shown["numbers"] = _named_tables("".join(tables), anchor)
        shown["description"] = section.description
    return shown


def _named_tables(html: str, anchor: str) -> str:
    """Tables without a caption get the name of their section, for readers who hear the page."""
    return re.sub(r"<table(?=[ >])(?![^>]*><caption)", f"<table aria-labelledby='{anchor}'", html)


def slug(heading: str) -> str:
    """A name for links and files, from a heading.

    Example:
        >>> slug("L4 at lr = 0.0001")
        'l4-at-lr-0-0001'
    """
    return re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")


def html_list(items: Sequence[str]) -> str:
    """An HTML list of plain sentences."""
    return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"


def html_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    classes: Mapping[tuple[int, int], str] | None = None,
    caption: str = "",
) -> str:
    """An HTML table of plain cells, where the first one names its row.

    A narrow page shows each row as a list of named cells.

    Args:
        header: column names.
        rows: cells, one sequence per row.
        classes: CSS classes of cells, "best" or "none", by (row, column).
        caption: what stands above the table, if anything.
    """
    classes = classes or {}
    head = "".join(f"<th scope='col'>{escape(name)}</th>" for name in header)
    body = []
    for i, row in enumerate(rows):
        cells = []
        for j, (name, cell) in enumerate(zip(header, row, strict=True)):
            names = [classes[i, j]] if (i, j) in classes else []
            if j and " " not in cell:
                names.append("one")  # a number such as 1e-07 stays on one line
            mark = f" class='{' '.join(names)}'" if names else ""
            tag, scope = ("td", "") if j else ("th", " scope='row'")
            cells.append(f"<{tag}{scope} data-of='{escape(name)}'{mark}>{escape(cell)}</{tag}>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    above = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f"<div class='scroll'><table>{above}<thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )
