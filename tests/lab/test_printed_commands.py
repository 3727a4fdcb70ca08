"""Every command in the documentation, the help and the messages is understood as it is printed."""

import ast
import inspect
import re
import shlex
from pathlib import Path

import pytest

from overparam.lab.cli import COMMANDS, parse
from overparam.lab.commands.reproduce import ReproduceCommand
from overparam.lab.commands.run import RunCommand
from overparam.lab.paper.scale import PAPER, QUICK, STANDARD
from overparam.lab.store import StudyDirectory

ROOT = Path(__file__).parents[2]
# A quoted word may hold anything; a full stop or a colon within a word does not end a command.
COMMAND = re.compile(
    rf"overparam (?:{'|'.join(COMMANDS)})\b(?:'[^'\n]*'|[^\n`().;:,\"']|[.:](?=\w))*"
)


def strings(path):
    """The texts in a module, with x for what is filled in."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else "x" for part in node.values)
            yield "".join(map(str, parts))


def in_messages():
    for path in sorted((ROOT / "src" / "overparam").rglob("*.py")):
        for text in strings(path):
            yield from COMMAND.findall(text)


def in_documents():
    for path in sorted((ROOT / "docs").glob("*.md")):
        text = path.read_text(encoding="utf-8")
        yield from re.findall(r"`(overparam [^`]+)`", text)
        # In a block, the lines of one command are indented further.
        yield from re.findall(r"^ {4}(overparam .*(?:\n {8}.*)*)", text, re.MULTILINE)


@pytest.fixture
def examples(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.toml").write_text("power = 6\n")


# "overparam compare" alone is the name of a command, which needs a problem.
@pytest.mark.parametrize(
    "command", sorted({*in_messages(), *in_documents()} - {"overparam compare"})
)
def test_a_printed_command_is_understood(command, examples):
    words = [word for word in shlex.split(command, comments=True)[1:] if word != "--help"]
    assert parse(words)


def test_the_search_finds_commands():
    found = {*in_messages(), *in_documents()}
    assert {"overparam data fetch x --force", "overparam reproduce --paper"} <= found
    assert len(found) > 25


def test_every_example_of_the_help_is_searched():
    for command in COMMANDS.values():
        examples = re.findall(r"^ {4}(overparam .*)$", inspect.getdoc(command) or "", re.MULTILINE)
        assert examples
        assert set(examples) <= set(in_messages())


@pytest.mark.parametrize("name", ["plain", "a [1]", "-dash", "~", "it's {b}"])
def test_the_command_that_starts_a_missing_study(name, tmp_path):
    path = tmp_path / "out put" / name
    with pytest.raises(FileNotFoundError, match="holds no study") as caught:
        StudyDirectory(path).read_manifest()
    command = parse(shlex.split(str(caught.value).split("with: overparam")[1]))
    assert isinstance(command, RunCommand)
    assert command.output / command.name == path


@pytest.mark.parametrize(
    ("given", "scale"),
    [
        ({}, STANDARD),
        ({"quick": True}, QUICK),
        ({"paper": True, "device": "cuda", "data": "diabetes", "fallback": "linnerud"}, PAPER),
        ({"quick": True, "output": Path("a [1]/~")}, QUICK),
    ],
)
def test_the_command_that_completes_an_experiment_keeps_scale_data_and_folder(given, scale):
    rerun = ReproduceCommand(workers=3, overwrite=True, only=("adam",), **given)
    command = parse(shlex.split(rerun.completing("map"))[1:])
    assert isinstance(command, ReproduceCommand)
    assert (command.only, command.scale, command.overwrite) == (("map",), scale, False)
    for name in ("data", "fallback", "output", "device"):
        assert getattr(command, name) == getattr(rerun, name)
