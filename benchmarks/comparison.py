"""How often the instrument is wrong: A/A comparisons, and a planted speed-up, on a real problem.

    python benchmarks/comparison.py                    # 100 repetitions of the whole protocol
    python benchmarks/comparison.py --first 100 --repetitions 300    # others than those
    python benchmarks/comparison.py --start 0.001                    # the best rate is far away

Softmax regression on the digits in scikit-learn, trained by SGD with momentum. Each repetition
plays the whole protocol of ``overparam compare``, tuning included, with starts and batches of its
own, for three methods: ``a``; ``b``, which is the same optimizer on other batches; and ``p``, the
same again, which takes 20 % more steps than it says. All runs that a round asks for, over all
repetitions, are trained as one batch. A committed result lies in comparison.md.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import Counter
from collections.abc import Sequence
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional

from overparam.data import load_images
from overparam.lab.comparison.generators import seed_for
from overparam.lab.comparison.protocol import (
    CONTROL,
    Findings,
    Outcome,
    Plan,
    Rounds,
    Trial,
    compare_ladders,
    protocol,
)
from overparam.lab.comparison.trial import schedule

PLANTED = 1.2
BATCH, MOMENTUM, START = 64, 0.9, 0.1
_TOGETHER = 512  # runs that are trained as one batch
Asked = tuple[int, Trial]


COMPARISONS = {
    "b": "A/A, tuned apart",
    "a" + CONTROL: "A/A control",
    "p": f"planted speed-up of {PLANTED}",
}


def main() -> None:
    """Print how often each comparison was decided which way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="number of the first repetition")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--start", type=float, default=START, help="learning rate tried first")
    options = parser.parse_args()
    torch.set_num_threads(1)
    begin = time.perf_counter()
    numbers = range(options.first, options.first + options.repetitions)
    findings = experiment(numbers, options.steps, options.seeds, options.start)
    tried = [max(len(found.losses) for found in each.tuning.values()) for each in findings]
    print(
        f"{options.repetitions} repetitions, the first is {options.first}; runs of {options.steps} "
        f"steps, from lr {options.start:g}; more than {findings[0].plan.trials} learning rates in "
        f"{sum(n > findings[0].plan.trials for n in tried)}, at most {max(tried)}"
    )
    for seeds in sorted({5, options.seeds}, reverse=True):
        for name, title in COMPARISONS.items():
            print(f"{seeds} seeds, {title}: {decided(findings, name, seeds)}")
    print(f"{time.perf_counter() - begin:.0f} s")


def decided(findings: Sequence[Findings], name: str, seeds: int) -> str:
    """How often a comparison with the baseline was decided which way, by its first seeds."""
    speeds = [
        compare_ladders(
            each.plan.ladder, each.losses["a"][:seeds], each.losses[name][:seeds], each.target
        )
        for each in findings
    ]
    counts = Counter(speed.decision for speed in speeds)
    middle, smallest = (median(getattr(s, n) for s in speeds) for n in ("median", "smallest"))
    return f"{dict(counts)}, median {middle:.3f}, smallest effect {smallest:.3f}"


def experiment(
    numbers: Sequence[int], steps: int, seeds: int, start_lr: float = START
) -> list[Findings]:
    """The findings of the repetitions with these numbers, whose rounds are played together."""
    starts = dict.fromkeys("abp", start_lr)
    plan = Plan(starts, ("a",), steps, seeds=seeds, start_loss=math.log(10))
    games: dict[int, Rounds] = {number: protocol(plan) for number in numbers}
    asked = {number: next(game) for number, game in games.items()}
    findings: dict[int, Findings] = {}
    while asked:
        answers = train([(number, trial) for number, trials in asked.items() for trial in trials])
        for number, trials in list(asked.items()):
            try:
                sent = [Outcome(answers[number, trial]) for trial in trials]
                asked[number] = games[number].send(sent)
            except StopIteration as end:
                findings[number] = end.value
                del asked[number]
    return [findings[number] for number in numbers]


def train(asked: Sequence[Asked]) -> dict[Asked, float]:
    """The judged loss of each run; runs of the same length are trained as one batch."""
    inputs, labels = digits()
    losses: dict[Asked, float] = {}
    by_length: dict[int, list[Asked]] = {}
    for each in asked:
        by_length.setdefault(length(each[1]), []).append(each)
    for steps, runs in by_length.items():
        for first in range(0, len(runs), _TOGETHER):
            part = runs[first : first + _TOGETHER]
            found = softmax_regression(part, steps, inputs, labels)
            losses.update(zip(part, found, strict=True))
    return losses


def length(trial: Trial) -> int:
    """The steps that a run takes: the planted method takes more than it says."""
    return round(trial.horizon * PLANTED) if trial.method == "p" else trial.horizon


def softmax_regression(
    runs: Sequence[Asked], steps: int, inputs: Tensor, labels: Tensor
) -> list[float]:
    """Mean loss on all images after training with the schedule of the protocol."""
    starts = {key: start(key, inputs.shape[1]) for key in {start_key(run) for run in runs}}
    weights = torch.stack([starts[start_key(run)] for run in runs])
    velocity = torch.zeros_like(weights)
    lrs = torch.tensor([trial.lr for _, trial in runs])[:, None, None]
    orders = {key: order(key, steps, len(inputs)) for key in {order_key(run) for run in runs}}
    rows = torch.stack([orders[order_key(run)] for run in runs])
    for step in range(steps):
        batch = rows[:, step]
        x = inputs[batch]
        errors = torch.softmax(x @ weights, -1) - functional.one_hot(labels[batch], 10)
        velocity.mul_(MOMENTUM).add_(x.mT @ errors / BATCH)
        weights -= lrs * schedule(step, steps) * velocity
    logits = inputs @ weights
    judged = functional.cross_entropy(
        logits.movedim(-1, 1), labels.expand(len(runs), -1), reduction="none"
    ).mean(1)
    return judged.tolist()


def start_key(run: Asked) -> tuple[int, int]:
    """Runs with the same key start at the same weights."""
    return run[0], run[1].seed


def order_key(run: Asked) -> tuple[int, int, int]:
    """Runs with the same key see the same batches: those of ``b`` and of the control do not."""
    number, trial = run
    return number, trial.seed, trial.stream + 2 * (trial.method == "b")


def start(key: tuple[int, int], features: int) -> Tensor:
    """Random weights."""
    generator = torch.Generator().manual_seed(seed_for(key[1], f"start {key[0]}"))
    return 0.1 * torch.randn(features, 10, generator=generator)


def order(key: tuple[int, int, int], steps: int, count: int) -> Tensor:
    """The rows of each batch, ``(steps, batch)``; a shorter run sees the beginning."""
    generator = torch.Generator().manual_seed(seed_for(key[1], f"batches {key[0]} {key[2]}"))
    return torch.stack([torch.randint(count, (BATCH,), generator=generator) for _ in range(steps)])


def digits() -> tuple[Tensor, Tensor]:
    """Images in rows with values from 0 to 1, and their classes."""
    data = load_images("digits", download=False)
    return data.images.flatten(1).float() / 255, data.labels


if __name__ == "__main__":
    main()
