"""Steps stretched along the weight: the part of the rule of one output that costs O(d)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Sum = Callable[[Tensor], Tensor]


def _as_it_is(sums: Tensor) -> Tensor:
    return sums


def radial_stretch(weight: Tensor, step: Tensor, radial: float, total: Sum = _as_it_is) -> Tensor:
    r"""A step with its component along the weight multiplied by ``r``.

    .. math::
        u + (r - 1) \, \frac{\langle w, u \rangle}{|w|^2} \, w

    Source: for ``u = -lr g`` and ``r = N`` this is ``-lr`` times Claim 2 of Arora, Cohen, Hazan
    (2018) without its factor ``|w|^(2-2/N)``. ``r = 1`` returns the step; ``r = 0`` removes its
    radial part, as AdamP does (Heo et al. 2021). A zero weight has no direction: its step is
    returned. Half precision is computed in float32 and rounded once.

    Args:
        weight: ``w``, ``(..., d)``.
        step: ``u``, ``(..., d)``.
        radial: ``r``.
        total: makes the sum over all processes of sums over what this one holds of ``w``.

    Returns:
        The stretched step, ``(..., d)``.

    Example:
        >>> import torch
        >>> radial_stretch(torch.tensor([2.0, 0.0]), torch.tensor([1.0, 1.0]), 3.0)
        tensor([3., 1.])
    """
    w, u = _at_least_float32(weight, step)
    along = _quotient(w * u, w.square(), total)
    return (u + (radial - 1) * along * w).to(step.dtype)


def radial_stretch_in_metric(
    weight: Tensor,
    step: Tensor,
    moment: Tensor,
    metric: Tensor,
    lr: float | Tensor,
    radial: float,
    total: Sum = _as_it_is,
) -> Tensor:
    r"""The same for a step ``u = -lr m / s`` of Adam, in the metric ``s`` of Adam.

    .. math::
        u - lr \, (r - 1) \, \frac{\langle w, m \rangle}{\langle w, s \circ w \rangle} \, w,
        \qquad s = \sqrt{v} + \epsilon

    The step ``u`` is the gradient ``m`` raised by the metric, so its component along ``w`` is
    ``<u, s o w> / <w, s o w> w``; that is multiplied by ``r``. Source: this library.

    Args:
        weight: ``w``, ``(..., d)``.
        step: ``u``, ``(..., d)``.
        moment: ``m``, the bias-corrected mean of gradients, ``(..., d)``.
        metric: ``s``, positive, ``(..., d)``.
        lr: learning rate of the step.
        radial: ``r``.
        total: as in :func:`radial_stretch`.

    Returns:
        The stretched step, ``(..., d)``.

    Example:
        >>> import torch
        >>> w, m, s = torch.tensor([1.0, 1.0]), torch.tensor([1.0, 0.0]), torch.tensor([1.0, 3.0])
        >>> radial_stretch_in_metric(w, -0.1 * m / s, m, s, 0.1, 3.0)
        tensor([-0.1500, -0.0500])
    """
    w, u, m, s = _at_least_float32(weight, step, moment, metric)
    along = _quotient(w * m, w * s * w, total)
    return (u - lr * (radial - 1) * along * w).to(step.dtype)


def _quotient(above: Tensor, below: Tensor, total: Sum) -> Tensor:
    """The quotient of two sums, ``(..., 1)``; 0 where that below is 0."""
    sums = total(torch.stack([above.sum(-1, keepdim=True), below.sum(-1, keepdim=True)]))
    return sums[0] / torch.where(sums[1] > 0, sums[1], 1.0)


def _at_least_float32(*tensors: Tensor) -> list[Tensor]:
    """Squares of lengths leave the range of float16 early."""
    return [tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in tensors]


def bias_correction(beta: float | Tensor, count: Tensor) -> Tensor | float:
    """``1 - beta^t`` of Adam's means: in float32 the difference itself would lose digits.

    Source: Kingma and Ba (2015), section 3.

    Args:
        beta: ``0 <= beta < 1``.
        count: ``t``, a scalar; a number is returned where it and ``beta`` are on the host.
    """
    if isinstance(beta, Tensor):
        return -torch.expm1(count.to(beta.device) * beta.log())
    log = math.log(beta) if beta > 0 else -math.inf
    if count.device.type == "cpu":
        return -math.expm1(float(count) * log)
    return -torch.expm1(count * log)
