"""A study: a problem, methods, learning rates and seeds; and its identity."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from overparam._words import did_you_mean
from overparam.lab.methods import Method, parse_method

# Raised whenever the same settings would give other numbers, so that stored curves are not mixed.
_FORMAT = 3

DTYPES = {"float64": torch.float64, "float32": torch.float32}
INITIALIZATIONS = ("near_zero", "identity", "residual")
SCHEDULES = ("constant", "cosine")

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
    """Full-batch training of linear regression, every method at the same learning rates.

    Attributes:
        data: name of a data set; `overparam data` lists them.
        power: exponent p of the loss mean |error|^p, at least 2.
        methods: methods to compare, such as gd, adam, rule:2.5, factors:3 or adam+factors:2.
        iterations: gradient steps of every run.
        lowest_rate: smallest learning rate of the grid.
        highest_rate: largest learning rate of the grid.
        rates_per_decade: learning rates per factor of 10.
        more_rates: additional learning rates, for every method.
        warm_up: steps over which the learning rate grows linearly to its value; 0 for none.
        schedule: constant, or cosine: from its value after the warm-up to 0 after the last step.
        seeds: random seeds, one initialization each.
        dtype: arithmetic of weights and gradients, float64 or float32.
        init: start of the factors. near_zero: every entry N(0, init_std^2), as in the paper;
            identity: the same plus the (rectangular) identity; residual: the first factor near
            zero, the others near the identity, as for hidden layers of width 1.
        init_std: standard deviation of the initial entries of every factor.
        width: hidden width of explicit factors; 0 for min(outputs, features), which does not
            limit the rank.
        points: recorded points of a curve, log-spaced over the iterations.
        runs_per_job: runs per job, which are trained as one batch and stored in one file.
        device: where to train: cpu, cuda or another PyTorch device that has float64.
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
    schedule: str = "constant"
    seeds: tuple[int, ...] = (0, 1, 2)
    dtype: str = "float32"
    init: str = "near_zero"
    init_std: float = 0.01
    width: int = 0
    points: int = 200
    runs_per_job: int = 108  # the default study has four equal jobs
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Refuse settings that cannot run; the message has the value and the remedy."""
        object.__setattr__(self, "methods", tuple(parse_method(m).name for m in self.methods))
        object.__setattr__(self, "seeds", tuple(self.seeds))
        object.__setattr__(self, "more_rates", tuple(sorted(map(float, self.more_rates))))
        for name in ("power", "lowest_rate", "highest_rate", "init_std"):
            # 4 and 4.0 must give the same identity.
            object.__setattr__(self, name, float(getattr(self, name)))
        for name, holds, remedy in self._checks():
            if not holds:
                raise ValueError(f"{name} is {getattr(self, name)!r}; {remedy}.")

    def _checks(self) -> Iterator[tuple[str, bool, str]]:
        """The name of each setting, whether its value can be used, and a remedy."""
        yield "methods", bool(self.methods), "name at least one"
        yield "seeds", bool(self.seeds), "give at least one integer"
        for name in ("methods", "seeds"):
            values = getattr(self, name)
            yield name, len(set(values)) == len(values), "remove the repeated one"
        in_range = all(-(2**63) <= seed < 2**63 for seed in self.seeds)
        yield "seeds", in_range, "use integers of at most 63 bits"
        yield "power", 2 <= self.power < math.inf, "use a finite p >= 2, which the optimum needs"
        for name in ("iterations", "rates_per_decade", "points", "runs_per_job"):
            yield name, getattr(self, name) >= 1, "use at least 1"
        possible = 0 <= self.warm_up <= self.iterations
        yield "warm_up", possible, "use 0 for none, and at most the iterations"
        yield "width", self.width >= 0, "use 0 for min(outputs, features)"
        low, high = self.lowest_rate, self.highest_rate
        yield "lowest_rate", low > 0, "use a number above 0"
        yield "highest_rate", low <= high < math.inf, "use at least lowest_rate"
        yield "lowest_rate", high / low < math.inf, "use a value closer to highest_rate"
        yield "init_std", 0 < self.init_std < math.inf, "use a finite number above 0"
        usable = all(0 < rate < math.inf for rate in self.more_rates)
        yield "more_rates", usable, "use finite numbers above 0"
        choices = {"dtype": tuple(DTYPES), "init": INITIALIZATIONS, "schedule": SCHEDULES}
        for name, known in choices.items():
            yield name, getattr(self, name) in known, f"use one of {', '.join(known)}"
        yield "device", is_device(self.device), "use cpu, cuda or cuda:0"

    @property
    def rates(self) -> tuple[float, ...]:
        """The learning rates: a geometric grid from lowest to highest, and the additional ones."""
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
        """The iterations at which losses are stored: 0, then log-spaced up to the last."""
        last = self.points - 1
        spaced = {round(self.iterations ** (i / max(1, last))) for i in range(self.points)}
        return tuple(sorted({0, self.iterations, *spaced}))

    def rate_factor(self, step: int) -> float:
        """The factor on the lr at a step, counted from 0.

        In a warm-up of w steps ``(step + 1) / w``. Behind it 1, or with the cosine
        ``(1 + cos(pi (step - w) / (iterations - w))) / 2``: Loshchilov and Hutter (2017), 'SGDR',
        equation 5, without restarts.
        """
        if step < self.warm_up:
            return (step + 1) / self.warm_up
        if self.schedule == "constant" or step >= self.iterations:
            return float(self.schedule == "constant")
        passed = (step - self.warm_up) / (self.iterations - self.warm_up)
        return (1 + math.cos(math.pi * passed)) / 2

    @property
    def settled(self) -> int:
        """The step from which on the lr stays as it is."""
        return self.warm_up if self.schedule == "constant" else self.iterations

    def identity(self, data_fingerprint: str) -> str:
        """Hash of everything that determines the numbers: settings, data and format."""
        settings = dataclasses.asdict(self) | {"fingerprint": data_fingerprint, "format": _FORMAT}
        # Newer than curves that are stored, which their defaults do not change.
        for name, default in (("warm_up", 0), ("schedule", "constant")):
            if settings[name] == default:
                del settings[name]
        text = json.dumps(settings, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Run:
    """One training run of a study."""

    method: Method
    rate: float
    seed: int


@dataclass(frozen=True)
class Work:
    """The runs of one job: a fixed slice of a study, trained and stored together."""

    number: int
    runs: tuple[Run, ...]


def cut_into_jobs(study: Study) -> tuple[Work, ...]:
    """Cut the runs of a study, ordered by method, seed and learning rate, into jobs."""
    runs = [
        Run(parse_method(method), rate, seed)
        for method in study.methods
        for seed in study.seeds
        for rate in study.rates
    ]
    size = study.runs_per_job
    starts = range(0, len(runs), size)
    return tuple(Work(i, tuple(runs[start : start + size])) for i, start in enumerate(starts))


def is_device(name: str) -> bool:
    """Whether this is a device name for PyTorch; this machine may still lack the device."""
    try:
        torch.device(name)
    except RuntimeError:
        return False
    return True


def read_study(path: Path) -> Study:
    """Read a study from a TOML file with one ``name = value`` line per setting.

    Raises:
        ValueError: the file is not TOML, or a setting has an unknown name or a wrong type.
    """
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); name a TOML file.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a TOML file: {error}.") from None
    return study_from_settings(settings, str(path))


def study_from_settings(settings: Mapping[str, Any], origin: str) -> Study:
    """Build a study from named values that were read from TOML or JSON.

    Args:
        settings: values by field name; missing fields take their default.
        origin: where they come from, for the error message.

    Raises:
        ValueError: a setting has an unknown name, a wrong type or an impossible value.
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


_KINDS = {tuple: "a list", float: "a number", int: "a whole number", str: "a text"}


def _typed(origin: str, name: str, value: Any, default: Any) -> Any:
    """The value, converted to the type of the field's default."""
    if isinstance(default, tuple) and isinstance(value, list | tuple):
        example = default[0] if default else 0.1  # the only empty default is more_rates
        return tuple(_typed(origin, name, item, example) for item in value)
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if type(value) is not type(default):
        raise ValueError(
            f"{origin}: {name} = {value!r} is not {_KINDS[type(default)]}; "
            f"write for example {list(default) if isinstance(default, tuple) else default!r}."
        )
    return value
