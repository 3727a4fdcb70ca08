import re
import shlex
from pathlib import Path

import pytest

from overparam.lab.cli import parse

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^overparam .*?(?=\s+#|$)", README, re.MULTILINE)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("code", blocks("python"))
def test_python_blocks_run(code):
    exec(compile(code, "README.md", "exec"), {})


def test_the_first_example_prints_what_the_page_shows(capsys):
    exec(compile(blocks("python")[0], "README.md", "exec"), {})
    printed, shown = capsys.readouterr().out.splitlines(), blocks("text")[0].splitlines()
    for line, expected in zip(printed, shown, strict=True):
        (name, value), (its_name, its_value) = line.split(": "), expected.split(": ")
        assert name == its_name
        # Rounding of another processor may move the last of the two digits.
        assert float(value) == pytest.approx(float(its_value), rel=0.2)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_understood(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    parse(shlex.split(command)[1:])


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = re.findall(r"^make (\w+)", README, re.MULTILINE)
    assert named
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)#]+)\)", README))
def test_linked_files_exist(link):
    assert (ROOT / link).is_file()
