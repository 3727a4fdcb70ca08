import dataclasses
import itertools
import pickle

import pytest
import torch

from overparam.data import DataError, load_images
from overparam.lab import resume
from overparam.lab.comparison.problem import load_problem
from overparam.lab.comparison.protocol import Trial
from overparam.lab.comparison.trial import TrialRun, read_outcome
from overparam.lab.executor import Job, run_jobs
from overparam.lab.paper.network_study import (
    METHODS,
    PAPER,
    SCALES,
    NetworkStudy,
    alone_jobs,
    network_jobs,
    on_digits,
    paper_jobs,
    training_jobs,
)

TINY = SCALES["tiny"]
DIGITS = load_images("digits")


def own_jobs(study, folder):
    """Without the penalty at the paper's size, which takes minutes."""
    return training_jobs(study, DIGITS.fingerprint, folder) + alone_jobs(study, folder)


def complete(study, folder):
    jobs = own_jobs(study, folder)
    assert run_jobs(jobs, 0)
    return {job.file.name: job.file.read_bytes() for job in jobs}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return complete(TINY, tmp_path_factory.mktemp("runs"))


def test_the_schedule_is_the_tutorials():
    """0.95^epoch, where the first image of the batch decides the epoch of 55,000 images."""
    for step in (0, 1, 858, 859, 860, 1718, 1719, 5000, 8592):
        assert PAPER.factor(step, PAPER.steps) == 0.95 ** (step * 64 // 55_000)
    assert PAPER.factor(859, PAPER.steps) == 1
    assert PAPER.factor(860, PAPER.steps) == 0.95
    assert PAPER.steps == 10 * 55_000 // 64


def test_points_of_a_curve():
    study = dataclasses.replace(TINY, record_every=10)
    assert study.points(45) == [1, 2, 4, 8, 10, 20, 30, 40, 45]
    assert study.points(3) == [1, 2, 3]
    assert len(PAPER.points(PAPER.steps)) == 93


def test_the_papers_study_and_its_problem():
    assert (PAPER.rates, PAPER.seeds, PAPER.data) == ((0.01,), (0, 1, 2), "mnist")
    name = dataclasses.replace(PAPER, data="digits", held_out=200).named_problem("plain", "digits")
    problem = load_problem(name)
    assert sum(p.numel() for p in problem.build().parameters()) == 1_663_370
    assert problem.penalty is not None
    for method, (*_, on) in METHODS.items():
        word = "penalty=0.0" if on == "none" else f"penalty_on={on!r}"
        assert word in PAPER.named_problem(method, "mnist")


def test_on_digits_changes_the_data_alone():
    replaced = on_digits(SCALES["quick"])
    assert (replaced.data, replaced.held_out) == ("digits", 200)
    assert dataclasses.replace(replaced, data="mnist", held_out=5000) == SCALES["quick"]


def test_interrupted_jobs_end_with_the_same_bytes(expected, tmp_path):
    """Stopped again and again, with checkpoints damaged in between."""
    for round_ in range(3):
        for job in (each for each in own_jobs(TINY, tmp_path) if not each.finished()):
            answers = itertools.chain([False], itertools.repeat(True))
            job.train(answers.__next__, lambda cost: None)
        if round_ == 0:
            checkpoints = sorted(tmp_path.glob("*.checkpoint"))
            assert len(checkpoints) == len(expected)
            for checkpoint in checkpoints[::3]:
                checkpoint.write_bytes(checkpoint.read_bytes()[:300])
    assert complete(TINY, tmp_path) == expected
    assert not list(tmp_path.glob("*.checkpoint"))


def test_test_errors_are_evaluated_now_and_then_without_changing_the_training(expected, tmp_path):
    [job, *_] = training_jobs(TINY, DIGITS.fingerprint, tmp_path)
    often = dataclasses.replace(job, course=dataclasses.replace(job.course, evaluate_every=10))
    assert often.train(lambda: False, lambda cost: None)
    outcome = read_outcome(often.file)
    assert ["test_error" in seen for seen in outcome.seen] == [False] * 4 + [True] * 3 + [False]
    (tmp_path / "usual").write_bytes(expected[job.file.name])
    usual = read_outcome(tmp_path / "usual")
    assert usual.curve == outcome.curve
    assert usual.metrics == outcome.metrics
    assert sum("test_error" in seen for seen in usual.seen) == 1


def test_a_wider_study_finds_the_runs_of_a_smaller_one(tmp_path):
    complete(dataclasses.replace(TINY, seeds=(1,)), tmp_path)
    wide = own_jobs(dataclasses.replace(TINY, rates=(0.02, 0.01)), tmp_path)
    done = {(job.trial.lr, job.trial.seed) for job in wide if job.finished()}
    assert done == {(0.01, 1)}
    assert sum(job.finished() for job in wide) == 8


@pytest.mark.parametrize(
    "change",
    [{"steps": 41}, {"hidden": 7}, {"held_out": 90}, {"record_every": 11}, {"device": "cuda"},
     {"evaluated": 5}, {"epoch": 99}],
)  # fmt: skip
def test_other_settings_and_data_have_other_files(change, tmp_path):
    first = {job.file for job in training_jobs(TINY, "x", tmp_path)}
    other = training_jobs(dataclasses.replace(TINY, **change), "x", tmp_path)
    assert first.isdisjoint(job.file for job in other)
    assert first.isdisjoint(job.file for job in training_jobs(TINY, "y", tmp_path))


def test_the_penalty_alone_depends_on_no_data_and_the_papers_is_done_once(tmp_path):
    other = dataclasses.replace(TINY, data="mnist", held_out=7, device="cuda", evaluated=3)
    assert alone_jobs(TINY, tmp_path) == alone_jobs(other, tmp_path)
    assert len(network_jobs(PAPER, "x", tmp_path)) == 15 + 9
    assert len(network_jobs(TINY, "x", tmp_path)) == 10 + 6 + 2
    assert set(paper_jobs(PAPER, tmp_path)) < set(alone_jobs(PAPER, tmp_path))


def test_costs_add_up_and_have_the_right_order(tmp_path):
    job, costs = training_jobs(TINY, DIGITS.fingerprint, tmp_path)[0], []
    answers = itertools.chain([False], itertools.repeat(True))
    assert not job.train(answers.__next__, costs.append)
    assert 0 < sum(costs) < job.cost
    assert job.train(lambda: False, costs.append)
    assert PAPER.step_seconds("product", "mnist") > 1.5 * PAPER.step_seconds("plain", "mnist")
    assert PAPER.step_seconds("product", "none") < PAPER.step_seconds("product", "mnist")
    assert SCALES["quick"].step_seconds("plain", "mnist") < 0.01


def test_a_job_can_be_sent_to_another_process(tmp_path):
    for job in own_jobs(TINY, tmp_path)[::7]:
        asked: Job = job
        assert pickle.loads(pickle.dumps(asked)) == job


def test_images_that_have_changed_are_not_trained_on(tmp_path):
    [job, *_] = training_jobs(TINY, "another fingerprint", tmp_path)
    with pytest.raises(DataError, match="digits has changed since"):
        job.train(lambda: False, lambda cost: None)
    assert not list(tmp_path.iterdir())


def test_a_diverged_run_is_a_result_and_any_other_failure_is_not(tmp_path, monkeypatch):
    study = dataclasses.replace(TINY, rates=(1e8,), seeds=(0,))
    job = training_jobs(study, DIGITS.fingerprint, tmp_path)[2]
    assert job.train(lambda: False, lambda cost: None)
    assert read_outcome(job.file).failure.startswith("diverged at step")

    def full(*_):
        raise MemoryError("no memory")

    monkeypatch.setattr(NetworkStudy, "look", full)
    job = training_jobs(TINY, DIGITS.fingerprint, tmp_path)[0]
    with pytest.raises(RuntimeError, match="could not be trained: MemoryError: no memory"):
        job.train(lambda: False, lambda cost: None)
    assert not job.finished()


def test_a_damaged_file_is_named(expected, tmp_path):
    job = own_jobs(TINY, tmp_path)[0]
    job.file.write_bytes(expected[job.file.name][:100])
    with pytest.raises(ValueError, match=r"\w+\.json is damaged"):
        read_outcome(job.file)


def test_stored_runs_of_an_earlier_format_stay_and_are_not_used(tmp_path):
    old = ["plain-rate0.01-seed0-43c34617849318fc.parquet", "product-rate0.01-seed0-1.checkpoint"]
    for name in old:
        (tmp_path / name).write_bytes(b"of version 0.1")
    jobs = own_jobs(dataclasses.replace(TINY, seeds=(0,)), tmp_path)
    assert not any(job.finished() for job in jobs)
    assert run_jobs(jobs, 0)
    assert all((tmp_path / name).read_bytes() == b"of version 0.1" for name in old)


def test_a_checkpoint_is_kept_now_and_then(tmp_path, monkeypatch):
    monkeypatch.setattr(resume, "_CHECKPOINT_SECONDS", 0.0)
    job, seen = own_jobs(TINY, tmp_path)[0], []
    assert job.train(lambda: False, lambda cost: seen.append(any(tmp_path.glob("*.checkpoint"))))
    assert any(seen)


def test_the_penalty_is_recorded_where_it_is(tmp_path):
    """On weights, factors, nowhere: at the start of one seed."""
    found = {}
    for method in METHODS:
        problem = load_problem(TINY.named_problem(method, "digits"))
        run = TrialRun(problem, Trial(method, 0.01, 1, 0), TINY)
        run.advance(1)
        found[method] = run.seen[0]["penalty"]
    assert found["plain_unpenalized"] == found["product_unpenalized"] == 0
    assert 0 < found["product"] < found["plain"] < found["product_factors"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
@pytest.mark.parametrize("method", METHODS)
def test_the_curve_on_a_gpu_is_that_of_the_cpu(method, tmp_path):
    """The same start, the same masks of dropout, and convolutions without TF32."""
    curves = []
    for device in ("cpu", "cuda"):
        study = dataclasses.replace(TINY, device=device, seeds=(0,))
        jobs = training_jobs(study, DIGITS.fingerprint, tmp_path)
        [job] = [each for each in jobs if each.trial.method == method]
        assert job.train(lambda: False, lambda cost: None)
        curves.append([loss for _, loss in read_outcome(job.file).curve])
    torch.testing.assert_close(*map(torch.tensor, curves), rtol=1e-3, atol=1e-5)
