"""All runs of a sweep as one batch, and its steps as one function that looks at no value."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from overparam.lab.methods import OPTIMIZERS, Method
from overparam.lab.study import DTYPES, Run, Study
from overparam.lab.training.block import blocks_of
from overparam.lab.training.clock import Clock
from overparam.lab.training.directions import DEPTH_KINDS
from overparam.lab.training.objective import PowerLoss
from overparam.lab.training.start import initial_parameters

_LANES = 8


class Lanes:
    """CUDA streams that work side by side: they fork from the current one and join it again."""

    def __init__(self) -> None:
        # Made before a capture, and more of them than run side by side with profit.
        self._streams = [torch.cuda.Stream() for _ in range(_LANES)]
        self._forked: dict[int, torch.cuda.Stream] = {}

    @contextmanager
    def lane(self, number: int) -> Iterator[None]:
        """Within it, work waits for what was asked for before, and not for other lanes."""
        stream = self._forked[number] = self._streams[number % _LANES]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            yield

    def join(self) -> None:
        """Later work waits for all lanes."""
        for stream in self._forked.values():
            torch.cuda.current_stream().wait_stream(stream)
        self._forked.clear()


class Batch:
    """Weights, gradients, learning rates and the blocks of runs that move them.

    A run that is no longer finite leaves the others alone, and may stay until :meth:`keep`.

    Args:
        objective: the loss.
        study: the settings.
        runs: the runs, those of one method side by side.

    Attributes:
        weights: the end-to-end weights, ``(runs, m, n)``.
        replayable: whether :meth:`steps` can be captured as a CUDA graph.
    """

    def __init__(self, objective: PowerLoss, study: Study, runs: Sequence[Run]) -> None:
        self.objective, self._study, self._runs = objective, study, tuple(runs)
        self._kind: dict[str, Any] = {"dtype": DTYPES[study.dtype], "device": objective.device}
        self._blocks = blocks_of([run.method for run in runs], self._starts(), objective)
        each = (OPTIMIZERS[run.method.optimizer].update.corrections for run in runs)
        self._clock = Clock(study, next(filter(None, each), None), **self._kind)
        self.replayable = objective.outputs == 1 or not any(
            DEPTH_KINDS[run.method.depth_kind].decomposes for run in runs
        )
        self._place()

    @property
    def members(self) -> list[int]:
        """The numbers of the runs in the batch, in its order."""
        return [member for block in self._blocks for member in block.members]

    def steps(self, count: int, sizes: Tensor | None = None, lanes: Lanes | None = None) -> None:
        """Take gradient steps, in place, without a look at a value from the host.

        So a GPU can capture it once and replay it. Only for weights of several outputs that are
        decomposed it cannot: see ``replayable``.

        Args:
            count: number of steps.
            sizes: ``(count, runs)``, for the largest entry of each weight before each step.
            lanes: where the blocks move side by side; by default one after the other.
        """
        for step, numbers in enumerate(self._clock.next(count)):
            if sizes is not None:
                flat = self.weights.flatten(1)
                torch.linalg.vector_norm(flat, math.inf, dim=1, out=sizes[step])
            self.objective.gradient(self.weights, out=self._gradients)
            if self._clock.has_schedule:
                torch.mul(self._rates, numbers.rate, out=self._rates_now)
            for number, block in enumerate(self._blocks):
                if block.members:
                    with lanes.lane(number) if lanes and block.stands_alone else nullcontext():
                        block.step(numbers)
            if lanes:
                lanes.join()

    def keep(self, flags: Tensor) -> None:
        """Drop the runs whose flag is false."""
        sizes = [len(block.members) for block in self._blocks]
        for block, here in zip(self._blocks, flags.split(sizes), strict=True):
            block.keep(here)
        self._place()

    def state_dict(self) -> list[dict[str, Any]]:
        """Everything that changes while training."""
        return [block.state_dict() for block in self._blocks]

    def load_state_dict(self, state: list[dict[str, Any]], step: int) -> None:
        """Continue at a step from a state saved by a batch of the same runs."""
        for block, saved in zip(self._blocks, state, strict=True):
            block.load_state_dict(saved, [self._runs[i].method for i in saved["members"]])
        self._place()
        self._clock.set(step)

    def _place(self) -> None:
        """Lay the tensors of the batch out for the runs that are left."""
        members, objective = self.members, self.objective
        shape = (len(members), objective.outputs, objective.inputs)
        self.weights, self._gradients = (torch.empty(shape, **self._kind) for _ in range(2))
        rates = torch.tensor([self._runs[member].rate for member in members], **self._kind)
        # Against the gradient.
        self._rates = -rates[:, None, None]
        self._rates_now = self._rates.clone() if self._clock.has_schedule else self._rates
        sizes = [len(block.members) for block in self._blocks]
        places = (self.weights, self._gradients, self._rates_now)
        rows = zip(*(tensor.split(sizes) for tensor in places), strict=True)
        for block, (weights, gradients, rates) in zip(self._blocks, rows, strict=True):
            block.place(weights, gradients, rates)

    def _starts(self) -> list[tuple[Tensor, ...]]:
        sizes = (self.objective.outputs, self.objective.inputs)

        @functools.cache
        def start(method: Method, seed: int) -> tuple[Tensor, ...]:
            parameters = initial_parameters(method, seed, *sizes, self._study)
            return tuple(tensor.to(**self._kind) for tensor in parameters)

        return [start(run.method, run.seed) for run in self._runs]
