"""`overparam reproduce`: train what is missing, give every claim a verdict, write the page."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rich.console import Console

from overparam._words import did_you_mean
from overparam.data import DataError, ImageData, RegressionData, load, load_images
from overparam.lab.cluster import Work, claimed, prepared_alone
from overparam.lab.commands.options import CORES, NO_DEFAULT
from overparam.lab.commands.rerun import Rerun, baselines_of, jobs_of, lead, reading
from overparam.lab.executor import Job, single_thread
from overparam.lab.paper.experiments import EXPERIMENTS, MAP, MECHANISM, NETWORK
from overparam.lab.paper.network import NetworkResult, load_result
from overparam.lab.paper.network_study import (
    SCALES,
    NetworkJob,
    NetworkStudy,
    network_jobs,
    on_digits,
)
from overparam.lab.paper.order import cheapest_first
from overparam.lab.paper.scale import PAPER, QUICK, STANDARD, Scale
from overparam.lab.paper.studies import map_studies, mechanism_studies, regression_studies
from overparam.lab.prepare import (
    PreparedStudy,
    check_device,
    check_output,
    load_or_fallback,
    prepare_study,
)
from overparam.lab.spelling import command_line
from overparam.lab.store import StudyDirectory


@dataclass(frozen=True)
class ReproduceCommand:
    """Rerun every experiment of the paper and give each of its claims a verdict.

    On two quiet cores, --quick takes about eight minutes, the default one to two and a half hours,
    and --paper, at the paper's horizons (1,000,000 iterations), an estimated 11 to 18 hours. You
    can stop the command at any time, with ctrl-C or otherwise: the same command continues, and
    ends with the same curves and verdicts, byte for byte.

    Examples:
        overparam reproduce --quick
        overparam reproduce --only emulation tuned
        overparam reproduce --paper --device cuda --workers 1
    """

    quick: Annotated[bool, NO_DEFAULT] = False
    """Shorter horizons and coarser grids, about eight minutes on two quiet cores."""
    paper: Annotated[bool, NO_DEFAULT] = False
    """The paper's horizons, and eight learning rates per decade."""
    only: Annotated[tuple[str, ...], NO_DEFAULT] = ()
    """Experiments to run: emulation, tuned, adaptive, controls, adam, initialization, network, map,
    mechanism. All of them if none is named. The page shows every experiment that is finished."""
    data: str = "ethanol"
    """Data set of the regression experiments, Ethanol in the paper."""
    fallback: Annotated[str | None, NO_DEFAULT] = None
    """Embedded data set to use if the data can be neither found nor downloaded."""
    output: Path = Path("runs")
    """Folder in which results are kept, for example as OUTPUT/reproduce-quick."""
    workers: int = CORES
    """Number of processes, one thread each. The results do not depend on it."""
    scheduler: Annotated[str | None, NO_DEFAULT] = None
    """Address of a dask scheduler, such as tcp://host:8786, whose workers train instead."""
    part: Annotated[str | None, NO_DEFAULT] = None
    """I/N runs every N-th job from the I-th on, for job arrays; the last part writes the report."""
    device: str = "cpu"
    """Where to train: cpu, cuda. The last digits of the curves depend on it."""
    overwrite: Annotated[bool, NO_DEFAULT] = False
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

    def run(self, console: Console) -> int:
        """Carry out `overparam reproduce`; returns the exit status."""
        if self.workers < 1:
            raise ValueError(f"workers is {self.workers}; use at least 1.")
        return reproduce_at(self.scale, self, console)

    def completing(self, experiment: str) -> str:
        """The command that completes an experiment of this rerun, at its scale, in its folder."""
        flags = [f"--{name}" for name in ("quick", "paper") if getattr(self, name)]
        options = {name: getattr(self, name) for name in ("data", "fallback", "output", "device")}
        usual = ReproduceCommand()
        changed = {n: value for n, value in options.items() if value != getattr(usual, n)}
        return command_line("reproduce", *flags, only=experiment, **changed)


def reproduce_at(scale: Scale, command: ReproduceCommand, console: Console) -> int:
    """Carry out the command at a scale; returns the exit status, 130 after ctrl-C.

    With 0 workers, everything is trained in this process.
    """
    check_device(command.device)
    chosen = command.only or tuple(EXPERIMENTS)
    for name in chosen:
        if name not in EXPERIMENTS:
            raise ValueError(
                f"no experiment is named {name!r}.{did_you_mean(name, EXPERIMENTS)} "
                f"Known: {', '.join(EXPERIMENTS)}."
            )
    folder = command.output / f"reproduce-{scale.name}"
    work = Work.of(folder, command.workers, command.scheduler, command.part, command.overwrite)
    check_output(folder, "parts", "figures", NETWORK)
    raw = load_or_fallback(command.data, command.fallback, console)
    with claimed(folder, work.part):
        with prepared_alone(folder):
            rerun, needs, jobs = _prepared(scale, command, folder, chosen, raw)
        ordered = cheapest_first(needs, jobs)
        # The order of work depends on what is finished; who has which part of it must not.
        listed = [job for name in sorted(jobs) for job in jobs[name]]
        mine = set(map(id, work.own(listed)))
        own = [job for job in ordered if id(job) in mine]
        waiting = {name: [job for study in needs[name] for job in jobs[study]] for name in needs}

        def show_finished() -> None:
            nonlocal waiting
            left = {name: [j for j in each if not j.finished()] for name, each in waiting.items()}
            waiting = {name: each for name, each in left.items() if each}
            if len(waiting) < len(left):
                # A page that fails here is tried again at the end, and must not stop the training.
                with single_thread(), contextlib.suppress(ValueError, OSError):
                    rerun.show_finished(console)

        finished = work.train(own, ordered, console, show_finished)
        if finished is None:
            return 0
        with single_thread():
            rerun.show_all(console)
        return 0 if finished else 130


def _prepared(
    scale: Scale,
    command: ReproduceCommand,
    folder: Path,
    chosen: tuple[str, ...],
    raw: RegressionData,
) -> tuple[Rerun, dict[str, list[str]], dict[str, Sequence[Job]]]:
    """The rerun, the studies of each chosen experiment, and the jobs of each study."""
    named = {MAP: scale.map_data, MECHANISM: scale.mechanism_data}
    others, remarks = _other_data(named, raw, chosen, folder)
    varying = int((raw.features != raw.features[0]).any(dim=0).sum())  # the others are constant
    studies = regression_studies(scale, raw.name, varying, command.device)
    beyond = map_studies(scale, command.device) | mechanism_studies(scale, command.device)
    studies |= {name: study for name, study in beyond.items() if study.data in others}
    wanted = {name for name in studies if any(EXPERIMENTS[e].needs(name) for e in chosen)}

    def prepare(name: str, overwrite: bool) -> PreparedStudy:
        directory = StudyDirectory(folder / "parts" / name)
        return prepare_study(studies[name], others[studies[name].data], directory, overwrite)

    prepared = {name: prepare(name, command.overwrite) for name in studies if name in wanted}
    for name in studies:
        # Stored studies of earlier commands are shown too, unless they have other settings.
        if name not in wanted and StudyDirectory(folder / "parts" / name).manifest.exists():
            try:
                prepared[name] = prepare(name, overwrite=False)
            except ValueError as error:
                remarks.append(f"Not on this page: {error}")
    for ready in prepared.values():
        # Only now, because a refusal above must not leave manifests without curves behind.
        ready.write_manifest(False, ready.seconds)
    of_network: list[NetworkJob] = []
    result: Callable[[], NetworkResult | None] | None = None
    if NETWORK in chosen or (folder / NETWORK).exists():
        network, images = _network(scale, command.device, NETWORK in chosen, remarks)
        of_network = network_jobs(network, images.fingerprint, folder / NETWORK)
        result = functools.partial(load_result, network, of_network, len(images.test_images))
    jobs: dict[str, Sequence[Job]] = {name: jobs_of(prepared[name]) for name in wanted}
    if NETWORK in chosen:
        jobs[NETWORK] = of_network
    names = [*studies, NETWORK]
    needs = {name: list(filter(EXPERIMENTS[name].needs, names)) for name in chosen}
    with single_thread():  # as the page says about its seconds
        # Before the training, because its seconds are measured, and other work would distort them.
        baselines = baselines_of(prepared, folder)
    rerun = Rerun(
        folder,
        lead(scale, raw.title),
        reading(scale),
        remarks,
        names,
        prepared,
        baselines,
        result,
        command.completing,
    )
    return rerun, needs, jobs


def _other_data(
    named: Mapping[str, Sequence[str]], raw: RegressionData, chosen: tuple[str, ...], folder: Path
) -> tuple[dict[str, RegressionData], list[str]]:
    """The available data sets of experiments, and a remark on each one that is not available.

    If an experiment is not wanted, nothing is downloaded for it, and a data set is only missed if
    the experiment has stored results on it.
    """
    data, remarks = {raw.name: raw}, []
    for experiment, names in named.items():
        for name in names:
            if name in data:
                continue
            wanted = experiment in chosen
            try:
                data[name] = load(name, download=wanted)
            except DataError as error:
                if wanted or any(folder.glob(f"parts/{experiment}-{name}-*")):
                    remarks.append(f"The {experiment} lacks {name}: {error}")
    return data, remarks


def _network(
    scale: Scale, device: str, download: bool, remarks: list[str]
) -> tuple[NetworkStudy, ImageData]:
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
