"""A rerun of all experiments in seconds, on embedded data."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from unittest import mock

from rich.console import Console

from overparam.lab.commands.reproduce import ReproduceCommand, reproduce_at
from overparam.lab.paper import network_study
from overparam.lab.paper.network_study import SCALES
from overparam.lab.paper.scale import QUICK

# All experiments in seconds: horizons at which few claims can hold.
TINY = dataclasses.replace(
    QUICK, name="tiny", fixed=60, tuned=60, adam=40, deep=40, rates_per_decade=1,
    l2_rates_per_decade=1, seeds=(0, 1),
    full_identity=True, network="tiny", map_data=("diabetes", "linnerud"), map_iterations=30,
    map_rates_per_decade=1, map_lowest_rate=1e-3, mechanism_iterations=20,
    mechanism_rates_per_decade=1, mechanism_schedules=("constant", "cosine"),
)  # fmt: skip


def rerun(output: Path, **options) -> int:
    """The whole command on embedded data; with 0 workers, in this process."""
    given = {"data": "diabetes", "workers": 0} | options
    command = ReproduceCommand(output=output, **given)
    # The penalty alone at the paper's size takes minutes.
    with mock.patch.object(network_study, "PAPER", SCALES["tiny"]):
        return reproduce_at(TINY, command, Console(quiet=True))


def in_a_process(output: Path, only: tuple[str, ...]) -> subprocess.Popen:
    """The same in another process, which can be killed."""
    code = (
        "import sys; sys.path[:0] = [sys.argv[2]]\n"
        "from pathlib import Path; from support.reproduce_cases import rerun\n"
        "if __name__ == '__main__': rerun(Path(sys.argv[1]), workers=2, only=tuple(sys.argv[3:]))"
    )
    script = output.with_suffix(".py")
    script.write_text(code)
    folder = str(Path(__file__).parents[1])
    return subprocess.Popen([sys.executable, str(script), str(output), folder, *only])
