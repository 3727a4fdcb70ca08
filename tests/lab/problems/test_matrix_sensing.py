import pytest
import torch

from overparam.lab.comparison.trial import evaluated
from overparam.lab.problems.matrix_sensing import matrix_sensing, measured


def test_measurements_are_sums_over_all_entries():
    generator = torch.Generator().manual_seed(0)
    operators = torch.randn(5, 3, 4, generator=generator, dtype=torch.float64)
    matrix = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    found = measured(operators, matrix)
    for i in range(5):
        by_hand = sum(operators[i, r, s] * matrix[r, s] for r in range(3) for s in range(4))
        torch.testing.assert_close(found[i], by_hand)


def test_the_loss_estimates_the_error_of_the_entries_and_vanishes_at_the_truth():
    problem = matrix_sensing(size=12, rank=2, share=1.0)
    ((operators, values),) = problem.batches
    torch.manual_seed(0)
    model = problem.build()
    loss = problem.loss(model, (operators, values)).item()
    error = evaluated(problem, model)["error of the matrix"]
    assert loss == pytest.approx(error, rel=0.3)
    assert error == pytest.approx(1, rel=0.5)  # entries of variance 1, a start near 0
    # As many measurements as entries: least squares find the truth.
    truth = torch.linalg.lstsq(operators.flatten(1).double(), values.double()[:, None]).solution
    with torch.no_grad():
        model.weight.copy_(truth.view(12, 12))
    assert evaluated(problem, model)["error of the matrix"] < 1e-6
    assert problem.loss(model, (operators, values)).item() < 1e-8
    assert torch.linalg.svdvals(model.weight)[2] < 1e-2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank is 0; a matrix of size 30"),
        ({"rank": 31}, "from 1 to 30"),
        ({"share": 0.0}, "share is 0.0; at least one measurement"),
        ({"share": -1.0}, "share is -1.0"),
    ],
)
def test_what_cannot_be_measured(options, message):
    with pytest.raises(ValueError, match=message):
        matrix_sensing(**options)
