import pytest
import torch

from overparam import factor_product, imbalance, near_zero_initialization
from overparam.theory.balance_along_descent import (
    balance_gaps,
    balance_gaps_after_step,
)
from overparam.theory.descent import descend_factors
from overparam.theory.losses import fit_to


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_gaps_after_a_step_are_those_of_the_step(weight_decay: float) -> None:
    factors = near_zero_initialization(2, 3, 3, width=4, std=1.0, dtype=torch.float64)
    gradient_of = fit_to(torch.ones(2, 3, dtype=torch.float64))
    predicted = balance_gaps_after_step(
        factors, gradient_of(factor_product(factors)), 0.1, weight_decay
    )
    after = descend_factors(factors, gradient_of, 0.1, 1, weight_decay)[1]
    torch.testing.assert_close(predicted, balance_gaps(after))


def test_gaps_are_the_written_difference() -> None:
    factors = near_zero_initialization(2, 3, 3, width=4, std=1.0, dtype=torch.float64)
    for gap, low, high in zip(balance_gaps(factors), factors, factors[1:], strict=False):
        above = torch.einsum("oa,ob->ab", high, high)
        torch.testing.assert_close(gap, above - torch.einsum("ai,bi->ab", low, low))


def test_gaps_have_the_size_that_the_core_reports() -> None:
    factors = near_zero_initialization(2, 3, 4, width=4, std=1.0, dtype=torch.float64)
    sizes = torch.stack([torch.linalg.matrix_norm(gap) for gap in balance_gaps(factors)])
    torch.testing.assert_close(sizes, imbalance(factors))
