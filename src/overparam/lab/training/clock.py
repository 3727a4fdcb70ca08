"""The numbers that change from step to step, from tables on the device: nothing waits for them."""

from __future__ import annotations

import torch

from overparam.lab.study import Study
from overparam.lab.training.updates import Corrections, Numbers


class Clock:
    """Counts steps on the device and reads their numbers from a table.

    The table ends where nothing changes any more; later steps read its last row.

    Args:
        study: its factor on the learning rate.
        corrections: the other two numbers of step ``t``, counted from 1; None for ones.
        dtype: of the numbers.
        device: of the numbers.
    """

    def __init__(
        self,
        study: Study,
        corrections: Corrections | None,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        rows: list[tuple[float, ...]] = []
        for step in range(study.iterations + 1):
            others = corrections(step + 1) if corrections else (1.0, 1.0)
            rows.append((study.rate_factor(step), *others))
            # In float64, so that it does not depend on the dtype: 0.999^t vanishes at 36,700.
            if step >= study.settled and others == (1.0, 1.0):
                break
        self._table = torch.tensor(rows, dtype=torch.float64).to(dtype=dtype, device=device)
        self._step = torch.zeros((), dtype=torch.int64, device=device)
        self.has_schedule = study.settled > 0

    def set(self, step: int) -> None:
        """Go on from a step."""
        self._step.fill_(step)

    def next(self, steps: int) -> list[Numbers]:
        """The numbers of the next steps; the clock moves on by so many."""
        last = self._table.shape[0] - 1
        if last == 0:
            return [Numbers(*self._table[0].unbind())] * steps
        ahead = torch.arange(steps, device=self._step.device)
        rows = self._table.index_select(0, ahead.add_(self._step).clamp_(max=last))
        self._step += steps
        return [Numbers(*row.unbind()) for row in rows.unbind()]
