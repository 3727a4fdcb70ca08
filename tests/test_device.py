"""Everything on a device that is not the CPU: no machine here has a GPU, so on a pretended one."""

import pytest
from support import forks
from support.device_runs import RUNS, run
from support.pretend_device import POSSIBLE


@pytest.mark.skipif(not POSSIBLE, reason="needs PyTorch 2.10: a device written in Python")
@pytest.mark.parametrize("name", RUNS)
def test_on_another_device(name):
    # A process each: the device stays registered as long as the process lives.
    forks.run(run, (name,))
