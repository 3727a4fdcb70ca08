import itertools
import json
import math
import re
from xml.etree import ElementTree

import polars as pl
import pytest

from overparam.lab import cluster
from overparam.lab.charts.study import loss_chart, rate_chart
from overparam.lab.cli import main
from overparam.lab.methods import parse_method
from overparam.lab.summary import iterations_to, targets, tuned

# Elements that are wider than their place and would be scrolled.
SIDEWAYS = """[...document.querySelectorAll("main *")].filter((element) =>
    !element.closest("svg") && element.getBoundingClientRect().right > innerWidth + 1
).map((element) => element.outerHTML.slice(0, 80))"""
METHODS = ("gd", "rule:2", "factors:2", "adam", "momentum")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    output = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        original = cluster.run_jobs
        patch.setattr(cluster, "run_jobs", lambda jobs, *rest, **more: original(jobs, 0))
        arguments = ["--data", "diabetes", "--iterations", "200", "--points", "30", "--seeds", "0",
                     "1", "--rates-per-decade", "1", "--lowest-rate", "1e-3", "--highest-rate",
                     "10", "--init-std", "0.1", "--output", str(output),
                     "--methods", *METHODS]  # fmt: skip
        assert main(["run", *arguments]) == 0
    return output / "study"


@pytest.fixture(scope="module")
def html(folder):
    return (folder / "report.html").read_text(encoding="utf-8")


def cells_after(html, heading):
    """The table below a heading, as rows of text."""
    table = re.split(f"<h2[^>]*>{heading}</h2>", html)[1].split("</table>")[0]
    rows = re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]


def test_the_page_is_in_order_for_those_who_hear_it(html):
    content = html.partition('<div id="content">')[2].partition("<script>")[0]
    tables = re.findall(r"<table[^>]*>(?:<caption>)?", content)
    assert len(tables) > 4
    for table in tables:
        named = re.search(r"aria-labelledby='([^']+)'", table)
        assert "<caption>" in table or (named and f'id="{named[1]}"' in content)
    assert "<th scope='row'>Learning rates</th>" in content
    assert "<th scope='row' data-of='Method'>Adam</th>" in content
    levels = [1, *map(int, re.findall(r"<h([1-6])", content))]
    assert all(below <= above + 1 for above, below in itertools.pairwise(levels))


def test_all_curves_are_stored(folder):
    curves = pl.read_parquet(folder / "curves.parquet")
    stored = [pl.read_parquet(path) for path in sorted((folder / "jobs").glob("*.parquet"))]
    assert curves.equals(pl.concat(stored))
    assert len(curves.select("method", "rate", "seed").unique()) == len(METHODS) * 5 * 2


def test_tables_show_the_numbers_of_the_summary(folder, html):
    curves = pl.read_parquet(folder / "curves.parquet")
    optimum = json.loads((folder / "run.json").read_text())["optimum"]["loss"]
    header, *rows = cells_after(html, "Every method at its best learning rate")
    assert header[:3] == ["Method", "Final loss", "Above optimum"]
    for row, expected in zip(rows, tuned(curves).to_dicts(), strict=True):
        assert row[0] == parse_method(expected["method"]).label
        assert row[1] == f"{expected['median']:.4g}"
        assert row[2] == f"{expected['median'] - optimum:.3g}"
        assert row[5] == f"{expected['all_failed']} of 5"
    levels = targets(curves, optimum)
    header, *rows = cells_after(html, "Iterations to each loss")
    assert header[1:] == [f"loss ≤ {level:g}" for level in levels]
    found = {
        (r["method"], r["target"]): r["iterations"]
        for r in iterations_to(curves, levels).to_dicts()
    }
    for row, method in zip(rows, tuned(curves)["method"], strict=True):
        for cell, level in zip(row[1:], levels, strict=True):
            iterations = found[method, level]
            assert cell == ("not reached" if iterations is None else f"{iterations:,.0f}")


def test_figures_are_well_formed(folder):
    for name in ("loss", "rates"):
        root = ElementTree.parse(folder / "figures" / f"{name}.svg").getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert root.get("role") == "img"
        assert "learning rate" in root.get("aria-label")
        assert len(list(root.iter("{http://www.w3.org/2000/svg}path"))) > 10


def test_charts_of_losses_that_overflow():
    schema = ["method", "rate", "seed", "step", "loss", "diverged_at"]
    rows = [
        (method, rate, 0, step, loss, 7)
        for method in ("gd", "rule:2")
        for rate in (1.0, 10.0)
        for step, loss in ((0, 9.0), (5, math.inf))
    ]
    curves = pl.DataFrame(rows, schema=schema, orient="row")
    for chart in (loss_chart, rate_chart):
        json.dumps(chart(curves, 0.2).to_dict(), allow_nan=False)


def test_page_in_a_browser(browser, folder):
    requests, problems = [], []
    page = browser.new_page()
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto((folder / "report.html").as_uri())
    page.wait_for_function("document.querySelectorAll('.chart svg.marks').length === 2")
    for chart in page.query_selector_all(".chart"):
        assert len(chart.query_selector_all("svg.marks .mark-line path")) >= len(METHODS)
        assert "Gradient descent" in chart.inner_html()
    faint = ".chart >> nth=0 >> css=svg.marks .mark-line.role-mark path[opacity='0.12']"
    assert page.locator(faint).count() == 0
    # The names of lines stand at their ends; clicking a line singles it out.
    names = page.locator(".chart >> nth=0 >> css=.mark-text.role-mark text")
    assert sorted(names.all_text_contents()) == sorted(parse_method(m).label for m in METHODS)
    page.locator(".chart >> nth=0 >> css=.mark-line.role-mark path").first.dispatch_event("click")
    page.wait_for_function(
        "document.querySelectorAll(\"#chart-2 .mark-line path[opacity='0.12']\").length"
    )
    assert page.locator(faint).count() == len(METHODS) - 1
    page.emulate_media(media="print")
    assert page.locator(".chart svg.marks").first.is_visible()
    assert not page.locator(".vega-embed summary").first.is_visible()
    assert page.pdf().startswith(b"%PDF")
    page.close()
    local = [url for url in requests if url.startswith(("file:", "data:", "blob:"))]
    assert requests == local
    assert [url for url in requests if url.startswith("file:")] == [
        (folder / "report.html").as_uri()
    ]
    assert problems == []


def test_a_chart_is_heard_as_one_image_with_a_name(browser, folder):
    page = opened(browser, folder)
    heard = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    page.close()
    heard = [node for node in heard if not node["ignored"]]
    names = [node["name"]["value"] for node in heard if node["role"]["value"] in ("img", "image")]
    assert names == [
        "Loss above the optimum against iterations, each method at its best learning rate.",
        "Final loss above the optimum and failures, against the learning rate.",
    ]
    roles = {node["role"]["value"] for node in heard}
    assert not any("graphics" in role or "Svg" in role for role in roles)
    assert "rowheader" in roles


def test_page_fits_a_telephone_and_shows_a_legend_there(browser, folder):
    page = opened(browser, folder, width=390)
    assert page.evaluate("document.documentElement.scrollWidth <= 390")
    # Nothing inside is scrolled sideways or too small to be read either.
    assert page.evaluate(SIDEWAYS) == []
    sizes = page.evaluate(
        """[...document.querySelectorAll(".chart svg.marks")].map((svg) =>
            svg.getBoundingClientRect().width / svg.viewBox.baseVal.width)"""
    )
    assert min(sizes) > 0.9
    legend = page.locator(".chart >> nth=0 >> css=.role-legend-label text").all_text_contents()
    assert {parse_method(name).label for name in METHODS} <= set(legend)
    assert page.locator(".chart >> nth=0 >> css=.mark-text.role-mark text").count() == 0
    page.set_viewport_size({"width": 1400, "height": 900})
    page.wait_for_function("document.querySelectorAll('#chart-2 .mark-text.role-mark text').length")
    page.close()


def test_page_is_dark_where_the_reader_wants_it(browser, folder):
    colours = {}
    for mode in ("light", "dark"):
        page = opened(browser, folder, color_scheme=mode)
        colours[mode] = page.evaluate(
            """[getComputedStyle(document.body).backgroundColor,
                getComputedStyle(document.querySelector(".chart .mark-line path")).stroke]"""
        )
        page.close()
    assert colours["light"][0] == "rgb(255, 255, 255)"
    assert max(map(int, re.findall(r"\d+", colours["dark"][0]))) < 48
    assert colours["light"][1] != colours["dark"][1]


def test_the_numbers_behind_a_chart_are_those_of_the_curves(browser, folder):
    page = opened(browser, folder)
    numbers = page.locator("details.numbers").first
    assert not numbers.locator("table").is_visible()
    numbers.locator("summary").press("Enter")
    header = numbers.locator("thead th").all_inner_texts()
    last = numbers.locator("tbody tr").last.locator("th, td").all_inner_texts()
    page.close()
    curves = pl.read_parquet(folder / "curves.parquet")
    optimum = json.loads((folder / "run.json").read_text())["optimum"]["loss"]
    best = {parse_method(row["method"]).label: row["median"] for row in tuned(curves).to_dicts()}
    assert header[0] == "Iteration"
    assert last[0] == "200"
    for label, cell in zip(header[1:], last[1:], strict=True):
        assert float(cell.replace(",", "")) == pytest.approx(best[label] - optimum, rel=1e-3)


def test_the_first_line_answers_the_question_of_the_title(html):
    title = re.search(r"<h1>(.*?)</h1>", html)[1]
    assert title.startswith("Does depth accelerate training?")
    answer = re.search(r'<p class="answer">(.*?)</p>', html)[1]
    assert "gradient descent here" in answer
    for target in re.findall(r'<a href="#([^"]+)">', html):
        assert f'id="{target}"' in html


def opened(browser, folder, width=1400, **options):
    page = browser.new_page(viewport={"width": width, "height": 900}, **options)
    page.goto((folder / "report.html").as_uri())
    page.wait_for_function("document.querySelectorAll('.chart svg.marks').length === 2")
    return page
