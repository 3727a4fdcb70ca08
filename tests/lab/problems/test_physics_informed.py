"""The residuals against finite differences and exact solutions."""

import math

import pytest
import torch
from scipy.integrate import solve_ivp

from overparam.lab.comparison.trial import evaluated
from overparam.lab.problems import advection, allen_cahn


@pytest.fixture
def smooth():
    """A smooth function of x and t, and points."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)
    ).double()
    x, t = torch.rand(2, 20, dtype=torch.float64)
    return lambda x, t: network(torch.stack([x, t], 1)).squeeze(1), x, t


def test_advection_against_finite_differences(smooth):
    u, x, t = smooth
    h = 1e-5
    u_t = (u(x, t + h) - u(x, t - h)) / (2 * h)
    u_x = (u(x + h, t) - u(x - h, t)) / (2 * h)
    torch.testing.assert_close(
        advection.residual(u, x, t, 1.5), u_t + 1.5 * u_x, rtol=1e-7, atol=1e-8
    )


def test_advection_vanishes_on_the_solution(smooth):
    _, x, t = smooth
    left = advection.residual(lambda x, t: (x - 3 * t).sin(), x, t, 3.0)
    torch.testing.assert_close(left, torch.zeros_like(left))


def test_allen_cahn_against_finite_differences(smooth):
    u, x, t = smooth
    h = 1e-4
    u_t = (u(x, t + h) - u(x, t - h)) / (2 * h)
    u_xx = (u(x + h, t) - 2 * u(x, t) + u(x - h, t)) / h**2
    expected = u_t - 0.3 * u_xx - 5 * u(x, t) + 5 * u(x, t) ** 3
    torch.testing.assert_close(allen_cahn.residual(u, x, t, 0.3), expected, rtol=1e-6, atol=1e-6)


def test_allen_cahn_vanishes_on_a_front_at_rest(smooth):
    _, x, t = smooth
    front = lambda x, t: (x * math.sqrt(5 / (2 * 0.1))).tanh() + 0 * t  # noqa: E731
    left = allen_cahn.residual(front, x, t, 0.1)
    torch.testing.assert_close(left, torch.zeros_like(left), atol=1e-12, rtol=0)


def test_the_solution_of_allen_cahn_against_the_method_of_lines():
    x, found = allen_cahn.solution(0.01, points=256, steps=1000)
    h = 2 / 256

    def slope(_, u):
        spread = (torch.roll(u, 1) - 2 * u + torch.roll(u, -1)) / h**2
        return 0.01 * spread + 5 * (u - u**3)

    lines = solve_ivp(
        lambda t, u: slope(t, torch.from_numpy(u)).numpy(),
        (0, 1), allen_cahn.start(x).numpy(), method="LSODA", rtol=1e-8, atol=1e-8,
    )  # fmt: skip
    assert (found - torch.from_numpy(lines.y[:, -1])).abs().max() < 2e-3


def test_half_the_step_gives_a_quarter_of_the_error():
    coarse, middle, fine = (allen_cahn.solution(0.01, 128, n)[1] for n in (50, 100, 800))
    ratio = (coarse - fine).norm() / (middle - fine).norm()
    assert 3.5 < ratio < 4.5


def test_allen_cahn_keeps_its_start_and_is_periodic():
    problem = allen_cahn.allen_cahn(width=8)
    torch.manual_seed(0)
    model = problem.build()
    batch = next(problem.stream(0))
    assert problem.loss(model, batch).item() > 0
    assert evaluated(problem, model)["error at the end"] > 0
    assert batch[0].min() >= -1
    assert batch[0].max() <= 1


@pytest.mark.parametrize("diffusion", [0.0, -1e-3, float("nan")])
def test_diffusion_is_positive(diffusion):
    with pytest.raises(ValueError, match="use a positive number"):
        allen_cahn.allen_cahn(diffusion=diffusion)
