"""The experiments by name: what each needs, and what it makes of it."""

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
    network,
    tuned,
)
from overparam.lab.paper.chapter import Chapter, PartResult


@dataclass(frozen=True)
class Stored:
    """Everything that was measured.

    Attributes:
        results: finished studies by part.
        floors: curves of second-order methods by loss, l2 and l4.
        seconds: per iteration by loss and method.
        network: the convolutional network, where it is finished.
    """

    results: Mapping[str, PartResult]
    floors: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    seconds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    network: network.CnnResult | None = None


@dataclass(frozen=True)
class Experiment:
    """An experiment of the paper, or one that it lacks.

    Attributes:
        title: for people, where it is not finished.
        needs: whether a part of this name belongs to it.
        chapter: its claims and sections, from finished parts.
    """

    title: str
    needs: Callable[[str], bool]
    chapter: Callable[[Stored], Chapter]

    def finished(self, stored: Stored, parts: Collection[str]) -> bool:
        """Whether everything that the experiment needs was measured.

        Args:
            stored: what was measured.
            parts: the names of all parts at this scale.
        """
        needed = [part for part in parts if self.needs(part)]
        return bool(needed) and all(part in stored.results for part in needed)


@dataclass(frozen=True)
class NetworkExperiment(Experiment):
    """The one experiment that is made of no studies."""

    def finished(self, stored: Stored, parts: Collection[str]) -> bool:
        """Whether every run of the network is stored."""
        return stored.network is not None


def _of_studies(
    title: str,
    parts: Collection[str],
    chapter: Callable[[Mapping[str, PartResult]], Chapter],
) -> Experiment:
    """An experiment that needs finished studies and nothing else."""
    return Experiment(title, lambda part: part in parts, lambda stored: chapter(stored.results))


def _known(result: network.CnnResult | None) -> network.CnnResult:
    if result is None:
        raise ValueError("the network is not finished; train it first.")
    return result


NETWORK, MAP = "network", "map"
EXPERIMENTS: dict[str, Experiment] = {
    "emulation": _of_studies(
        "The rule against explicit layers, at one learning rate", emulation.PARTS, emulation.chapter
    ),
    "tuned": _of_studies("L2 and L4 with tuned learning rates", tuned.PARTS, tuned.chapter),
    "adaptive": _of_studies("Depth against AdaGrad and AdaDelta", adaptive.PARTS, adaptive.chapter),
    "controls": Experiment(
        "Controls that the paper lacks",
        lambda part: part in controls.PARTS,
        lambda stored: controls.chapter(stored.results, stored.floors, stored.seconds),
    ),
    "adam": _of_studies("Adam on deeper weights", adam.PARTS, adam.chapter),
    "initialization": _of_studies(
        "Four and eight layers by initialization",
        initialization.PARTS + initialization.OPTIONAL_PARTS,
        initialization.chapter,
    ),
    NETWORK: NetworkExperiment(
        "The convolutional network on MNIST",
        lambda part: False,
        lambda stored: network.chapter(_known(stored.network)),
    ),
    MAP: Experiment(
        "Where depth helps",
        lambda part: part.startswith("map-"),
        lambda stored: depth_map.chapter(stored.results),
    ),
}
