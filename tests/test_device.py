"""Everything on a device that is not the CPU: no machine here has a GPU, so on a pretended one."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.device_runs import RUNS
from support.pretend_device import POSSIBLE


@pytest.mark.skipif(not POSSIBLE, reason="needs PyTorch 2.10: a device written in Python")
@pytest.mark.parametrize("name", RUNS)
def test_on_another_device(name):
    # A process each: the device stays registered as long as the process lives.
    command = [sys.executable, "-m", "support.device_runs", name]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    assert done.returncode == 0, done.stderr[-3000:]
