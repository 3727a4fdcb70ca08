"""Runs the steps of a batch: as CUDA graphs where the device has them, else one by one."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from overparam.lab.training.batch import Batch, Lanes

# Captures work without doing it; the result does it, on the same tensors.
Capture = Callable[[Callable[[Lanes | None], None]], Callable[[], object]]
_log = logging.getLogger(__name__)


def cuda_graph(work: Callable[[Lanes | None], None]) -> Callable[[], object]:
    """Capture work as a CUDA graph, in which the blocks of a batch run side by side."""
    graph, lanes = torch.cuda.CUDAGraph(), Lanes()
    with torch.cuda.graph(graph):
        work(lanes)
    return graph.replay


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
        graph = self._graph(length) if self._warm else None
        self._warm = True
        if graph is None:
            # One step between looks needs no note of the sizes.
            self._batch.steps(steps, self.sizes[:steps] if self._most > 1 else None)
        elif steps == self._most:
            graph()
        else:
            for step in range(steps):
                graph()
                self.sizes[step].copy_(self._single[0])

    def _graph(self, length: int) -> Callable[[], object] | None:
        """So many steps as a graph, captured now if not before; None if that fails."""
        if self._capture is not None and length not in self._graphs:
            sizes = self.sizes if length == self._most else self._single
            try:
                self._graphs[length] = self._capture(
                    lambda lanes: self._batch.steps(length, sizes, lanes)
                )
                self._alive += self._batch.objective.buffers()
            except RuntimeError as error:
                _log.warning(
                    "the steps cannot be captured as a CUDA graph, so they run eagerly: %s", error
                )
                self._capture = None
        return self._graphs.get(length) if self._capture else None
