"""The jobs of a study on a real dask cluster of processes, and in parts without any engine."""

import os
import re
import signal
import threading
from pathlib import Path

import pytest
from support.study_cases import (
    DATA,
    SLOW,
    arguments_of,
    complete,
    identity_of,
    start_command,
    wait_for,
)

from overparam.lab import cluster as cluster_module
from overparam.lab.cli import main
from overparam.lab.cluster import Part, claimed, workers_of
from overparam.lab.executor import run_jobs
from overparam.lab.jobs import StudyJob, study_jobs
from overparam.lab.store import StudyDirectory
from overparam.lab.study import cut_into_jobs

distributed = pytest.importorskip("distributed")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return complete(SLOW, tmp_path_factory.mktemp("expected"))


@pytest.fixture(scope="module")
def cluster():
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=60
    ) as cluster:
        yield cluster


def _jobs(path: Path) -> list[StudyJob]:
    return study_jobs(SLOW, identity_of(SLOW), DATA, StudyDirectory(path))


def _run(cluster, path: Path, on_progress=lambda cost: None) -> bool:
    with workers_of(cluster.scheduler_address, 1) as (_, executor):
        return run_jobs(_jobs(path), executor, on_progress, folder=path / "running")


def test_a_cluster_gives_the_same_bytes_and_counts_all_work(cluster, expected, tmp_path):
    costs: list[float] = []
    assert _run(cluster, tmp_path, costs.append)
    assert costs == sorted(costs)
    assert costs[-1] == sum(job.cost for job in _jobs(tmp_path))
    assert not (tmp_path / "running").exists()
    assert complete(SLOW, tmp_path) == expected


def test_a_comparison_on_a_cluster_is_that_of_this_process(cluster, tmp_path):
    options = ["compare", "sparse-regression", "--methods", "sgd", "sgd+rule:2", "--no-controls"]
    options += ["--steps", "6", "--trials", "3", "--seeds", "2", "--output", str(tmp_path)]
    where = {"far": ("--scheduler", cluster.scheduler_address), "here": ("--workers", "0")}
    for name, more in where.items():
        assert main([*options, "--name", name, *more]) == 0
    trials = [
        {file.name: file.read_bytes() for file in (tmp_path / name / "trials").iterdir()}
        for name in where
    ]
    assert trials[0] == trials[1] != {}


def test_a_worker_that_is_killed_is_replaced(cluster, expected, tmp_path):
    with distributed.Client(cluster, set_as_default=False) as client:
        pids = [next(iter(client.run(os.getpid).values()))]

    def kill(cost: float) -> None:
        if cost > 0 and pids:
            os.kill(pids.pop(), signal.SIGKILL)

    assert _run(cluster, tmp_path, kill)
    assert not pids
    assert complete(SLOW, tmp_path) == expected


def test_an_interrupt_saves_and_the_same_command_goes_on(cluster, expected, tmp_path):
    interrupts = [KeyboardInterrupt()]

    def interrupt(cost: float) -> None:
        if cost > 0 and interrupts:
            raise interrupts.pop()

    assert not _run(cluster, tmp_path, interrupt)
    assert list((tmp_path / "jobs").iterdir())
    assert not all(job.finished() for job in _jobs(tmp_path))
    assert _run(cluster, tmp_path)
    assert complete(SLOW, tmp_path) == expected


@pytest.mark.skipif(os.name != "posix", reason="sends signals to a process group")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_command_that_is_stopped_goes_on_to_the_same_bytes(cluster, expected, tmp_path, how):
    """The command itself, with its workers elsewhere: ctrl-C, or killed."""
    path, where = tmp_path / "run", ("--scheduler", cluster.scheduler_address)
    process = start_command(path, SLOW, *where)
    wait_for(lambda: list(path.glob("jobs/*.parquet")) or process.poll() is not None)
    os.killpg(process.pid, how)
    out, errors = process.communicate(timeout=60)
    assert "Traceback" not in out + errors
    assert not StudyDirectory(path).read_manifest()["finished"]
    if how == signal.SIGINT:
        assert process.returncode == 130, errors
        assert "Interrupted. Finished work is kept" in out
        assert not (path / "running").exists()
    else:
        assert process.returncode == -signal.SIGKILL, "it ended before it was killed"
    assert main(arguments_of(path, SLOW, *where)) == 0
    files = [*sorted(path.glob("jobs/*.parquet")), path / "curves.parquet"]
    assert [file.read_bytes() for file in files] == expected
    assert StudyDirectory(path).read_manifest()["finished"]


def test_a_scheduler_that_is_gone_is_an_error_that_says_what_to_do(expected, tmp_path):
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address=":0", silence_logs=60
    ) as cluster:
        closing: list[threading.Thread] = []

        def close(cost: float) -> None:
            if cost > 0 and not closing:
                closing.append(threading.Thread(target=cluster.close))
                closing[0].start()

        with pytest.raises(RuntimeError, match=r"the scheduler is gone\. Finished jobs"):
            _run(cluster, tmp_path, close)
        closing[0].join()
    assert complete(SLOW, tmp_path) == expected


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(cluster_module, "_ANSWER_SECONDS", 0.5)


def test_what_is_wrong_with_a_scheduler_is_said(impatient):
    with (
        pytest.raises(ValueError, match="no dask scheduler answers at 'tcp"),
        workers_of("tcp://127.0.0.1:9", 1),
    ):
        pass
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=":0", silence_logs=60) as cluster,
        pytest.raises(ValueError, match="has no workers; start some: dask worker"),
        workers_of(cluster.scheduler_address, 1),
    ):
        pass


@pytest.mark.parametrize("count", [1, 2, 5])
def test_parts_share_out_all_jobs(count):
    jobs = _jobs(Path("unused"))
    parts = [Part(number + 1, count).jobs(jobs) for number in range(count)]
    assert sorted(job.work.number for part in parts for job in part) == [
        work.number for work in cut_into_jobs(SLOW)
    ]


@pytest.mark.parametrize("text", ["3", "0/2", "3/2", "a/b", "1/", "-1/2", "1.5/2"])
def test_what_is_not_a_part_is_an_error(text):
    with pytest.raises(ValueError, match=f"part is '{text}'; "):
        Part.of(text)
    assert Part.of("2/3") == Part(2, 3)


def test_only_parts_may_work_beside_another(tmp_path):
    with claimed(tmp_path):
        for part in (None, Part(1, 2)):
            with pytest.raises(ValueError, match="is at work in"), claimed(tmp_path, part):
                pass
    with claimed(tmp_path, Part(1, 2)), claimed(tmp_path, Part(2, 2)):
        with (
            pytest.raises(ValueError, match=f"process {os.getpid()} on"),
            claimed(tmp_path, Part(2, 2)),
        ):
            pass
        with pytest.raises(ValueError, match="another command is at work in"), claimed(tmp_path):
            pass
    with claimed(tmp_path):
        pass


def test_parts_of_a_command_write_one_report(command, tmp_path):
    """Each part trains its own; the last to end writes the report of one run, but for its time."""
    settings = ["--data", "diabetes", "--iterations", "100", "--methods", "gd", "rule:2"]
    settings += ["--seeds", "0", "--runs-per-job", "4", "--output", str(tmp_path)]
    status, out, _ = command("run", "--name", "parts", "--part", "1/2", *settings)
    assert status == 0
    assert "Part 1 of 2 is done; other parts have" in " ".join(out.split())
    assert not (tmp_path / "parts" / "report.html").exists()
    status, out, _ = command("run", "--name", "parts", "--part", "2/2", *settings)
    assert status == 0
    assert "Report:" in out
    assert command("run", "--name", "whole", *settings)[0] == 0
    curves = [(tmp_path / name / "curves.parquet").read_bytes() for name in ("parts", "whole")]
    assert curves[0] == curves[1]
    reports = [(tmp_path / name / "report.html").read_text("utf-8") for name in ("parts", "whole")]
    times = [re.findall(r"\d+ s on \d+ cores", report) for report in reports]
    assert [len(each) for each in times] == [1, 1]
    assert reports[0].replace(times[0][0], times[1][0]) == reports[1]
    assert StudyDirectory(tmp_path / "parts").read_manifest()["finished"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--part", "1/2", "--scheduler", "tcp://a:1"], "leave out one of the two"),
        (["--part", "1/2", "--overwrite"], "would delete what other parts have stored"),
        (["--part", "3/2"], "part is '3/2'"),
        (["--scheduler", "tcp://127.0.0.1:9"], "no dask scheduler answers"),
    ],
)
def test_options_that_cannot_be_used(command, impatient, options, words, tmp_path):
    status, _, errors = command("run", "--data", "diabetes", "--output", str(tmp_path), *options)
    assert status == 2
    assert words in " ".join(errors.split())


def test_a_folder_at_work_is_refused(command, tmp_path):
    with claimed(tmp_path / "study"):
        status, _, errors = command("run", "--data", "diabetes", "--output", str(tmp_path))
    assert status == 2
    assert f"process {os.getpid()} on" in errors
    assert "is at work in" in errors
