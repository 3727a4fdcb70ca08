"""Theorem 2, local form: a field with an asymmetric Jacobian is not a gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from overparam.theory.field import Field


def antisymmetric_jacobian(field: Field, point: Tensor) -> tuple[Tensor, Tensor]:
    """Jacobian of a field at a point and its antisymmetric part ``A = (J - J^T) / 2``.

    Where ``A`` is not zero, the field is not a gradient near the point: no regularizer gives it.
    Source: Schwarz's theorem; the local form of Arora, Cohen, Hazan (2018), Theorem 2.

    Args:
        field: ``(k, d) -> (k, d)``, row by row, differentiable by autograd.
        point: ``(d,)``.

    Returns:
        ``J`` and ``A``, both ``(d, d)``.

    Raises:
        ValueError: point is not a vector, or the derivative by autograd disagrees with a central
            difference along one direction.

    Example:
        >>> import torch
        >>> turning = lambda points: torch.stack((-points[:, 1], points[:, 0]), dim=-1)
        >>> antisymmetric_jacobian(turning, torch.ones(2))[1]
        tensor([[ 0., -1.],
                [ 1.,  0.]])
    """
    if point.ndim != 1:
        raise ValueError(f"point has shape {tuple(point.shape)}; pass a vector (d,).")
    # One row of the Jacobian per copy of the point: a single backward pass.
    copies = point.detach().expand(len(point), -1).clone().requires_grad_()
    identity = torch.eye(len(point), dtype=point.dtype)
    values = field(copies)
    jacobian = torch.zeros_like(identity)
    if values.requires_grad:
        (jacobian,) = torch.autograd.grad(
            values, copies, identity, allow_unused=True, materialize_grads=True
        )
    _check_by_differences(field, point.detach(), jacobian)
    return jacobian, (jacobian - jacobian.mT) / 2


def _check_by_differences(field: Field, point: Tensor, jacobian: Tensor) -> None:
    """Raise if the Jacobian disagrees with a central difference along one direction.

    A field that detaches a gradient from the graph would give a wrong Jacobian without an error.
    """
    accuracy = torch.finfo(point.dtype).eps ** (1 / 3)
    direction = torch.cos(torch.arange(len(point), dtype=point.dtype) + 1)
    direction = direction / direction.norm()
    step = accuracy * max(1.0, float(point.norm())) * direction
    # A field that calls autograd itself needs points that require a gradient.
    ahead, behind = field(torch.stack((point + step, point - step)).requires_grad_())
    measured = (ahead - behind).detach() / 2 / step.norm()
    expected = jacobian.detach() @ direction
    # The difference has an error of step^2 and a round-off error of eps |field| / step.
    round_off = torch.finfo(point.dtype).eps * float(ahead.detach().norm()) / float(step.norm())
    allowed = 1e-2 * float(measured.norm()) + 100 * round_off
    if not float((measured - expected).norm()) <= allowed:
        raise ValueError(
            "autograd's derivative of the field differs from a finite difference of size "
            f"{float(measured.norm()):.3g} by {float((measured - expected).norm()):.3g}. If the "
            "field calls torch.autograd.grad, pass create_graph=True; if it has a kink "
            "at this point, it has no Jacobian there: pass another point."
        )
