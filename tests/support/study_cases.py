"""Small studies that are interrupted, and what they store in the end."""

from overparam.data import load, standardize
from overparam.lab.executor import run_jobs
from overparam.lab.jobs import load_curves, shard_jobs
from overparam.lab.store import StudyDirectory, read_state, write_table
from overparam.lab.study import Study, shards

STUDY = Study(
    "diabetes", methods=("gd", "rule:2.5", "adam", "adam+factors:2"), iterations=400, points=40,
    lowest_rate=1e-3, highest_rate=1e3, rates_per_decade=1, seeds=(0, 1), shard_runs=10,
)  # fmt: skip
# Jobs of about a second each, which is long enough to be killed.
SLOW = Study(
    "diabetes", methods=("gd", "adam"), iterations=2_500, points=40, lowest_rate=1e-4,
    highest_rate=1e-1, rates_per_decade=2, seeds=(0,), shard_runs=4,
)  # fmt: skip
DATA = standardize(load("diabetes"))


def identity_of(study):
    return study.identity(load("diabetes").fingerprint)


def run_study(study, directory, workers, on_progress=lambda steps: None):
    jobs = shard_jobs(study, identity_of(study), DATA, directory)
    return run_jobs(jobs, workers, on_progress)


def checkpoint_of(path, shard):
    return read_state(StudyDirectory(path).checkpoint_file(shard), {"sweep"})


def complete(study, path):
    """Train what is missing; returns the stored bytes of every shard and of all curves."""
    directory = StudyDirectory(path)
    assert run_study(study, directory, workers=0)
    write_table(path / "curves.parquet", load_curves(study, directory))
    assert not list((path / "shards").glob("*.checkpoint"))
    files = [directory.shard_file(shard) for shard in shards(study)]
    return [file.read_bytes() for file in (*files, path / "curves.parquet")]
