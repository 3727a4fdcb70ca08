"""Everything on a device that is not the CPU: no machine here has a GPU, so on a pretended one."""

import subprocess
import sys
from pathlib import Path

import pytest
from device_runs import RUNS
from pretend_device import POSSIBLE


@pytest.mark.skipif(not POSSIBLE, reason="needs PyTorch 2.10: a device written in Python")
@pytest.mark.parametrize("name", RUNS)
def test_on_another_device(name):
    script = Path(__file__).with_name("device_runs.py")
    # A process each: the device stays registered as long as the process lives.
    done = subprocess.run([sys.executable, script, name], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
