"""The rule of a vector (Claim 2): against the matrix rule, its own formula and autograd."""

import math

import pytest
import torch
from support.core_cases import DEPTHS, TOLERANCE, normal
from support.oracles import relative_error, spectral_rule

from overparam import end_to_end_update, single_output_update

DTYPES = (torch.float64, torch.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("depth", DEPTHS)
def test_is_the_rule_of_one_row(depth: float, dtype: torch.dtype) -> None:
    weight, gradient = normal(5, seed=1).to(dtype), normal(5, seed=2).to(dtype)
    update = single_output_update(weight, gradient, depth)
    expected = spectral_rule(weight[None], gradient[None], depth, rank=1)
    assert relative_error(update[None], expected) <= TOLERANCE[dtype]
    row = end_to_end_update(weight[None], gradient[None], depth)
    column = end_to_end_update(weight[:, None], gradient[:, None], depth)
    assert torch.equal(row[0], update)
    assert torch.equal(column[:, 0], update)


def test_rows_of_a_matrix_are_slots() -> None:
    weight, gradient = normal(3, 4, seed=1), normal(3, 4, seed=2)
    weight[1] = 0
    depth = torch.tensor([1.0, 2.0, math.inf])
    rows = single_output_update(weight, gradient, depth)
    for row, w, g, d in zip(rows, weight, gradient, depth, strict=True):
        assert relative_error(row[None], single_output_update(w, g, float(d))[None]) <= 1e-15
    assert torch.equal(rows[0], gradient[0])
    assert torch.equal(rows[1], torch.zeros(4).double())


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)])
def test_empty(shape: tuple[int, ...]) -> None:
    assert single_output_update(torch.empty(shape), torch.empty(shape), 2.5).shape == shape


def test_non_finite_slots_are_nan_and_leave_the_others() -> None:
    weight, gradient = normal(3, 4, seed=1), normal(3, 4, seed=2)
    clean = single_output_update(weight, gradient, 3)
    weight[0, 0], gradient[1, 0] = math.inf, math.nan
    update = single_output_update(weight, gradient, 3)
    assert update[:2].isnan().all()
    assert torch.equal(update[2], clean[2])


@pytest.mark.parametrize("depth", DEPTHS[1:])
def test_gradcheck(depth: float) -> None:
    inputs = normal(2, 3, seed=1).requires_grad_(), normal(2, 3, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda w, g: single_output_update(w, g, depth), inputs)


@pytest.mark.parametrize("depth", DEPTHS[1:])
def test_derivative_at_zero_is_zero(depth: float) -> None:
    weight = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    single_output_update(weight, normal(3, seed=1), depth).sum().backward()
    assert torch.equal(weight.grad, torch.zeros(3).double())  # pyright: ignore
