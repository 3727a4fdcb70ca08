"""The numbers that change from step to step, from tables on the device: nothing waits for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Corrections = Callable[[int], tuple[float, float]]


class Numbers(NamedTuple):
    """The numbers of one step, each a tensor without dimensions.

    Attributes:
        rate: the factor on the learning rate.
        factor: what an update multiplies its mean by.
        divisor: what an update divides its root mean square by.
    """

    rate: Tensor
    factor: Tensor
    divisor: Tensor


class Clock:
    """Counts steps on the device and reads their numbers from a table.

    The table ends where nothing changes any more; later steps read its last row.

    Args:
        rate: the factor on the learning rate at a step, counted from 0.
        corrections: the other two numbers of step ``t``, counted from 1; None for ones.
        longest: steps after which the table ends at the latest.
        settled: from this step on, the factor stays as it is.
        dtype: of the numbers.
        device: of the numbers.
    """

    def __init__(
        self,
        rate: Callable[[int], float],
        corrections: Corrections | None,
        longest: int,
        settled: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        rows: list[tuple[float, ...]] = []
        while len(rows) < longest:
            step = len(rows)
            others = corrections(step + 1) if corrections else (1.0, 1.0)
            rows.append((rate(step), *others))
            # In float64, so that it does not depend on the dtype: 0.999^t vanishes at 36,700.
            if step >= settled and others == (1.0, 1.0):
                break
        self._table = torch.tensor(rows, dtype=torch.float64).to(dtype=dtype, device=device)
        self._step = torch.zeros((), dtype=torch.int64, device=device)
        self.has_schedule = settled > 0

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
