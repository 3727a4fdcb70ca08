import shutil

import pytest
import torch
from support.reproduce_cases import rerun

from overparam.data import RegressionData
from overparam.lab import cluster
from overparam.lab.cli import main
from overparam.lab.executor import run_jobs

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


@pytest.fixture(scope="session")
def small_data() -> RegressionData:
    """Regression data with correlated features, small enough to train on in milliseconds."""
    generator = torch.Generator().manual_seed(7)
    features = torch.randn(61, 5, generator=generator, dtype=torch.float64)
    features[:, 1] += 2 * features[:, 0]
    weight = torch.randn(5, 1, generator=generator, dtype=torch.float64)
    noise = torch.randn(61, 1, generator=generator, dtype=torch.float64)
    return RegressionData(
        name="small",
        title="A small problem",
        features=features,
        targets=features @ weight + 0.3 * noise,
        source="generated",
        origin="embedded",
    )


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """The results of `overparam reproduce` at the smallest scale."""
    output = tmp_path_factory.mktemp("reproduce")
    assert rerun(output) == 0
    return output / "reproduce-tiny"


@pytest.fixture
def in_process(monkeypatch):
    """Make the command line train in this process, because starting workers takes seconds."""

    def in_this_process(jobs, workers, on_progress, **_):
        finished = run_jobs(jobs, 0)
        on_progress(sum(job.cost for job in jobs))
        return finished

    monkeypatch.setattr(cluster, "run_jobs", in_this_process)


@pytest.fixture
def command(in_process, tmp_path, monkeypatch, capsys):
    """Calls the command line in an empty folder: exit status, output, errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")

    def call(*arguments):
        try:
            status = main(list(arguments))
        except SystemExit as error:
            status = error.code or 0
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return status, captured.out, captured.err

    return call


@pytest.fixture(scope="session")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield started
        started.close()
