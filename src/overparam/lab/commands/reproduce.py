"""`overparam reproduce`: train what is missing, give every claim a verdict, write the page."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from overparam._words import did_you_mean
from overparam.data import DataError, ImageData, RegressionData, load, load_images
from overparam.lab.executor import Job, run_jobs, single_thread
from overparam.lab.jobs import ShardJob, load_curves, shard_jobs
from overparam.lab.paper.claims import chance_of_order
from overparam.lab.paper.controls import KINDS
from overparam.lab.paper.experiments import EXPERIMENTS, MAP, NETWORK, StoredResults
from overparam.lab.paper.network import load_result
from overparam.lab.paper.page import write_reproduction
from overparam.lab.paper.results import ExperimentReport, StudyResult
from overparam.lab.paper.scale import PAPER, QUICK, STANDARD, Scale
from overparam.lab.paper.second_order import load_or_compute_baseline
from overparam.lab.paper.studies import map_studies, regression_studies
from overparam.lab.prepare import PreparedStudy, check_device, load_or_fallback, prepare_study
from overparam.lab.problems.mnist_cnn.jobs import CnnJob, cnn_jobs
from overparam.lab.problems.mnist_cnn.study import SCALES, CnnStudy, on_digits
from overparam.lab.progress import progress
from overparam.lab.store import StudyDirectory
from overparam.lab.study import Shard, Study
from overparam.lab.theory.check import FAILS, HOLDS


@dataclass(frozen=True)
class ReproduceCommand:
    """Rerun every experiment of the paper and give each of its claims a verdict.

    On two cores, --quick takes about eight minutes, the default about two hours, and --paper, at
    the paper's horizons (1,000,000 iterations), an estimated eighteen hours. You can stop the
    command at any time, with ctrl-C or otherwise: the same command continues, and ends with the
    same curves and verdicts, byte for byte.

    Examples:
        overparam reproduce --quick
        overparam reproduce --only emulation tuned
        overparam reproduce --paper --device cuda --workers 1
    """

    quick: bool = False
    """Shorter horizons and coarser grids, about eight minutes on two cores."""
    paper: bool = False
    """The paper's horizons, and eight learning rates per decade."""
    only: tuple[str, ...] = ()
    """Experiments to run: emulation, tuned, adaptive, controls, adam, initialization, network, map.
    All of them if none is named. The page shows every experiment that is finished."""
    data: str = "ethanol"
    """Data set of the regression experiments, Ethanol in the paper."""
    fallback: str | None = None
    """Embedded data set to use if the data can be neither found nor downloaded."""
    output: Path = Path("runs")
    """Folder in which results are kept, for example as OUTPUT/reproduce-quick."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Number of processes, one thread each. The results do not depend on it."""
    device: str = "cpu"
    """Where to train: cpu, cuda. The last digits of the curves depend on it."""
    overwrite: bool = False
    """Replace results of other settings that are stored in the same folder."""

    @property
    def scale(self) -> Scale:
        """The horizons and grids that the flags ask for.

        Raises:
            ValueError: both flags are set.
        """
        if self.quick and self.paper:
            raise ValueError("--quick and --paper exclude each other; use only one of them.")
        return QUICK if self.quick else PAPER if self.paper else STANDARD


def reproduce(command: ReproduceCommand, console: Console) -> int:
    """Carry out `overparam reproduce`; returns the exit status."""
    if command.workers < 1:
        raise ValueError(f"workers is {command.workers}; use at least 1.")
    return reproduce_at(command.scale, command, console)


def reproduce_at(scale: Scale, command: ReproduceCommand, console: Console) -> int:
    """Carry out the command at a scale; returns the exit status, 130 after ctrl-C.

    With 0 workers, everything is trained in this process.
    """
    check_device(command.device)
    chosen = _chosen(command.only)
    folder = command.output / f"reproduce-{scale.name}"
    raw = load_or_fallback(command.data, command.fallback, console)
    others, remarks = _other_data(scale.map_data, raw, MAP in chosen, folder)
    studies = regression_studies(scale, raw.name, _standard_features(raw), command.device)
    for name, study in map_studies(scale, command.device).items():
        if study.data in others:
            studies[name] = study
    wanted = {name for name in studies if any(EXPERIMENTS[e].needs(name) for e in chosen)}
    prepared = {
        name: _prepare(name, study, others[study.data], folder, command.overwrite)
        for name, study in studies.items()
        if name in wanted
    }
    for name, study in studies.items():
        # Stored studies of earlier commands are shown too, unless they have other settings.
        if name not in wanted and StudyDirectory(folder / "parts" / name).manifest.exists():
            try:
                prepared[name] = _prepare(name, study, others[study.data], folder, False)
            except ValueError as error:
                remarks.append(f"Not on this page: {error}")
    for ready in prepared.values():
        # Only now, because a refusal above must not leave manifests without curves behind.
        ready.write_manifest(False, ready.seconds)
    network_jobs: list[CnnJob] = []
    test_images = 0
    if NETWORK in chosen or (folder / NETWORK).exists():
        network, images = _network(scale, command.device, NETWORK in chosen, remarks)
        network_jobs = cnn_jobs(network, images, folder / NETWORK)
        test_images = len(images.test_images)
    jobs: list[Job] = [job for name in studies if name in wanted for job in _jobs(prepared[name])]
    if NETWORK in chosen:
        jobs += network_jobs
    # The longest jobs first, so that no worker is left with a long one at the end.
    jobs.sort(key=lambda job: job.cost, reverse=True)
    with progress(console, sum(job.cost for job in jobs)) as show:
        finished = run_jobs(jobs, command.workers, show)
    if not finished:
        console.print("Interrupted. Finished work is kept; the same command continues it.")
    with single_thread():  # as the page says about its seconds
        stored = _stored(prepared, folder)
    if network_jobs:
        stored = dataclasses.replace(
            stored, network=load_result(network_jobs[0].study, network_jobs, test_images)
        )
    reports: dict[str, ExperimentReport] = {}
    missing: dict[str, str] = {}
    for name, experiment in EXPERIMENTS.items():
        if experiment.finished(stored, studies):
            reports[name] = experiment.report(stored)
        else:
            missing[name] = experiment.title
    write_reproduction(
        folder, reports=reports, missing=missing, lead=_lead(scale, raw), remarks=remarks
    )
    _print_verdicts(reports, missing, console)
    console.print(f"\nReport: {folder / 'report.html'}", markup=False, soft_wrap=True)
    return 0 if finished else 130


def _chosen(only: tuple[str, ...]) -> tuple[str, ...]:
    for name in only:
        if name not in EXPERIMENTS:
            raise ValueError(
                f"no experiment is named {name!r}.{did_you_mean(name, EXPERIMENTS)} "
                f"Known: {', '.join(EXPERIMENTS)}."
            )
    return only or tuple(EXPERIMENTS)


def _other_data(
    names: tuple[str, ...], raw: RegressionData, wanted: bool, folder: Path
) -> tuple[dict[str, RegressionData], list[str]]:
    """The available data sets of the map, and a remark on each one that is not available.

    If the map is not wanted, nothing is downloaded, and a data set is only missed if the map has
    stored results on it.
    """
    data, remarks = {raw.name: raw}, []
    for name in names:
        if name in data:
            continue
        try:
            data[name] = load(name, download=wanted)
        except DataError as error:
            if wanted or any(folder.glob(f"parts/map-{name}-*")):
                remarks.append(f"The map lacks {name}: {error}")
    return data, remarks


def _network(
    scale: Scale, device: str, download: bool, remarks: list[str]
) -> tuple[CnnStudy, ImageData]:
    """The study of the network and its images: MNIST, or scikit-learn's digits without it."""
    study = dataclasses.replace(SCALES[scale.network], device=device)
    try:
        return study, load_images(study.data, download=download)
    except DataError as error:
        # Also if OVERPARAM_DATA names a folder without MNIST: the other experiments can still run.
        study = on_digits(study)
        if download:
            remarks.append(f"The network is trained on {study.data}: {error}")
        return study, load_images(study.data, download=False)


def _standard_features(raw: RegressionData) -> int:
    """The number of features without the constant ones."""
    return int((raw.features != raw.features[0]).any(dim=0).sum())


def _prepare(
    name: str, study: Study, raw: RegressionData, folder: Path, overwrite: bool
) -> PreparedStudy:
    return prepare_study(study, raw, StudyDirectory(folder / "parts" / name), overwrite)


def _jobs(prepared: PreparedStudy) -> list[ShardJob]:
    study, data = prepared.study, prepared.data
    entries = data.features.numel() if study.power > 2 else 0

    def step_cost(shard: Shard) -> float:
        # An estimate for the progress bar: a constant for the calls, plus the work on the data.
        return 1e-4 + len(shard.runs) * (1e-7 + 5e-11 * entries)

    return shard_jobs(study, prepared.identity, data, prepared.directory, step_cost)


def _stored(prepared: Mapping[str, PreparedStudy], folder: Path) -> StoredResults:
    """The finished studies, with the second-order baselines and the seconds per iteration."""
    results, baselines, seconds = {}, {}, {}
    for name, ready in prepared.items():
        finished = all(job.finished() for job in _jobs(ready))
        ready.write_manifest(finished, ready.seconds)
        if finished:
            curves = load_curves(ready.study, ready.directory)
            results[name] = StudyResult(ready.study, curves, ready.optimum.loss)
    for loss in ("l2", "l4"):
        names = [f"{loss}-{kind}" for kind in KINDS]
        if set(names) <= results.keys():
            # The file is called floor for results that were stored earlier.
            path, timed = folder / f"floor-{loss}", [prepared[name] for name in names]
            baselines[loss], seconds[loss] = load_or_compute_baseline(path, timed)
    return StoredResults(results, baselines, seconds)


def _lead(scale: Scale, raw: RegressionData) -> str:
    return (
        f"Arora, Cohen, Hazan, ICML 2018, rerun. Data: {raw.title}. Scale {scale.name!r}: "
        f"{scale.tuned:,} iterations for the tuned runs, {len(scale.seeds)} seeds. Tuned methods "
        "that are compared choose from the same learning rates, and divergence is a result like "
        "any other. A verdict follows from the evidence below it and holds for its horizon. "
        "Intervals are ranges over seeds: for two equally good methods, the intervals fail to "
        f"overlap by chance once in {1 / chance_of_order(len(scale.seeds)):.0f} comparisons. A "
        "comparison is not decided if the order changes with only every other learning rate, or if "
        "the best learning rate of the method that is behind is at the edge of the grid. A tuned "
        "distance below a millionth of the first one counts as 0."
    )


def _print_verdicts(
    reports: Mapping[str, ExperimentReport], missing: Mapping[str, str], console: Console
) -> None:
    table = Table("Claim", "Verdict", title="The paper's claims, rerun", show_lines=True)
    colours = {HOLDS: "green", FAILS: "red"}
    for report in reports.values():
        for claim in report.claims:
            colour = colours.get(claim.verdict, "yellow")
            table.add_row(claim.statement, f"[{colour}]{claim.verdict}[/]")
    for title in missing.values():
        table.add_row(title, "[yellow]not finished[/]")
    console.print(table)
