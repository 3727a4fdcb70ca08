"""Folders and studies with names that shells, libraries or terminals give a meaning to."""

import os
import shlex
from pathlib import Path

import pytest

from overparam.lab import prepare
from overparam.lab.cli import main, parse
from overparam.lab.commands import reproduce as reproduce_command
from overparam.lab.commands import theory as theory_command

SMALL = [
    "--data", "diabetes", "--iterations", "20", "--points", "5", "--seeds", "0",
    "--lowest-rate", "1e-2", "--highest-rate", "1e-2",
]  # fmt: skip
NAMES = (
    "x?*", "~", "file:x", "s3:x", "{a,b}{{ x }}", "[red]a[bold] <b>", "-dash", "None",
    os.fsdecode("漢".encode() + b"caf\xe9"),
)  # fmt: skip


@pytest.fixture
def call(in_process, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        try:
            status = main(list(arguments))
        except SystemExit as error:
            status = error.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def test_a_name_with_brackets_is_no_pattern(call):
    assert call("run", *SMALL, "--methods", "gd", "--name", "a1")[0] == 0
    status, out, _ = call("run", *SMALL, "--methods", "adam", "--name", "a[1]")
    assert status == 0
    assert "Gradient descent" not in out
    assert "Gradient descent" not in Path("runs/a[1]/report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_a_study_with_an_odd_name_in_an_odd_folder(call, name, tmp_path):
    status, out, errors = call(
        "run", *SMALL, "--methods", "gd", f"--name={name}", f"--output={name}"
    )
    assert (status, errors) == (0, "")
    folder = tmp_path / name / name
    assert {path.name for path in tmp_path.iterdir()} == {name}
    assert (folder / "report.html").is_file()
    assert len(list((folder / "jobs").iterdir())) == 1
    shown = str(Path(name) / name / "report.html").encode("utf-8", "backslashreplace").decode()
    assert out.splitlines()[-1] == f"Report: {shown}"
    again = ["report", f"--output={name}", "--", name] if name[0] == "-" else [
        "report", f"--output={name}", name
    ]  # fmt: skip
    assert call(*again)[0] == 0


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/../../x", "/absolute"])
def test_a_name_outside_the_output_folder_is_refused(call, name, tmp_path):
    for command in (["run", *SMALL, "--name", name], ["report", name]):
        status, _, errors = call(*command)
        assert status == 2
        assert f"name is {name!r}, which names no folder inside runs" in errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "blocked"),
    [
        (["run", *SMALL, "--output", "out", "--name", "a"], "out"),
        (["run", *SMALL, "--output", "out", "--name", "a"], "out/a"),
        (["run", *SMALL, "--output", "out", "--name", "a"], "out/a/jobs"),
        (["run", *SMALL, "--output", "out", "--name", "a"], "out/a/figures"),
        (["run", *SMALL, "--output", "out", "--name", "a" * 300], None),
        (["reproduce", "--quick", "--output", "out"], "out"),
        (["reproduce", "--quick", "--output", "out"], "out/reproduce-quick/parts"),
        (["theory", "--output", "out"], "out"),
        (["theory", "--output", "out/deeper"], "out"),
    ],
)
def test_a_folder_that_cannot_be_written_is_found_before_any_work(
    call, command, blocked, tmp_path, monkeypatch
):
    for module, name in (
        (prepare, "load"),
        (reproduce_command, "load"),
        (theory_command, "regression_data"),
    ):
        monkeypatch.setattr(module, name, None)  # any work would fail in another way
    if blocked:
        (tmp_path / blocked).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / blocked).write_text("in the way")
    before = sorted(tmp_path.rglob("*"))
    status, _, errors = call(*command)
    assert status == 2
    assert " cannot be written (" in errors
    assert errors.endswith("choose another --output.\n")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_message_is_one_line_whose_command_can_be_copied(call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    _, _, errors = call("report", "a [b] :smile: c", "--output", "some where/deep/[red]er[/]")
    assert errors.count("\n") == 1
    command = parse(shlex.split(errors.split("with: overparam")[1]))
    assert command == parse(
        ["run", "--name", "a [b] :smile: c", "--output", "some where/deep/[red]er[/]"]
    )
