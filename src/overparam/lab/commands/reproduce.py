"""`overparam reproduce`: train what is missing, judge every claim, write the page."""

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
from overparam.lab.paper.chapter import Chapter, PartResult
from overparam.lab.paper.controls import KINDS
from overparam.lab.paper.experiments import EXPERIMENTS, MAP, NETWORK, Stored
from overparam.lab.paper.network import load_result
from overparam.lab.paper.page import write_reproduction
from overparam.lab.paper.scale import PAPER, QUICK, STANDARD, Scale
from overparam.lab.paper.second_order import load_or_measure_floor
from overparam.lab.paper.studies import map_parts, regression_parts
from overparam.lab.paper.verdict import chance_of_order
from overparam.lab.prepare import PreparedStudy, check_device, load_or_fallback, prepare_study
from overparam.lab.problems.mnist_cnn.jobs import CnnJob, cnn_jobs
from overparam.lab.problems.mnist_cnn.study import SCALES, CnnStudy, stand_in
from overparam.lab.progress import progress
from overparam.lab.store import RunDirectory
from overparam.lab.study import Shard, Study
from overparam.lab.theory.check import FAILS, HOLDS


@dataclass(frozen=True)
class ReproduceCommand:
    """Rerun every experiment of the paper, and give each of its claims a verdict.

    On two cores --quick takes about eight minutes, no flag two hours, --paper at the paper's
    horizons (1,000,000 iterations) eighteen hours by estimate. Stop it with ctrl-C or in any
    other way: the same command goes on, and ends with the same curves and verdicts, byte for
    byte.

    Examples:
        overparam reproduce --quick
        overparam reproduce --only emulation tuned
        overparam reproduce --paper --device cuda --workers 1
    """

    quick: bool = False
    """Shorter horizons and coarser grids, about eight minutes on two cores."""
    paper: bool = False
    """The paper's horizons and a grid of 10^(1/8)."""
    only: tuple[str, ...] = ()
    """Experiments to work on: emulation, tuned, adaptive, controls, adam, initialization,
    network, map. All of them where none is named. The page shows whatever is finished."""
    data: str = "ethanol"
    """Data set of the regression experiments, Ethanol in the paper."""
    fallback: str | None = None
    """Embedded data set to use where the data can be neither found nor downloaded."""
    output: Path = Path("runs")
    """Where results are kept: OUTPUT/reproduce-quick and the like."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Processes, one thread each. The results do not depend on it."""
    device: str = "cpu"
    """Where to train: cpu, cuda. The last digits of the curves depend on it."""
    overwrite: bool = False
    """Replace results of other settings that are stored in the same place."""

    @property
    def scale(self) -> Scale:
        """The horizons and grids that the flags ask for.

        Raises:
            ValueError: both flags are set.
        """
        if self.quick and self.paper:
            raise ValueError("--quick and --paper exclude each other; give one of them.")
        return QUICK if self.quick else PAPER if self.paper else STANDARD


def reproduce(command: ReproduceCommand, console: Console) -> int:
    """Carry out `overparam reproduce`; returns the exit status."""
    if command.workers < 1:
        raise ValueError(f"workers is {command.workers}; use at least 1.")
    return reproduce_at(command.scale, command, console)


def reproduce_at(scale: Scale, command: ReproduceCommand, console: Console) -> int:
    """Carry out the command at a scale; returns the exit status, 130 after ctrl-C.

    No workers at all means to train in this process.
    """
    check_device(command.device)
    chosen = _chosen(command.only)
    folder = command.output / f"reproduce-{scale.name}"
    raw = load_or_fallback(command.data, command.fallback, console)
    others, remarks = _other_data(scale.map_data, raw, MAP in chosen, folder)
    studies = regression_parts(scale, raw.name, _standard_features(raw), command.device)
    for name, study in map_parts(scale, command.device).items():
        if study.data in others:
            studies[name] = study
    wanted = {name for name in studies if any(EXPERIMENTS[e].needs(name) for e in chosen)}
    prepared = {
        name: _prepare(name, study, others[study.data], folder, command.overwrite)
        for name, study in studies.items()
        if name in wanted
    }
    for name, study in studies.items():
        # What an earlier command left joins the page; of other settings it is left alone.
        if name not in wanted and RunDirectory(folder / "parts" / name).manifest.exists():
            try:
                prepared[name] = _prepare(name, study, others[study.data], folder, False)
            except ValueError as error:
                remarks.append(f"Not on this page: {error}")
    for part in prepared.values():
        # After the last refusal: one that came later would leave claims to places without curves.
        part.write_manifest(False, part.seconds)
    network_jobs: list[CnnJob] = []
    test_images = 0
    if NETWORK in chosen or (folder / NETWORK).exists():
        network, images = _network(scale, command.device, NETWORK in chosen, remarks)
        network_jobs = cnn_jobs(network, images, folder / NETWORK)
        test_images = len(images.test_images)
    jobs: list[Job] = [job for name in studies if name in wanted for job in _jobs(prepared[name])]
    if NETWORK in chosen:
        jobs += network_jobs
    # The longest first, so that no worker is left with a long one at the end.
    jobs.sort(key=lambda job: job.cost, reverse=True)
    with progress(console, sum(job.cost for job in jobs)) as show:
        finished = run_jobs(jobs, command.workers, show)
    if not finished:
        console.print("Interrupted. What was done is kept; the same command completes it.")
    with single_thread():  # as the page says of its seconds
        stored = _stored(prepared, folder)
    if network_jobs:
        stored = dataclasses.replace(
            stored,
            network=load_result(network_jobs[0].study, network_jobs, test_images),
        )
    chapters: dict[str, Chapter] = {}
    missing: dict[str, str] = {}
    for name, experiment in EXPERIMENTS.items():
        if experiment.finished(stored, studies):
            chapters[name] = experiment.chapter(stored)
        else:
            missing[name] = experiment.title
    write_reproduction(
        folder,
        chapters=chapters,
        missing=missing,
        lead=_lead(scale, raw),
        remarks=remarks,
    )
    _print_verdicts(chapters, missing, console)
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
    """The data sets of the map that are to be had, and a remark for each that the page lacks.

    Where the map is not wanted nothing is downloaded, and only what is stored of it is missed.
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
    """The study of the network and its images; scikit-learn's digits where MNIST is not here."""
    study = dataclasses.replace(SCALES[scale.network], device=device)
    try:
        return study, load_images(study.data, download=download)
    except DataError as error:
        # Also where a folder of data is named that has other sets: no reason to lose the rest.
        study = stand_in(study)
        if download:
            remarks.append(f"The network is trained on {study.data}: {error}")
        return study, load_images(study.data, download=False)


def _standard_features(raw: RegressionData) -> int:
    """How many features are left once constant ones are dropped."""
    return int((raw.features != raw.features[0]).any(dim=0).sum())


def _prepare(
    name: str, study: Study, raw: RegressionData, folder: Path, overwrite: bool
) -> PreparedStudy:
    return prepare_study(study, raw, RunDirectory(folder / "parts" / name), overwrite)


def _jobs(prepared: PreparedStudy) -> list[ShardJob]:
    study, data = prepared.study, prepared.data
    entries = data.features.numel() if study.power > 2 else 0

    def step_cost(shard: Shard) -> float:
        # A guess good enough for a progress bar: calls, and work on the data.
        return 1e-4 + len(shard.runs) * (1e-7 + 5e-11 * entries)

    return shard_jobs(study, prepared.identity, data, prepared.directory, step_cost)


def _stored(prepared: Mapping[str, PreparedStudy], folder: Path) -> Stored:
    """Everything finished, with what takes no training: floors and seconds."""
    results, floors, seconds = {}, {}, {}
    for name, part in prepared.items():
        finished = all(job.finished() for job in _jobs(part))
        part.write_manifest(finished, part.seconds)
        if finished:
            curves = load_curves(part.study, part.directory)
            results[name] = PartResult(part.study, curves, part.optimum.loss)
    for loss in ("l2", "l4"):
        kinds = [f"{loss}-{kind}" for kind in KINDS]
        if set(kinds) <= results.keys():
            parts = [prepared[kind] for kind in kinds]
            floors[loss], seconds[loss] = load_or_measure_floor(folder / f"floor-{loss}", parts)
    return Stored(results, floors, seconds)


def _lead(scale: Scale, raw: RegressionData) -> str:
    return (
        f"Arora, Cohen, Hazan, ICML 2018, on {raw.title}. Scale {scale.name!r}: "
        f"{scale.tuned:,} iterations of the tuned runs, {len(scale.seeds)} seeds. Methods that are "
        "compared tuned have the same learning rates to choose from; divergence is a result; a "
        "verdict follows from the numbers behind it and is one at their horizon. Intervals are "
        "ranges over seeds: those of two methods that do not differ lie apart by chance once in "
        f"{1 / chance_of_order(len(scale.seeds)):.0f} comparisons. An order that the grid decides "
        "(every other learning rate alone does not give it), or its edge, is none. A tuned "
        "distance below a millionth of the first counts as 0."
    )


def _print_verdicts(
    chapters: Mapping[str, Chapter], missing: Mapping[str, str], console: Console
) -> None:
    table = Table("Claim", "Verdict", title="The paper's claims, rerun", show_lines=True)
    colours = {HOLDS: "green", FAILS: "red"}
    for chapter in chapters.values():
        for claim in chapter.claims:
            colour = colours.get(claim.verdict, "yellow")
            table.add_row(claim.statement, f"[{colour}]{claim.verdict}[/]")
    for title in missing.values():
        table.add_row(title, "[yellow]not finished[/]")
    console.print(table)
