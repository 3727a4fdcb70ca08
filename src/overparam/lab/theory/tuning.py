"""Methods on the two-point problem, each tuned over the same learning rates."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from overparam.lab.theory.two_point_runs import MAX_STEPS, Lanes, iterations_to_target

Method = tuple[float, float]
"""The method of a run, as in `Lanes`, and its depth."""

DEPTHS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
METHODS: tuple[Method, ...] = (*((0.0, depth) for depth in DEPTHS), (1.0, 1.0), (2.0, 1.0))


def steady_counts(curves: Tensor) -> Tensor:
    """Iterations at every learning rate, each the worst of itself and its two neighbours.

    Source: none; it guards against luck. For p > 2 the loss is flat at its minimum, so one huge
    step may land there and stay, at a single learning rate of the grid. The two ends of the grid
    count as failed.

    Args:
        curves: iterations, ``(..., lrs)``, learning rates in order.

    Returns:
        ``(..., lrs)``; the minimum over the learning rates is the tuned count of a method.

    Example:
        >>> import torch
        >>> steady_counts(torch.tensor([9.0, 5.0, 4.0, 2.0, float("inf")]))
        tensor([inf, 9., 5., inf, inf])
    """
    padded = torch.nn.functional.pad(curves, (1, 1), value=math.inf)
    return padded.unfold(-1, 3, 1).amax(-1)


def starts(length: float = 0.01, turn: float = 25.0) -> Tensor:
    """Four starts of the same length, at right angles to each other.

    From a single start, one huge step could land on the target by luck.

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
    lrs: Tensor,
    powers: Sequence[float],
    ratios: Sequence[float],
    methods: Sequence[Method] = METHODS,
    begin: Tensor | None = None,
    max_steps: int = MAX_STEPS,
) -> Tensor:
    """Iterations to the target of every method at every learning rate.

    Source: Arora, Cohen, Hazan (2018), section 7.

    All methods get the same learning rates, so the same tuning budget. Every run is repeated from
    several starts, and the result is the mean over them. ``y_2 = 1``.

    Args:
        lrs: learning rates, ``(r,)``.
        powers: values of ``p``.
        ratios: values of ``y_1 / y_2``.
        methods: what to run; by default the rule at depths 1 (gradient descent), 1.5, 2, 3, 4, 6,
            8, then AdaGrad and Adam.
        begin: the starts, ``(..., s, 2)``; by default those of :func:`starts`.
        max_steps: the last step at which a run may arrive.

    Returns:
        ``(..., powers, ratios, methods, lrs)``: mean over the s starts, ``inf`` if one failed.

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
        lrs.double(),
        indexing="ij",
    )
    start, power, ratio, method, lr = (grid.flatten() for grid in grids)
    targets = torch.stack((ratio, torch.ones_like(ratio)), dim=-1)
    kind, depth = table[method.long()].unbind(-1)
    lanes = Lanes(kind, depth, lr, power, targets, places[start.long()])
    counts = torch.empty_like(lr)
    for mine in (kind == 0, kind != 0):  # Separately, so that the rule's runs skip the moments.
        if bool(mine.any()):
            part = Lanes(*(entries[mine] for entries in lanes))
            counts[mine] = iterations_to_target(part, max_steps=max_steps)
    by_start = counts.reshape(*begin.shape[:-1], *grids[0].shape[1:])
    return by_start.mean(begin.ndim - 2)


def best_of_depths(curves: Tensor) -> Tensor:
    """Speed-up of the best depth above 1 over gradient descent, each at its tuned learning rate.

    Source: none; the comparison of the report. It uses :func:`steady_counts`. If gradient descent
    has no finite one, its best single count is used, in its favour; if it never arrived, the last
    step allowed, so that the speed-up is a lower bound.

    Args:
        curves: iterations of gradient descent and of depths, ``(..., methods, lrs)``.

    Returns:
        ``(...)``; 0 if no depth arrived.

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
