"""Runs the steps of a batch: as CUDA graphs where the device has them, else one by one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from overparam.lab.training.batch import Batch, Lanes

_LANES = 8
_log = logging.getLogger(__name__)


class Capture(Protocol):
    """How a device captures work."""

    def __call__(self, work: Callable[[Lanes | None], None]) -> Callable[[], object]:
        """Capture work without doing it; the result does it, on the same tensors."""
        ...


def cuda_graph(work: Callable[[Lanes | None], None]) -> Callable[[], object]:
    """Capture work as a CUDA graph, in which the blocks of a batch run side by side."""
    graph, streams = torch.cuda.CUDAGraph(), _Streams()
    with torch.cuda.graph(graph):
        work(streams)
    return graph.replay


class _Streams:
    """Streams as lanes: they fork from the stream of the capture and join it again."""

    def __init__(self) -> None:
        # Made before the capture, and more of them than run side by side with profit.
        self._streams = [torch.cuda.Stream() for _ in range(_LANES)]
        self._forked: dict[int, torch.cuda.Stream] = {}

    @contextmanager
    def lane(self, number: int) -> Iterator[None]:
        stream = self._forked[number] = self._streams[number % _LANES]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            yield

    def join(self) -> None:
        for stream in self._forked.values():
            torch.cuda.current_stream().wait_stream(stream)
        self._forked.clear()


class Stepper:
    """Takes up to ``most`` steps at a time, and notes how large the weights were before each.

    The first steps run eagerly, which loads all kernels. Then ``most`` steps are captured as one
    graph and a single step as another. Where the capture fails, all steps stay eager: the function
    is the same.

    Args:
        batch: what to train.
        most: the longest run of steps.
        capture: how to capture, None for eager steps.

    Attributes:
        sizes: ``(most, runs)``, of the last call.
    """

    def __init__(self, batch: Batch, most: int, capture: Capture | None) -> None:
        self._batch, self._most = batch, most
        self._capture = capture if batch.replayable else None
        self.sizes = batch.weights.new_zeros(most, batch.weights.shape[0])
        self._graphs: dict[int, Callable[[], object]] = {}
        self._single, self._alive = self.sizes[:1].clone(), list[Tensor]()
        self._warm = False

    def run(self, steps: int) -> None:
        """Take ``steps`` steps, at most ``most``."""
        length = steps if steps == self._most else 1
        if self._capture is None or not self._warm or not self._captured(length):
            self._warm = True
            self._eager(steps)
            return
        if length == steps == self._most:
            self._graphs[length]()
            return
        for step in range(steps):
            self._graphs[1]()
            self.sizes[step].copy_(self._single[0])

    def _eager(self, steps: int) -> None:
        # One step between looks needs no note of the sizes.
        self._batch.steps(steps, self.sizes[:steps] if self._most > 1 else None)

    def _captured(self, length: int) -> bool:
        """Whether there is a graph of so many steps, now if not before."""
        if length in self._graphs:
            return True
        assert self._capture is not None
        sizes = self.sizes if length == self._most else self._single
        try:
            self._graphs[length] = self._capture(
                lambda lanes: self._batch.steps(length, sizes, lanes)
            )
        except RuntimeError as error:
            _log.warning(
                "the steps cannot be captured as a CUDA graph, so they run eagerly: %s", error
            )
            self._capture = None
            return False
        self._alive += self._batch.buffers()
        return True
