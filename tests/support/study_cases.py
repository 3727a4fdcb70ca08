"""Small studies that are interrupted, and what they store in the end."""

import subprocess
import sys
import time

from overparam.data import load, standardize
from overparam.lab.executor import run_jobs
from overparam.lab.jobs import load_curves, study_jobs
from overparam.lab.store import StudyDirectory, read_state, write_table
from overparam.lab.study import Study, cut_into_jobs

STUDY = Study(
    "diabetes", methods=("gd", "rule:2.5", "adam", "adam+factors:2"), iterations=400, points=40,
    lowest_rate=1e-3, highest_rate=1e3, rates_per_decade=1, seeds=(0, 1), runs_per_job=10,
)  # fmt: skip
# Jobs of about a second each, which is long enough to be killed.
SLOW = Study(
    "diabetes", methods=("gd", "adam"), iterations=2_500, points=40, lowest_rate=1e-4,
    highest_rate=1e-1, rates_per_decade=2, seeds=(0,), runs_per_job=4,
)  # fmt: skip
DATA = standardize(load("diabetes"))


def identity_of(study):
    return study.identity(load("diabetes").fingerprint)


def run_study(study, directory, workers, on_progress=lambda steps: None):
    jobs = study_jobs(study, identity_of(study), DATA, directory)
    return run_jobs(jobs, workers, on_progress)


def checkpoint_of(path, work):
    return read_state(StudyDirectory(path).checkpoint_file(work), {"sweep"})


def complete(study, path):
    """Train what is missing; returns the stored bytes of every job and of all curves."""
    directory = StudyDirectory(path)
    assert run_study(study, directory, workers=0)
    write_table(path / "curves.parquet", load_curves(study, directory))
    assert not list((path / "jobs").glob("*.checkpoint"))
    files = [directory.curves_file(work) for work in cut_into_jobs(study)]
    return [file.read_bytes() for file in (*files, path / "curves.parquet")]


def arguments_of(path, study, *where):
    """Of `overparam`, to run a study."""
    return [
        "run", "--output", str(path.parent), "--name", path.name, "--data", study.data,
        "--methods", *study.methods, "--iterations", str(study.iterations), "--points",
        str(study.points), "--seeds", *map(str, study.seeds), "--runs-per-job",
        str(study.runs_per_job), "--rates-per-decade", str(study.rates_per_decade),
        "--lowest-rate", str(study.lowest_rate), "--highest-rate", str(study.highest_rate), *where,
    ]  # fmt: skip


def start_command(path, study, *where):
    """A real `overparam run` in its own process group, as in a terminal."""
    command = [sys.executable, "-m", "overparam", *arguments_of(path, study, *where)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_for(exists, seconds=60.0):
    end = time.monotonic() + seconds
    while not exists():
        assert time.monotonic() < end, "the command did not get that far"
        time.sleep(0.01)
