"""Whether a field is a gradient near a point: the antisymmetric part of its Jacobian."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Field = Callable[[Tensor], Tensor]
"""A vector at every point: ``(..., d) -> (..., d)``."""


def antisymmetric_jacobian(field: Field, point: Tensor) -> tuple[Tensor, Tensor]:
    """Jacobian of a field at a point and its antisymmetric part ``A = (J - J^T) / 2``.

    Where ``A`` is not zero the field is no gradient near the point: no regularizer gives it.
    Source: Schwarz's theorem; the local form of Arora, Cohen, Hazan (2018), Theorem 2.

    Args:
        field: ``(k, d) -> (k, d)``, each row by itself, differentiable by autograd.
        point: ``(d,)``.

    Returns:
        ``J`` and ``A``, both ``(d, d)``.

    Raises:
        ValueError: point is no vector, or the field is not differentiable there by autograd: its
            derivative is compared with a central difference along one direction.

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
    """Raise where a central difference of the field, along one direction, disagrees.

    A field that cuts a gradient out of the graph gives a wrong Jacobian without any error.
    """
    accuracy = torch.finfo(point.dtype).eps ** (1 / 3)
    direction = torch.cos(torch.arange(len(point), dtype=point.dtype) + 1)
    direction = direction / direction.norm()
    step = accuracy * max(1.0, float(point.norm())) * direction
    # Fields that take a gradient of their own need points that can have one.
    ahead, behind = field(torch.stack((point + step, point - step)).requires_grad_())
    measured = (ahead - behind).detach() / 2 / step.norm()
    expected = jacobian.detach() @ direction
    # The difference is off by its own round-off, eps |field| / step, and by step^2.
    round_off = torch.finfo(point.dtype).eps * float(ahead.detach().norm()) / float(step.norm())
    allowed = 1e-2 * float(measured.norm()) + 100 * round_off
    if not float((measured - expected).norm()) <= allowed:
        raise ValueError(
            f"autograd's derivative of the field disagrees with a difference of its values: "
            f"{float((measured - expected).norm()):.3g} apart, of {float(measured.norm()):.3g}. "
            "Where the field takes a gradient by torch.autograd.grad, pass create_graph=True; at a "
            "point where it has a kink there is no Jacobian."
        )
