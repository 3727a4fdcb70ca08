"""The protocol: tune every method alike, then confirm on fresh seeds. It trains nothing itself.

:func:`protocol` is a generator: it yields the trials that it needs, all independent of each other,
and is sent their outcomes. So the same code serves jobs in processes, a vectorized experiment and
curves made up for a test.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from overparam.lab.comparison.ladder import RUNGS, horizons, steps_to
from overparam.lab.comparison.search import FIRST, Tuned, is_coarse, is_edge, next_rung, rate, tuned
from overparam.lab.comparison.statistics import SpeedUp, speed_up

_TUNING_SEEDS = 1_000_000  # the first seed of tuning; those of confirmation start at 0
_LEAST_SEEDS = 2  # for an interval


@dataclass(frozen=True)
class Trial:
    """One training.

    Attributes:
        method: its name.
        lr: peak of the schedule of the learning rate.
        horizon: steps, at the end of which the learning rate is zero.
        seed: of the start and of the batches.
        stream: another number gives other batches from the same start.
    """

    method: str
    lr: float
    horizon: int
    seed: int
    stream: int = 0


@dataclass(frozen=True)
class Outcome:
    """What a trial ends with.

    Attributes:
        loss: the judged loss; infinite after a failure.
        curve: steps and training losses, means since the step before.
        metrics: values of ``evaluate`` by name.
        failure: what went wrong, in one line; empty if nothing did.
        seen: other numbers at each point of the curve; see ``Course.look``.
    """

    loss: float
    curve: tuple[tuple[int, float], ...] = ()
    metrics: Mapping[str, float] | None = None
    failure: str = ""
    seen: tuple[Mapping[str, float], ...] = ()


@dataclass(frozen=True)
class Plan:
    """What is fixed before the first trial.

    Attributes:
        starts: for each method, the learning rate at which its search starts.
        baselines: the methods without depth; the best of them sets the target.
        horizon: steps of the runs of tuning, and of the middle of the ladder.
        trials: learning rates for each method; all get more, up to twice as many, while the best
            one of some method is at the edge of those tried, or the grid is coarse around it.
        tuning_seeds: seeds of each trial of tuning.
        seeds: seeds of confirmation.
        start_loss: judged loss before training, which counts for a run that failed.
        rungs: of the ladder of confirmation, as multiples of the horizon.
        extended: whether there are more learning rates for that.
        refined: whether a coarse grid is a reason; it was none in the first version.
    """

    starts: Mapping[str, float]
    baselines: tuple[str, ...]
    horizon: int
    trials: int = 8
    tuning_seeds: int = 2
    seeds: int = 5
    start_loss: float = math.inf
    rungs: tuple[float, ...] = RUNGS
    extended: bool = True
    refined: bool = True

    @property
    def ladder(self) -> tuple[int, ...]:
        """The horizons of confirmation."""
        return horizons(self.horizon, self.rungs)

    def steps_of(self, method: str) -> int:
        """Steps that all trials of a method take, without the A/A control."""
        return self.trials * self.tuning_seeds * self.horizon + self.seeds * sum(self.ladder)


@dataclass(frozen=True)
class Findings:
    """What the protocol found.

    Attributes:
        plan: as it was carried out.
        tuning: by method.
        baseline: the best method without depth; empty if every one failed.
        target: the loss to reach: the baseline's at the end of tuning.
        losses: of confirmation, by method: for each seed, one loss for each horizon.
        speed_ups: in steps, by method, over the best baseline.
        control: the A/A control: the baseline over itself with other batches.
        outcomes: of all trials.
    """

    plan: Plan
    tuning: Mapping[str, Tuned]
    baseline: str
    target: float
    losses: Mapping[str, list[list[float]]]
    speed_ups: Mapping[str, SpeedUp]
    control: SpeedUp | None
    outcomes: Mapping[Trial, Outcome]


class OutOfTimeError(ValueError):
    """The time ended before anything could be said; what was trained is kept."""


Rounds = Generator[list[Trial], list[Outcome | None], Findings]
Revise = Callable[[Plan, int], Plan]
CONTROL = "A/A"


def protocol(plan: Plan, revise: Revise = lambda plan, tried: plan) -> Rounds:
    """Yield rounds of trials, be sent their outcomes, return the findings.

    Args:
        plan: what is fixed.
        revise: asked before every round for the plan of what is left, given the plan and how many
            learning rates every method has tried: a smaller one where time is short.

    Raises:
        OutOfTimeError: an outcome is None, for want of time, and what is left says nothing. The
            confirmation can do with its first seeds.
    """
    outcomes: dict[Trial, Outcome] = {}
    plan, tuning = yield from _tune(plan, revise, outcomes)
    usable = [name for name in plan.baselines if not tuning[name].failed]
    if not usable:
        return Findings(plan, tuning, "", math.nan, {}, {}, None, outcomes)
    baseline = min(usable, key=lambda name: min(tuning[name].losses.values()))
    confirmed = {
        name: found
        for name, found in {**tuning, baseline + CONTROL: tuning[baseline]}.items()
        if not found.failed
    }

    def trials(name: str, seed: int) -> list[Trial]:
        method, stream = name.removesuffix(CONTROL), int(name.endswith(CONTROL))
        lr = confirmed[name].lr
        return [Trial(method, lr, horizon, seed, stream) for horizon in plan.ladder]

    by_seed = [
        [trial for name in confirmed for trial in trials(name, seed)] for seed in range(plan.seeds)
    ]
    yield from _ask([trial for group in by_seed for trial in group], outcomes)
    whole = [all(trial in outcomes for trial in group) for group in by_seed]
    plan = replace(plan, seeds=[*whole, False].index(False))
    if plan.seeds < _LEAST_SEEDS:
        raise OutOfTimeError(f"the time ended when {plan.seeds} seeds were confirmed")
    losses = {
        name: [_losses(plan, trials(name, seed), outcomes) for seed in range(plan.seeds)]
        for name in confirmed
    }
    target = min(tuning[baseline].losses.values())
    speeds = {
        name: compare_ladders(plan.ladder, losses[baseline], rows, target)
        for name, rows in losses.items()
        if name != baseline
    }
    control = speeds.pop(baseline + CONTROL)
    return Findings(plan, tuning, baseline, target, losses, speeds, control, outcomes)


def compare_ladders(
    ladder: Sequence[int],
    baseline: Sequence[Sequence[float]],
    method: Sequence[Sequence[float]],
    target: float,
) -> SpeedUp:
    """The speed-up of a method over a baseline at a target, over paired seeds.

    Args:
        ladder: horizons, ascending.
        baseline: for each seed, one loss for each horizon.
        method: the same.
        target: the loss to reach.
    """
    logs, censored, unknown = [], 0, 0
    for base, own in zip(baseline, method, strict=True):
        (steps, side), (other, other_side) = (
            steps_to(target, ladder, losses) for losses in (base, own)
        )
        logs.append(math.log(steps / other))
        censored += bool(side or other_side)
        unknown += bool(side) and side == other_side
    return speed_up(logs, censored, unknown)


def _tune(
    plan: Plan, revise: Revise, outcomes: dict[Trial, Outcome]
) -> Generator[list[Trial], list[Outcome | None], tuple[Plan, dict[str, Tuned]]]:
    seeds = range(_TUNING_SEEDS, _TUNING_SEEDS + plan.tuning_seeds)
    found: dict[str, dict[int, float]] = {name: {} for name in plan.starts}

    def trials(name: str, rung: int) -> list[Trial]:
        lr = rate(plan.starts[name], rung)
        return [Trial(name, lr, plan.horizon, seed) for seed in seeds]

    while True:
        tried = min(map(len, found.values()))
        plan = revise(plan, tried)
        wanting = is_coarse if plan.refined else is_edge  # an edge has a neighbour untried
        more = plan.extended and any(wanting(losses) for losses in found.values())
        if tried >= plan.trials and not (more and tried < 2 * plan.trials):
            return plan, {name: tuned(plan.starts[name], losses) for name, losses in found.items()}
        todo = {
            name: (next_rung(losses),) if losses else FIRST[: plan.trials]
            for name, losses in found.items()
        }
        asked = [(name, rung) for name, rungs in todo.items() for rung in rungs]
        wanted = [trial for each in asked for trial in trials(*each)]
        yield from _ask(wanted, outcomes)
        if not all(trial in outcomes for trial in wanted):
            raise OutOfTimeError("the time ended in tuning")
        for name, rung in asked:
            found[name][rung] = fmean(outcomes[trial].loss for trial in trials(name, rung))


def _ask(
    trials: list[Trial], outcomes: dict[Trial, Outcome]
) -> Generator[list[Trial], list[Outcome | None], None]:
    answers = yield trials
    outcomes.update(
        (trial, answer) for trial, answer in zip(trials, answers, strict=True) if answer is not None
    )


def _losses(plan: Plan, trials: Sequence[Trial], outcomes: Mapping[Trial, Outcome]) -> list[float]:
    losses = [outcomes[trial].loss for trial in trials]
    return [loss if math.isfinite(loss) else plan.start_loss for loss in losses]
