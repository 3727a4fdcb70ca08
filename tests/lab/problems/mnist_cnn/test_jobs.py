import dataclasses
import itertools
import pickle
import random

import polars as pl
import pytest

from overparam.data import DataError, load_images
from overparam.lab import resume
from overparam.lab.executor import Job, run_jobs
from overparam.lab.problems.mnist_cnn.jobs import (
    CURVES_SCHEMA,
    PENALTY_SCHEMA,
    cnn_jobs,
    load_curves,
    paper_penalty_job,
    penalty_jobs,
    step_cost,
    training_jobs,
)
from overparam.lab.problems.mnist_cnn.penalty import FORMS
from overparam.lab.problems.mnist_cnn.study import SCALES

TINY = SCALES["tiny"]
DIGITS = load_images("digits")


def own_jobs(study, path):
    """All jobs except the penalty at the paper's size, which takes minutes."""
    return [job for job in cnn_jobs(study, DIGITS, path) if job.study == study]


def complete(study, path):
    """Run the unfinished jobs; returns the stored bytes of every run."""
    jobs = own_jobs(study, path)
    assert run_jobs(jobs, workers=0)
    assert all(job.finished() for job in jobs)
    assert not list(path.glob("*.checkpoint"))
    return {job.file.name: job.file.read_bytes() for job in jobs}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return complete(TINY, tmp_path_factory.mktemp("uninterrupted"))


def test_curves_have_every_run_and_step(expected, tmp_path):
    complete(TINY, tmp_path)
    curves = load_curves(training_jobs(TINY, DIGITS.fingerprint, tmp_path))
    assert dict(curves.schema) == CURVES_SCHEMA
    runs = curves.group_by("variant", "rate", "seed").agg("step", "test_error")
    assert len(runs) == len(TINY.variants) * len(TINY.rates) * len(TINY.seeds)
    for steps, errors in runs.select("step", "test_error").iter_rows():
        assert tuple(steps) == TINY.record_steps
        looked = [step for step, error in zip(steps, errors, strict=True) if error is not None]
        assert looked == [0, 20, 40]
    alone = load_curves([job for job in penalty_jobs(TINY, tmp_path) if job.study == TINY])
    assert dict(alone.schema) == PENALTY_SCHEMA
    assert set(alone["variant"]) == set(FORMS)
    assert len(alone) == len(FORMS) * len(TINY.seeds) * len(TINY.record_steps)


def test_the_penalty_at_the_start_is_that_of_the_networks(expected, tmp_path):
    """Training and the penalty alone start from the same weights."""
    complete(TINY, tmp_path)
    trained = load_curves(training_jobs(TINY, DIGITS.fingerprint, tmp_path))
    alone = load_curves([job for job in penalty_jobs(TINY, tmp_path) if job.study == TINY])
    keys = ["variant", "rate", "seed", "step"]
    both = trained.join(alone, on=keys, suffix="_alone").filter(pl.col("step") == 0)
    assert len(both) == len(FORMS) * len(TINY.seeds)
    for found, integrated in both.select("penalty", "penalty_alone").iter_rows():
        assert found == pytest.approx(integrated, rel=1e-5)


def test_stops_anywhere_and_damage_give_the_same_bytes(expected, tmp_path):
    choice = random.Random(0)
    for round_ in range(12):
        for job in own_jobs(TINY, tmp_path):
            if job.finished():
                continue
            answers = itertools.chain([False] * choice.randint(0, 2), itertools.repeat(True))
            job.train(answers.__next__, lambda cost: None)
        if round_ == 1:
            for number, checkpoint in enumerate(sorted(tmp_path.glob("*.checkpoint"))):
                if number % 3 == 0:
                    checkpoint.write_bytes(checkpoint.read_bytes()[:300])
    assert complete(TINY, tmp_path) == expected


def test_costs_add_up_also_over_interruptions(tmp_path):
    job = own_jobs(TINY, tmp_path)[0]
    costs = []
    answers = itertools.chain([False], itertools.repeat(True))
    assert not job.train(answers.__next__, costs.append)
    assert 0 < sum(costs) < job.cost
    costs.clear()
    assert job.train(lambda: False, costs.append)
    assert sum(costs) == pytest.approx(job.cost)


def test_costs_have_the_right_order():
    paper = SCALES["paper"]
    assert step_cost(paper, "product") > 1.5 * step_cost(paper, "product_factors")
    assert step_cost(paper, "plain") == step_cost(paper, "product_unpenalized")
    assert step_cost(SCALES["quick"], "plain") < 0.2 * step_cost(paper, "plain")
    assert step_cost(paper, "") < step_cost(paper, "product")


def test_curves_of_an_unfinished_run_are_the_beginning_of_the_finished_one(tmp_path):
    for job in (own_jobs(TINY, tmp_path)[0], own_jobs(TINY, tmp_path)[-1]):
        assert job.curves().is_empty()
        answers = itertools.chain([False], itertools.repeat(True))
        assert not job.train(answers.__next__, lambda cost: None)
        part = job.curves()
        assert len(part) > 0
        assert job.train(lambda: False, lambda cost: None)
        assert part.equals(job.curves().head(len(part)))
        assert len(part) < len(job.curves())


def test_a_wider_study_finds_the_runs_of_a_smaller_one(tmp_path):
    small = dataclasses.replace(TINY, seeds=(0,), variants=("plain",))
    complete(small, tmp_path)
    wide = dataclasses.replace(TINY, rates=(0.01, 0.02), variants=("product", "plain"))
    jobs = own_jobs(wide, tmp_path)
    assert len(jobs) == 2 * 2 * 2 + 2 * 2
    done = [(job.kind, job.variant, job.rate, job.seed) for job in jobs if job.finished()]
    assert done == [("training", "plain", 0.01, 0), ("penalty", "", 0.01, 0)]


@pytest.mark.parametrize(
    "change",
    [{"steps": 41}, {"hidden": 7}, {"penalty": 1e-3}, {"dropout": 0.4}, {"held_out": 90},
     {"record_every": 11}, {"device": "cuda"}, {"evaluated": 5}],
)  # fmt: skip
def test_other_settings_have_other_files(change, tmp_path):
    first = {job.file for job in training_jobs(TINY, "x", tmp_path)}
    other = training_jobs(dataclasses.replace(TINY, **change), "x", tmp_path)
    assert first.isdisjoint(job.file for job in other)
    assert first.isdisjoint(job.file for job in training_jobs(TINY, "y", tmp_path))


def test_the_penalty_alone_depends_on_no_data(tmp_path):
    other = dataclasses.replace(TINY, data="mnist", dropout=0.1, held_out=7, device="cuda")
    assert [job.file for job in penalty_jobs(TINY, tmp_path)] == [
        job.file for job in penalty_jobs(other, tmp_path)
    ]


def test_the_papers_penalty_is_done_once(tmp_path):
    paper = SCALES["paper"]
    assert len(penalty_jobs(paper, tmp_path)) == len(paper.seeds)
    assert paper_penalty_job(paper, tmp_path).file == penalty_jobs(paper, tmp_path)[0].file
    assert len(penalty_jobs(TINY, tmp_path)) == len(TINY.seeds) + 1
    assert paper_penalty_job(TINY, tmp_path).study.shape.features == 3136


def test_a_job_can_be_sent_to_another_process(tmp_path):
    for job in own_jobs(TINY, tmp_path)[:1]:
        asked: Job = job
        assert pickle.loads(pickle.dumps(asked)) == job


def test_a_checkpoint_of_another_run_is_not_used(expected, tmp_path):
    first, second = own_jobs(TINY, tmp_path)[:2]
    assert not second.train(lambda: True, lambda cost: None)
    second.checkpoint.rename(first.checkpoint)
    assert first.curves().is_empty()
    assert first.train(lambda: False, lambda cost: None)
    assert first.file.read_bytes() == expected[first.file.name]


def test_a_damaged_file_is_named(expected, tmp_path):
    job = own_jobs(TINY, tmp_path)[0]
    job.file.write_bytes(expected[job.file.name][:100])
    with pytest.raises(ValueError, match=r"plain-rate0\.01-seed0-\w+\.parquet is damaged"):
        job.curves()


def test_images_that_have_changed_are_not_trained_on(tmp_path):
    [job, *_] = training_jobs(TINY, "another fingerprint", tmp_path)
    with pytest.raises(DataError, match="digits from embedded has changed"):
        job.train(lambda: False, lambda cost: None)
    assert not list(tmp_path.iterdir())


def test_a_diverged_run_is_a_result(tmp_path):
    study = dataclasses.replace(TINY, rates=(1e8,), seeds=(0,), variants=("product",))
    [job] = training_jobs(study, DIGITS.fingerprint, tmp_path)
    costs = []
    assert job.train(lambda: False, costs.append)
    assert sum(costs) == pytest.approx(job.cost)
    assert job.finished()
    assert job.curves()["diverged_at"].unique().item() < study.steps


def test_a_checkpoint_is_kept_now_and_then(tmp_path, monkeypatch):
    monkeypatch.setattr(resume, "_CHECKPOINT_SECONDS", 0.0)
    job = own_jobs(TINY, tmp_path)[0]
    seen = []

    def look(cost):
        seen.append(job.checkpoint.exists())

    assert job.train(lambda: False, look)
    assert any(seen)
    assert not job.checkpoint.exists()
