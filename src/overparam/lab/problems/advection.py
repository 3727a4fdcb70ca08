"""A physics-informed network for the advection equation."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from overparam.lab.comparison.problem import Problem, problem


@problem("advection-pinn")
def advection(speed: float = 2.0, width: int = 40) -> Problem:
    """``u_t + c u_x = 0`` on the circle from ``sin x``; the solution is ``sin(x - c t)``."""

    def build() -> nn.Module:
        layers: list[nn.Module] = [nn.Linear(3, width), nn.Tanh()]
        for _ in range(2):
            layers += [nn.Linear(width, width), nn.Tanh()]
        return nn.Sequential(*layers, nn.Linear(width, 1))

    def value(model: nn.Module, x: Tensor, t: Tensor) -> Tensor:
        return model(torch.stack([x.sin(), x.cos(), t], 1)).squeeze(1)

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, t = (part.clone().requires_grad_() for part in batch)
        u = value(model, x, t)
        u_x, u_t = torch.autograd.grad(u.sum(), (x, t), create_graph=True)
        start = value(model, x, torch.zeros_like(t)) - x.sin()
        return (u_t + speed * u_x).square().mean() + start.square().mean()

    def points(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            x, t = torch.rand(2, 128, generator=generator)
            yield 2 * math.pi * x, t

    def error(model: nn.Module) -> float:
        x, t = next(points(1))
        return float((value(model, x, t) - (x - speed * t).sin()).square().mean().sqrt())

    return Problem(
        title=f"Physics-informed network for advection at speed {speed:g}",
        build=build,
        batches=points,
        loss=loss,
        evaluate={"error of the solution": error},
    )
