"""The direction of one stack of same-shape parameters, with the bases it needs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from overparam.optim.bases import Basis, exact_basis, tracked_basis
from overparam.rule.fast import update_in_basis, update_of_rows
from overparam.rule.reference import end_to_end_update, single_output_update

# Steps between two looks at the error of a tracked basis where a look makes the host wait.
_LOOK_EVERY = 100


@dataclass(slots=True)
class Options:
    """What a stack has in common besides its shape.

    Attributes:
        depth: ``N``.
        floor: least singular value, in units of the weight.
        normalize: largest eigenvalue of the preconditioner is 1.
        basis: "exact" or "tracked".
        capturable: never let the host wait.
        differentiable: let autograd follow the update.
    """

    depth: float
    floor: float
    normalize: bool
    basis: str
    capturable: bool
    differentiable: bool


def next_bases(left: Tensor, weight: Tensor, options: Options, step: int | None) -> Basis:
    """The bases for this step.

    Args:
        left: of the last step, ``(b, m, m)``.
        weight: ``(b, m, n)``.
        options: of the stack.
        step: number of this step from 0, None where the host does not know it.

    Returns:
        The new bases.
    """
    if options.basis == "exact":
        return exact_basis(left, weight)
    cheap = weight.device.type == "cpu"
    look = not options.capturable and (cheap or (step is not None and step % _LOOK_EVERY == 0))
    return tracked_basis(left, weight, look=look)


def direction(
    rule: str, weight: Tensor, gradient: Tensor, left: Tensor | None, options: Options
) -> Tensor:
    """``D``, normalized where asked, for a stack ``(b, m, n)``.

    Args:
        rule: "matrix" or "vectors".
        weight: ``(b, m, n)``, ``m <= n`` for matrices; rows are the vectors.
        gradient: of the same shape.
        left: ``(b, m, m)`` for matrices.
        options: of the stack.
    """
    if options.differentiable:
        return _reference(rule, weight, gradient, options)
    depth, floor, normalize = options.depth, options.floor, options.normalize
    if rule == "matrix":
        assert left is not None
        return update_in_basis(left, weight, gradient, depth, floor=floor, normalize=normalize)
    return update_of_rows(weight, gradient, depth, floor=floor, normalize=normalize)


def _reference(rule: str, weight: Tensor, gradient: Tensor, options: Options) -> Tensor:
    """The same from the differentiable reference, without a floor."""
    if rule == "matrix":
        update = end_to_end_update(weight, gradient, options.depth)
        largest = torch.linalg.matrix_norm(weight, ord=2, keepdim=True)
    else:
        update = single_output_update(weight, gradient, options.depth)
        largest = torch.linalg.vector_norm(weight, dim=-1, keepdim=True).amax(-2, keepdim=True)
    if not options.normalize:
        return update
    depth = 1.0 if math.isinf(options.depth) else options.depth
    return update / (depth * largest ** (2 - 2 / options.depth))
