"""The pieces of benchmarks/late_phase.py against closed forms."""

import sys
from pathlib import Path

import pytest
import torch

from overparam.lab.comparison.problem import load_problem

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import late_phase

    yield late_phase
    for name in ("late_phase", "atlas_tables", "transformer"):
        del sys.modules[name]


@pytest.mark.parametrize(
    "name",
    ["matrix-sensing(size=5, rank=2)", "matrix-completion(size=5)", "sparse-regression(rows=9)"],
)
def test_the_quadratic_is_the_loss_of_the_problem(script, name):
    problem = load_problem(name)
    found = script.quadratic(problem)
    torch.manual_seed(0)
    model = problem.build().double()
    torch.nn.init.normal_(model.weight)
    loss = problem.loss(model, script._double(next(problem.stream(0))))
    (gradient,) = torch.autograd.grad(loss, model.weight)
    weight = model.weight.detach()
    torch.testing.assert_close(found.loss(weight), loss.detach())
    torch.testing.assert_close(found.gradient(weight), gradient)


def test_steps_on_a_diagonal_are_those_of_the_condition_number(script):
    """At its best rate descent shrinks the slowest error by (c - 1) / (c + 1) each step."""
    values = torch.tensor([1.0, 9.0], dtype=torch.float64)
    start = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    away = script.Quadratic(values.diag(), torch.zeros_like(values), torch.zeros(1), start)
    steps, end = script.late_steps(away, 1)
    decades = torch.tensor(script.LATE[0] / script.LATE[1]).log10()
    expected = decades / -2 / torch.tensor(0.8).log10()
    assert steps == pytest.approx(expected.item(), rel=0.05)
    assert away.loss(end).item() < 1e-7


def test_factors_move_as_autograd_says(script):
    first, second = torch.randn(2, 3, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)
    gradient = torch.randn(4, 3, dtype=torch.float64)
    leaves = [first.clone().requires_grad_(), second.clone().requires_grad_()]
    (leaves[1] @ leaves[0] * gradient).sum().backward()
    for found, leaf in zip(script._pulled([first, second], gradient), leaves, strict=True):
        torch.testing.assert_close(found, leaf.grad)


def test_where_it_moves_is_the_law_where_everything_moves(script):
    hessian = torch.tensor([3.0, 1.0, 2.0, 5.0], dtype=torch.float64).diag()
    weight = torch.tensor([[2.0, 0.3], [0.1, 1.0]], dtype=torch.float64)
    law = script.predict_speedup(hessian, weight, 2).speedup
    assert script.where_it_moves(hessian, weight, 2) == pytest.approx(law, rel=1e-9)


def test_sides(script):
    pairs = [(0.5, 0.4), (2.0, 0.4), (3.0, 1.3), (2.0, 1.01)]
    assert script.sides(pairs) == "2 of 3"
