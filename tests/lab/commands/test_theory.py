import contextlib
import importlib
import io
import pkgutil
import re
from xml.etree import ElementTree

import pytest

import overparam.lab.theory
from overparam.lab.cli import main
from overparam.lab.commands import theory as theory_command
from overparam.lab.theory.check import Evidence, TheoryCheck

CHECKS = (
    "memory",
    "emulation",
    "imbalance",
    "balance",
    "preconditioner",
    "circulation",
    "acceleration",
    "singular values",
)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The whole command on the embedded data: its folder and what it printed."""
    output = tmp_path_factory.mktemp("theory")
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.delenv("OVERPARAM_DATA", raising=False)
        patch.setenv("OVERPARAM_CACHE", str(output / "no cache"))
        assert main(["theory", "--output", str(output)]) == 0
    (output / "printed.txt").write_text(printed.getvalue(), encoding="utf-8")
    return output


@pytest.fixture(scope="module")
def printed(ran):
    return (ran / "printed.txt").read_text(encoding="utf-8")


def test_every_check_has_a_verdict_and_a_figure(ran):
    html = (ran / "theory.html").read_text(encoding="utf-8")
    verdicts = dict(
        re.findall(r"<h2[^>]*>([A-Z][a-z ]+): (yes|mostly|mixed|mostly no|no)</h2>", html)
    )
    assert [name.lower() for name in verdicts] == list(CHECKS)
    # Depth is slower at p = 4 and nearly equal targets; bounded rates can favour it at p = 2.
    assert verdicts.pop("Acceleration") == "mostly"
    assert set(verdicts.values()) == {"yes"}
    for name in CHECKS:
        svg = ran / f"theory_{name.replace(' ', '_')}.svg"
        assert ElementTree.parse(svg).getroot().tag.endswith("svg")
    assert "diabetes" in html


def test_page_in_a_browser(browser, ran):
    page = browser.new_page()
    messages, requests = [], []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto((ran / "theory.html").as_uri())
    page.wait_for_function(
        f"document.querySelectorAll('.chart svg.marks').length === {len(CHECKS)}", timeout=20_000
    )
    for chart in page.query_selector_all(".chart svg.marks"):
        assert len(chart.query_selector_all("path, rect, circle")) > 10
    assert messages == []
    assert requests == [(ran / "theory.html").as_uri()]


def test_a_failing_check_is_shown_as_failing():
    wrong = TheoryCheck("balance", "A wrong claim.", "nowhere", (Evidence("it", 2, 0, 1),))
    assert wrong.verdict == "no"
    assert theory_command._section(wrong, None).heading == "Balance: no"
    assert ">no</td>" in theory_command._row(wrong).evidence_html
    assert theory_command.answer([wrong]) == (
        "0 of 1 claims hold in every number measured (balance no)."
    )


def test_what_is_printed_fits_80_columns(printed):
    assert printed.index("take one to two minutes") < printed.index("claims hold")
    assert "7 of 8 claims hold in every number measured (acceleration mostly)." in printed
    assert [
        line for line in printed.splitlines() if len(line) > 80 and "Report: " not in line
    ] == []


def test_the_command_runs_every_check_and_each_has_a_chart():
    modules = [
        importlib.import_module(info.name)
        for info in pkgutil.iter_modules(overparam.lab.theory.__path__, "overparam.lab.theory.")
    ]
    checks = {module for module in modules if hasattr(module, "check")}
    assert set(theory_command.CHECKS) == checks
    assert all(hasattr(module, "chart") for module in checks)
