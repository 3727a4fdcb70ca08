import io

from rich.console import Console

from overparam.lab import cli
from overparam.lab.commands.compare import CompareCommand, run

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
    assert run(command, Console(file=screen, width=200)) == 0
    assert (tmp_path / "runs" / "compare-train" / "report.html").exists()
    shown = screen.getvalue()
    assert "speed-up in steps" in shown
    assert "Report: " in shown


def test_a_wrong_method_ends_with_status_2(tmp_path, capsys):
    assert cli.main(["compare", "digits-mlp", "--methods", "adm", "--output", str(tmp_path)]) == 2
    assert "Did you mean 'adam'?" in " ".join(capsys.readouterr().err.split())
    assert not any(tmp_path.iterdir())
