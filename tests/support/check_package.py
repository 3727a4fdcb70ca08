"""What `make package` runs: the wheel in a clean environment, the sdist on its own tests.

python tests/support/check_package.py dist
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Quick, and without the lab: the mathematics, the README and the metadata.
CORE_TESTS = (
    "tests/rule/test_reference.py",
    "tests/factors/test_product.py",
    "tests/test_simple.py",
    "tests/test_readme.py",
    "tests/test_package.py",
)
CORE = """
import importlib.resources, importlib.util, sys
import torch, overparam
from overparam import EndToEnd, Factored, collapse, overparameterize
assert sys.prefix in overparam.__file__, f"imported from {overparam.__file__}"
assert importlib.resources.files(overparam).joinpath("py.typed").is_file(), "no py.typed"
for extra in ("altair", "polars", "scipy", "sklearn"):
    assert importlib.util.find_spec(extra) is None, f"the core installs {extra}"
model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
x = torch.randn(32, 8)
for make in (EndToEnd, Factored):
    optimizer = make(model, lr=1e-2)
    model(x).square().mean().backward()
    optimizer.step()
expected = model(x)
torch.testing.assert_close(collapse(overparameterize(model))(x), expected)
"""


def main(dist: Path) -> None:
    """Check the one wheel and the one sdist in a folder; a failure ends in an error."""
    (wheel,) = dist.glob("*.whl")
    (sdist,) = dist.glob("*.tar.gz")
    # Beside each other: one waits for downloads, the other computes.
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor() as pool:
        checks = [(check_wheel, wheel), (check_sdist, sdist)]
        running = [pool.submit(check, file, Path(folder)) for check, file in checks]
        for each in running:
            each.result()


def check_wheel(wheel: Path, folder: Path) -> None:
    """Install the wheel alone and try the core, then with the lab and try the command."""
    venv.create(folder / "clean", with_pip=True)
    binaries = folder / "clean" / ("Scripts" if os.name == "nt" else "bin")
    python = str(binaries / "python")
    install: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--no-compile"]
    install += ["--constraint", ROOT / "constraints.txt"]
    run([*install, wheel], folder)
    # Torch itself warns where NumPy is missing.
    strict = ["-W", "error", "-W", "ignore:Failed to initialize NumPy"]
    run([python, *strict, "-c", CORE], folder)
    refused = run([binaries / "overparam", "run"], folder, expect=2)
    assert 'pip install "overparam[lab]"' in refused, refused
    print("wheel: the core works alone", flush=True)
    run([*install, f"{wheel}[lab]"], folder)
    study = ["--data", "diabetes", "--iterations", "200", "--methods", "gd", "rule:2"]
    run([binaries / "overparam", "run", *study, "--name", "smoke"], folder)
    assert (folder / "runs" / "smoke" / "report.html").is_file()
    print("wheel: the lab works", flush=True)


def check_sdist(sdist: Path, folder: Path) -> None:
    """Collect all tests of the sdist and run those of the core, with the sources it holds."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    root = folder / sdist.name.removesuffix(".tar.gz")
    imported = run([sys.executable, "-c", "import overparam; print(overparam.__file__)"], root)
    assert str(root) in imported, f"the tests would import {imported}"
    run([sys.executable, "-m", "pytest", "--collect-only", "-q"], root)
    run([sys.executable, "-m", "pytest", "-q", *CORE_TESTS], root)
    print("sdist: all tests are found, those of the core pass", flush=True)


def run(command: list[str | Path], folder: Path, expect: int = 0) -> str:
    """Run a command in a folder; returns what it printed, which is shown where it fails."""
    environment = {**os.environ, "PYTHONPATH": str(folder / "src")}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    printed = done.stdout + done.stderr
    if done.returncode != expect:
        sys.exit(f"{' '.join(map(str, command))}\nended with {done.returncode}:\n{printed}")
    return printed


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
