"""A problem: data, model and loss to train; and how problems are found by name."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import itertools
import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from overparam._words import did_you_mean
from overparam.lab.comparison.names import parse_call

TRAINING_LOSS = "training loss"

Batches = Callable[[int], Iterable[Any]]
Train = Callable[[torch.optim.Optimizer, nn.Module, int], Iterable[Any]]


@dataclass(frozen=True, eq=False)
class Problem:
    """What is trained.

    Attributes:
        title: one line for people.
        build: makes the model, with its random start from torch's global generator.
        batches: the data: a ``DataLoader`` or a list of batches, which are repeated without end,
            or a function of a seed that returns one of these or an endless iterator.
        loss: the loss of the model on a batch.
        train: in place of ``batches`` and ``loss``: a generator ``train(optimizer, model, seed)``
            that takes a step and yields its loss, endlessly. It leaves the learning rate alone.
        evaluate: functions of the model by name, such as a test error; lower is better. They are
            called without gradients.
        judged_by: "training loss" (on batches that are the same for all runs, with the model in
            evaluation mode; with ``train``, the mean of the last tenth of its steps), or the name
            of a function in ``evaluate``.
        steps: the longest run that makes sense, in steps, at least 4; None if any length does.
        exclude: weights that no method factors, as in :class:`overparam.EndToEnd`; the head of a
            network that Muon should leave to AdamW, for example.
        penalty: a function of the model that is added to the loss in training, but not to the
            losses that are stored or judged.
    """

    title: str
    build: Callable[[], nn.Module]
    batches: DataLoader | Sequence[Any] | Batches | None = None
    loss: Callable[[nn.Module, Any], Tensor] | None = None
    train: Train | None = None
    evaluate: Mapping[str, Callable[[nn.Module], float]] = field(default_factory=dict)
    judged_by: str = TRAINING_LOSS
    steps: int | None = None
    exclude: tuple[str, ...] = ()
    penalty: Callable[[nn.Module], Tensor] | None = None

    def __post_init__(self) -> None:
        """Refuse a problem that cannot be trained."""
        parts = (self.batches is not None, self.loss is not None)
        if any(parts) if self.train is not None else not all(parts):
            raise ValueError(
                f"{self.title}: give batches and loss, or train, and not both: train(optimizer, "
                "model, seed) takes steps by itself."
            )
        if isinstance(self.batches, Iterator):
            raise ValueError(
                f"{self.title}: the data are a {type(self.batches).__name__}, which can be read "
                "once; every trial reads them again. Give a loader, a list, or a function of the "
                "seed that yields without end."
            )
        if self.steps is not None and self.steps < 4:
            raise ValueError(
                f"{self.title}: steps is {self.steps}; runs of half as many are tuned, so use at "
                "least 4, or None."
            )
        if self.judged_by not in (TRAINING_LOSS, *self.evaluate):
            raise ValueError(
                f"judged_by is {self.judged_by!r}; use {TRAINING_LOSS!r} or a name of evaluate: "
                f"{', '.join(self.evaluate) or 'there is none'}."
            )

    def stream(self, seed: int) -> Iterator[Any]:
        """Batches without end; the same for the same seed, whatever else draws random numbers."""
        if self.batches is None:
            raise ValueError(f"{self.title} trains by itself and has no batches.")
        data = self.batches(seed) if callable(self.batches) else self.batches
        return _apart(data if isinstance(data, Iterator) else _repeated(data, seed), seed)


def _repeated(data: Iterable[Any], seed: int) -> Iterator[Any]:
    # A sampler may have a generator of its own.
    samplers = [getattr(data, name, None) for name in ("sampler", "batch_sampler")]
    for drawing in (data, *samplers, getattr(samplers[1], "sampler", None)):
        generator = getattr(drawing, "generator", None)
        if isinstance(generator, torch.Generator):
            generator.manual_seed(seed)
    while True:
        empty = True
        for batch in data:
            empty = False
            yield batch
        if empty:
            raise ValueError("the data have no batch; give a loader or a list with at least one.")


def _apart(batches: Iterator[Any], seed: int) -> Iterator[Any]:
    """The same batches, drawn with a random state of their own."""
    state = torch.Generator().manual_seed(seed).get_state()
    for count in itertools.count():
        before = torch.get_rng_state()
        torch.set_rng_state(state)
        try:
            batch = next(batches)
        except StopIteration:
            raise ValueError(
                f"the batches ended after {count}; a function of the seed must yield without end "
                "('while True:' around its loop). A loader or a list is begun again by itself."
            ) from None
        finally:
            state = torch.get_rng_state()
            torch.set_rng_state(before)
        yield batch


Factory = Callable[..., Problem]
_REGISTERED: dict[str, Factory] = {}


def problem(name: str) -> Callable[[Factory], Factory]:
    """Register a function that makes a problem, under a name for the command line."""

    def register(factory: Factory) -> Factory:
        _REGISTERED[name] = factory
        return factory

    return register


def problem_names() -> tuple[str, ...]:
    """The names of all problems that come with the lab."""
    package = importlib.import_module("overparam.lab.problems")
    for module in pkgutil.iter_modules(package.__path__):
        if not module.ispkg:
            importlib.import_module(f"{package.__name__}.{module.name}")
    return tuple(sorted(_REGISTERED))


def load_problem(text: str) -> Problem:
    """A problem from its name.

    Args:
        text: the name of a problem of the lab, with options if it has any, such as
            ``mnist1d-mlp(norm="batch")``; or ``script.py:name``, where the name is that of a
            problem in the script or of a function that makes one.

    Raises:
        ValueError: there is no such problem, script or option.
    """
    path, separator, name = text.rpartition(":")
    if separator and path.endswith(".py"):
        return _from_script(Path(path), name)
    if text.endswith(".py"):
        return _from_script(Path(text), "problem")
    word, options = parse_call(text, "problem")
    known = problem_names()
    if word not in known:
        raise ValueError(
            f"no problem is named {word!r}.{did_you_mean(word, known)} Known: {', '.join(known)}; "
            "or a problem of your own: script.py:name."
        )
    accepted = inspect.signature(_REGISTERED[word]).parameters
    for option in options:
        if option not in accepted:
            raise ValueError(
                f"problem {text!r} has no option {option!r}; it has "
                f"{', '.join(accepted) or 'none'}."
            )
    return _REGISTERED[word](**options)


def _from_script(path: Path, name: str) -> Problem:
    if not path.is_file():
        raise ValueError(f"{path} is not a file; name a Python script, then ':' and the problem.")
    module_name = f"_overparam_problem_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None  # a .py file has one
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    # The script may import its neighbours, now or later, as it can when Python runs it.
    if (folder := str(path.resolve().parent)) not in sys.path:
        sys.path.insert(0, folder)
    spec.loader.exec_module(module)
    found = getattr(module, name, None)
    if callable(found) and not isinstance(found, Problem):
        found = found()
    if not isinstance(found, Problem):
        raise ValueError(
            f"{path} has no problem named {name!r}; write in it: "
            f"from overparam.lab import Problem; {name} = Problem(...)."
        )
    return found
