import pytest
import torch

from overparam.data import DataError
from overparam.data.mnist1d import mnist1d
from overparam.lab.comparison.problem import load_problem, problem_names
from overparam.lab.comparison.protocol import Trial
from overparam.lab.comparison.trial import TrialRun
from overparam.lab.problems.pieces import NORMS, mlp

OPTIONS = {
    "tabular-mlp": '(data="diabetes")',
    "char-transformer": "(context=16, batch=4)",
    "mnist-network": '(data="digits", held_out=200, hidden=16)',
}


@pytest.mark.parametrize("name", problem_names())
@pytest.mark.parametrize("method", ["adamw", "sgd(momentum=0.9)+rule:2"])
def test_every_problem_trains_and_is_judged(name, method):
    try:
        problem = load_problem(name + OPTIONS.get(name, ""))
    except DataError as error:
        pytest.skip(str(error))
    run = TrialRun(problem, Trial(method, 1e-3, 3, seed=0))
    run.advance(3)
    found = run.outcome()
    assert not found.failure
    assert found.loss > 0


def test_mnist1d_can_be_learned_and_is_the_same_each_time():
    inputs, labels, tests, test_labels = mnist1d(1000)
    assert (inputs.shape, tests.shape) == ((800, 40), (200, 40))
    assert torch.bincount(torch.cat([labels, test_labels])).tolist() == [100] * 10
    torch.manual_seed(0)
    model = mlp(40, 100, 10)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(150):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    error = (model(tests).argmax(1) != test_labels).float().mean()
    assert 0.3 < error < 0.65  # as hard as the published one for so few signals
    assert torch.equal(mnist1d.__wrapped__(1000)[0], inputs)


@pytest.mark.parametrize("norm", NORMS)
def test_normalized_perceptrons(norm):
    assert mlp(4, 6, 6, 2, norm=norm)(torch.randn(5, 4)).shape == (5, 2)


def test_an_unknown_normalization():
    with pytest.raises(ValueError, match="use one of none, batch, layer, weight"):
        mlp(4, 6, 2, norm="group")
