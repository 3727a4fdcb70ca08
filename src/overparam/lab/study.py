"""A study: which methods, on which data, at which learning rates; and its identity."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from overparam._words import did_you_mean
from overparam.lab.methods import Method, parse_method

# Raised whenever the same settings would give other numbers, so that stored shards are not mixed.
_FORMAT = 3

DTYPES = {"float64": torch.float64, "float32": torch.float32}
INITIALIZATIONS = ("near_zero", "identity", "residual")

PAPER_METHODS = (
    "gd",
    "rule:2",
    "rule:3",
    "factors:2",
    "factors:3",
    "adagrad",
    "adadelta",
    "adam",
    "momentum",
)


@dataclass(frozen=True)
class Study:
    """Full-batch training of linear regression, every method over the same learning rates.

    Attributes:
        data: name of a data set; `overparam data` lists them.
        power: p of the loss mean |error|^p, at least 2.
        methods: what to compare, such as gd, adam, rule:2.5, factors:3 or adam+factors:2.
        iterations: gradient steps of every run.
        lowest_rate: smallest learning rate of the grid.
        highest_rate: largest learning rate of the grid.
        rates_per_decade: grid points per factor of 10.
        more_rates: learning rates beside those of the grid, for every method.
        warm_up: steps over which the learning rate grows linearly to its value; 0 for none.
        seeds: one initialization each.
        dtype: float64 or float32, of weights and gradients.
        init: start of the factors. near_zero: every entry N(0, init_std^2), as in the paper;
            identity: that plus the (rectangular) identity; residual: the first factor near zero,
            the others near the identity, as with hidden layers of width 1.
        init_std: standard deviation of the initial entries of every factor.
        width: hidden width of explicit factors; 0 for min(outputs, features), which limits nothing.
        points: recorded points of a curve, log-spaced over the iterations.
        shard_runs: runs that are trained together as one tensor program, and stored together.
        device: where to train: cpu, cuda or another device of PyTorch that has float64.
    """

    data: str = "ethanol"
    power: float = 4.0
    methods: tuple[str, ...] = PAPER_METHODS
    iterations: int = 20_000
    lowest_rate: float = 1e-5
    highest_rate: float = 1.0
    rates_per_decade: int = 3
    more_rates: tuple[float, ...] = ()
    warm_up: int = 0
    seeds: tuple[int, ...] = (0, 1, 2)
    dtype: str = "float32"
    init: str = "near_zero"
    init_std: float = 0.01
    width: int = 0
    points: int = 200
    shard_runs: int = 108  # the default study is four equal shards
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Refuse settings that cannot run, each with the value and the remedy."""
        object.__setattr__(self, "methods", tuple(parse_method(m).name for m in self.methods))
        object.__setattr__(self, "seeds", tuple(self.seeds))
        object.__setattr__(self, "more_rates", tuple(sorted(map(float, self.more_rates))))
        for name in ("power", "lowest_rate", "highest_rate", "init_std"):
            # 4 and 4.0 are the same study and must have the same identity.
            object.__setattr__(self, name, float(getattr(self, name)))
        _require(bool(self.methods), "methods", self.methods, "name at least one")
        _require(bool(self.seeds), "seeds", self.seeds, "give at least one integer")
        for name in ("methods", "seeds"):
            values = getattr(self, name)
            _require(len(set(values)) == len(values), name, values, "remove the repeated one")
        in_range = all(-(2**63) <= seed < 2**63 for seed in self.seeds)
        _require(in_range, "seeds", self.seeds, "use integers of at most 63 bits")
        bounded = 2 <= self.power < math.inf
        _require(bounded, "power", self.power, "use a finite p >= 2: the optimum needs it")
        for name in ("iterations", "rates_per_decade", "points", "shard_runs"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "use at least 1")
        bounded = 0 <= self.warm_up <= self.iterations
        _require(bounded, "warm_up", self.warm_up, "use 0 for none, and at most the iterations")
        _require(self.width >= 0, "width", self.width, "use 0 for min(outputs, features)")
        _require(self.lowest_rate > 0, "lowest_rate", self.lowest_rate, "use a rate above 0")
        bounded = self.lowest_rate <= self.highest_rate < math.inf
        _require(bounded, "highest_rate", self.highest_rate, "use at least the lowest rate")
        bounded = self.highest_rate / self.lowest_rate < math.inf
        _require(bounded, "lowest_rate", self.lowest_rate, "use one nearer to the highest rate")
        bounded = 0 < self.init_std < math.inf
        _require(bounded, "init_std", self.init_std, "use a finite number above 0")
        usable = all(0 < rate < math.inf for rate in self.more_rates)
        _require(usable, "more_rates", self.more_rates, "use finite rates above 0")
        for name, known in (("dtype", tuple(DTYPES)), ("init", INITIALIZATIONS)):
            value = getattr(self, name)
            _require(value in known, name, value, f"use one of {', '.join(known)}")
        _require(is_device(self.device), "device", self.device, "use cpu, cuda or cuda:0")

    @property
    def rates(self) -> tuple[float, ...]:
        """The learning rates: geometric from the lowest up to the highest, and those listed."""
        steps = math.floor(
            self.rates_per_decade * math.log10(self.highest_rate / self.lowest_rate) + 1e-9
        )
        grid = (
            float(f"{self.lowest_rate * 10 ** (i / self.rates_per_decade):.6g}")
            for i in range(steps + 1)
        )
        return tuple(sorted({*grid, *self.more_rates}))

    @property
    def record_steps(self) -> tuple[int, ...]:
        """The iterations at which losses are stored: 0, then log-spaced to the last."""
        last = self.points - 1
        spaced = {round(self.iterations ** (i / max(1, last))) for i in range(self.points)}
        return tuple(sorted({0, self.iterations, *spaced}))

    def share_of_rate(self, step: int) -> float:
        """What a step, counted from 0, takes of the learning rate: less than 1 in the warm-up."""
        return min(1.0, (step + 1) / self.warm_up) if self.warm_up else 1.0

    def identity(self, data_fingerprint: str) -> str:
        """Hash of everything that determines the numbers: settings, data and format."""
        settings = dataclasses.asdict(self) | {"fingerprint": data_fingerprint, "format": _FORMAT}
        if not self.warm_up:
            del settings["warm_up"]  # younger than stored curves, which it does not change
        text = json.dumps(settings, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Run:
    """One training run of a study."""

    method: Method
    rate: float
    seed: int


@dataclass(frozen=True)
class Shard:
    """A fixed slice of a study's runs: the unit of work, of storage and of resuming."""

    number: int
    runs: tuple[Run, ...]


def shards(study: Study) -> tuple[Shard, ...]:
    """Cut the runs of a study into shards, by method, seed and rate in this order."""
    runs = [
        Run(parse_method(method), rate, seed)
        for method in study.methods
        for seed in study.seeds
        for rate in study.rates
    ]
    size = study.shard_runs
    starts = range(0, len(runs), size)
    return tuple(Shard(i, tuple(runs[start : start + size])) for i, start in enumerate(starts))


def is_device(name: str) -> bool:
    """Whether PyTorch knows a device of this name; not whether this machine has it."""
    try:
        torch.device(name)
    except RuntimeError:
        return False
    return True


def read_study(path: Path) -> Study:
    """Read a study from a TOML file of ``name = value`` lines, named as the fields above.

    Raises:
        ValueError: the file is no TOML, or a name or a type is unknown, with a suggestion.
    """
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); name a TOML file.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a TOML file: {error}.") from None
    return study_from_settings(settings, str(path))


def study_from_settings(settings: Mapping[str, Any], origin: str) -> Study:
    """Build a study from named values, as a TOML or JSON file gives them.

    Args:
        settings: values by field name; missing ones take their default.
        origin: where they come from, for the error message.

    Raises:
        ValueError: a name or a type is unknown, with a suggestion, or a value is impossible.
    """
    fields = {field.name: field for field in dataclasses.fields(Study)}
    typed = {}
    for name, value in settings.items():
        if name not in fields:
            hint = did_you_mean(name, fields)
            raise ValueError(
                f"{origin}: unknown setting {name!r}.{hint} Known: {', '.join(fields)}."
            )
        typed[name] = _typed(origin, name, value, fields[name].default)
    try:
        return Study(**typed)
    except ValueError as error:
        raise ValueError(f"{origin}: {error}") from None


_KINDS = {tuple: "list", float: "number", int: "whole number", str: "text"}


def _typed(origin: str, name: str, value: Any, default: Any) -> Any:
    """The value in the type of the field's default, which every field has."""
    if isinstance(default, tuple) and isinstance(value, list | tuple):
        example = default[0] if default else 0.1  # the one list that is empty holds rates
        return tuple(_typed(origin, name, item, example) for item in value)
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if type(value) is not type(default):
        raise ValueError(
            f"{origin}: {name} = {value!r} is no {_KINDS[type(default)]}; "
            f"write one, such as {list(default) if isinstance(default, tuple) else default!r}."
        )
    return value


def _require(holds: bool, name: str, value: Any, remedy: str) -> None:
    if not holds:
        raise ValueError(f"{name} is {value!r}; {remedy}.")
