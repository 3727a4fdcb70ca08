"""What depth does with a gradient: one entry per kind, for adjacent runs of any depths.

An entry is built once for its runs and returns a function of their weights and gradients, both
``(runs, m, n)``, which overwrites the gradients with directions. Where it says so, it never looks
at a value from the host, so that a GPU can replay it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from overparam.lab.training.updates import Move
from overparam.rule.fast import update_of_rows
from overparam.rule.metric import metric_normalized
from overparam.rule.reference import end_to_end_update

Apply = Callable[[Tensor, Tensor], object]
_T = TypeVar("_T")


def pieces(values: Sequence[_T]) -> Iterator[tuple[slice, _T]]:
    """Where adjacent values are equal, and the value."""
    start = 0
    for value, same in itertools.groupby(values):
        stop = start + len(list(same))
        yield slice(start, stop), value
        start = stop


class Depths:
    """The depths of adjacent runs.

    Args:
        depths: one per run.
        like: a tensor of the dtype and device of the runs.
        imbalances: one per run, all of depth 2 and none of them zero; by default all are balanced.

    Attributes:
        values: the depths, as given.
        imbalances: as given, empty where all are balanced.
        each: ``N``, ``(runs, 1, 1)``.
    """

    def __init__(
        self, depths: Sequence[float], like: Tensor, imbalances: Sequence[float] = ()
    ) -> None:
        self.values, self.imbalances = tuple(depths), tuple(imbalances)
        self.each = torch.tensor(self.values, dtype=like.dtype, device=like.device)[:, None, None]


def rule(depths: Depths, outputs: int) -> Apply:
    """The end-to-end update: Claim 2 for one output, Theorem 1 for several; or out of balance."""
    if depths.imbalances:
        return _unbalanced_rule(depths, outputs)
    if outputs == 1:
        powers, excess = _powers(depths), depths.each - 1
        return lambda weights, gradients: _rule_of_one_row_(weights, gradients, powers, excess)
    depth: float | Tensor = depths.values[0]
    if len(set(depths.values)) > 1:
        depth = torch.tensor(depths.values, dtype=torch.float64, device=depths.each.device)
    return lambda weights, gradients: gradients.copy_(end_to_end_update(weights, gradients, depth))


def rule_normalized(depths: Depths, outputs: int) -> Apply:
    """The same over the largest eigenvalue of its preconditioner, ``N s_max^(2-2/N)``."""

    def one(weights: Tensor, gradients: Tensor, depth: float) -> Tensor:
        if outputs == 1:
            return update_of_rows(weights, gradients, depth, normalize=True, look=False)
        # The rule has degree 2 - 2/N in the weight.
        largest = torch.linalg.matrix_norm(weights, ord=2, keepdim=True)
        unit = weights / largest.clamp_min(torch.finfo(weights.dtype).tiny)
        return end_to_end_update(unit, gradients, depth) / depth

    def apply(weights: Tensor, gradients: Tensor) -> None:
        for rows, depth in pieces(depths.values):
            gradients[rows] = one(weights[rows], gradients[rows], depth)

    return apply


def metric(depths: Depths, outputs: int) -> Apply:
    """The end-to-end update over its length in its own metric, ``D / sqrt(<G, D>)``."""
    update = rule(depths, outputs)

    def apply(weights: Tensor, gradients: Tensor) -> None:
        before = gradients.clone()
        update(weights, gradients)
        gradients.copy_(metric_normalized(gradients, before))

    return apply


def norm_factor(depths: Depths, outputs: int) -> Apply:
    """``|W|^(2-2/N) G``: Claim 2 without its stretch along the weight."""
    powers = _powers(depths)
    return lambda weights, gradients: gradients.mul_(_size_powers(powers, *_scaled(weights)[1:]))


def entrywise(depths: Depths, outputs: int) -> Apply:
    """``N |w|^(2-2/N) g`` of each entry, a product of N numbers.

    Source: :func:`overparam.rule.entrywise_update`.
    """
    powers = 2 - 2 / depths.each
    return lambda weights, gradients: gradients.mul_(weights.abs().pow_(powers)).mul_(depths.each)


def stretched(weights: Tensor, move: Move, radial: Tensor) -> Tensor:
    r"""A direction with its component along the weight multiplied by ``r``.

    .. math::
        u + (r - 1) \, \frac{\langle W, s \circ u \rangle}{\langle W, s \circ W \rangle} \, W

    with the metric ``s`` of Adam, or 1. Source: :mod:`overparam.rule.radial`.

    Args:
        weights: ``W``, ``(runs, m, n)``.
        move: ``u`` and ``s``, of the same shape.
        radial: ``r``, ``(runs, 1, 1)``.

    Returns:
        ``(runs, m, n)``.
    """
    measured = weights if move.metric is None else weights * move.metric
    size = (measured * weights).sum((-2, -1), keepdim=True)
    along = (measured * move.direction).sum((-2, -1), keepdim=True)
    along = along * (radial - 1) / torch.where(size > 0, size, 1.0)
    return torch.addcmul(move.direction, along, weights)


def _scaled(weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights over their largest entry, so that no square leaves the range of the dtype.

    Returns:
        The scaled weights, their length, and the largest entry.
    """
    # As overparam.rule.basis.in_range, with two operations in place of four.
    tiny = torch.finfo(weights.dtype).tiny
    size = weights.abs().amax((-2, -1), keepdim=True).clamp_min_(tiny**0.8)
    unit = weights / size
    return unit, torch.linalg.vector_norm(unit, dim=(-2, -1), keepdim=True), size


def _powers(depths: Depths) -> list[tuple[slice, float]]:
    """``2 - 2/N`` of each piece; N = 2 needs no power."""
    return [(rows, 2 - 2 / depth) for rows, depth in pieces(depths.values) if depth != 2]


def _size_powers(powers: list[tuple[slice, float]], length: Tensor, largest: Tensor) -> Tensor:
    """``|W|^(2-2/N)`` with ``0^0 = 1``, ``(runs, 1, 1)``."""
    size = length.double() * largest
    for rows, exponent in powers:
        torch.pow(size[rows], exponent, out=size[rows])
    return size.to(length.dtype)


def _rule_of_one_row_(
    weights: Tensor, gradients: Tensor, powers: list[tuple[slice, float]], excess: Tensor
) -> None:
    """:func:`overparam.rule.fast.update_of_rows` for one row, whose length is the largest."""
    unit, length, largest = _scaled(weights)
    across = _size_powers(powers, length, largest)
    length = length.clamp_min(torch.finfo(weights.dtype).tiny ** 0.5)
    along = (unit * gradients).sum(-1, keepdim=True) / (length * length)
    along = along * (across * excess)
    torch.addcmul(unit.mul_(along), gradients, across, out=gradients)


def _unbalanced_rule(depths: Depths, outputs: int) -> Apply:
    r"""The rule of two factors out of balance by ``lam``.

    One output has the kernel ``2 r`` along the weight and ``a = r + |lam|/2`` across it, with
    ``r = sqrt(|w|^2 + lam^2/4)``. Their difference is ``|w|^2 / a``, so that

    .. math::
        D = a \, g + \langle w, g \rangle \, w / a.

    Source: :mod:`overparam.rule.unbalanced`.
    """
    if outputs > 1:

        def each(weights: Tensor, gradients: Tensor) -> None:
            for rows, lam in pieces(depths.imbalances):
                update = end_to_end_update(weights[rows], gradients[rows], 2, imbalance=lam)
                gradients[rows] = update

        return each
    lam = torch.tensor(depths.imbalances, dtype=torch.float64)[:, None, None]
    half = lam.to(depths.each).abs() / 2

    def one_row(weights: Tensor, gradients: Tensor) -> None:
        length = torch.linalg.vector_norm(weights, dim=-1, keepdim=True)
        across = torch.hypot(length, half).add_(half)
        along = (weights * gradients).sum(-1, keepdim=True) / across
        torch.addcmul(weights * along, gradients, across, out=gradients)

    return one_row


class DepthKind(NamedTuple):
    """A kind of depth.

    Attributes:
        label: for people, with the depth in braces.
        direction: from the depths and the number of outputs to a function of weights and
            gradients; None if the kind acts elsewhere.
        least: the smallest depth.
        whole: whether the depth is a whole number.
        decomposes: whether weights of several outputs are decomposed, which no GPU can replay.
    """

    label: str
    direction: Callable[[Depths, int], Apply] | None = None
    least: float = 1.0
    whole: bool = False
    decomposes: bool = False


DEPTH_KINDS = {
    "plain": DepthKind(""),
    "rule": DepthKind("depth {} (rule)", rule, decomposes=True),
    "rule_normalized": DepthKind("depth {} (rule, normalized)", rule_normalized, decomposes=True),
    "metric": DepthKind("depth {} (metric step)", metric, decomposes=True),
    "norm": DepthKind("depth {} (norm factor)", norm_factor),
    "entry": DepthKind("depth {} (entries)", entrywise),
    "radial": DepthKind("stretched {} times", least=0.0),
    "factors": DepthKind("depth {} (factors)", whole=True),
}
