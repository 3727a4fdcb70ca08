import json
import os

import polars as pl
import pytest
import torch

from overparam._files import write_whole
from overparam.lab.store import StudyDirectory, read_state, read_table, write_state, write_table
from overparam.lab.study import Work

WORK = Work(3, ())
KEYS = {"identity", "sweep"}


@pytest.fixture
def directory(tmp_path):
    return StudyDirectory(tmp_path / "runs" / "first")


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_whole(path, b"old")

    def fail(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]  # noqa: PTH208


def test_tables_come_back_and_the_same_table_gives_the_same_bytes(directory):
    table = pl.DataFrame({"method": ["gd"] * 500, "loss": [0.1] * 500, "at": [None] * 500})
    path = directory.curves_file(WORK)
    write_table(path, table)
    first = path.read_bytes()
    write_table(path, table.clone())
    assert path.read_bytes() == first
    assert read_table(directory.curves_file(WORK)).equals(table)


def test_checkpoints_come_back(directory):
    assert read_state(directory.checkpoint_file(WORK), KEYS) is None
    state = {"identity": "x", "sweep": {"losses": torch.tensor([1.0, torch.nan])}}
    write_state(directory.checkpoint_file(WORK), state)
    found = read_state(directory.checkpoint_file(WORK), KEYS)
    assert found is not None
    assert found["identity"] == "x"
    assert torch.equal(found["sweep"]["losses"].isnan(), torch.tensor([False, True]))


def test_a_checkpoint_of_a_gpu_comes_back_without_one(directory, monkeypatch):
    # The tag that torch stores for a tensor on a GPU.
    monkeypatch.setattr("torch.serialization.location_tag", lambda storage: "cuda:0")
    state = {"identity": "a", "sweep": {"weight": torch.arange(3.0)}}
    write_state(directory.checkpoint_file(WORK), state)
    found = read_state(directory.checkpoint_file(WORK), KEYS)["sweep"]["weight"]
    assert found.device.type == "cpu"
    assert torch.equal(found, torch.arange(3.0))


@pytest.mark.parametrize("keep", [0, 1, 100, -50])
def test_a_damaged_checkpoint_counts_as_none(directory, keep):
    write_state(
        directory.checkpoint_file(WORK), {"identity": "x", "sweep": {"losses": torch.ones(300)}}
    )
    path = directory.checkpoint_file(WORK)
    path.write_bytes(path.read_bytes()[:keep])
    assert read_state(directory.checkpoint_file(WORK), KEYS) is None


@pytest.mark.parametrize("content", [b"\x00" * 500, b"text", b"PK\x03\x04"])
def test_other_files_are_not_taken_for_checkpoints(directory, content):
    write_whole(directory.checkpoint_file(WORK), content)
    assert read_state(directory.checkpoint_file(WORK), KEYS) is None


def test_a_checkpoint_without_its_parts_counts_as_none(directory):
    write_state(directory.checkpoint_file(WORK), {"sweep": {}})
    assert read_state(directory.checkpoint_file(WORK), KEYS) is None


@pytest.mark.parametrize("keep", [0, 3, 60, -20])
def test_a_damaged_job_is_named(directory, keep):
    write_table(directory.curves_file(WORK), pl.DataFrame({"loss": [0.1] * 500}))
    path = directory.curves_file(WORK)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"0003\.parquet is damaged .*; delete it"):
        read_table(directory.curves_file(WORK))


def test_a_missing_study_names_the_command_that_starts_one(directory):
    with pytest.raises(FileNotFoundError, match=r"overparam run --output .* --name first$"):
        directory.read_manifest()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"null", b"[]", b"3", b'"study"'])
def test_a_damaged_manifest_is_named(directory, content):
    write_whole(directory.manifest, content)
    with pytest.raises(ValueError, match=r"run\.json is damaged .*; delete it"):
        directory.read_manifest()


def test_a_manifest_of_another_version(directory):
    directory.write_manifest({"study": {}})
    with pytest.raises(ValueError, match=r"lacks identity, .* another version"):
        directory.read_manifest()


def test_the_manifest_is_readable_json(directory):
    content = dict.fromkeys(
        ("study", "identity", "data", "optimum", "finished", "wall_seconds", "cpus", "versions"), 1
    )
    directory.write_manifest(content)
    assert directory.read_manifest() == content
    assert json.loads(directory.manifest.read_text()) == content


def test_clear_curves_deletes_leftovers_too(directory):
    for name in ("0000.parquet", "0001.checkpoint", ".0001.checkpoint.0a1b2c3d.part"):
        write_whole(directory.path / "jobs" / name, b"x")
    write_whole(directory.path / "report.html", b"x")
    directory.clear_curves()
    assert not list((directory.path / "jobs").iterdir())
    assert (directory.path / "report.html").exists()
    StudyDirectory(directory.path / "absent").clear_curves()


def test_clearing_leaves_files_of_the_user(tmp_path):
    directory = StudyDirectory(tmp_path)
    write_whole(directory.curves_file(WORK), b"ours")
    write_whole(directory.checkpoint_file(WORK), b"ours")
    write_whole(tmp_path / "jobs" / ".0001.parquet.0a1b2c3d.part", b"ours, half")
    write_whole(tmp_path / "jobs" / "notes.parquet", b"the user's")
    write_whole(tmp_path / "jobs" / "user.txt", b"the user's")
    directory.clear_curves()
    left = sorted(path.name for path in (tmp_path / "jobs").iterdir())
    assert left == ["notes.parquet", "user.txt"]


def test_clearing_a_missing_directory_is_allowed(tmp_path):
    StudyDirectory(tmp_path / "nothing").clear_curves()
