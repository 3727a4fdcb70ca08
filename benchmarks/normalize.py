"""Which default should ``EndToEnd(normalize=...)`` have? Learning-rate curves on three problems.

    OVERPARAM_DATA=... python benchmarks/normalize.py normalize.jsonl [--tables]

Runs that the file holds already are not run again (with --tables, none is); then the tables are
printed. SGD, plain and with
momentum 0.9, as it is and inside EndToEnd with both values of ``normalize``; half-decade learning
rates, extended on both sides until the loss there is more than a tenth above the best; on Ethanol,
where it costs little, eighths of a decade too.

- Ethanol: full-batch linear regression, mean |error|^4, 3,000 steps, final loss. By the lab's
  batched engine, which tests/lab/training/test_shipped.py compares with EndToEnd. Two starts of
  nn.Linear, and one near zero, of standard deviation 0.001.
- MNIST, characters: the networks of tasks.py, 300 steps, mean loss of the last 50. The whole curve
  with one seed; the best rate and its neighbours with two more.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from tasks import char_transformer, mnist_cnn
from torch import Tensor, nn

from overparam import EndToEnd
from overparam.data import load, standardize
from overparam.lab.methods import parse_method
from overparam.lab.study import Run, Study
from overparam.lab.training.batched import Sweep
from overparam.lab.training.objective import PowerLoss

STEPS, LAST, LINEAR_STEPS = 300, 50, 3000
SEEDS = (0, 1, 2)
LINEAR = {"Ethanol": range(-12, 5), "Ethanol, finer": [k / 4 for k in range(-28, -15)]}
NETWORKS = {"MNIST": mnist_cnn, "characters": char_transformer}
NEAR = 1.1
# A loss this many times that of the start does not come back.
_HOPELESS = 100.0


class Method(NamedTuple):
    """SGD inside EndToEnd; at depth 1, SGD."""

    momentum: float
    depth: int
    normalize: bool

    def __str__(self) -> str:
        sgd = f"SGD, momentum {self.momentum}" if self.momentum else "SGD"
        return sgd if self.depth == 1 else f"{sgd}, depth {self.depth}, normalize={self.normalize}"


class Outcome(NamedTuple):
    """The loss at the end of a run, NaN where it was given up, and that at its start."""

    loss: float
    start: float

    @property
    def diverged(self) -> bool:
        """Whether the run ended above its start, or nowhere."""
        return not self.loss < self.start


Curve = dict[float, dict[int, Outcome]]
Curves = dict[tuple[str, Method], Curve]
"""By problem and method, by power k of the rate 10^(k/2), by seed."""


def methods(momentum: float, depths: Sequence[int]) -> list[Method]:
    """Each depth with and without normalization."""
    each = [Method(momentum, depth, norm) for depth in depths for norm in (True, False)]
    return [method for method in each if method.depth > 1 or method.normalize]


def rate(power: float) -> float:
    """``10^(k/2)``, with two digits, as it is used."""
    return float(f"{10 ** (power / 2):.1e}")


def train(problem: str, method: Method, power: float, seed: int) -> Outcome:
    """One run of a network."""
    task = NETWORKS[problem](seed)
    options = {"lr": rate(power), "momentum": method.momentum}
    if method.depth == 1:
        optimizer = torch.optim.SGD(task.model.parameters(), **options)
    else:
        depth, normalize = method.depth, method.normalize
        optimizer = EndToEnd(task.model, depth=depth, normalize=normalize, **options)
    losses: list[float] = []
    for inputs, targets in itertools.islice(task.batches, STEPS):
        optimizer.zero_grad()
        loss = task.loss(task.model(inputs), targets)
        losses.append(loss.item())
        if not losses[-1] < _HOPELESS * losses[0]:
            return Outcome(math.nan, losses[0])
        loss.backward()
        optimizer.step()
    return Outcome(statistics.fmean(losses[-LAST:]), losses[0])


def explore(run: Callable[[int, int], Outcome], centre: int) -> int:
    """Run the curve of the first seed, as far as it is needed; the power of its best rate."""

    def at(power: int) -> float:
        outcome = run(power, SEEDS[0])
        return math.inf if outcome.diverged else outcome.loss

    found = {power: at(power) for power in range(centre - 1, centre + 2)}
    while True:
        best, low, high = min(found.values()), min(found), max(found)
        if found[low] <= NEAR * best:
            found[low - 1] = at(low - 1)
        elif found[high] <= NEAR * best:
            found[high + 1] = at(high + 1)
        else:
            return min(found, key=found.__getitem__)


def linear_regression(powers: Sequence[float]) -> Iterator[tuple[Method, float, int, Outcome]]:
    """All runs on Ethanol, side by side."""
    chosen = [*methods(0, (1, 2, 3)), *methods(0.9, (1, 2, 3))]
    data = standardize(load("ethanol"))
    objective = PowerLoss(data.features, data.targets, 4.0)
    starts = []
    for seed in SEEDS:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            layer = nn.Linear(objective.inputs, objective.outputs, bias=False, dtype=torch.float64)
        starts.append(layer.weight.detach())
    nn.init.normal_(starts[-1], std=1e-3, generator=torch.Generator().manual_seed(0))
    runs = list(itertools.product(chosen, powers, SEEDS))
    study = Study(iterations=LINEAR_STEPS, points=1, dtype="float64")
    members = [Run(parse_method(_name(m)), rate(power), seed) for m, power, seed in runs]
    sweep = Sweep(objective, study, members)
    given = torch.stack([starts[seed] for _, _, seed in runs])
    _start_at(sweep, given)
    sweep.advance(LINEAR_STEPS + 1)
    ends = zip(runs, sweep.losses[:, -1].tolist(), objective.loss(given).tolist(), strict=True)
    for run, loss, start in ends:
        yield *run, Outcome(loss, start)


def _start_at(sweep: Sweep, weights: Tensor) -> None:
    """Give the runs of a sweep their first weights."""
    state = sweep.state_dict()
    for group in state["groups"]:
        group["parameters"] = [weights[group["members"]]]
    sweep.load_state_dict(state)


def _name(method: Method) -> str:
    """The lab's name."""
    base = "momentum" if method.momentum else "gd"
    engine = "rule_normalized" if method.normalize else "rule"
    return base if method.depth == 1 else f"{base}+{engine}:{method.depth}"


def measure(path: Path, only_read: bool) -> Curves:
    """All curves: those of the file, and what it lacks, which is added to it."""
    curves: Curves = {}
    lines = path.read_text().splitlines() if path.exists() else []

    def put(problem: str, method: Method, power: float, seed: int, outcome: Outcome) -> None:
        curves.setdefault((problem, method), {}).setdefault(power, {})[seed] = outcome

    def note(*line: object) -> None:
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    for problem, method, power, seed, outcome in map(json.loads, lines):
        put(problem, Method(*method), power, seed, Outcome(*outcome))
    if only_read:
        return curves
    for problem in LINEAR.keys() - {problem for problem, _ in curves}:
        for line in linear_regression(LINEAR[problem]):
            put(problem, *line)
            note(problem, *line)
    # In this order, so that a file that is cut short is useful.
    momentum, others = methods(0.9, (1, 2)), [*methods(0, (1, 2)), *methods(0.9, (3,))]
    for chosen, seeds in ((momentum, SEEDS), (others, SEEDS[:1]), (others, SEEDS)):
        for problem, method in itertools.product(NETWORKS, chosen):

            def run(power: float, seed: int, problem: str = problem, m: Method = method) -> Outcome:
                known = curves.get((problem, m), {}).get(power, {})
                if seed not in known:
                    outcome = train(problem, m, power, seed)
                    put(problem, m, power, seed, outcome)
                    note(problem, m, power, seed, outcome)
                return curves[problem, m][power][seed]

            best = explore(run, -2 if method.momentum else 0)
            for seed, power in itertools.product(seeds[1:], range(best - 1, best + 2)):
                run(power, seed)
    return curves


def middle(outcomes: dict[int, Outcome]) -> float:
    """The median over seeds, infinite where a run diverged."""
    if any(each.diverged for each in outcomes.values()):
        return math.inf
    return statistics.median(each.loss for each in outcomes.values())


def cell(outcomes: dict[int, Outcome] | None) -> str:
    """Median and range, and how many diverged."""
    if outcomes is None:
        return ""
    kept = sorted(each.loss for each in outcomes.values() if not each.diverged)
    lost = len(outcomes) - len(kept)
    if not kept:
        return "diverged"
    if lost:
        return f"{lost} of {len(outcomes)} diverged"
    spread = f" [{kept[0]:.3g}, {kept[-1]:.3g}]" if len(kept) > 1 else ""
    return f"{statistics.median(kept):.3g}{spread}"


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """As Markdown."""
    print(f"\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def print_curves(curves: Curves, problem: str) -> None:
    """Every rate of a problem, the best of each method in bold, and how wide the good ones lie."""
    mine = {method: curve for (name, method), curve in curves.items() if name == problem}
    powers = sorted({power for curve in mine.values() for power in curve})
    rows, summary = [], []
    for method, curve in sorted(mine.items(), key=lambda each: (*each[0][:2], not each[0][2])):
        losses = {power: middle(outcomes) for power, outcomes in sorted(curve.items())}
        best = min(losses, key=losses.__getitem__)
        cells: dict[float, str] = {power: cell(outcomes) for power, outcomes in curve.items()}
        cells[best] = f"**{cells[best]}**"
        rows.append([str(method), *(cells.get(power, "") for power in powers)])
        good = [power for power, loss in losses.items() if loss <= NEAR * losses[best]]
        width = good[-1] - good[0]
        within = f"{rate(good[0]):g} to {rate(good[-1]):g}" if width else f"{rate(best):g}"
        summary.append(
            [
                str(method),
                f"{rate(best):g}",
                cell(curve[best]),
                within,
                str(len(good)),
                _fall(curve),
            ]
        )
    print(f"\n### {problem}")
    print_table(["final loss at rate", *(f"{rate(power):g}" for power in powers)], rows)
    head = ["method", "best rate", "loss", "within 10 % of it", "rates", "lowest that diverges"]
    print_table(head, summary)


def _fall(curve: Curve) -> str:
    """The smallest rate at which a run diverged."""
    lost = [k for k, outcomes in curve.items() if any(o.diverged for o in outcomes.values())]
    return f"{rate(min(lost)):g}" if lost else ""


def print_depths(curves: Curves) -> None:
    """How much one rate for all depths costs, against the best rate of each."""
    rows = []
    for problem, momentum, normalize in itertools.product(
        ("Ethanol, finer", *NETWORKS), (0, 0.9), (True, False)
    ):
        losses = {}
        for depth in (1, 2, 3):
            curve = curves.get((problem, Method(momentum, depth, normalize or depth == 1)))
            if curve:
                losses[depth] = {power: middle(outcomes) for power, outcomes in curve.items()}
        if len(losses) < 2:
            continue
        best = {depth: min(curve, key=curve.__getitem__) for depth, curve in losses.items()}

        def cost(power: float, losses: dict = losses, best: dict = best) -> float:
            """The largest loss over that of the depth's own best rate."""
            return max(
                curve.get(power, math.inf) / curve[best[depth]] for depth, curve in losses.items()
            )

        one = min({power for curve in losses.values() for power in curve}, key=cost)
        rows.append(
            [
                problem,
                str(momentum),
                str(normalize),
                ", ".join(f"{rate(power):g}" for power in best.values()),
                f"{rate(one):g}",
                f"{cost(one):.3g}",
                f"{cost(best[1]):.3g}",
            ]
        )
    head = ["problem", "momentum", "normalize", "best rates of depths 1, 2, 3", "one rate for all"]
    print_table([*head, "worst loss / own best", "the same at the rate of depth 1"], rows)


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    curves = measure(Path(sys.argv[1]), only_read="--tables" in sys.argv)
    for problem in (*LINEAR, *NETWORKS):
        print_curves(curves, problem)
    print("\n### One rate for all depths")
    print_depths(curves)


if __name__ == "__main__":
    main()
