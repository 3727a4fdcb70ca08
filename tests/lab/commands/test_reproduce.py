"""`overparam reproduce`, end to end on embedded data."""

import dataclasses
import html
import io
import json
import os
import re
import shlex
import signal
import time
from pathlib import Path

import polars as pl
import pytest
import torch
from rich.console import Console
from support.reproduce_cases import TINY, in_a_process, rerun

from overparam.data import DataUnavailable, load
from overparam.lab import cluster
from overparam.lab.cli import main, parse
from overparam.lab.commands import reproduce as command_module
from overparam.lab.jobs import StudyJob
from overparam.lab.paper.experiments import EXPERIMENTS
from overparam.lab.paper.scale import PAPER, PAPER_RATES, QUICK, STANDARD
from overparam.lab.paper.studies import map_studies, mechanism_studies, regression_studies
from overparam.lab.prepare import check_device

# The width between the margins of a page in CSS pixels, and the elements that do not fit into it.
A4_WIDTH = int((210 - 2 * 14) / 25.4 * 96)
CUT_OFF = """() => [...document.querySelectorAll("main *")].filter(element =>
    element.getBoundingClientRect().right > innerWidth + 1 && !element.closest("svg svg")
).map(element => element.outerHTML.slice(0, 80))"""
# Figures that are only partly visible.
SCROLLED = """() => [...document.querySelectorAll("figure")].filter(figure =>
    figure.scrollWidth > figure.clientWidth).map(figure => figure.parentElement.innerText)"""


def stored_bytes(folder: Path) -> dict[str, bytes]:
    """Every file that must not depend on interruptions: all except manifests and seconds."""
    # A killed writer may leave a hidden temporary file, which nobody reads.
    skipped = re.compile(r"run\.json|floor-.*\.json|\..*\.part")
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not skipped.fullmatch(path.name)
    }


def distance_by_hand(folder: Path, part: str, method: str) -> float:
    """Smallest median final loss over lrs at which no seed failed, minus the optimum."""
    curves = pl.concat([pl.read_parquet(f) for f in (folder / "parts" / part / "jobs").iterdir()])
    optimum = json.loads((folder / "parts" / part / "run.json").read_text())["optimum"]["loss"]
    medians = []
    for rate in curves["rate"].unique():
        runs = curves.filter((pl.col("method") == method) & (pl.col("rate") == rate))
        losses = []
        for seed in runs["seed"].unique():
            one = runs.filter(pl.col("seed") == seed).sort("step")
            whole = one["diverged_at"].is_null().all() and one["loss"][-1] <= one["loss"][0]
            losses.append(one["loss"][-1] if whole else None)
        if None not in losses:
            medians.append(sum(sorted(losses)) / 2)  # two seeds
    return min(medians) - optimum


def test_every_claim_has_a_verdict_from_its_evidence(folder):
    stored = json.loads((folder / "verdicts.json").read_text())
    assert stored["not finished"] == []
    assert {claim["experiment"] for claim in stored["claims"]} == set(EXPERIMENTS)
    for claim in stored["claims"]:
        assert claim["evidence"], claim["statement"]
        holds = all(item["agrees"] is True for item in claim["evidence"])
        assert (claim["verdict"] == "yes") == holds


@pytest.mark.parametrize(
    ("experiment", "part", "names"),
    [
        ("tuned", "l2-tuned", {"1 layer": "gd", "2 layers": "factors:2", "3 layers": "factors:3"}),
        ("adam", "l4-adam", {"Adam, 1 layer": "adam", "Adam, 2 layers": "adam+factors:2"}),
        ("adaptive", "l4-adaptive", {"AdaGrad": "adagrad", "AdaDelta": "adadelta"}),
    ],
)
def test_numbers_of_a_claim_are_those_of_the_stored_curves(folder, experiment, part, names):
    claims = json.loads((folder / "verdicts.json").read_text())["claims"]
    texts = [
        item["text"]
        for claim in claims
        if claim["experiment"] == experiment
        for item in claim["evidence"]
    ]
    for label, method in names.items():
        expected = f"{label} {distance_by_hand(folder, part, method):.3g}"
        assert any(expected in text for text in texts), (expected, texts)


def test_a_second_run_trains_nothing_and_writes_the_same_bytes(folder, monkeypatch):
    before = stored_bytes(folder)
    monkeypatch.setattr(StudyJob, "train", None)
    assert rerun(folder.parent) == 0
    assert stored_bytes(folder) == before
    assert len(before) > 30


# Experiments with few studies, and both kinds of jobs.
FEW = ("adam", "adaptive", "network")


def is_of_a_job(path: Path) -> bool:
    """Whether a file holds the curves of a finished job."""
    return path.suffix == ".parquet" or (path.suffix == ".json" and path.parent.name == "network")


def of_jobs(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if is_of_a_job(path)]


def bytes_of_few(folder: Path) -> dict[str, bytes]:
    """What these experiments store: curves, figures and claims."""
    studies = ("parts/l4-adam", "parts/l4-adaptive", "parts/l4-tuned", "network", "figures/")
    found = {
        name: content
        for name, content in stored_bytes(folder).items()
        if name.startswith(studies)
        and (is_of_a_job(Path(name)) or name.startswith(tuple(f"figures/{each}-" for each in FEW)))
    }
    claims = json.loads((folder / "verdicts.json").read_text())["claims"]
    few = [claim for claim in claims if claim["experiment"] in FEW]
    return found | {"claims": json.dumps(few).encode()}


def test_killed_anywhere_the_next_run_ends_with_the_same_bytes(folder, tmp_path):
    output = tmp_path / "runs"
    target = output / "reproduce-tiny"
    expected = bytes_of_few(folder)
    every = sum(is_of_a_job(Path(name)) for name in expected)
    assert every > 12
    for files in (1, 6):
        process = in_a_process(output, FEW)
        while len(of_jobs(target)) < files:
            assert process.poll() is None, "it ended before it was killed"
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert files <= len(of_jobs(target)) < every
    assert rerun(output, only=FEW) == 0
    assert bytes_of_few(target) == expected


def test_parts_end_with_the_curves_of_one_run(folder, tmp_path):
    target = tmp_path / "reproduce-tiny"
    assert rerun(tmp_path, part="2/2", only=FEW) == 0
    assert not (target / "report.html").exists()
    expected = bytes_of_few(folder)
    half = {str(path.relative_to(target)) for path in of_jobs(target)}
    assert set() < half < set(expected)
    assert rerun(tmp_path, part="1/2", only=FEW) == 0
    assert (target / "report.html").exists()
    assert bytes_of_few(target) == expected


def test_one_experiment_and_then_the_rest(tmp_path):
    assert rerun(tmp_path, only=("adam",)) == 0
    folder = tmp_path / "reproduce-tiny"
    verdicts = json.loads((folder / "verdicts.json").read_text())
    assert {claim["experiment"] for claim in verdicts["claims"]} == {"adam"}
    assert set(verdicts["not finished"]) == set(EXPERIMENTS) - {"adam"}
    assert {path.name for path in (folder / "parts").iterdir()} == {"l4-adam"}
    assert not (folder / "network").exists()
    page = (folder / "report.html").read_text()
    printed = re.findall(r"<code>(overparam reproduce .*?)</code>", page)
    commands = [parse(shlex.split(html.unescape(line))[1:]) for line in printed]
    assert [command.only for command in commands] == [
        (name,) for name in EXPERIMENTS if name != "adam"
    ]
    # The scale of this test has no flag; otherwise the printed command is run as it stands.
    (completing,) = (command for command in commands if command.only == ("adaptive",))
    completing = dataclasses.replace(completing, workers=0)
    assert command_module.reproduce_at(TINY, completing, Console(quiet=True)) == 0
    verdicts = json.loads((folder / "verdicts.json").read_text())
    assert {claim["experiment"] for claim in verdicts["claims"]} == {"adam", "adaptive"}


def test_experiments_are_finished_and_shown_one_by_one(tmp_path, monkeypatch):
    """Run by hand, one job after another: after each, the page has what is finished."""
    verdicts = tmp_path / "reproduce-tiny" / "verdicts.json"
    steps = []

    def one_by_one(jobs, workers, on_progress, **_):
        for job in jobs:
            assert job.train(lambda: False, lambda cost: None)
            on_progress(0.0)
            stored = json.loads(verdicts.read_text()) if verdicts.exists() else {"claims": []}
            steps.append((job.path.name, {claim["experiment"] for claim in stored["claims"]}))
        return True

    monkeypatch.setattr(cluster, "run_jobs", one_by_one)
    output = io.StringIO()
    command = command_module.ReproduceCommand(
        only=("adaptive", "adam"), data="diabetes", output=tmp_path
    )
    assert command_module.reproduce_at(TINY, command, Console(file=output)) == 0
    assert steps[0] == ("l4-adam", {"adam"})
    assert {path for path, _ in steps[1:]} == {"l4-tuned", "l4-adaptive"}
    assert all(shown == {"adam"} for _, shown in steps[1:-1])
    assert steps[-1][1] == {"adam", "adaptive"}
    printed = output.getvalue()
    first, second = re.findall(r"^Finished: (.*)$", printed, re.MULTILINE)
    assert "Adam" in first
    assert "AdaGrad" in second or "adaptive" in second
    assert printed.count("Report so far: ") == 1


def test_a_page_that_cannot_be_written_early_does_not_stop_the_training(tmp_path, monkeypatch):
    def jobs_with_progress(jobs, workers, on_progress, **_):
        for job in jobs:
            job.train(lambda: False, lambda cost: None)
        on_progress(0.0)
        return True

    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(cluster, "run_jobs", jobs_with_progress)
    monkeypatch.setattr(command_module.Rerun, "show_finished", fail)
    assert rerun(tmp_path, only=("adam",)) == 0


def test_results_of_other_data_are_not_replaced_unasked(tmp_path):
    assert rerun(tmp_path, only=("adam",)) == 0
    before = stored_bytes(tmp_path)
    with pytest.raises(ValueError, match="holds another study"):
        rerun(tmp_path, data="linnerud")  # all experiments: the folders of the others are free
    assert stored_bytes(tmp_path) == before
    assert {path.name for path in tmp_path.glob("*/parts/*")} == {"l4-adam"}
    assert rerun(tmp_path, only=("adaptive",)) == 0


def test_what_was_not_named_is_neither_replaced_nor_in_the_way(tmp_path):
    assert rerun(tmp_path, only=("adam", "adaptive")) == 0
    folder = tmp_path / "reproduce-tiny"
    (stored,) = (folder / "parts" / "l4-adaptive" / "jobs").iterdir()
    before = stored.read_bytes()
    (folder / "figures" / "adam-of-old.svg").write_text("")
    assert rerun(tmp_path, only=("adam",), data="linnerud", overwrite=True) == 0
    assert stored.read_bytes() == before
    page = (folder / "report.html").read_text()
    assert re.search("Not on this page: .*l4-adaptive holds another study", page)
    verdicts = json.loads((folder / "verdicts.json").read_text())
    assert {claim["experiment"] for claim in verdicts["claims"]} == {"adam"}
    assert not (folder / "figures" / "adam-of-old.svg").exists()


def take_linnerud_away(monkeypatch):
    """Let the command find every data set but one; returns the list of its calls."""
    asked = []

    def unavailable(name, **options):
        asked.append((name, options))
        if name == "linnerud":
            raise DataUnavailable("linnerud: no network.")
        return load(name, **options)

    monkeypatch.setattr(command_module, "load", unavailable)
    return asked


def test_unavailable_data_are_named_on_the_page(tmp_path, monkeypatch):
    take_linnerud_away(monkeypatch)
    assert rerun(tmp_path, only=("map",)) == 0
    page = (tmp_path / "reproduce-tiny" / "report.html").read_text()
    assert "The map lacks linnerud: linnerud: no network." in page
    names = {path.name for path in (tmp_path / "reproduce-tiny" / "parts").iterdir()}
    assert names == {"map-diabetes-p2", "map-diabetes-p4", "map-diabetes-p6"}


def test_without_the_map_its_data_are_not_downloaded_but_missed_if_they_were_stored(
    tmp_path, monkeypatch
):
    asked = take_linnerud_away(monkeypatch)
    assert rerun(tmp_path, only=("adam",)) == 0
    assert asked == [("linnerud", {"download": False})]
    report = tmp_path / "reproduce-tiny" / "report.html"
    assert "The map lacks" not in report.read_text()
    (tmp_path / "reproduce-tiny" / "parts" / "map-linnerud-p2").mkdir()
    assert rerun(tmp_path, only=("adam",)) == 0
    assert "The map lacks linnerud: linnerud: no network." in report.read_text()


def test_a_device_without_float64_is_refused(monkeypatch):
    def narrow(*size, dtype, device):
        if dtype == torch.float64:
            raise TypeError("Cannot convert a tensor to float64: the device has none.")

    monkeypatch.setattr(torch, "ones", narrow)
    with pytest.raises(ValueError, match=r"'mps' cannot be used here .*has none.\); use cpu"):
        check_device("mps")


def test_a_folder_of_data_without_images_costs_the_images_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("OVERPARAM_DATA", str(tmp_path))
    scale = dataclasses.replace(TINY, network="quick")
    for download in (False, True):
        remarks: list[str] = []
        study, images = command_module._network(scale, "cpu", download, remarks)
        assert study.data == images.name == "digits"
        assert len(remarks) == download
        assert all("trained on digits: OVERPARAM_DATA" in remark for remark in remarks)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--quick", "--paper"], "exclude each other"),
        (["--only", "tunes"], "Did you mean 'tuned'"),
        (["--workers", "0"], "workers is 0"),
        (["--device", "cuda:99"], "use cpu"),
        (["--device", "meta"], "use cpu"),
        (["--data", "ethanool"], "Did you mean 'ethanol'"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(arguments, message, tmp_path, capsys):
    assert main(["reproduce", "--output", str(tmp_path), *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []


def test_scales_of_the_flags():
    command = command_module.ReproduceCommand
    assert command().scale is STANDARD
    assert command(quick=True).scale is QUICK
    assert command(paper=True).scale is PAPER


def test_the_paper_scale_is_that_of_the_paper():
    parts = regression_studies(PAPER, "ethanol", 128, "cpu")
    assert parts["l4-tuned"].iterations == parts["l2-controls"].iterations == 1_000_000
    assert parts["l4-fixed"].iterations == 250_000
    assert parts["l2-fixed"].rates == (1e-3,)
    assert parts["l4-fixed"].rates == (1e-4,)
    assert parts["l4-fixed-wide"].width == 100
    assert parts["l4-adam"].iterations == 200_000
    assert parts["l4-near-zero"].iterations == 100_000
    assert parts["l4-identity"].width == 128
    for name in ("l2-tuned", "l4-tuned", "l4-adaptive", "l4-controls", "l4-adam"):
        assert set(PAPER_RATES) <= set(parts[name].rates)
        assert parts[name].rates_per_decade == 8
        assert (parts[name].init_std, parts[name].width) == (0.01, 1)


def test_every_study_belongs_to_an_experiment():
    for scale in (QUICK, STANDARD, PAPER):
        parts = regression_studies(scale, "ethanol", 128, "cpu") | map_studies(scale, "cpu")
        parts |= mechanism_studies(scale, "cpu")
        for name in parts:
            assert any(experiment.needs(name) for experiment in EXPERIMENTS.values()), name
        for name, experiment in EXPERIMENTS.items():
            assert any(map(experiment.needs, parts)) == (name != "network")


def test_page_in_a_browser(browser, folder):
    requests, problems = [], []
    page = browser.new_page(viewport={"width": 1100, "height": 900})
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto((folder / "report.html").as_uri())
    charts = page.locator(".chart")
    page.wait_for_function(
        "document.querySelectorAll('.chart svg.marks').length === "
        "document.querySelectorAll('.chart').length"
    )
    assert charts.count() == len(list((folder / "figures").glob("*.svg"))) >= 12
    rows = page.locator("details.claim")
    claims = json.loads((folder / "verdicts.json").read_text())["claims"]
    assert rows.count() == len(claims)
    for row, claim in zip(rows.all(), claims, strict=True):
        assert row.locator(".sentence").inner_text() == claim["statement"]
        assert row.locator(".verdict").inner_text().split(maxsplit=1)[1] == claim["verdict"]
        assert not row.locator(".evidence").is_visible()
        row.locator("summary").press("Enter")
        assert row.locator(".evidence li").count() == len(claim["evidence"])
        assert row.locator(".evidence").is_visible()
        target = row.locator("a").get_attribute("href")
        assert page.locator(f"h2{target}").count() == 1
    # Level 2: the overview, each experiment, how verdicts are made; figures have level 3.
    assert page.locator("h2").count() == 2 + len(EXPERIMENTS) == page.locator("nav li").count()
    assert page.locator("h3").count() >= charts.count()
    tiles = page.locator(".mark-rect path")
    assert tiles.count() >= 2 * 3 * 3 * 7
    page.set_viewport_size({"width": 1300, "height": 1000})
    assert page.evaluate(SCROLLED) == []
    page.emulate_media(media="print")
    page.set_viewport_size({"width": A4_WIDTH, "height": 1000})
    assert page.evaluate(CUT_OFF) == []
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")
    assert page.locator(".chart svg.marks").first.is_visible()
    page.emulate_media(media="screen")
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth <= 390")
    page.close()
    assert all(url.startswith(("file:", "data:", "blob:")) for url in requests)
    assert problems == []
