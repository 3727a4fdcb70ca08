"""One trial: a model, an optimizer of the shipped classes, a schedule; and its job."""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
import itertools
import json
import math
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from overparam._files import write_whole
from overparam.lab.comparison.generators import (
    generator_states,
    generators_kept,
    seed_all,
    seed_for,
    set_generator_states,
)
from overparam.lab.comparison.methods import parse_method
from overparam.lab.comparison.problem import TRAINING_LOSS, Problem, load_problem
from overparam.lab.comparison.protocol import Outcome, Trial
from overparam.lab.resume import train_resumably

WARM_UP = 0.1  # share of the steps
POINTS = 32  # of a stored curve
JUDGED_BATCHES = 8
_JUDGE_SEED = 2**31 - 1
_CHUNK_STEPS = 10
_TAIL = 0.1  # share of the steps whose losses judge a problem that trains by itself


def schedule(step: int, horizon: int) -> float:
    """The factor on the learning rate: linear warm-up, then linear decay to zero at the horizon.

    Args:
        step: counted from 0.
        horizon: number of steps.

    Example:
        >>> [schedule(step, 20) for step in (0, 1, 2, 11, 19)]
        [0.5, 1.0, 1.0, 0.5, 0.05555555555555555]
    """
    warm_up = max(1, round(WARM_UP * horizon))
    if step < warm_up:
        return (step + 1) / warm_up
    return (horizon - step) / (horizon - warm_up)


@functools.lru_cache(maxsize=8)
def judged_batches(problem: Problem) -> tuple[Any, ...]:
    """The batches on which every run of a problem is judged, the same in every process."""
    with generators_kept():
        seed_all(_JUDGE_SEED)
        return tuple(itertools.islice(problem.stream(_JUDGE_SEED), JUDGED_BATCHES))


def judged_loss(problem: Problem, model: nn.Module) -> float:
    """The training loss on batches that are the same for every run."""
    assert problem.loss is not None  # the caller has checked that it does not train by itself
    # With gradients enabled, because the loss may be made of derivatives of the model.
    # On copies, because the loss may take a batch apart.
    batches = copy.deepcopy(judged_batches(problem))
    losses = [float(problem.loss(model, batch).detach()) for batch in batches]
    return math.fsum(losses) / len(losses)


@torch.no_grad()
def evaluated(problem: Problem, model: nn.Module) -> dict[str, float]:
    """What the functions of a problem say about a model."""
    return {name: float(function(model)) for name, function in problem.evaluate.items()}


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, and random numbers that training does not see."""
    training = model.training
    model.eval()
    try:
        with generators_kept():
            seed_all(_JUDGE_SEED)
            yield
    finally:
        model.train(training)


class Course:
    """How trials are conducted: as the protocol says. Subclasses do as a paper did."""

    def factor(self, step: int, horizon: int) -> float:
        """The factor on the learning rate at a step, counted from 0."""
        return schedule(step, horizon)

    def points(self, horizon: int) -> Sequence[int]:
        """The steps of the stored curve, ascending; the last one is the horizon."""
        return sorted({max(1, round(horizon * i / POINTS)) for i in range(1, POINTS + 1)})

    def optimizer(self, problem: Problem, trial: Trial, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of a freshly built model."""
        return parse_method(trial.method).make(model, trial.lr, problem.exclude)

    def look(self, run: TrialRun) -> dict[str, float]:
        """Numbers to keep at a point of the curve, beside the loss."""
        return {}


PROTOCOL = Course()


class TrialRun:
    """A trial that can stop and go on; whatever the user's code raises is recorded.

    Args:
        problem: what is trained.
        trial: how.
        course: how it is conducted.
    """

    def __init__(self, problem: Problem, trial: Trial, course: Course = PROTOCOL) -> None:
        self.problem, self.trial, self.course = problem, trial, course
        self.step = 0
        self.failure = ""
        self.curve: list[tuple[int, float]] = []
        self.seen: list[dict[str, float]] = []
        self.since: list[float] = []
        self._tail: list[float] = []
        self._points = self.course.points(trial.horizon)
        with self._recording():
            self.model, self.optimizer = start(problem, trial, self.course)
            self._lrs = [group["lr"] for group in self.optimizer.param_groups]
            seed = seed_for(trial.seed, f"batches {trial.stream}")
            if problem.train is None:
                self._batches = problem.stream(seed)
                self._steps = self._own_loop()
            else:
                self._steps = self._users(seed)
            seed_all(seed_for(trial.seed, f"training {trial.stream}"))

    @property
    def finished(self) -> bool:
        """Whether the horizon is reached, or something went wrong."""
        return bool(self.failure) or self.step >= self.trial.horizon

    def advance(self, steps: int) -> None:
        """Train for at most ``steps`` steps."""
        with self._recording():
            for _ in range(steps):
                if self.finished:
                    return
                self._advance()

    def outcome(self) -> Outcome:
        """What the trial ends with."""
        loss, metrics = math.inf, None
        with self._recording():
            if not self.failure:
                with evaluating(self.model):
                    metrics = evaluated(self.problem, self.model)
                    loss = self._judged(metrics)
        if self.failure or not math.isfinite(loss):
            failure = self.failure or f"the judged loss is {loss}"
            return Outcome(math.inf, tuple(self.curve), None, failure, tuple(self.seen))
        return Outcome(loss, tuple(self.curve), metrics, seen=tuple(self.seen))

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue; a problem that trains by itself starts again."""
        if self.problem.train is not None or self.failure:
            return {"failure": self.failure}
        return {
            "failure": "",
            "step": self.step,
            "curve": self.curve,
            "seen": self.seen,
            "since": self.since,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generators": generator_states(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state saved by the same trial."""
        self.failure = self.failure or state["failure"]
        if "generators" not in state or self.failure:  # an earlier version wrote it
            return
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.curve, self.since = [tuple(point) for point in state["curve"]], state["since"]
        self.seen, self.step = state.get("seen", []), state["step"]
        for _ in range(self.step):  # the batches that have been seen
            next(self._batches)
        set_generator_states(state["generators"])

    @contextmanager
    def _recording(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # it may be the user's code, and other trials go on
            line = str(error).strip().splitlines()
            self.failure = f"{type(error).__name__}: {line[0] if line else 'no message'}"[:300]

    def _advance(self) -> None:
        factor = self.course.factor(self.step, self.trial.horizon)
        for group, lr in zip(self.optimizer.param_groups, self._lrs, strict=True):
            group["lr"] = lr * factor
        value = next(self._steps)
        if not math.isfinite(value):
            self.failure = f"diverged at step {self.step}"
            return
        self.step += 1
        self.since.append(value)
        if self.step > (1 - _TAIL) * self.trial.horizon:
            self._tail.append(value)
        if self.step == self._points[len(self.curve)]:
            self.curve.append((self.step, math.fsum(self.since) / len(self.since)))
            if seen := self.course.look(self):
                self.seen.append(seen)
            self.since = []

    def _own_loop(self) -> Iterator[float]:
        assert self.problem.loss is not None  # checked by Problem
        while True:
            loss = self.problem.loss(self.model, next(self._batches))
            if not isinstance(loss, torch.Tensor):
                raise TypeError(f"the loss is a {type(loss).__name__}; return a tensor, one number")
            value = whole = float(loss.detach())
            if self.problem.penalty is not None:
                loss = loss + self.problem.penalty(self.model)
                whole = float(loss.detach())
            if math.isfinite(whole):
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
            yield value if math.isfinite(whole) else whole

    def _users(self, seed: int) -> Iterator[float]:
        assert self.problem.train is not None  # the caller has looked
        for loss in self.problem.train(self.optimizer, self.model, seed):
            yield float(loss.detach() if isinstance(loss, torch.Tensor) else loss)
        raise RuntimeError(f"train stopped after {self.step} steps; it must yield without end.")

    def _judged(self, metrics: dict[str, float]) -> float:
        if self.problem.judged_by != TRAINING_LOSS:
            return metrics[self.problem.judged_by]
        if self.problem.train is not None:
            return math.fsum(self._tail) / len(self._tail)
        return judged_loss(self.problem, self.model)


def start(
    problem: Problem, trial: Trial, course: Course
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The model at its start, which depends on the seed alone, and the optimizer of the method."""
    seed_all(seed_for(trial.seed, "start"))
    model = problem.build()
    seed_all(seed_for(trial.seed, "method"))
    return model, course.optimizer(problem, trial, model)


@dataclass(frozen=True)
class TrialJob:
    """A trial as a job: the unit of work, of storage and of resuming.

    Attributes:
        problem: what is trained, or its name.
        trial: how.
        identity: of the comparison.
        folder: of its files.
        step_seconds: of one step, for progress.
        course: how it is conducted; the identity tells other ones apart.
    """

    problem: Problem | str
    trial: Trial
    identity: str
    folder: Path
    step_seconds: float = 1.0
    course: Course = PROTOCOL

    @property
    def cost(self) -> float:
        """Seconds of the whole trial, as measured at the beginning."""
        return self.trial.horizon * self.step_seconds

    @property
    def file(self) -> Path:
        """The file with the outcome."""
        text = json.dumps([self.identity, dataclasses.astuple(self.trial)])
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"

    def finished(self) -> bool:
        """Whether the outcome is stored."""
        return self.file.exists()

    def train(self, stop: Callable[[], bool], on_cost: Callable[[float], None]) -> bool:
        """Train to the end, or to a checkpoint if asked to stop."""
        problem = _loaded(self.problem) if isinstance(self.problem, str) else self.problem
        checkpoint = self.file.with_suffix(".checkpoint")
        with generators_kept():
            run = TrialRun(problem, self.trial, self.course)
            if not train_resumably(
                run,
                self.trial.horizon,
                checkpoint,
                self.identity,
                "trial",
                chunk_steps=_CHUNK_STEPS,
                step_cost=self.step_seconds,
                stop=stop,
                on_cost=on_cost,
            ):
                return False
            write_outcome(self.file, self.trial, run.outcome())
        checkpoint.unlink(missing_ok=True)
        return True


_loaded = functools.lru_cache(maxsize=4)(load_problem)


def check_sendable(problem: Problem | str) -> None:
    """Raise unless a problem can be sent to another process."""
    try:
        pickle.dumps(problem)
    except Exception as error:  # of whatever it is made of
        raise ValueError(
            f"the problem cannot be sent to other processes ({error}); put its functions at the "
            "top level of a module, without lambda, or use workers=0."
        ) from None


def ready(problem: Problem | str) -> None:
    """Import and load what a worker needs for its first trial."""
    if isinstance(problem, str):
        _loaded(problem)


def write_outcome(path: Path, trial: Trial, outcome: Outcome) -> None:
    """Store an outcome; the same outcome gives the same bytes."""
    found = {name: each for name, each in dataclasses.asdict(outcome).items() if name != "seen"}
    content: dict[str, Any] = {"trial": dataclasses.asdict(trial), "outcome": found}
    if outcome.seen:
        content["seen"] = outcome.seen
    write_whole(path, json.dumps(content, sort_keys=True).encode())


def read_outcome(path: Path) -> Outcome:
    """Load an outcome.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        stored, seen = content["outcome"], tuple(content.get("seen", ()))
        curve = tuple((int(step), float(loss)) for step, loss in stored["curve"])
        return Outcome(stored["loss"], curve, stored["metrics"], stored["failure"], seen)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); delete it and run the comparison again."
        ) from None
