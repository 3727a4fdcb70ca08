import math
import re
from itertools import pairwise

import pytest

pytest.importorskip("IPython", reason="IPython is not installed; install the extra 'docs'")

from overparam.lab.charts.theme import DARK


@pytest.fixture(scope="module")
def figures(tool):
    return tool("figures")


@pytest.fixture
def rows():
    """Three lines that end at almost the same place."""
    return [
        {"step": step, "loss": 1 / (1 + step) + name / 1000, "name": f"line {name}"}
        for name in range(3)
        for step in range(5)
    ]


def test_colours_are_those_of_the_pages_of_the_lab(figures):
    for colour in (figures.INK, figures.SOFT, figures.GRID, *figures.PALETTE):
        assert colour in DARK


def test_names_of_lines_do_not_lie_on_each_other(figures, rows):
    table = [{**row, "_by": row["name"]} for row in rows]
    names = [f"line {name}" for name in range(3)]
    for log in (False, True):
        ends = figures._ends(table, "step", "loss", names, log, (0.1, 1.1))
        heights = sorted(_height(end["loss"], log) for end in ends)
        assert all(b - a >= figures.LABEL / figures.HEIGHT for a, b in pairwise(heights))


def _height(value: float, log: bool) -> float:
    """The height of a value in a panel from 0.1 to 1.1, as a share of the panel."""
    bend = math.log if log else float
    return (bend(value) - bend(0.1)) / (bend(1.1) - bend(0.1))


def test_drawings_fit_any_page_and_do_not_share_names(figures, rows):
    chart = figures.lines(rows, "step", "loss", "name", log="y")
    drawn = figures.figure(chart, chart, alt_text="Three <lines>.").data
    assert 'aria-label="Three &lt;lines&gt;."' in drawn
    heads = re.findall(r"<svg[^>]*>", drawn)
    assert len(heads) == 2
    assert not any(re.search(r"\s(width|height)=", head) for head in heads)
    names = re.findall(r'\bid="([^"]+)"', drawn)
    assert names
    assert len(set(names)) == len(names)
    assert set(re.findall(r"url\(#([^)]+)\)", drawn)) <= set(names)
    for name in ("line 0", "line 1", "line 2"):
        assert f">{name}<" in drawn
