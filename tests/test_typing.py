"""What a type checker says of code that uses the package."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = ROOT / "tests" / "support" / "user_code.py"


@pytest.fixture
def pyright(tmp_path):
    """Strict pyright on a file, with the package as its users have it: errors, as sentences."""
    command = shutil.which("pyright", path=Path(sys.executable).parent)
    if command is None:
        pytest.skip("pyright is not installed; install the extra 'dev'")

    def check(source: str) -> list[str]:
        (tmp_path / "code.py").write_text(source, encoding="utf-8")
        settings = {
            "typeCheckingMode": "strict",
            "extraPaths": [str(ROOT / "src")],
            "reportMissingTypeStubs": False,
        }
        (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
        done = subprocess.run(
            [command, "--outputjson", "--pythonpath", sys.executable, "--project", tmp_path],
            capture_output=True,
            text=True,
            check=False,
        )
        found = json.loads(done.stdout)["generalDiagnostics"]
        return [f"line {one['range']['start']['line'] + 1}: {one['message']}" for one in found]

    return check


def test_user_code_is_clean_in_strict_mode(pyright):
    assert pyright(CODE.read_text(encoding="utf-8")) == []


def test_mistakes_are_found(pyright):
    lines = [
        "from torch import nn",
        "from overparam import EndToEnd, collapse, overparameterize",
        "overparameterize(nn.ReLU(), depth='two')",
        "EndToEnd(nn.ReLU(), granularity='column')",
        "collapse(nn.ReLU()).no_such_method().more()",
    ]
    found = {error.partition(":")[0] for error in pyright("\n".join(lines) + "\n")}
    assert found == {"line 3", "line 4", "line 5"}
