"""The experiments by name: which studies each needs, and the report it makes of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import polars as pl

from overparam.lab.paper import (
    adam,
    adaptive,
    controls,
    depth_map,
    emulation,
    initialization,
    mechanism,
    network,
    tuned,
)
from overparam.lab.paper.results import ExperimentReport, StudyResult


@dataclass(frozen=True)
class StoredResults:
    """Everything that is finished.

    Attributes:
        results: finished studies by name.
        baselines: curves of the second-order baselines by loss, l2 and l4.
        seconds: seconds per iteration by loss and method.
        network: the convolutional network, or None if it is not finished.
    """

    results: Mapping[str, StudyResult]
    baselines: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    seconds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    network: network.NetworkResult | None = None


@dataclass(frozen=True)
class Experiment:
    """An experiment of the paper, or one of ours.

    Attributes:
        title: what the page calls it while it is not finished.
        needs: whether it needs the study of a given name.
        report: makes its claims and sections from finished studies.
    """

    title: str
    needs: Callable[[str], bool]
    report: Callable[[StoredResults], ExperimentReport]

    def finished(self, stored: StoredResults, studies: Collection[str]) -> bool:
        """Whether every study that the experiment needs is finished.

        Args:
            stored: what is finished.
            studies: the names of all studies at this scale.
        """
        needed = [name for name in studies if self.needs(name)]
        return bool(needed) and all(name in stored.results for name in needed)


@dataclass(frozen=True)
class NetworkExperiment(Experiment):
    """The experiment on the convolutional network, which has a study of its own kind."""

    def finished(self, stored: StoredResults, studies: Collection[str]) -> bool:
        """Whether every run of the network is stored."""
        return stored.network is not None


def _of_studies(
    title: str,
    studies: Collection[str],
    report: Callable[[Mapping[str, StudyResult]], ExperimentReport],
) -> Experiment:
    """An experiment that needs finished studies and nothing else."""
    return Experiment(title, lambda name: name in studies, lambda stored: report(stored.results))


def _network_report(stored: StoredResults) -> ExperimentReport:
    if stored.network is None:
        raise ValueError("the network is not finished; train it first.")
    return network.report(stored.network)


NETWORK, MAP, MECHANISM = "network", "map", "mechanism"
EXPERIMENTS: dict[str, Experiment] = {
    "emulation": _of_studies("The rule against layers", emulation.STUDIES, emulation.report),
    "tuned": _of_studies("L2 and L4 with tuned learning rates", tuned.STUDIES, tuned.report),
    "adaptive": _of_studies("AdaGrad and AdaDelta", adaptive.STUDIES, adaptive.report),
    "controls": Experiment(
        "Controls that the paper lacks",
        lambda name: name in controls.STUDIES,
        lambda stored: controls.report(stored.results, stored.baselines, stored.seconds),
    ),
    "adam": _of_studies("Adam on deeper weights", adam.STUDIES, adam.report),
    "initialization": _of_studies(
        "Four and eight layers by initialization",
        initialization.STUDIES + initialization.OPTIONAL_STUDIES,
        initialization.report,
    ),
    NETWORK: NetworkExperiment(
        "The convolutional network on MNIST", lambda name: False, _network_report
    ),
    MAP: Experiment(
        "Where depth helps",
        lambda name: name.startswith("map-"),
        lambda stored: depth_map.report(stored.results),
    ),
    MECHANISM: Experiment(
        "What it is in depth that helps",
        lambda name: name.startswith("mechanism-"),
        lambda stored: mechanism.report(stored.results),
    ),
}
