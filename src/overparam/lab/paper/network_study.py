"""The paper's experiment on the MNIST network: its methods, its settings, and its runs as jobs.

The problem is ``mnist-network``, whose dense weights are trained as they are or as products by
:func:`overparam.overparameterize`, from the paper's start and with the tutorial's schedule.
Source: Arora, Cohen, Hazan (2018), section 8, last experiment; ``convolutional.py`` of the
TensorFlow tutorial.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from overparam import overparameterize
from overparam.data import DataError, load_images
from overparam.lab.comparison.problem import Problem
from overparam.lab.comparison.protocol import Trial
from overparam.lab.comparison.trial import Course, TrialJob, TrialRun, evaluating, read_outcome
from overparam.lab.problems.mnist_network import NO_DATA, STD, truncated_normal_

# Raised whenever the same settings would give other numbers, so that stored runs are not mixed.
_FORMAT = 2

# Batch loss after 8,600 steps, read by eye from the paper's last figure.
AUTHORS_STEPS = 8600
AUTHORS_LOSS = {"plain": 1.6, "product": 0.04}

MOMENTUM, DECAY = 0.9, 0.95
_MULTIPLICATIONS = 25e9  # per second, on the core on which it was measured


class NetworkMethod(NamedTuple):
    """How the dense weights are trained, by SGD with momentum.

    Attributes:
        label: a name for people.
        depth: number of factors of each dense weight.
        penalty: where the L2 penalty is: on the ``weights`` (end to end), on the ``factors``, or
            ``none``.
    """

    label: str
    depth: int
    penalty: str


METHODS = {
    "plain": NetworkMethod("Original, penalty on the weights", 1, "weights"),
    "plain_unpenalized": NetworkMethod("Original, no penalty", 1, "none"),
    "product": NetworkMethod("Product, penalty on the product", 2, "weights"),
    "product_factors": NetworkMethod("Product, penalty on the factors", 2, "factors"),
    "product_unpenalized": NetworkMethod("Product, no penalty", 2, "none"),
}


@dataclass(frozen=True)
class NetworkStudy(Course):
    """The methods on the network, at some learning rates and seeds; by default the tutorial's.

    Attributes:
        data: name of a set of images.
        rates: initial learning rates; the paper's is 0.01, and the claims are about the first.
        seeds: random seeds, one start and one sequence of dropout masks each.
        steps: number of batches to train on; the default is ten epochs of 55,000 images.
        side, channels, hidden, batch, held_out, evaluated, device: of the problem.
        epoch: images between two decays of the learning rate.
        record_every: steps between two points of a curve; they are closer at the beginning.
        evaluate_every: steps between two evaluations of the test error.
    """

    data: str = "mnist"
    rates: tuple[float, ...] = (0.01,)
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 8593
    side: int = 28
    channels: tuple[int, int] = (32, 64)
    hidden: int = 512
    batch: int = 64
    held_out: int = 5000
    evaluated: int = 0
    device: str = "cpu"
    epoch: int = 55_000
    record_every: int = 100
    evaluate_every: int = 1000

    def factor(self, step: int, horizon: int) -> float:
        """The tutorial's schedule: ``0.95^(images seen // epoch)``."""
        return DECAY ** (step * self.batch // self.epoch)

    def points(self, horizon: int) -> list[int]:
        """Steps at regular intervals, and powers of 2 before that."""
        doublings = {2**i for i in range(self.record_every.bit_length())}
        regular = {*range(self.record_every, horizon, self.record_every), *doublings}
        return sorted(step for step in {*regular, horizon} if step <= horizon)

    def optimizer(self, problem: Problem, trial: Trial, model: nn.Module) -> torch.optim.Optimizer:
        """SGD with momentum, on a model whose dense weights are products if the method says so."""
        depth, names = METHODS[trial.method].depth, ["hidden", "last"]
        if depth > 1:
            layers = [model.get_submodule(name) for name in names]
            starts = [paper_start(layer.get_parameter("weight"), depth) for layer in layers]
            rows = {n: {"width": len(start[0])} for n, start in zip(names, starts, strict=True)}
            overparameterize(model, depth, targets=names, overrides=rows, init="near_zero")
            for layer, start in zip(layers, starts, strict=True):
                held: Any = layer.parametrizations
                for factor, value in zip(held.weight.parameters(), start, strict=True):
                    factor.data.copy_(value)
        return torch.optim.SGD(model.parameters(), trial.lr, momentum=MOMENTUM)

    def look(self, run: TrialRun) -> dict[str, float]:
        """The penalty, the loss of the last batch before its step, now and then the test error."""
        penalty = run.problem.penalty
        value = 0.0 if penalty is None else float(penalty(run.model).detach())
        found = {"penalty": value, "last_batch": run.since[-1]}
        error = run.problem.evaluate.get("test error")
        if error and run.step % self.evaluate_every == 0 and run.step < run.trial.horizon:
            with evaluating(run.model):
                found["test_error"] = error(run.model)
        return found

    def named_problem(self, method: str, data: str) -> str:
        """The name of the problem for a method; without data, the penalty is left alone."""
        names = ("side", "channels", "hidden", "batch", "held_out", "evaluated", "device")
        options: dict[str, Any] = {name: getattr(self, name) for name in names}
        if data == NO_DATA:
            options = {name: options[name] for name in ("side", "channels", "hidden")}
        on = METHODS[method].penalty
        options |= {"penalty": 0.0} if on == "none" else {"penalty_on": on}
        words = [f"{name}={value!r}" for name, value in options.items()]
        return f"mnist-network({', '.join([f'data={data!r}', 'in_order=True', *words])})"

    def step_seconds(self, method: str, data: str) -> float:
        """Seconds of a step on one core, estimated from its multiplications; for progress bars."""
        first, second = self.channels
        features = second * (-(-self.side // 4)) ** 2
        half, per_image = -(-self.side // 2), 0
        if data != NO_DATA:
            per_image = 25 * first * (self.side**2 + second * half**2) + self.hidden * features
        else:
            features = min(features, self.hidden)
        product = self.hidden**2 * features if METHODS[method].depth > 1 else 0
        return 3 * (self.batch * per_image + product) / _MULTIPLICATIONS


def paper_start(weight: Tensor, depth: int) -> list[Tensor]:
    """The paper's factors: the plain weight first, then square ones from the same distribution."""
    rows = len(weight)
    others = [truncated_normal_(torch.empty(rows, rows), STD) for _ in range(depth - 1)]
    return [weight.detach(), *others]


def on_digits(study: NetworkStudy) -> NetworkStudy:
    """The same study on the digits in scikit-learn, 8 x 8 pixels resized to the side of the study.

    200 of the 1,500 training images are held out. Schedule and horizon are unchanged, so the
    network sees each image many times more often.
    """
    return dataclasses.replace(study, data="digits", held_out=200)


# The quick scale reduces images to 14 x 14, the first convolution to 8 channels, the hidden layer
# to 256 and the steps to 900. The dense weights remain large (1024 x 256), so the penalty on them
# still outweighs the cross-entropy, and falls within the horizon as it does at the paper's size.
_QUICK = NetworkStudy(
    side=14, channels=(8, 64), hidden=256, steps=900, record_every=25, evaluate_every=150,
    evaluated=2000,
)  # fmt: skip
SCALES = {
    "paper": NetworkStudy(),
    # The claims are about the first lr, the tutorial's. The others show what tuning changes.
    "standard": dataclasses.replace(_QUICK, rates=(0.01, 0.0025, 0.005, 0.02, 0.04)),
    "quick": _QUICK,
    "tiny": NetworkStudy(
        data="digits", side=8, channels=(2, 3), hidden=6, steps=40, batch=16, seeds=(0, 1),
        held_out=100, epoch=160, record_every=10, evaluate_every=20,
    ),
}  # fmt: skip
# Every study also descends the penalty alone of this network.
PAPER = SCALES["paper"]


@dataclass(frozen=True)
class NetworkJob(TrialJob):
    """One run of the study.

    Attributes:
        images: name and fingerprint of the data; empty for the penalty alone.
    """

    images: tuple[str, ...] = ()

    def train(self, stop: Callable[[], bool], on_cost: Callable[[float], None]) -> bool:
        """Train to the end, or to a checkpoint if asked to stop.

        Raises:
            DataError: the images are no longer on this machine, or have changed.
            RuntimeError: something else than the loss went wrong; it is not stored.
        """
        if self.images:
            name, fingerprint = self.images
            if _fingerprint(name) != fingerprint:
                raise DataError(
                    f"{name} has changed since this work was planned; run the command again."
                )
        # On a GPU the fast convolutions are neither exact nor deterministic.
        with torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False
        ):
            finished = super().train(stop, on_cost)
        failure = read_outcome(self.file).failure if finished else ""
        if failure and not failure.startswith("diverged"):
            self.file.unlink()
            raise RuntimeError(f"the network could not be trained: {failure}")
        return finished


@functools.cache
def _fingerprint(name: str) -> str:
    """Of the images on this machine, which each worker reads once."""
    return load_images(name, download=False).fingerprint


def network_jobs(study: NetworkStudy, fingerprint: str, folder: Path) -> list[NetworkJob]:
    """Every run: with data, those of the first seed first; then the penalty alone.

    Args:
        study: the settings.
        fingerprint: of the data.
        folder: of the files.
    """
    alone = [*alone_jobs(study, folder), *paper_jobs(study, folder)]
    return training_jobs(study, fingerprint, folder) + list(dict.fromkeys(alone))


def training_jobs(study: NetworkStudy, fingerprint: str, folder: Path) -> list[NetworkJob]:
    """One job for each method, lr and seed."""
    return _jobs(study, (study.data, fingerprint), folder)


def alone_jobs(study: NetworkStudy, folder: Path) -> list[NetworkJob]:
    """The penalty alone, from the starts of the runs with data."""
    return _jobs(study, (), folder)


def paper_jobs(study: NetworkStudy, folder: Path) -> list[NetworkJob]:
    """The penalty alone at the paper's size, lr and horizon, for the first seed."""
    jobs = alone_jobs(dataclasses.replace(PAPER, seeds=study.seeds[:1]), folder)
    return [job for job in jobs if job.trial.method in AUTHORS_LOSS]


def _jobs(study: NetworkStudy, images: tuple[str, ...], folder: Path) -> list[NetworkJob]:
    # A wider study finds the runs of a smaller one.
    own, data = dataclasses.replace(study, rates=(), seeds=()), study.data
    if not images:
        data = NO_DATA
        own = dataclasses.replace(own, data=data, held_out=0, evaluated=0, device="cpu")
    jobs = []
    for seed, rate, (method, how) in product(study.seeds, study.rates, METHODS.items()):
        if images or how.penalty != "none":
            problem = own.named_problem(method, data)
            settings = [_FORMAT, problem, images, dataclasses.astuple(own)]
            identity = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
            trial = Trial(method, rate, study.steps, seed)
            seconds = study.step_seconds(method, data)
            jobs.append(NetworkJob(problem, trial, identity, folder, seconds, own, images))
    return jobs
