"""A physics-informed network for the advection equation."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from overparam.lab.comparison.problem import Problem, problem
from overparam.lab.problems.pieces import space_and_time, tanh_network


def residual(u: Callable[[Tensor, Tensor], Tensor], x: Tensor, t: Tensor, speed: float) -> Tensor:
    """``u_t + c u_x`` at points ``(count,)``, by automatic differentiation; 0 for a solution."""
    x, t = (part.detach().requires_grad_() for part in (x, t))
    u_x, u_t = torch.autograd.grad(u(x, t).sum(), (x, t), create_graph=True)
    return u_t + speed * u_x


@problem("advection-pinn")
def advection(speed: float = 2.0, width: int = 40) -> Problem:
    """``u_t + c u_x = 0`` on the circle from ``sin x``; the solution is ``sin(x - c t)``."""

    def value(model: nn.Module, x: Tensor, t: Tensor) -> Tensor:
        return model(torch.stack([x.sin(), x.cos(), t], 1)).squeeze(1)

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, t = batch
        start = value(model, x, torch.zeros_like(t)) - x.sin()
        wrong = residual(lambda x, t: value(model, x, t), x, t, speed)
        return wrong.square().mean() + start.square().mean()

    points = space_and_time(0, 2 * math.pi)

    def error(model: nn.Module) -> float:
        x, t = next(points(1))
        return float((value(model, x, t) - (x - speed * t).sin()).square().mean().sqrt())

    return Problem(
        title=f"Physics-informed network for advection at speed {speed:g}",
        build=lambda: tanh_network(3, width),
        batches=points,
        loss=loss,
        evaluate={"error of the solution": error},
    )
