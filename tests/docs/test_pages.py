"""The pages of the site. Those with code are executed by `make docs`; the rest is checked here."""

import re
import shlex
import sys
from pathlib import Path

import pytest

import overparam
from overparam.lab.cli import parse

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = {
    str(path.relative_to(DOCS)): path.read_text(encoding="utf-8")
    for path in sorted(DOCS.rglob("*.md"))
    if not {"_build", "api"} & set(path.relative_to(DOCS).parts)
}
# Pages that are executed as they are built.
EXECUTED = [name for name, text in PAGES.items() if "file_format: mystnb" in text[:100]]
FENCE = re.compile(r"^```(\S+)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list:
    return [
        pytest.param(code, id=f"{name}-{number}")
        for name, text in PAGES.items()
        for number, (kind, code) in enumerate(FENCE.findall(text))
        if kind == language
    ]


def lines(start: str) -> list:
    found = [
        line.partition("#")[0].strip()
        for block in (*blocks("sh"), *blocks("console"))
        for line in block.values[0].splitlines()
    ]
    return sorted({line for line in found if line.startswith(start)})


@pytest.mark.parametrize("name", EXECUTED)
def test_executed_pages_execute_all_of_their_code(name):
    assert "{code-cell} ipython3" in PAGES[name]
    assert not re.search(r"^```(python|ipython3?)$", PAGES[name], re.MULTILINE)


@pytest.mark.parametrize("code", blocks("python"))
def test_code_of_other_pages_runs(code):
    exec(compile(code, "page", "exec"), {})


@pytest.mark.parametrize("command", lines("overparam "))
def test_commands_are_understood(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    parse(shlex.split(command)[1:])


@pytest.mark.parametrize("command", lines("make "))
def test_make_targets_exist(command):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{command.split()[1]}:", makefile, re.MULTILINE)


@pytest.mark.parametrize("command", lines("pip install "))
def test_extras_exist(command):
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for extra in re.findall(r"\[(.*?)\]", command):
        assert re.search(rf"^{extra} = \[", project, re.MULTILINE)


@pytest.mark.parametrize(
    "module",
    ["", ".simple", ".rule", ".layers", ".reparam", ".theory", ".data", ".lab.comparison"],
)
def test_modules_of_the_reference_say_what_is_public(module):
    """The reference lists what is in ``__all__``, and every entry opens with a sentence."""
    name = f"overparam{module}"
    assert re.search(rf"^   {re.escape(name)}$", PAGES["reference/index.md"], re.MULTILINE)
    __import__(name)
    for public in sys.modules[name].__all__:
        text = getattr(sys.modules[name], public).__doc__
        assert text, f"{name}.{public} has no docstring"
        assert text.strip().splitlines()[0].endswith("."), f"{name}.{public}"


def test_optimizers_are_in_the_reference():
    assert set(overparam.optim.__all__) <= set(overparam.__all__)


@pytest.mark.parametrize("name", PAGES)
def test_every_page_has_one_title_and_a_short_name(name):
    text = FENCE.sub("", PAGES[name])
    included = "{include}" in PAGES[name]
    assert included or len(re.findall(r"^# ", text, re.MULTILINE)) == 1


@pytest.mark.parametrize("name", PAGES)
def test_every_page_is_in_a_table_of_contents(name):
    listed = {"index"}
    for page, text in PAGES.items():
        for directive, body in FENCE.findall(text.replace("```{eval-rst}", "```rst")):
            if directive == "{toctree}":
                entries = [line for line in body.splitlines() if line and line[0] != ":"]
                listed |= {str(Path(page).parent / entry) for entry in entries}
    assert name.removesuffix(".md") in listed, f"list docs/{name} in docs/index.md"


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("[a-z]*.md")))
def test_every_benchmark_is_a_page(path):
    page = f"benchmarks/{path.name}"
    assert "{include} ../../" + page in PAGES.get(page, ""), f"add docs/{page} to the site"
