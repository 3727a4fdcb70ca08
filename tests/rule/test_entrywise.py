"""The rule of single entries: against fifty digits, closed forms and descent on the numbers."""

import math

import mpmath
import pytest
import torch
from support.core_cases import DEPTHS, normal
from support.oracles import relative_error
from support.unbalanced_oracle import DIGITS, exact_unbalanced_factors, exact_velocity

from overparam import end_to_end_update
from overparam.rule.entrywise import entrywise_update


@pytest.mark.parametrize("offsets", [(0.0, 0.7), (0.7, 0.0), (1.0, 0.0, 1e-3), (0.0, 0.0, 2.0)])
def test_is_how_a_product_of_numbers_moves(offsets: tuple[float, ...]) -> None:
    for dtype, bound in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        weight = torch.tensor([[2.0, -1e-6, 0.0], [0.3, 1.0, -5.0]], dtype=dtype)
        gradient = normal(2, 3, seed=1).to(dtype)
        expected = []
        with mpmath.workdps(DIGITS):
            for w, g in zip(weight.flatten().tolist(), gradient.flatten().tolist(), strict=True):
                factors = exact_unbalanced_factors(mpmath.matrix([[w]]), offsets)
                expected.append(float(exact_velocity(factors, mpmath.matrix([[g]]))[0]))
        truth = torch.tensor(expected, dtype=torch.float64).view(2, 3)
        update = entrywise_update(weight, gradient, len(offsets), imbalance=offsets)
        assert update.dtype == dtype
        assert ((update.double() - truth).abs() <= bound * truth.abs()).all()


@pytest.mark.parametrize("depth", DEPTHS)
def test_is_the_rule_of_one_by_one_weights(depth: float) -> None:
    weight, gradient = normal(3, 4, seed=1), normal(3, 4, seed=2)
    weight[0, 0] = 0
    matrix = end_to_end_update(weight[..., None, None], gradient[..., None, None], depth)
    update = entrywise_update(weight, gradient, depth)
    assert relative_error(update, matrix[..., 0, 0]) <= 1e-14
    if depth == 1:
        assert torch.equal(update, gradient)


@pytest.mark.parametrize("lam", [0.0, 0.7, -0.7, 1e3])
def test_two_numbers_are_mirror_descent_with_the_hypentropy(lam: float) -> None:
    """The dual variable ``arcsinh(2 w / lam)`` moves by ``-2 lr g`` exactly under the flow."""
    weight, gradient = normal(50, seed=1), normal(50, seed=2)
    expected = (4 * weight**2 + lam**2).sqrt() * gradient
    update = entrywise_update(weight, gradient, 2, imbalance=lam)
    torch.testing.assert_close(update, expected, rtol=1e-14, atol=0)
    if lam:
        dual = torch.asinh(2 * weight / abs(lam))
        w = weight.clone().requires_grad_()
        slope = torch.autograd.grad(torch.asinh(2 * w / abs(lam)).sum(), w)[0]
        torch.testing.assert_close(slope * update, 2 * gradient)
        for steps in (1000, 2000):
            moved = weight
            for _ in range(steps):
                step = entrywise_update(moved, gradient, 2, imbalance=lam)
                moved = moved - 0.3 / steps * step
            exact = abs(lam) / 2 * torch.sinh(dual - 0.6 * gradient)
            assert relative_error(moved[None], exact[None]) <= 2 / steps


def test_without_imbalance_small_steps_are_exponentiated_gradient() -> None:
    weight, gradient = normal(50, seed=1), normal(50, seed=2)
    exact = weight * torch.exp(-0.6 * weight.sign() * gradient)
    errors = []
    for steps in (250, 500):
        moved = weight
        for _ in range(steps):
            moved = moved - 0.3 / steps * entrywise_update(moved, gradient, 2)
        errors.append(relative_error(moved[None], exact[None]))
    assert 0.45 < errors[1] / errors[0] < 0.55
    assert errors[1] < 2e-3


@pytest.mark.parametrize("scale", [1e-100, 1e100])
def test_scales_broadcasts_and_derivative(scale: float) -> None:
    weight, gradient = normal(3, 1, seed=1), normal(2, 1, 4, seed=2)
    expected = entrywise_update(weight, gradient, 3, imbalance=(0.0, 1.0, 2.0))
    assert expected.shape == (2, 3, 4)
    offsets = [value * scale ** (2 / 3) for value in (0.0, 1.0, 2.0)]
    update = entrywise_update(weight * scale, gradient, 3, imbalance=offsets)
    assert relative_error(update, expected * scale ** (4 / 3)) <= 1e-12
    inputs = normal(3, seed=1).requires_grad_(), normal(3, seed=2).requires_grad_()
    for options in ({"depth": 2.5}, {"depth": 2, "imbalance": 0.5}, {"depth": math.inf}):
        assert torch.autograd.gradcheck(lambda w, g, o=options: entrywise_update(w, g, **o), inputs)


def test_scalars_empty_tensors_and_bad_input() -> None:
    assert entrywise_update(torch.tensor(3.0), torch.tensor(1.0), 2) == 6
    assert entrywise_update(torch.empty(0, 3), torch.empty(0, 3), 2).shape == (0, 3)
    with pytest.raises(ValueError, match="lists 3 offset"):
        entrywise_update(torch.ones(2), torch.ones(2), 2, imbalance=(0.0, 1.0, 2.0))
    with pytest.raises(ValueError, match="depth is 0"):
        entrywise_update(torch.ones(2), torch.ones(2), 0)
