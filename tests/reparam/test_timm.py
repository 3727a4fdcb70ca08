"""timm's ResNet, MobileNet and ``reparameterize_model``, in a process of their own."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
# `make` puts timm and torchvision there, apart from what the other tests import.
APART = Path(sys.prefix) / "vision"


def test_timm() -> None:
    if not APART.is_dir() and importlib.util.find_spec("timm") is None:
        pytest.skip(f"timm is not installed, neither here nor in {APART}; see the Makefile")
    path = os.pathsep.join([str(TESTS), str(TESTS.parent / "src"), str(APART)])
    done = subprocess.run(
        [sys.executable, "-W", "error", TESTS / "support" / "timm_models.py"],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == ["resnet", "mobilenet", *["reparameterized"] * 2]
