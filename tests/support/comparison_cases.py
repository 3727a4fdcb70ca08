"""Problems and made-up curves for tests of the instrument."""

import hashlib
import math

import numpy as np
import torch
from torch import nn

from overparam.lab.comparison.problem import Problem
from overparam.lab.comparison.protocol import Findings, Outcome, Plan, Trial, protocol

FEATURES = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
TARGETS = FEATURES @ torch.randn(6, 2, generator=torch.Generator().manual_seed(2))


def linear() -> nn.Module:
    return nn.Linear(6, 2)


def squared(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    inputs, targets = batch
    return (model(inputs) - targets).square().mean()


def small_problem(**options) -> Problem:
    """Linear regression in four batches, trained in microseconds."""
    batches = list(zip(FEATURES.split(16), TARGETS.split(16), strict=True))
    given = {"title": "small", "build": linear, "batches": batches, "loss": squared}
    return Problem(**{**given, **options})


def play(plan: Plan, loss) -> Findings:
    """The protocol with losses that a function of the trial gives."""
    game = protocol(plan)
    asked = next(game)
    while True:
        answers = [Outcome(loss(trial)) for trial in asked]
        try:
            asked = game.send(answers)
        except StopIteration as end:
            return end.value


def power_law(repetition: int, noise: float, planted: float, power: float = 0.7):
    """Losses that fall as ``steps^-power``, with a best lr of 0.13; method "p" is faster.

    Noise is relative: a part is shared by all methods of a seed, as batches and starts are.
    """

    def loss(trial: Trial) -> float:
        own = (repetition, trial.method, trial.lr, trial.horizon, trial.seed, trial.stream)
        steps = trial.horizon * (planted if trial.method == "p" else 1)
        curvature = 1 + 0.05 * math.log2(trial.lr / 0.13) ** 2
        wobble = normal(*own) + normal(repetition, trial.seed)
        return 100 * steps**-power * curvature * math.exp(noise * wobble)

    return loss


def normal(*key) -> float:
    """A standard normal number, the same for the same key."""
    seed = int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "big")
    return float(np.random.default_rng(seed).standard_normal())
