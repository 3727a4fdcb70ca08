import torch

from overparam.theory.memory import memory_weights, weights_from_gradients
from overparam.theory.scalar_run import adaptive_lr, run_with_scalar, shrink_rates


def _run(lr: float, steps: int):
    target = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    start = torch.tensor([0.3, 0.1, -0.2], dtype=torch.float64)
    return run_with_scalar(lambda w: w - target, start, 0.7, lr, steps), target


def test_the_run_is_that_of_autograd_and_sgd() -> None:
    run, target = _run(0.05, 20)
    inner = run.inner[0].clone().requires_grad_()
    outer = run.outer[0].clone().requires_grad_()
    sgd = torch.optim.SGD([inner, outer], lr=0.05)
    for step in range(20):
        torch.testing.assert_close(run.weights[step], (inner * outer).detach())
        sgd.zero_grad()
        (((inner * outer) - target) ** 2).sum().div(2).backward()
        sgd.step()
    torch.testing.assert_close(run.inner[-1], inner.detach())


def test_one_step_misses_by_exactly_the_term_of_second_order() -> None:
    run, _ = _run(0.05, 20)
    w, g = run.weights, run.gradients
    step = w[:-1] - adaptive_lr(run)[:, None] * g - shrink_rates(run)[:, None] * w[:-1]
    slope = (run.inner[:-1] * g).sum(-1)
    second = 0.05**2 * (run.outer[:-1] * slope)[:, None] * g
    torch.testing.assert_close(w[1:] - step, second, atol=1e-14, rtol=1e-10)


def test_memory_weights_are_the_written_product() -> None:
    lrs = torch.rand(6, dtype=torch.float64)
    shrink = torch.rand(6, dtype=torch.float64) - 0.5
    mu = memory_weights(lrs, shrink)
    for t in range(6):
        for tau in range(6):
            product = 1.0
            for s in range(tau + 1, t):
                product *= 1 - shrink[s].item()
            expected = -shrink[t].item() * lrs[tau].item() * product if tau < t else 0.0
            assert abs(mu[t, tau].item() - expected) < 1e-15


def test_the_sum_over_past_gradients_is_the_recursion() -> None:
    """``w - rho g - gamma w`` step by step, with and without a first weight."""
    lrs = torch.rand(6, dtype=torch.float64)
    shrink = torch.rand(6, dtype=torch.float64) - 0.5
    gradients = torch.randn(6, 3, dtype=torch.float64)
    for first in (torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64), None):
        weight = torch.zeros(3, dtype=torch.float64) if first is None else first
        path = [weight]
        for lr, gamma, gradient in zip(lrs, shrink, gradients, strict=True):
            weight = weight - lr * gradient - gamma * weight
            path.append(weight)
        rebuilt = weights_from_gradients(gradients, lrs, shrink, first)
        torch.testing.assert_close(rebuilt, torch.stack(path))


def test_the_trajectory_comes_back_from_gradients_alone() -> None:
    errors = []
    for lr in (0.02, 0.01, 0.005):
        run, _ = _run(lr, round(1 / lr))
        rebuilt = weights_from_gradients(
            run.gradients, adaptive_lr(run), shrink_rates(run), run.weights[0]
        )
        errors.append((rebuilt - run.weights).abs().max().item())
    # One step misses by lr^2, a run of fixed time by lr.
    assert 1.8 < errors[0] / errors[1] < 2.2
    assert 1.8 < errors[1] / errors[2] < 2.2
