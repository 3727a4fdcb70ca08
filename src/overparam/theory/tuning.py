"""Methods on the two-point problem, each tuned over the same learning rates."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from overparam.theory.two_points import MAX_STEPS, Lanes, iterations_to_target

Method = tuple[float, float]
"""0 for the rule (gradient descent at depth 1), 1 for AdaGrad, 2 for Adam; and the depth."""

DEPTHS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
METHODS: tuple[Method, ...] = (*((0.0, depth) for depth in DEPTHS), (1.0, 1.0), (2.0, 1.0))


def steady_counts(curves: Tensor) -> Tensor:
    """A method's iterations at every learning rate, each rate judged with its two neighbours.

    Source: none, a guard against luck. Where the loss is flat at its minimum (p > 2) one huge
    step may land there and stay, at one rate of the grid alone. So a rate counts by the worst of
    itself, the next below and the next above; the two at the ends of the grid count as failed.

    Args:
        curves: iterations, ``(..., rates)``, rates in order.

    Returns:
        ``(..., rates)``; its minimum over rates is the method's tuned count.

    Example:
        >>> import torch
        >>> steady_counts(torch.tensor([9.0, 5.0, 4.0, 2.0, float("inf")]))
        tensor([inf, 9., 5., inf, inf])
    """
    padded = torch.nn.functional.pad(curves, (1, 1), value=math.inf)
    return padded.unfold(-1, 3, 1).amax(-1)


def starts(length: float = 0.01, turn: float = 25.0) -> Tensor:
    """Four starts of one length, a right angle apart.

    Several, since from one of them a single huge step can land on the target by luck; a rate must
    do well from all of them.

    Args:
        length: of every start.
        turn: direction of the first, in degrees.

    Returns:
        ``(4, 2)``, float64.

    Example:
        >>> starts(2.0, 0.0).round().abs().tolist()
        [[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [0.0, 2.0]]
    """
    angles = torch.deg2rad(turn + 90 * torch.arange(4, dtype=torch.float64))
    return length * torch.stack((angles.cos(), angles.sin()), dim=-1)


def tuned_iterations(
    rates: Tensor,
    powers: Sequence[float],
    ratios: Sequence[float],
    methods: Sequence[Method] = METHODS,
    begin: Tensor | None = None,
    max_steps: int = MAX_STEPS,
) -> Tensor:
    """Iterations to target of every method at every learning rate: the whole curves.

    Source: Arora, Cohen, Hazan (2018), section 7.

    All methods get the same learning rates: an equal tuning budget. ``y_2 = 1``. Every run is
    repeated from several starts, and a rate counts by its mean over them.

    Args:
        rates: learning rates, ``(r,)``.
        powers: values of ``p``.
        ratios: values of ``y_1 / y_2``.
        methods: what to run; by default the rule at depths 1 (gradient descent), 1.5, 2, 3, 4, 6,
            8, then AdaGrad and Adam.
        begin: the starts, ``(..., s, 2)``; by default those of :func:`starts`.
        max_steps: where to stop.

    Returns:
        ``(..., powers, ratios, methods, rates)``: mean over the s starts, ``inf`` where one failed.

    Example:
        >>> import torch
        >>> tuned_iterations(torch.tensor([0.5]), [2.0], [1.0], max_steps=50).shape
        torch.Size([1, 1, 9, 1])
    """
    table = torch.tensor(methods, dtype=torch.float64)
    begin = starts() if begin is None else begin
    places = begin.reshape(-1, 2)
    grids = torch.meshgrid(
        torch.arange(len(places), dtype=torch.float64),
        torch.as_tensor(powers, dtype=torch.float64),
        torch.as_tensor(ratios, dtype=torch.float64),
        torch.arange(len(table), dtype=torch.float64),
        rates.double(),
        indexing="ij",
    )
    start, power, ratio, method, rate = (grid.flatten() for grid in grids)
    targets = torch.stack((ratio, torch.ones_like(ratio)), dim=-1)
    kind, depth = table[method.long()].unbind(-1)
    lanes = Lanes(kind, depth, rate, power, targets, places[start.long()])
    counts = torch.empty_like(rate)
    for mine in (kind == 0, kind != 0):  # Apart, so that no run computes another kind's move.
        if bool(mine.any()):
            part = Lanes(*(entries[mine] for entries in lanes))
            counts[mine] = iterations_to_target(part, max_steps=max_steps)
    by_start = counts.reshape(*begin.shape[:-1], *grids[0].shape[1:])
    return by_start.mean(begin.ndim - 2)


def best_of_depths(curves: Tensor) -> Tensor:
    """Speed-up of the best depth above 1 over gradient descent, at tuned steady rates.

    Source: none; the comparison of the report. Where gradient descent has no steady rate its best
    single rate counts, in its favour; where it has none at all, the last step allowed, so the
    speed-up is then a lower bound. A depth counts by its steady rates alone.

    Args:
        curves: iterations of gradient descent and of depths, ``(..., methods, rates)``.

    Returns:
        ``(...)``; 0 where no depth arrived.

    Example:
        >>> import torch
        >>> plain, deep = torch.full((5,), 8.0), torch.tensor([9.0, 5.0, 4.0, 4.0, 2.0])
        >>> best_of_depths(torch.stack((plain, deep)))
        tensor(2.)
    """
    steady = steady_counts(curves).amin(-1)
    plain, deep = steady[..., 0], steady[..., 1:].amin(-1)
    single = curves[..., 0, :].amin(-1).clamp(max=MAX_STEPS)
    return torch.where(plain.isinf(), single, plain) / deep
