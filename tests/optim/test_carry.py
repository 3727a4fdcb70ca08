"""Momentum between weights and factors, against the differential of the product by autograd."""

import copy

import pytest
import torch
from support.optim_cases import weight_with_gradient as drawn
from torch import Tensor
from torch.func import jacrev

from overparam import balanced_factors, factor_product
from overparam.optim import Factored
from overparam.optim.carry import lift, lift_squares, push_forward, push_squares


def jacobians(factors: tuple[Tensor, ...]) -> list[Tensor]:
    """For each factor the derivative of the product, ``(entries of W, entries of W_j)``."""
    parts = jacrev(lambda *each: factor_product(each), argnums=tuple(range(len(factors))))(*factors)
    return [part.reshape(-1, f.numel()) for part, f in zip(parts, factors, strict=True)]


def some_factors(depth: int) -> tuple[Tensor, ...]:
    return balanced_factors(drawn(3, 5).detach(), depth, 4)


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_push_is_the_differential_and_its_squares(depth: int) -> None:
    factors = some_factors(depth)
    moments = [drawn(*f.shape, seed=j).detach().square() for j, f in enumerate(factors)]
    for push, power in ((push_forward, 1), (push_squares, 2)):
        terms = zip(jacobians(factors), moments, strict=True)
        expected = sum(part**power @ moment.flatten() for part, moment in terms)
        assert isinstance(expected, Tensor)
        torch.testing.assert_close(push(factors, moments), expected.reshape(3, 5))


@pytest.mark.parametrize("depth", [2, 3])
def test_lifted_squares_are_the_transposed_map_on_the_scale_of_the_first_moment(depth) -> None:
    factors = balanced_factors(drawn(3, 5).detach(), depth)  # no padding, so no zeros
    moment, second = drawn(3, 5, seed=1).detach(), drawn(3, 5, seed=2).detach().square()
    lifted = lift(factors, moment)
    squares = lift_squares(factors, second, moment, lifted)
    scales = [
        square.flatten() / (part.mT**2 @ second.flatten())
        for square, part in zip(squares, jacobians(factors), strict=True)
    ]
    for scale in scales:
        torch.testing.assert_close(scale, scales[0][0].expand_as(scale))
    size = sum(each.square().sum() for each in lifted) / sum(each.sum() for each in squares)
    torch.testing.assert_close(size, moment.square().sum() / second.sum())


def test_all_state_of_adam_is_carried_there_and_back() -> None:
    p = drawn(3, 4)
    plain = torch.optim.Adam([p], lr=0.1, amsgrad=True, betas=(0.9, 0.5))
    for scale in (1.0, 0.5, 0.1):
        p.grad = scale * drawn(3, 4).grad
        plain.step()
    state = copy.deepcopy(plain.state[p])
    assert not torch.equal(state["max_exp_avg_sq"], state["exp_avg_sq"])
    expanded = Factored.expand(plain, depth=3)
    factors, inner = expanded.state[p]["factors"], expanded.state[p]["inner"]
    lifted = lift(factors, state["exp_avg"])
    for name in ("exp_avg_sq", "max_exp_avg_sq"):
        squares = lift_squares(factors, state[name], state["exp_avg"], lifted)
        for each, expected in zip(inner, squares, strict=True):
            torch.testing.assert_close(each[name], expected)
    assert [each["step"].item() for each in inner] == [3.0] * 3
    back = expanded.collapse().state[p]
    assert back["step"] == 3
    torch.testing.assert_close(back["exp_avg"], state["exp_avg"])
    for name in ("exp_avg_sq", "max_exp_avg_sq"):
        expected = push_squares(factors, [each[name] for each in inner])
        torch.testing.assert_close(back[name], expected)


def test_velocity_between_null_spaces_is_lost_and_nothing_else() -> None:
    left, right = torch.linalg.qr(drawn(8, 3).detach()).Q, torch.linalg.qr(drawn(8, 3).detach()).Q
    p = torch.nn.Parameter(left @ right.mT)
    plain = torch.optim.SGD([p], lr=0.1, momentum=0.9)
    velocity = drawn(8, 8, seed=1).detach()
    plain.state[p]["momentum_buffer"] = velocity.clone()
    back = Factored.expand(plain).collapse().state[p]["momentum_buffer"]
    outside = torch.eye(8, dtype=torch.float64)
    lost = (outside - left @ left.mT) @ velocity @ (outside - right @ right.mT)
    assert lost.norm() > 0.1 * velocity.norm()
    torch.testing.assert_close(back, velocity - lost)
