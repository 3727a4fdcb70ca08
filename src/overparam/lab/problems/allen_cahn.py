"""A physics-informed network for the Allen-Cahn equation."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from overparam.lab.comparison.problem import Problem, problem
from overparam.lab.problems.pieces import space_and_time, tanh_network

_REACTION = 5.0
_POINTS, _STEPS = 1024, 1000


def residual(
    u: Callable[[Tensor, Tensor], Tensor], x: Tensor, t: Tensor, diffusion: float
) -> Tensor:
    """``u_t - D u_xx - 5 (u - u^3)`` at points ``(count,)``, by automatic differentiation."""
    x, t = (part.detach().requires_grad_() for part in (x, t))
    value = u(x, t)
    u_x, u_t = torch.autograd.grad(value.sum(), (x, t), create_graph=True)
    (u_xx,) = torch.autograd.grad(u_x.sum(), x, create_graph=True)
    return u_t - diffusion * u_xx - _REACTION * (value - value**3)


def start(x: Tensor) -> Tensor:
    """``u(x, 0) = x^2 cos(pi x)``."""
    return x**2 * (math.pi * x).cos()


def solution(diffusion: float, points: int = _POINTS, steps: int = _STEPS) -> tuple[Tensor, Tensor]:
    """The solution at ``t = 1`` on the circle ``-1 <= x < 1``, by Strang's splitting.

    Half a step of the reaction, which has the closed form
    ``u / sqrt(u^2 + (1 - u^2) exp(-10 h))``; a step of the diffusion, exact for each Fourier mode;
    half a step of the reaction. Source: Strang (1968), "On the construction and comparison of
    difference schemes"; the error falls with the square of the step.

    Returns:
        ``x (points,)`` and ``u (points,)``, in double precision.
    """
    x = -1 + 2 * torch.arange(points, dtype=torch.float64) / points
    waves = math.pi * torch.arange(points // 2 + 1, dtype=torch.float64)
    decay = torch.exp(-diffusion * waves**2 / steps)
    left = math.exp(-_REACTION / steps)  # of half a step
    u = start(x)
    for _ in range(steps):
        u = u / (u**2 + (1 - u**2) * left).sqrt()
        u = torch.fft.irfft(torch.fft.rfft(u) * decay, points)
        u = u / (u**2 + (1 - u**2) * left).sqrt()
    return x, u


@problem("allen-cahn-pinn")
def allen_cahn(diffusion: float = 1e-4, width: int = 40) -> Problem:
    """``u_t = D u_xx + 5 (u - u^3)`` on the circle ``-1 <= x <= 1`` from ``x^2 cos(pi x)``.

    The network gives ``u = x^2 cos(pi x) + t N(cos(pi x), sin(pi x), t)``, which keeps the start
    and is periodic, so that the loss is the residual alone. Source of the equation: Raissi,
    Perdikaris, Karniadakis (2019), "Physics-informed neural networks", section 3.2.
    """
    if not diffusion > 0:
        raise ValueError(f"diffusion is {diffusion}; use a positive number.")

    def value(model: nn.Module, x: Tensor, t: Tensor) -> Tensor:
        angle = math.pi * x
        return start(x) + t * model(torch.stack([angle.cos(), angle.sin(), t], 1)).squeeze(1)

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return residual(lambda x, t: value(model, x, t), *batch, diffusion).square().mean()

    places, end = (part.float() for part in solution(diffusion))

    def error(model: nn.Module) -> float:
        return float((value(model, places, torch.ones_like(places)) - end).square().mean().sqrt())

    return Problem(
        title=f"Physics-informed network for Allen-Cahn with diffusion {diffusion:g}",
        build=lambda: tanh_network(3, width),
        batches=space_and_time(-1, 1),
        loss=loss,
        evaluate={"error at the end": error},
    )
