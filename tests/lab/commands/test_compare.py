import io
import json

import pytest
from rich.console import Console

from overparam.lab import cli
from overparam.lab.commands import atlas, compare
from overparam.lab.commands.compare import CompareCommand

SCRIPT = """
import torch
from overparam.lab.comparison import Problem
rows = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
batches = [(part, part.sum(1, keepdim=True)) for part in rows.split(10)]
problem = Problem("sums", lambda: torch.nn.Linear(3, 1), batches,
                  lambda model, batch: (model(batch[0]) - batch[1]).square().mean())
"""


def test_a_script_is_answered_in_one_command(tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT)
    command = cli.parse(
        [
            *("compare", f"{tmp_path / 'train.py'}:problem", "--methods", "sgd", "sgd+rule:2"),
            *("--steps", "6", "--trials", "3", "--no-controls", "--workers", "1"),
            *("--output", str(tmp_path / "runs")),
        ]
    )
    assert isinstance(command, CompareCommand)
    screen = io.StringIO()
    assert command.run(Console(file=screen, width=200)) == 0
    assert (tmp_path / "runs" / "compare-train" / "report.html").exists()
    plan = json.loads((tmp_path / "runs" / "compare-train" / "plan.json").read_text())
    assert (plan["settings"]["steps"], plan["settings"]["budget"]) == (6, None)
    shown = screen.getvalue()
    assert "speed-up in steps" in shown
    assert "Report: " in shown


def test_a_wrong_method_ends_with_status_2(tmp_path, capsys):
    assert cli.main(["compare", "digits-mlp", "--methods", "adm", "--output", str(tmp_path)]) == 2
    assert "Did you mean 'adam'?" in " ".join(capsys.readouterr().err.split())
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("problem", ["train.py:problem", "digits-mpl", "digits-mlp(nrm=1)"])
def test_a_problem_that_does_not_exist_leaves_nothing_behind(problem, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["compare", problem, "--workers", "1"]) == 2
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("command", [["compare", "digits-mlp"], ["atlas", "--quick"]])
def test_what_cannot_be_written_is_found_before_the_work(command, tmp_path, monkeypatch, capsys):
    def work(*_, **__):
        raise AssertionError("the work began")

    monkeypatch.setattr(compare, "compare", work)
    monkeypatch.setattr(atlas, "make_atlas", work)
    (tmp_path / "file").touch()
    assert cli.main([*command, "--output", str(tmp_path / "file" / "runs")]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "file cannot be written (File exists); choose another --output" in message
    assert cli.main([*command, "--output", str(tmp_path), "--workers", "-1"]) == 2
    assert "workers is -1; use at least 0" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["../elsewhere", "/elsewhere", "."])
def test_a_name_leads_to_a_folder_inside_the_output(name, tmp_path, capsys):
    output = tmp_path / "runs"
    assert cli.main(["compare", "digits-mlp", "--name", name, "--output", str(output)]) == 2
    assert "names no folder inside" in " ".join(capsys.readouterr().err.split())
    assert not any(tmp_path.iterdir())


def test_a_comparison_with_names_that_mean_something_to_others(tmp_path, monkeypatch, capsys):
    """Brackets, braces, markup and templates in folders and titles are text."""
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "a[1] {x}~.py"
    script.write_text(SCRIPT.replace('"sums"', '"[red]sums <b> {{ 1 + 1 }} :smile:"'))
    words = ["--methods", "sgd", "sgd+rule:2", "--steps", "4", "--trials", "3", "--seeds", "2"]
    more = ["--no-controls", "--workers", "0", "--output", "~", "--name", "file:x[2]*{b}"]
    assert cli.main(["compare", f"{script}:problem", *words, *more]) == 0
    assert "Report: ~/file:x[2]*{b}/report.html" in capsys.readouterr().out
    page = (tmp_path / "~" / "file:x[2]*{b}" / "report.html").read_text(encoding="utf-8")
    assert "[red]sums &lt;b&gt; {{ 1 + 1 }} :smile:" in page
