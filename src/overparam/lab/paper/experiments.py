"""The experiments by name: which studies each needs, and the report it makes of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from overparam.lab.paper import (
    controls,
    depth_map,
    emulation,
    initialization,
    mechanism,
    network,
    tuned,
)
from overparam.lab.paper.results import ExperimentReport

NETWORK, MAP, MECHANISM = "network", "map", "mechanism"


@dataclass(frozen=True)
class StoredResults:
    """Everything that is finished.

    Attributes:
        results: a :class:`~overparam.lab.paper.results.StudyResult` for each finished study, by
            name; a :class:`~overparam.lab.paper.network.NetworkResult` for that of the network.
        baselines: curves of the second-order baselines by loss, l2 and l4.
        seconds: seconds per iteration by loss and method.
    """

    results: Mapping[str, Any]
    baselines: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    seconds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """An experiment of the paper, or one of ours.

    Attributes:
        title: what the page calls it while it is not finished.
        studies: how the names of the studies begin that it needs.
        report: makes its claims and sections from finished studies.
    """

    title: str
    studies: tuple[str, ...]
    report: Callable[[StoredResults], ExperimentReport]

    def needs(self, study: str) -> bool:
        """Whether it needs the study of this name."""
        return study.startswith(self.studies)

    def finished(self, stored: StoredResults, studies: Collection[str]) -> bool:
        """Whether every study that the experiment needs is finished.

        Args:
            stored: what is finished.
            studies: the names of all studies at this scale.
        """
        needed = set(filter(self.needs, studies))
        return bool(needed) and needed <= stored.results.keys()


def _of_studies(
    title: str,
    studies: tuple[str, ...],
    report: Callable[[Mapping[str, Any]], ExperimentReport],
) -> Experiment:
    """An experiment that needs finished studies and nothing else."""
    return Experiment(title, studies, lambda stored: report(stored.results))


EXPERIMENTS: dict[str, Experiment] = {
    "emulation": _of_studies("The rule against layers", ("l2-fixed", "l4-fixed"), emulation.report),
    "tuned": _of_studies("L2 and L4 with tuned learning rates", tuned.STUDIES, tuned.report),
    "adaptive": _of_studies("AdaGrad and AdaDelta", tuned.ADAPTIVE_STUDIES, tuned.adaptive_report),
    "controls": Experiment(
        "Controls that the paper lacks",
        tuple(f"{loss}-{kind}" for loss in ("l2", "l4") for kind in controls.KINDS),
        lambda stored: controls.report(stored.results, stored.baselines, stored.seconds),
    ),
    "adam": _of_studies("Adam on deeper weights", ("l4-adam",), tuned.adam_report),
    "initialization": _of_studies(
        "Four and eight layers by initialization",
        tuple(initialization.STARTS),
        initialization.report,
    ),
    NETWORK: _of_studies(
        "The convolutional network on MNIST",
        (NETWORK,),
        lambda results: network.report(results[NETWORK]),
    ),
    MAP: _of_studies("Where depth helps", (f"{MAP}-",), depth_map.report),
    MECHANISM: _of_studies("What it is in depth that helps", (f"{MECHANISM}-",), mechanism.report),
}
