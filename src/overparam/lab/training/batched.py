"""Trains many runs at once as one batch of tensors, whose leading dimension is the runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from overparam.lab.study import Run, Study
from overparam.lab.training.batch import Batch
from overparam.lab.training.objective import PowerLoss
from overparam.lab.training.replay import Capture, Stepper, cuda_graph

# Steps between two looks at the weights off the CPU, each of which waits for the device.
LOOK_EVERY = 25
# Off the CPU, runs that have diverged leave once they are this part of the batch: a batch of
# another size is captured once more.
_WORTH_LEAVING = 0.25


class Sweep:
    """Trains the runs of one job together and records their losses.

    All runs share each evaluation of the gradient, whatever their method. A run whose weight is no
    longer finite has diverged: its step is recorded. On the CPU it leaves the batch at once; off
    the CPU the weights are looked at every ``look_every`` steps, and steps between are CUDA graphs
    where the device has them. The state can be saved and restored between any two steps, and
    training continues bit for bit.

    Args:
        objective: the loss, in the dtype of the study.
        study: the settings.
        runs: the runs of the job, ordered so that runs of the same method are adjacent.
        look_every: steps between two looks; by default 1 on the CPU and 25 elsewhere.
        capture: how to capture steps; by default as CUDA graphs on CUDA, and not elsewhere.

    Attributes:
        step: number of gradient steps done.
        losses: ``(runs, record points)``, float64; NaN if not reached or diverged.
        diverged_at: ``(runs,)``, the step at which the weight was no longer finite, or -1.
    """

    def __init__(
        self,
        objective: PowerLoss,
        study: Study,
        runs: Sequence[Run],
        look_every: int | None = None,
        capture: Capture | None = None,
    ) -> None:
        self.objective = objective
        self.record_steps = study.record_steps
        self.step = 0
        self.losses = torch.full((len(runs), len(self.record_steps)), math.nan).double()
        self.diverged_at = torch.full((len(runs),), -1)
        self._recorded = 0
        self._looked = -1
        device = objective.device.type
        self._every = look_every or (1 if device == "cpu" else LOOK_EVERY)
        self._capture = capture or (cuda_graph if device == "cuda" else None)
        self._batch = Batch(objective, study, runs)
        self._lay_out()

    @property
    def finished(self) -> bool:
        """Whether every run has taken all its steps or diverged."""
        return self._recorded == len(self.record_steps) or not self._rows

    @property
    def replayable(self) -> bool:
        """Whether its steps can be CUDA graphs: no weight of several outputs is decomposed."""
        return self._batch.replayable

    def advance(self, steps: int) -> None:
        """Train for at most ``steps`` gradient steps."""
        end = self.step + steps
        while True:
            self._look()
            if not self.finished and self.step == self.record_steps[self._recorded]:
                self._record()
            if self.finished or self.step >= end:
                return
            looks = self.step - self.step % self._every + self._every
            stop = min(end, looks, self.record_steps[self._recorded])
            self._stepper.run(stop - self.step)
            self.step = stop

    def weights(self) -> Tensor:
        """The end-to-end weights of the runs that have not diverged, ``(runs, m, n)``."""
        weights = self._batch.weights
        return weights if len(self._rows) == len(weights) else weights[self._rows]

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue training."""
        return {
            "step": self.step,
            "recorded": self._recorded,
            "losses": self.losses,
            "diverged_at": self.diverged_at,
            "blocks": self._batch.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state saved by a sweep over the same runs.

        A state of an earlier version, which had no blocks, is not used: training starts again.
        """
        if "blocks" not in state:
            return
        self.step, self._recorded = state["step"], state["recorded"]
        self.losses, self.diverged_at = state["losses"].clone(), state["diverged_at"].clone()
        self._batch.load_state_dict(state["blocks"], self.step)
        self._lay_out()
        self._looked = self.step

    def _lay_out(self) -> None:
        """Prepare for the runs that are in the batch now."""
        self._members = self._batch.members
        self._stepper = Stepper(self._batch, self._every, self._capture)
        self._count()

    def _count(self) -> None:
        """The rows of the batch that have not diverged."""
        diverged = self.diverged_at.tolist()
        self._rows = [row for row, run in enumerate(self._members) if diverged[run] < 0]

    def _look(self) -> None:
        """Note the runs that have diverged since the last look, and drop them where it pays."""
        if self._looked == self.step:
            return
        before, self._looked = max(self._looked, 0), self.step
        weights = self._batch.weights
        # A single reduction, because this is done at every step on the CPU.
        if math.isfinite(weights.sum().item()):
            return
        finite = weights.isfinite().all(dim=2).all(dim=1)
        members, diverged = self._members, self.diverged_at
        sizes = self._stepper.sizes[: self.step - before].isfinite().cpu()
        for row in (~finite).nonzero().flatten().tolist():
            if diverged[members[row]] < 0:
                # The first step before which it was not finite; the last is seen here.
                first = int(sizes[:, row].sum()) if self._every > 1 else self.step - before
                diverged[members[row]] = before + first
        lost = len(members) - int(finite.sum())
        if self._every == 1 or lost >= _WORTH_LEAVING * len(members):
            self._batch.keep(finite)
            self._lay_out()
        self._count()

    def _record(self) -> None:
        losses = self.objective.loss(self._batch.weights)[self._rows].cpu()
        self.losses[[self._members[row] for row in self._rows], self._recorded] = losses
        self._recorded += 1
