"""Horizons and grids of a rerun of the paper's experiments, in three sizes."""

from __future__ import annotations

from dataclasses import dataclass

# The paper's grid of learning rates: rough half decades, {1e-5, 5e-5, ..., 1e-1, 5e-1}.
PAPER_RATES = (1e-5, 5e-5, 1e-4, 5e-4, 1e-3, 5e-3, 1e-2, 5e-2, 1e-1, 5e-1)


@dataclass(frozen=True)
class Scale:
    """Horizons and grids of all experiments.

    Attributes:
        name: quick, standard or paper.
        fixed: iterations of the runs at one learning rate (250,000 in the paper).
        tuned: iterations of the tuned runs (1,000,000 in the paper).
        adam: iterations of Adam with depth (200,000 in the paper).
        deep: iterations of 4 and 8 layers (100,000 in the paper).
        rates_per_decade: learning rates per decade that are tried for L4 beside the paper's.
        l2_rates_per_decade: the same for L2, which is cheap.
        lowest_rate: smallest learning rate of that grid.
        highest_rate: largest learning rate of that grid.
        seeds: one initialization each.
        full_identity: whether to run hidden layers as wide as the features too.
        network: scale of the convolutional network, a key of the network's ``SCALES``.
        map_data: data sets of the map.
        map_iterations: iterations of every run of the map.
        map_rates_per_decade: learning rates per decade of the map.
        map_lowest_rate: smallest learning rate of the map at p = 4; ten times that at p = 2, a
            tenth of it at p = 6.
        map_highest_rate: largest learning rate of the map.
        mechanism_data: data sets of the experiment on the parts of depth, whose learning rates
            have the range of the map.
        mechanism_powers: its losses.
        mechanism_schedules: its schedules of the learning rate.
        mechanism_iterations: iterations of every run of it.
        mechanism_rates_per_decade: learning rates per decade of it.
    """

    name: str
    fixed: int
    tuned: int
    adam: int
    deep: int
    rates_per_decade: int
    l2_rates_per_decade: int = 8
    lowest_rate: float = 1e-4
    highest_rate: float = 1.0
    seeds: tuple[int, ...] = (0, 1, 2)
    full_identity: bool = True
    network: str = "quick"
    map_data: tuple[str, ...] = ("ethanol", "abalone", "diabetes", "breast_cancer", "linnerud")
    map_iterations: int = 20_000
    map_rates_per_decade: int = 4
    map_lowest_rate: float = 1e-6
    map_highest_rate: float = 10.0
    mechanism_data: tuple[str, ...] = ("ethanol",)
    mechanism_powers: tuple[float, ...] = (4.0,)
    mechanism_schedules: tuple[str, ...] = ("constant", "cosine")
    mechanism_iterations: int = 20_000
    mechanism_rates_per_decade: int = 4


QUICK = Scale(
    "quick",
    fixed=15_000,
    tuned=7_000,
    adam=5_000,
    deep=4_000,
    rates_per_decade=3,
    l2_rates_per_decade=6,
    full_identity=False,
    map_data=("ethanol", "abalone", "diabetes"),
    map_iterations=400,
    map_rates_per_decade=3,
    map_lowest_rate=5e-6,
    mechanism_data=("diabetes",),
    mechanism_schedules=("constant",),
    mechanism_iterations=1_000,
    mechanism_rates_per_decade=6,
)
STANDARD = Scale(
    "standard", fixed=250_000, tuned=100_000, adam=100_000, deep=100_000, rates_per_decade=4,
    network="standard",
)  # fmt: skip
PAPER = Scale(
    "paper", fixed=250_000, tuned=1_000_000, adam=200_000, deep=100_000, rates_per_decade=8,
    lowest_rate=1e-5,
    network="paper", map_iterations=50_000,
    map_data=("ethanol", "abalone", "diabetes", "breast_cancer", "linnerud", "digits"),
    mechanism_data=("ethanol", "abalone", "diabetes", "breast_cancer", "linnerud"),
    mechanism_powers=(2.0, 4.0, 6.0), mechanism_rates_per_decade=8,
)  # fmt: skip
