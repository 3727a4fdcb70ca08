"""The numbers in the README's box are those of the stored results."""

import re
import sys
from pathlib import Path

import polars as pl
import pytest

ROOT = Path(__file__).parents[2]
REPRODUCED = """
{% set gd, ball = "Gradient descent", "Heavy ball" %}
in {{ map.count("faster", optimizer=gd, power=6) }} of 35 cells and slower in
{{ map.count("slower", optimizer=gd, power=6) }} at p = 6, and faster in
{{ map.count("faster", optimizer=gd, power=4) }} and slower in
{{ map.count("slower", optimizer=gd, power=4) }} at p = 4.

faster in {{ map.count("faster", optimizer=ball, power=4) }} of 35 cells both at p = 4 and at p = 6,
and slower in {{ map.count("slower", optimizer=ball, power=4) }} and
{{ map.count("slower", optimizer=ball, power=6) }}.

faster in {{ map.count("faster", optimizer=[gd, ball], power=2) }} of 70 cells and slower in
{{ map.count("slower", optimizer=[gd, ball], power=2) }};

ends {{ n("l4", "Adam, 1 layer", 2) }} above the optimum. The best depth of gradient descent ends at
{{ n("l4", "rule of depth 2", 3) }},

faster in {{ map.count("faster", optimizer="Adam") }} of {{ map.count(optimizer="Adam") }} cells and
slower in {{ map.count("slower", optimizer="Adam") }}.

from {{ n("adam", "Adam, 1 layer", 2) }} to {{ n("adam", "Adam, 2 layers", 2) }} after 200,000

ends at {{ n("l4", "1 layer", 3) }} with a constant learning rate and at
{{ n("warm_up", "1 layer", 2) }} with a warm-up. Two layers without a warm-up end at
{{ n("l4", "2 layers", 3) }}.

is lower by a factor of {{ ratio(fact("MNIST, authors' batch loss, original"),
fact("MNIST, authors' batch loss, product"), 2) }}.

({{ fact("MNIST, cross-entropy over the last 600 steps, original and product") }}, and once
{{ fact("MNIST, cross-entropy over the last 600 steps, product, seed 1") }} with depth)

from {{ fact("MNIST, cross-entropy over the last 600 steps, original without penalty") }} to
{{ fact("MNIST, cross-entropy over the last 600 steps, product without penalty") }}.

takes {{ fact("MNIST, seconds per step, product") }} s instead of
{{ fact("MNIST, seconds per step, original") }} s.
"""
MECHANISM = """
{% set slow = ["gd", "momentum"] %}
{% set deep = verdicts(slow, "rule:2", schedule="cosine", power=2, main=True) %}
the rule of depth 2 is faster in {{ deep[0] }} of {{ deep[2] }} cases; but on Ethanol gradient
descent with it then ends at {{ end("gd", "rule:2", power=2, schedule="cosine") }}, above the
{{ end("gd", power=2) }} of a constant rate without depth.

gradient descent {{ span(["gd"], "radial:2", "radial:4", "radial:8", schedule="cosine") }} times as
fast, and the rule {{ faster("gd", "rule:2", digits=3, schedule="cosine") }} times.

{% set norm = dict(optimizers=slow, part="norm:2", schedule="constant", main=True) %}
faster in {{ verdicts(power=4, **norm)[0] }} of {{ verdicts(power=4, **norm)[2] }} cases with p = 4,
{{ verdicts(power=6, **norm)[0] }} of {{ verdicts(power=6, **norm)[2] }} with p = 6 and
{{ verdicts(power=2, **norm)[0] }} of {{ verdicts(power=2, **norm)[2] }} with p = 2; the stretch
(r = 4) in {{ verdicts(slow, "radial:4", schedule="constant", main=True)[0] }} of
{{ verdicts(slow, "radial:4", schedule="constant", main=True)[2] }}.
"""
ATLAS = re.compile(r"Depth is faster in (\d+) of (\d+) cases, slower in (\d+)")
UNSEEN = re.compile(
    r"(In matrix completion .* cases with factors) \(.*\) and (in \d+ of \d+ cases with the rule)"
)
STRETCH = re.compile(r"\(r > 1\) is faster in (\d+) of (\d+) cases.*median speed-up ([\d.]+)")


@pytest.fixture
def pages(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import mechanism_page
    import reproduction_page

    yield reproduction_page, mechanism_page
    for file in (ROOT / "benchmarks").glob("*.py"):
        sys.modules.pop(file.stem, None)


def test_the_box_says_what_was_measured(pages):
    reproduction, mechanism = pages
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").replace("\n> ", " ").split())
    told = [
        *reproduction.page(reproduction.stored_results(), REPRODUCED).split("\n\n"),
        *mechanism.page(pl.read_parquet(mechanism.STORED), MECHANISM).strip().split("\n\n"),
    ]
    assert len(told) > 10
    for phrase in (" ".join(text.split()) for text in told):
        assert phrase in readme


def test_the_box_says_what_the_atlas_says():
    page = (ROOT / "docs" / "atlas.md").read_text(encoding="utf-8")
    found = ATLAS.search(page[page.index("## The quick atlas") :])
    assert found is not None
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").replace("\n> ", " ").split())
    assert f"without it in {found[1]} of {found[2]} cases and slower in {found[3]}." in readme
    full = page[page.index("## The full atlas") : page.index("## The quick atlas")]
    found = ATLAS.search(full)
    assert found is not None
    assert f"depth is faster in {found[1]} of {found[2]} cases and slower in {found[3]}." in readme
    found = UNSEEN.search(full)
    assert found is not None
    assert f"{found[1]}, and {found[2]}." in readme
    found = STRETCH.search(full)
    assert found is not None
    assert f"is faster in steps in {found[1]} of {found[2]}, median {found[3]}," in readme


def test_the_doors_cost_what_the_benchmark_measured():
    page = (ROOT / "benchmarks" / "optim.md").read_text(encoding="utf-8")
    table = page[page.index("Ratios within a round") :].split("\n\n")[1]
    header, _, *rows = [line.strip("|").split("|") for line in table.splitlines()]
    header = [name.strip() for name in header]

    def span(name):
        cells = [row[header.index(name)].split() for row in rows]
        values = [float(cell[0]) for cell in cells if cell]
        return f"{min(values):.1f} to {max(values):.1f} times"

    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"a step takes {span('EndToEnd, exact / Muon')} as long as one of Muon" in readme
    assert f"{span('EndToEnd, tracked every 10 / Muon')} with a tracked basis" in readme
    assert f"by rows {span('EndToEnd, row / AdamW')} as long as one of AdamW" in readme
