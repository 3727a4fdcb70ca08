import itertools
import math
import random

import numpy as np
import pytest
import torch
from support.comparison_cases import linear, small_problem
from torch import nn

from overparam.lab.comparison.problem import Problem
from overparam.lab.comparison.protocol import Trial
from overparam.lab.comparison.trial import (
    Course,
    TrialJob,
    TrialRun,
    judged_batches,
    read_outcome,
    schedule,
)

TRIAL = Trial("adamw", 0.05, 30, seed=0)


def outcome(problem, trial=TRIAL):
    run = TrialRun(problem, trial)
    run.advance(10**6)
    return run.outcome()


def dropping() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.3), nn.Linear(8, 2))


def test_the_schedule_warms_up_and_ends_near_zero():
    factors = [schedule(step, 100) for step in range(100)]
    assert factors[9] == max(factors) == 1
    assert factors[:10] == sorted(factors[:10])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert 0 < factors[-1] < 0.02
    assert schedule(0, 1) == 1


def test_a_trial_is_a_plain_loop_of_torch():
    problem = small_problem()
    found = TrialRun(problem, TRIAL)
    found.advance(30)
    run = TrialRun(problem, TRIAL)  # builds the same start
    model, batches = run.model, problem.batches
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0)
    for step in range(30):
        optimizer.param_groups[0]["lr"] = 0.05 * schedule(step, 30)
        optimizer.zero_grad()
        problem.loss(model, batches[step % 4]).backward()
        optimizer.step()
    for expected, parameter in zip(model.parameters(), found.model.parameters(), strict=True):
        assert torch.equal(expected, parameter)


def test_a_penalty_is_trained_on_but_neither_stored_nor_judged():
    """Its gradient is that of weight decay, so the run is that of an optimizer that decays."""

    def half_square(model):
        return 0.3 / 2 * sum(p.square().sum() for p in model.parameters())

    penalized = outcome(small_problem(penalty=half_square), Trial("sgd", 0.05, 30, 0))
    decayed = outcome(small_problem(), Trial("sgd(weight_decay=0.3)", 0.05, 30, 0))
    assert penalized.loss == pytest.approx(decayed.loss, rel=1e-5)
    for (_, one), (_, other) in zip(penalized.curve, decayed.curve, strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    failure = outcome(small_problem(penalty=lambda model: half_square(model) * math.inf)).failure
    assert failure == "diverged at step 0"


class Own(Course):
    """A course as a paper may have it."""

    def factor(self, step, horizon):
        return 0.5 ** (step // 10)

    def points(self, horizon):
        return [1, 7, horizon]

    def optimizer(self, problem, trial, model):
        return torch.optim.SGD(model.parameters(), trial.lr)

    def look(self, run):
        return {"norm": float(run.model.weight.detach().norm())}


def test_a_course_of_its_own(tmp_path):
    problem = small_problem()
    job = TrialJob(problem, TRIAL, "id", tmp_path, course=Own())
    assert job.train(lambda: False, lambda cost: None)
    found = read_outcome(job.file)
    run = TrialRun(problem, TRIAL, Own())
    optimizer = torch.optim.SGD(run.model.parameters())
    norms = {}
    for step in range(30):
        optimizer.param_groups[0]["lr"] = 0.05 * 0.5 ** (step // 10)
        optimizer.zero_grad()
        problem.loss(run.model, problem.batches[step % 4]).backward()
        optimizer.step()
        norms[step + 1] = {"norm": float(run.model.weight.detach().norm())}
    assert [step for step, _ in found.curve] == [1, 7, 30]
    assert list(found.seen) == [norms[1], norms[7], norms[30]]


def test_methods_start_at_the_same_weights():
    problem = small_problem(build=dropping)
    starts = [
        TrialRun(problem, Trial(name, 0.1, 5, seed=3)).model.state_dict()["0.weight"]
        for name in ("adamw", "adamw+factors:2", "sgd+rule:2")
    ]
    torch.testing.assert_close(starts, [starts[0]] * 3)  # a product is rounded


@pytest.mark.parametrize("method", ["adamw", "adamw+factors:2", "sgd(momentum=0.9)+rule:2"])
def test_an_interrupted_trial_ends_with_the_same_bytes(method, tmp_path):
    problem = small_problem(build=dropping, evaluate={"norm": lambda m: float(m[0].weight.norm())})
    trial = Trial(method, 0.02, 45, seed=1)
    whole = TrialJob(problem, trial, "id", tmp_path / "whole")
    assert whole.train(lambda: False, lambda cost: None)
    part, costs = TrialJob(problem, trial, "id", tmp_path / "part"), []
    stops = 0
    while not part.train(lambda: True, costs.append):
        stops += 1
    assert stops == 4
    assert part.file.read_bytes() == whole.file.read_bytes()
    assert [each.name for each in part.folder.iterdir()] == [part.file.name]


def drawing(model: nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """A loss that draws from every generator, as augmentations of users do."""
    x, y = batch
    x = x + 0.1 * torch.rand(len(x), 1) + 0.1 * random.random() + 0.1 * np.random.rand()  # noqa: NPY002
    return (model(x) - y).square().mean()


def test_a_loss_that_draws_from_every_generator_is_resumed_with_the_same_bytes(tmp_path):
    problem = small_problem(loss=drawing)
    jobs = [TrialJob(problem, TRIAL, "id", tmp_path / name) for name in ("whole", "part")]
    assert jobs[0].train(lambda: False, lambda cost: None)
    while not jobs[1].train(lambda: True, lambda cost: None):
        random.seed(7)
        np.random.seed(7)  # noqa: NPY002
    assert jobs[0].file.read_bytes() == jobs[1].file.read_bytes()


def test_runs_are_judged_on_the_same_batches_in_every_process():
    def batches(seed):
        while True:
            yield torch.full((1, 1), random.random()), torch.full((1, 1), np.random.rand())  # noqa: NPY002

    found = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        before = random.getstate()
        problem = Problem("random", linear, batches, lambda model, batch: batch[0].sum())
        found.append(torch.stack([torch.cat(batch) for batch in judged_batches(problem)]))
        assert random.getstate() == before
    assert torch.equal(*found)


def test_a_loss_may_take_its_batch_apart():
    def loss(model, batch):
        rows = batch.pop("x")
        return (model(rows) - batch.pop("y")).square().mean()

    def batches(seed):
        return ({"x": x, "y": y} for x, y in itertools.cycle(small_problem().batches))

    problem = small_problem(loss=loss, batches=batches)
    assert outcome(problem) == outcome(problem) == outcome(small_problem())


def test_a_loss_that_is_no_tensor_is_named():
    failure = outcome(small_problem(loss=lambda model, batch: (model(batch[0]), 1))).failure
    assert failure == "TypeError: the loss is a tuple; return a tensor, one number"


def test_the_users_generators_stay_as_they_were(tmp_path):
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    TrialJob(small_problem(), TRIAL, "id", tmp_path).train(lambda: False, lambda cost: None)
    assert torch.equal(torch.rand(2), expected)


def failing(kind):
    def loss(model, batch):
        if kind == "exception":
            raise KeyError("no such column")
        if kind == "memory":
            raise torch.OutOfMemoryError("out of memory. Tried to allocate 3 GiB")
        return (model.weight * math.nan).sum()

    return loss


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("exception", "KeyError: 'no such column'"),
        ("memory", "OutOfMemoryError: out of memory"),
        ("nan", "diverged at step 0"),
    ],
)
def test_what_goes_wrong_is_recorded(kind, reason, tmp_path):
    job = TrialJob(small_problem(loss=failing(kind)), TRIAL, "id", tmp_path)
    assert job.train(lambda: False, lambda cost: None)
    found = read_outcome(job.file)
    assert found.loss == math.inf
    assert found.failure.startswith(reason)


def test_a_failure_of_build_of_the_method_and_of_evaluate_is_recorded():
    def broken():
        raise ValueError("no layers\nat all")

    assert outcome(small_problem(build=broken)).failure == "ValueError: no layers"
    assert "closure" in outcome(small_problem(), Trial("lbfgs", 0.1, 5, 0)).failure
    problem = small_problem(evaluate={"share": lambda model: 1 / 0})
    assert outcome(problem).failure.startswith("ZeroDivisionError")
    judged = small_problem(evaluate={"score": lambda model: math.nan}, judged_by="score")
    assert outcome(judged).failure == "the judged loss is nan"


def test_a_run_is_judged_in_evaluation_mode_and_training_does_not_notice():
    modes = []

    def loss(model, batch):
        modes.append(model.training)
        return model(batch[0]).square().mean()

    found = outcome(small_problem(build=dropping, loss=loss))
    assert modes == [True] * 30 + [False] * 8
    assert [step for step, _ in found.curve][-1] == 30


def own_loop(optimizer, model, seed):
    inputs = torch.randn(16, 6, generator=torch.Generator().manual_seed(seed))
    while True:
        optimizer.zero_grad()
        loss = model(inputs).square().mean()
        loss.backward()
        optimizer.step()
        yield loss


def test_a_loop_of_the_users_own():
    problem = small_problem(batches=None, loss=None, train=own_loop)
    found = outcome(problem)
    assert found.loss < found.curve[0][1]

    def short(optimizer, model, seed):
        yield 1.0

    stopped = outcome(small_problem(batches=None, loss=None, train=short))
    assert "without end" in stopped.failure


def test_a_damaged_outcome_names_its_file(tmp_path):
    file = tmp_path / "x.json"
    file.write_text("{")
    with pytest.raises(ValueError, match=r"x\.json is damaged"):
        read_outcome(file)
    assert linear().in_features == 6
