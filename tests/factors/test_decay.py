"""Decay of a product by an optimizer that decays its factors: against the decay of W."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW

from overparam.factors.decay import (
    check_amount,
    check_known,
    check_word,
    is_decoupled,
    pull,
    scale,
)
from overparam.factors.layout import make_layout
from overparam.layers import linear_view


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("amount", [0.01, 0.9, torch.tensor([0.2], dtype=torch.float64)])
def test_scaled_factors_decay_as_their_product(depth: int, amount: float | Tensor) -> None:
    factors = [torch.randn(3, 3, dtype=torch.float64) for _ in range(depth)]
    before = torch.linalg.multi_dot([torch.eye(3, dtype=torch.float64), *factors[::-1]])
    scale(factors, amount)
    for factor in factors:
        factor.mul_(1 - amount)  # the decay of the optimizer
    after = torch.linalg.multi_dot([torch.eye(3, dtype=torch.float64), *factors[::-1]])
    torch.testing.assert_close(after, (1 - amount) * before)


@pytest.mark.parametrize("depth", [2, 3])
def test_pulled_gradients_are_those_of_the_penalty_on_the_product(depth: int) -> None:
    layout = make_layout(linear_view((3, 4)), "matrix", depth=depth, width=None)
    factors = [
        torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in layout.shapes
    ]
    layout.product(factors).sum().backward()
    pull(layout, factors, 0.3)
    product = layout.product(factors)
    with_penalty = product.sum() + 0.15 * product.square().sum()
    wanted = torch.autograd.grad(with_penalty, factors)
    for factor, gradient in zip(factors, wanted, strict=True):
        assert factor.grad is not None
        torch.testing.assert_close(factor.grad + 0.3 * factor.detach(), gradient)


@pytest.mark.parametrize(
    ("make", "options", "expected"),
    [
        (SGD, {"weight_decay": 0.1}, False),
        (AdamW, {"weight_decay": 0.1}, True),
        (Adam, {"weight_decay": 0.1}, False),
        (Adam, {"weight_decay": 0.1, "decoupled_weight_decay": True}, True),
        (torch.optim.Rprop, {}, False),
        (torch.optim.NAdam, {"weight_decay": 0.1}, False),
        (torch.optim.ASGD, {"weight_decay": 0.1}, None),
    ],
)
def test_how_an_optimizer_decays(make: Any, options: dict[str, Any], expected: bool | None) -> None:
    optimizer = make([nn.Parameter(torch.ones(2))], 0.1, **options)
    assert is_decoupled(optimizer, optimizer.param_groups[0]) is expected
    if expected is None:
        with pytest.raises(ValueError, match="ASGD does not say how it decays"):
            check_known(optimizer, expected)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="weight_decay_on='weights' is unknown"):
        check_word("weights")
    with pytest.raises(ValueError, match=r"is 1\.5; the product cannot decay"):
        check_amount(3.0, 0.5)
    with pytest.raises(ValueError, match="is nan"):
        check_amount(float("nan"), 0.5)
    check_amount(torch.tensor(0.1), 0.5)
