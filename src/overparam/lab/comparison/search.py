"""The search for the best learning rate: the same number of trials for each method. Pure functions.

Learning rates lie on a grid of factors sqrt(2), ``lr = start * 2^(k/2)``; ``k`` is the rung. The
first trials are a factor 4 apart. Then the grid is extended while its best rung is at its end, and
refined around the best rung once that lies inside, until both its neighbours are tried.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

_WIDE = 4  # rungs: a factor 4 of the learning rate
FIRST = (-_WIDE, 0, _WIDE)
_NEAR = 2  # rungs on each side of the best one that say where the best learning rate is


@dataclass(frozen=True)
class Tuned:
    """What the search found.

    Attributes:
        lr: the best learning rate.
        losses: mean loss over the seeds of tuning by learning rate, ascending; infinite where a
            run failed.
        edge: whether the best one is the smallest or the largest tried.
        gap: the larger factor between the best one and the two tried next to it.
    """

    lr: float
    losses: dict[float, float]
    edge: bool
    gap: float = 1.0

    @property
    def failed(self) -> bool:
        """Whether no learning rate gave a finite loss."""
        return not any(math.isfinite(loss) for loss in self.losses.values())


def rate(start: float, rung: float) -> float:
    """The learning rate of a rung.

    Example:
        >>> rate(0.1, -2)
        0.05
    """
    return float(f"{start * 2 ** (rung / 2):.6g}")


def next_rung(losses: Mapping[int, float]) -> int:
    """The rung to try next.

    Args:
        losses: by rung; infinite for a failure.

    Example:
        >>> next_rung({-4: 3.0, 0: 2.0, 4: 1.0})
        8
        >>> next_rung({-4: 3.0, 0: 1.0, 4: 2.0})
        2
    """
    rungs = sorted(losses)
    best = _best(losses)
    if not math.isfinite(losses[best]):
        return rungs[0] - 2 * _WIDE  # all of them were too large
    place = rungs.index(best)
    if place == 0:
        return best - _WIDE
    if place == len(rungs) - 1:
        return best + _WIDE
    left, right = rungs[place - 1], rungs[place + 1]
    gaps = dict(zip((-1, 1), _gaps(rungs, best), strict=True))
    if max(gaps.values()) > 1:
        # The wider gap; of two equal ones, the one on the side of the lower loss.
        side = max(gaps, key=lambda s: (gaps[s], -losses[left if s < 0 else right]))
        return best + side * (gaps[side] // 2)
    untried = set(range(rungs[0] - 1, rungs[-1] + 2)) - set(rungs)
    return min(untried, key=lambda rung: (abs(rung - best), rung))


def tuned(start: float, losses: Mapping[int, float]) -> Tuned:
    """The best learning rate: the vertex of a parabola through the rungs near the best one.

    The parabola is fitted within a factor 2 of the best rung, so that the noise of a single trial
    moves it little; it never leaves that range.

    Args:
        start: the learning rate of rung 0.
        losses: by rung.
    """
    rungs = sorted(losses)
    best = _best(losses)
    edge = is_edge(losses)
    at = float(best) if edge else _vertex(losses, best)
    gap = math.inf if edge else 2 ** (max(_gaps(rungs, best)) / 2)
    by_rate = {rate(start, rung): losses[rung] for rung in rungs}
    return Tuned(rate(start, at), by_rate, edge, gap)


def is_edge(losses: Mapping[int, float]) -> bool:
    """Whether the best rung is the lowest or the highest, so that there may be a better one."""
    return not losses or _best(losses) in (min(losses), max(losses))


def is_coarse(losses: Mapping[int, float]) -> bool:
    """Whether a rung next to the best one has not been tried: the grid is not fine there.

    Example:
        >>> is_coarse({-4: 3.0, 0: 1.0, 4: 2.0}), is_coarse({-1: 3.0, 0: 1.0, 1: 2.0})
        (True, False)
    """
    return not losses or not {_best(losses) - 1, _best(losses) + 1} <= set(losses)


def _gaps(rungs: list[int], best: int) -> tuple[int, int]:
    """From the best rung, inside of those tried, to the next lower and the next higher one."""
    place = rungs.index(best)
    return best - rungs[place - 1], rungs[place + 1] - best


def _best(losses: Mapping[int, float]) -> int:
    return min(sorted(losses), key=lambda rung: losses[rung])


def _vertex(losses: Mapping[int, float], best: int) -> float:
    """The vertex of the parabola through the rungs near the best one; that one if there is none."""
    near = [r for r in losses if abs(r - best) <= _NEAR and math.isfinite(losses[r])]
    if len(near) < 3 or min(near) == best or max(near) == best:
        return float(best)
    a, b, _ = np.polyfit([r - best for r in near], [losses[r] for r in near], 2)
    if not a > 0:
        return float(best)
    return best + min(max(-b / (2 * a), min(near) - best), max(near) - best)
