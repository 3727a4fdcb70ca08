"""The examples run at toy size and pass their own checks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("script", "needs"),
    [
        ("fsdp2", ()),
        ("hugging_face_trainer", ("transformers", "accelerate")),
        ("lightning_module", ("lightning",)),
        ("own_layer", ()),
    ],
)
def test_example(script: str, needs: tuple[str, ...], tmp_path: Path) -> None:
    for package in needs:
        pytest.importorskip(
            package, reason=f"{package} is not installed; install the extra 'models'"
        )
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / f"{script}.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "loss" in done.stdout
