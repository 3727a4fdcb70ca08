import itertools
import sys

import pytest
import torch
from support.comparison_cases import linear, small_problem, squared
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from overparam.lab.comparison.problem import Problem, load_problem, problem_names

SCRIPT = """
import torch
from neighbour import width
from overparam.lab.comparison import Problem
def make():
    return Problem("mine", lambda: torch.nn.Linear(width, 1), [torch.ones(2, width)], loss)
def loss(model, x):
    from another import cost
    return cost
problem = make()
number = 3
"""


def loader(**options):
    rows = torch.arange(20.0)[:, None]
    return DataLoader(TensorDataset(rows), batch_size=5, shuffle=True, **options)


def first(problem, seed, count=9):
    return [batch[0].flatten().tolist() for batch in itertools.islice(problem.stream(seed), count)]


@pytest.mark.parametrize("generator", [None, torch.Generator()])
def test_a_loader_gives_the_same_batches_whatever_else_draws_numbers(generator):
    problem = small_problem(batches=loader(generator=generator))
    expected = first(problem, 1)
    assert expected[:4] != expected[4:8]  # a new order for the next epoch
    assert first(problem, 2) != expected
    stream, seen = problem.stream(1), []
    for _ in range(9):
        torch.rand(7)
        seen.append(next(stream)[0].flatten().tolist())
    assert seen == expected


@pytest.mark.parametrize("place", ["sampler", "batch_sampler"])
def test_a_sampler_with_a_generator_of_its_own_gives_the_same_batches_too(place):
    rows = TensorDataset(torch.arange(20.0)[:, None])
    sampler = RandomSampler(rows, generator=torch.Generator())
    given = {"sampler": sampler, "batch_size": 5}
    if place == "batch_sampler":
        given = {"batch_sampler": BatchSampler(sampler, 5, drop_last=False)}
    problem = small_problem(batches=DataLoader(rows, **given))
    assert first(problem, 1) == first(problem, 1)
    assert first(problem, 1) != first(problem, 2)


def test_drawing_batches_leaves_the_global_generator_alone():
    stream = small_problem(batches=loader()).stream(0)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    next(stream)
    assert torch.equal(torch.rand(3), expected)


def test_lists_and_functions_of_a_seed_are_batches_too():
    assert len(first(small_problem(), 0)) == 9
    given = small_problem(batches=lambda seed: [(torch.tensor([seed]),)])
    assert first(given, 7, 2) == [[7], [7]]
    with pytest.raises(ValueError, match="no batch"):
        next(small_problem(batches=[]).stream(0))


def test_batches_that_end_are_refused_with_the_remedy():
    ending = small_problem(batches=lambda seed: iter([1, 2]))
    stream = ending.stream(0)
    assert [next(stream), next(stream)] == [1, 2]
    with pytest.raises(ValueError, match=r"ended after 2; .*without end"):
        next(stream)
    with pytest.raises(ValueError, match="list_iterator, which can be read once"):
        small_problem(batches=iter([1, 2]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": None}, "give batches and loss"),
        ({"train": lambda *rest: iter([])}, "not both"),
        ({"train": lambda *rest: iter([]), "loss": None}, "not both"),
        ({"steps": 3}, "steps is 3; .*at least 4, or None"),
        ({"judged_by": "accuracy"}, "judged_by is 'accuracy'"),
    ],
)
def test_a_problem_that_cannot_be_trained_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        small_problem(**options)


def test_problems_of_a_script(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "neighbour.py").write_text("width = 3")
    (tmp_path / "another.py").write_text("cost = 0.5")
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    for name in (f"{script}:problem", f"{script}:make", str(script)):
        found = load_problem(name)
        assert found.title == "mine"
        assert found.loss(None, None) == 0.5  # what it imports late
    with pytest.raises(ValueError, match="has no problem named 'number'"):
        load_problem(f"{script}:number")
    with pytest.raises(ValueError, match="is not a file"):
        load_problem(f"{tmp_path / 'other.py'}:problem")


def test_problems_by_name():
    assert "digits-mlp" in problem_names()
    assert "normalization batch" in load_problem('digits-mlp(norm="batch")').title
    with pytest.raises(ValueError, match="Did you mean 'digits-mlp'"):
        load_problem("digit-mlp")
    with pytest.raises(ValueError, match="no option 'size'"):
        load_problem("digits-mlp(size=3)")


def test_a_problem_needs_no_more_than_four_things():
    assert Problem("t", linear, [], squared).evaluate == {}
