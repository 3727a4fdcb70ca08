"""Small studies that are interrupted, and what they store in the end."""

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
