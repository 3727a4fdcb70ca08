import dataclasses
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import polars as pl
import pytest
from support.study_cases import (
    DATA,
    SLOW,
    STUDY,
    checkpoint_of,
    complete,
    identity_of,
    run_study,
    start_command,
    wait_for,
)

from overparam._files import write_whole
from overparam.lab import executor as pool
from overparam.lab import jobs as runner
from overparam.lab import resume  # noqa: F401 - for the process that is killed
from overparam.lab.executor import ignoring_interrupts
from overparam.lab.jobs import StudyJob, load_curves
from overparam.lab.store import StudyDirectory
from overparam.lab.study import cut_into_jobs


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return complete(STUDY, tmp_path_factory.mktemp("uninterrupted"))


@pytest.fixture(scope="module")
def slow_expected(tmp_path_factory):
    return complete(SLOW, tmp_path_factory.mktemp("slow"))


def test_curves_have_every_run_and_step(expected, tmp_path):
    complete(STUDY, tmp_path)
    curves = pl.read_parquet(tmp_path / "curves.parquet")
    assert dict(curves.schema) == runner._SCHEMA
    runs = curves.group_by("method", "rate", "seed").agg(
        pl.col("step"), pl.col("diverged_at").first(), pl.col("loss").is_nan().any()
    )
    assert len(runs) == sum(len(work.runs) for work in cut_into_jobs(STUDY))
    assert not runs["loss"].any()
    assert runs["diverged_at"].is_not_null().any()
    for steps, diverged in runs.select("step", "diverged_at").iter_rows():
        last = STUDY.iterations if diverged is None else diverged - 1
        assert steps == [step for step in STUDY.record_steps if step <= last]


def test_processes_give_the_same_bytes_and_count_all_steps(expected, tmp_path):
    steps = []
    directory = StudyDirectory(tmp_path)
    assert run_study(STUDY, directory, 2, steps.append)
    assert steps[-1] == len(cut_into_jobs(STUDY)) * STUDY.iterations
    assert steps == sorted(steps)
    assert complete(STUDY, tmp_path) == expected
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_stops_anywhere_and_damage_give_the_same_bytes(expected, tmp_path):
    directory = StudyDirectory(tmp_path)
    choice = random.Random(0)
    for round_ in range(12):
        for work in cut_into_jobs(STUDY):
            if directory.curves_file(work).exists():
                continue
            answers = itertools.chain([False] * choice.randint(0, 3), itertools.repeat(True))
            job = StudyJob(STUDY, identity_of(STUDY), DATA, work, tmp_path)
            job.train(answers.__next__, lambda cost: None)
        if round_ == 1:
            first = directory.checkpoint_file(cut_into_jobs(STUDY)[0])
            if first.exists():
                first.write_bytes(first.read_bytes()[:200])
            write_whole(tmp_path / "jobs" / ".0001.checkpoint.0a1b2c3d.part", b"half")
            write_whole(tmp_path / "jobs" / ".0001.parquet.0a1b2c3d.part", b"half")
    assert complete(STUDY, tmp_path) == expected


def test_a_checkpoint_of_another_study_is_not_used(expected, tmp_path):
    work = cut_into_jobs(STUDY)[0]
    job = StudyJob(STUDY, "another", DATA, work, tmp_path)
    assert not job.train(lambda: True, lambda cost: None)
    assert StudyDirectory(tmp_path).checkpoint_file(work).exists()
    assert complete(STUDY, tmp_path) == expected


def test_curves_of_an_unfinished_job_are_the_beginning_of_the_finished_ones(tmp_path):
    directory, work = StudyDirectory(tmp_path), cut_into_jobs(STUDY)[1]
    job = StudyJob(STUDY, identity_of(STUDY), DATA, work, tmp_path)
    assert load_curves(STUDY, directory).is_empty()
    assert not job.train(lambda: True, lambda cost: None)
    part = load_curves(STUDY, directory)
    assert part["step"].max() == max(step for step in STUDY.record_steps if step < 50)
    assert job.train(lambda: False, lambda cost: None)
    whole = pl.read_parquet(directory.curves_file(work))
    keys = ["method", "rate", "seed", "step", "loss"]
    assert part.select(keys).join(whole, on=keys, how="anti").is_empty()


def test_a_job_that_fails_stops_the_others_which_keep_what_they_have(tmp_path):
    # This takes minutes unless something stops it.
    endless = dataclasses.replace(STUDY, iterations=10**6)
    (tmp_path / "file").write_text("")
    jobs = [
        StudyJob(
            STUDY, identity_of(STUDY), DATA, cut_into_jobs(STUDY)[0], tmp_path / "file" / "below"
        ),
        StudyJob(endless, identity_of(endless), DATA, cut_into_jobs(endless)[0], tmp_path / "kept"),
    ]
    with pytest.raises(NotADirectoryError):
        pool.run_jobs(jobs, 2)
    kept = checkpoint_of(tmp_path / "kept", cut_into_jobs(endless)[0])
    assert kept is not None
    assert kept["sweep"]["step"] > 0


def test_a_finished_study_trains_nothing(tmp_path, monkeypatch):
    complete(STUDY, tmp_path)
    monkeypatch.setattr(StudyJob, "train", None)
    monkeypatch.setattr(pool, "_run", None)
    steps = []
    for workers in (0, 2):
        assert run_study(STUDY, StudyDirectory(tmp_path), workers, steps.append)
    assert steps == [len(cut_into_jobs(STUDY)) * STUDY.iterations] * 2


def group_is_gone(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def test_results_that_disappear_are_an_error_and_the_same_command_trains_them_again(
    slow_expected, tmp_path
):
    """Somebody moves the folder while the command runs."""
    path, jobs = tmp_path / "run", len(cut_into_jobs(SLOW))

    def move(cost):
        if cost > 0 and (path / "jobs" / "0000.parquet").exists():
            path.rename(tmp_path / f"gone-{cost}")

    with pytest.raises(RuntimeError, match=f"of {jobs} jobs have disappeared: was their folder"):
        run_study(SLOW, StudyDirectory(path), 0, move)
    assert complete(SLOW, path) == slow_expected


@pytest.mark.skipif(os.name != "posix", reason="sends signals to a process group")
def test_ctrl_c_leaves_a_report_and_the_rest_can_be_done_later(slow_expected, tmp_path):
    path = tmp_path / "run"
    process = start_command(path, SLOW, "--workers", "2")
    # The workers are still importing: an interrupt that reached them would leave nothing to report.
    wait_for((path / "run.json").exists)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Interrupted. Finished work is kept" in out
    assert "Traceback" not in out + errors
    assert "Unfinished" in out
    assert "<strong>Unfinished:</strong>" in (path / "report.html").read_text(encoding="utf-8")
    assert not pl.read_parquet(path / "curves.parquet").is_empty()
    assert not StudyDirectory(path).read_manifest()["finished"]
    assert StudyDirectory(path).read_manifest()["identity"] == identity_of(SLOW)
    wait_for(lambda: group_is_gone(process.pid))
    assert complete(SLOW, path) == slow_expected


@pytest.mark.skipif(os.name != "posix", reason="sends signals to a process group")
def test_a_killed_run_is_completed_to_the_same_bytes(slow_expected, tmp_path):
    path = tmp_path / "run"
    choice = random.Random(1)
    for kill in ("parent", "group"):
        process = start_command(path, SLOW, "--workers", "2")
        trained = path / "jobs" / "0000.parquet"
        wait_for(trained.exists if kill == "parent" else (path / "run.json").exists)
        time.sleep(choice.uniform(0, 0.3))
        if kill == "group":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.communicate()
        # Workers whose parent was killed must not stay alive.
        wait_for(lambda: group_is_gone(process.pid))  # noqa: B023
    assert complete(SLOW, path) == slow_expected


@pytest.mark.skipif(os.name != "posix", reason="sends SIGKILL")
def test_killed_between_checkpoints_continues_from_the_last_one(slow_expected, tmp_path):
    path = tmp_path / "run"
    code = (
        "import sys, pathlib, test_jobs as t\n"
        "t.resume._CHECKPOINT_SECONDS = 0\n"  # after every chunk; a real run waits
        "t.complete(t.SLOW, pathlib.Path(sys.argv[1]))"
    )
    here = Path(__file__).parent
    search = os.environ | {"PYTHONPATH": os.pathsep.join([str(here), str(here.parent)])}
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], env=search)
    wait_for(lambda: (path / "jobs" / "0001.checkpoint").exists() or process.poll() is not None)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
    state = checkpoint_of(path, cut_into_jobs(SLOW)[1])
    assert state is not None
    assert 0 < state["sweep"]["step"] < SLOW.iterations
    assert complete(SLOW, path) == slow_expected


def test_studies_can_run_outside_the_main_thread(tmp_path):
    """Only the main thread can handle signals; other threads leave them alone."""
    entered = []

    def enter():
        with ignoring_interrupts():
            entered.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert entered == [signal.default_int_handler]
