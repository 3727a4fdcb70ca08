"""The differentiable rule over its largest eigenvalue, against the spectrum."""

import math

import pytest
import torch
from support.core_cases import normal

from overparam import end_to_end_update, preconditioner_spectrum
from overparam.rule.fast import update_in_basis, update_of_rows
from overparam.rule.normalized import reference_update, reference_update_of_rows

MEMBERS = [(2, ()), (1.5, ()), (math.inf, ()), (2, (0.7, 0.0)), (3, (0.4, 0.0, 1.3))]


def eigenvalues(weight: torch.Tensor, depth: float, offsets) -> torch.Tensor:
    return preconditioner_spectrum(weight, depth, imbalance=offsets or 0.0).eigenvalues


@pytest.mark.parametrize(("depth", "offsets"), MEMBERS)
def test_is_the_rule_over_the_largest_eigenvalue(depth: float, offsets) -> None:
    weight, gradient = normal(2, 3, 5, seed=1), normal(2, 3, 5, seed=2)
    rule = end_to_end_update(weight, gradient, depth, imbalance=offsets or 0.0)
    assert torch.equal(reference_update(weight, gradient, depth, offsets, False), rule)
    largest = eigenvalues(weight, depth, offsets).amax((-2, -1), keepdim=True)
    normalized = reference_update(weight, gradient, depth, offsets, True)
    torch.testing.assert_close(normalized, rule / largest)


@pytest.mark.parametrize(("depth", "offsets"), MEMBERS)
def test_rows_share_the_largest_eigenvalue(depth: float, offsets) -> None:
    weight, gradient = normal(2, 3, 5, seed=1), normal(2, 3, 5, seed=2)
    rows = weight[..., None, :], gradient[..., None, :]
    rule = end_to_end_update(*rows, depth, imbalance=offsets or 0.0)[..., 0, :]
    largest = eigenvalues(rows[0], depth, offsets).amax((-3, -2, -1))[:, None, None]
    normalized = reference_update_of_rows(weight, gradient, depth, offsets, True)
    torch.testing.assert_close(normalized, rule / largest)


@pytest.mark.parametrize(("depth", "offsets"), [(2, ()), (3, (0.4, 0.0, 1.3))])
@pytest.mark.parametrize("form", [reference_update, reference_update_of_rows])
def test_the_derivative_is_that_of_differences(form, depth: float, offsets) -> None:
    inputs = normal(3, 4, seed=1).requires_grad_(), normal(3, 4, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda w, g: form(w, g, depth, offsets, True), inputs)


@pytest.mark.parametrize("size", [0.0, 1e-38, 1e-30])
@pytest.mark.parametrize(
    ("depth", "offsets"), [(2, ()), (3, (2.0, 0.0, 0.0)), (4, (0.0, 1.0, 0.0, 0.0))]
)
def test_weights_whose_kernel_vanishes_do_not_move_to_nan(size: float, depth: float, offsets):
    gradient = torch.ones(3, 4)
    for weight in (torch.full((3, 4), size), torch.diag(torch.tensor([size, 0.0, 0.0])) @ gradient):
        options = {"offsets": offsets, "normalize": True}
        for update in (
            update_in_basis(torch.eye(3), weight, gradient, depth, **options),
            update_of_rows(weight, gradient, depth, **options),
            update_of_rows(weight, gradient, depth, look=False, **options),
            reference_update(weight, gradient, depth, offsets, True),
            reference_update_of_rows(weight, gradient, depth, offsets, True),
        ):
            assert update.isfinite().all()
            assert update.abs().max() <= 12  # of the length of the gradient at most
            assert size > 0 or not update.any()
