"""What a rerun of the paper shows: the page and the verdicts of what is finished so far."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
from rich.console import Console

from overparam.lab.jobs import StudyJob, load_curves, study_jobs
from overparam.lab.paper.claims import chance_of_order
from overparam.lab.paper.controls import KINDS
from overparam.lab.paper.experiments import EXPERIMENTS, NETWORK, StoredResults
from overparam.lab.paper.late_phase import predicted_speedup
from overparam.lab.paper.network import NetworkResult
from overparam.lab.paper.page import answer, write_reproduction
from overparam.lab.paper.results import ExperimentReport, StudyResult
from overparam.lab.paper.scale import Scale
from overparam.lab.paper.second_order import load_or_compute_baseline
from overparam.lab.prepare import PreparedStudy
from overparam.lab.study import Work
from overparam.lab.terminal import say, say_sentence, say_verdict

Baselines = tuple[dict[str, pl.DataFrame], dict[str, Mapping[str, float]]]


def jobs_of(prepared: PreparedStudy) -> list[StudyJob]:
    """The jobs of a study, with an estimate of their core-seconds."""
    study, data = prepared.study, prepared.data
    entries = data.features.numel() if study.power > 2 else 0

    def step_cost(work: Work) -> float:
        # An estimate for the progress bar: a constant for the calls, plus the work on the data.
        return 1e-4 + len(work.runs) * (1e-7 + 5e-11 * entries)

    return study_jobs(study, prepared.identity, data, prepared.directory, step_cost)


def baselines_of(prepared: Mapping[str, PreparedStudy], folder: Path) -> Baselines:
    """The second-order baselines and the seconds per iteration, by loss, computed if need be."""
    curves, seconds = {}, {}
    for loss in ("l2", "l4"):
        names = [f"{loss}-{kind}" for kind in KINDS]
        if set(names) <= prepared.keys():
            # The file is called floor for results that were stored earlier.
            path, timed = folder / f"floor-{loss}", [prepared[name] for name in names]
            curves[loss], seconds[loss] = load_or_compute_baseline(path, timed)
    return curves, seconds


@dataclass
class Rerun:
    """A rerun of the paper at one scale.

    Attributes:
        folder: where its page goes.
        lead: the paragraph below the title of the page.
        reading: how its verdicts are made.
        remarks: sentences about this run as a whole.
        studies: the names of all studies at this scale, with that of the network.
        prepared: the studies that are trained now or were before, by name.
        baselines: the second-order baselines of these studies.
        network: loads the curves of the network, if all are stored; None if it is neither trained
            nor stored.
        completing: the command that completes an experiment, by the experiment's name.
        shown: the experiments whose verdicts have been printed.
        reports: those of finished experiments, which do not change.
    """

    folder: Path
    lead: str
    reading: str
    remarks: Sequence[str]
    studies: Collection[str]
    prepared: Mapping[str, PreparedStudy]
    baselines: Baselines
    network: Callable[[], NetworkResult | None] | None
    completing: Callable[[str], str]
    shown: set[str] = field(default_factory=set)
    reports: dict[str, ExperimentReport] = field(default_factory=dict)

    def show_finished(self, console: Console) -> None:
        """Write the page again, and print the verdicts that are new since the last call."""
        stored = self._stored()
        finished = {n for n, e in EXPERIMENTS.items() if e.finished(stored, self.studies)}
        if not finished - self.shown:
            return
        reports, _ = self._write_page(stored)
        for name, report in reports.items():
            if name not in self.shown:
                say(console, f"Finished: {report.title}")
                for claim in report.claims:
                    say_verdict(console, claim.verdict, claim.statement)
        if not self.shown:
            say(console, f"Report so far: {self.folder / 'report.html'}")
        self.shown |= finished

    def show_all(self, console: Console) -> None:
        """Write the page and print the verdicts of all experiments."""
        reports, missing = self._write_page(self._stored())
        say(console, "")
        say_sentence(console, answer(reports, missing))
        for report in reports.values():
            say(console, f"\n{report.title}")
            for claim in report.claims:
                say_verdict(console, claim.verdict, claim.statement, [f"{claim.number}."])
        for name, command in missing.items():
            say(console, f"\n{EXPERIMENTS[name].title}")
            say_verdict(console, "not finished", "This command completes it:")
            say(console, f"    {command}")  # whole, so that it can be copied
        say(console, f"\nReport: {self.folder / 'report.html'}")

    def _write_page(
        self, stored: StoredResults
    ) -> tuple[dict[str, ExperimentReport], dict[str, str]]:
        reports: dict[str, ExperimentReport] = {}
        missing: dict[str, str] = {}
        for name, experiment in EXPERIMENTS.items():
            if experiment.finished(stored, self.studies):
                if name not in self.reports:
                    self.reports[name] = experiment.report(stored)
                reports[name] = self.reports[name]
            else:
                missing[name] = self.completing(name)
        write_reproduction(
            self.folder,
            reports=reports,
            missing=missing,
            lead=self.lead,
            reading=self.reading,
            remarks=self.remarks,
        )
        return reports, missing

    def _stored(self) -> StoredResults:
        """Everything that is finished."""
        results: dict[str, StudyResult | NetworkResult] = {}
        for name, ready in self.prepared.items():
            finished = all(job.finished() for job in jobs_of(ready))
            ready.write_manifest(finished, ready.seconds)
            if finished:
                curves = load_curves(ready.study, ready.directory)
                predict = functools.partial(
                    predicted_speedup, ready.data, ready.optimum.weight, ready.study.power
                )
                results[name] = StudyResult(ready.study, curves, ready.optimum.loss, predict)
        if self.network and (network := self.network()):
            results[NETWORK] = network
        return StoredResults(results, *self.baselines)


def lead(scale: Scale, title: str) -> str:
    """The paragraph below the title of the page: the data and the scale."""
    return (
        f"Arora, Cohen, Hazan, ICML 2018, rerun. Data: {title}. Scale {scale.name!r}: "
        f"{scale.tuned:,} iterations for the tuned runs, {len(scale.seeds)} seeds."
    )


def reading(scale: Scale) -> str:
    """How verdicts are made, for the end of the page."""
    return (
        "Tuned methods that are compared choose from the same learning rates, and divergence is a "
        "result like any other. A verdict follows from the evidence below it and holds for its "
        "horizon. Intervals are ranges over seeds: for two equally good methods, the intervals "
        f"fail to overlap by chance once in {1 / chance_of_order(len(scale.seeds)):.0f} "
        "comparisons. A comparison is not decided if the order changes with only every other "
        "learning rate, or if the best learning rate of the method that is behind is at the edge "
        "of the grid. A tuned distance below a millionth of the first one counts as 0."
    )
