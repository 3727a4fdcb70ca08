"""Downloads from a server on this machine, with every fault that it can have."""

import gc
import importlib
import logging
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.uci_files import batches, ethanol_lines, fetch_in_processes, small_ethanol, zipped

from overparam import data
from overparam.data import _known
from overparam.data._text import zip_members
from overparam.data.abalone import ABALONE, parse_abalone
from overparam.data.errors import ContentError
from overparam.data.ethanol import ethanol_from_archive
from overparam.data.registry import _DATASETS
from overparam.data.regression import fingerprint

CONTENT = ethanol_lines(batches())
ROOT = Path(__file__).parents[2]


@pytest.fixture
def small(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(_DATASETS, "ethanol", small_ethanol(f"{server}/whole.zip"))
    return server


def held(cache: Path) -> set[str]:
    return {path.name for path in cache.iterdir()} if cache.exists() else set()


def test_download_fills_the_cache_once(
    small: str,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert data.status()[0].where == "not here"
    with caplog.at_level(logging.INFO):
        problem = data.load("ethanol")
    assert problem.origin == f"download: {cache / 'ethanol.dat'}"
    assert held(cache) == {"ethanol.dat", "ethanol.dat.sha256"}
    assert (cache / "ethanol.dat").read_bytes() == CONTENT
    assert [record for record in caplog.records if record.name == "pooch"] == []
    assert capsys.readouterr() == ("", "")

    def refuse(*_: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(_known, "fetch_content", refuse)
    again = data.load("ethanol")
    assert again.origin == f"cache: {cache / 'ethanol.dat'}"
    assert again.fingerprint == problem.fingerprint
    assert data.fetch("ethanol") == cache / "ethanol.dat"
    state = data.status()[0]
    assert (state.where, state.path, state.verified) == ("cache", cache / "ethanol.dat", True)
    assert data.verify("ethanol") == state


def test_checksum_file_is_what_sha256sum_reads(small: str, cache: Path) -> None:
    data.fetch("ethanol")
    subprocess.run(["sha256sum", "--check", "ethanol.dat.sha256"], cwd=cache, check=True)


def test_force_repairs_a_broken_cache(small: str, cache: Path) -> None:
    data.fetch("ethanol")
    (cache / "ethanol.dat").write_bytes(CONTENT.replace(b"1:", b"1:1", 1))
    with pytest.raises(data.DataError, match="overparam data fetch ethanol --force"):
        data.fetch("ethanol")
    assert data.fetch("ethanol", force=True) == cache / "ethanol.dat"
    assert data.verify("ethanol").verified is True


def test_numbers_unknown_beforehand_are_held_by_the_checksum(
    server: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A download may spell the numbers differently from the known file; its archive decides."""
    unknown = small_ethanol(f"{server}/whole.zip", numbers="unknown", sha256="unknown")
    monkeypatch.setitem(_DATASETS, "ethanol", unknown)
    data.load("ethanol")
    assert data.load("ethanol").origin.startswith("cache")
    (cache / "ethanol.dat").write_bytes(re.sub(rb" 9:\S+", b" 9:0.5", CONTENT, count=1))
    with pytest.raises(data.DataError, match="the numbers are not those of ethanol"):
        data.load("ethanol")


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        ("missing", data.DataUnavailable, r"127\.0\.0\.1:\d+ does not provide .*HTTP status 404"),
        ("dropped", data.DataUnavailable, "does not provide the file"),
        ("silent", data.DataUnavailable, "does not provide the file .*Timeout"),
        ("drip", data.DataUnavailable, r"did not send the file within 0\.5 s"),
        ("page", data.DataError, "the download from .* is wrong: found SHA-256"),
    ],
)
def test_faulty_server_leaves_the_cache_as_it_was(
    fault: str,
    kind: type[data.DataError],
    message: str,
    server: str,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_known, "SILENCE_SECONDS", 0.4)
    monkeypatch.setattr(_known, "TOTAL_SECONDS", 0.5 if fault == "drip" else 20.0)
    monkeypatch.setitem(_DATASETS, "ethanol", small_ethanol(f"{server}/{fault}.zip"))
    with pytest.raises(data.DataError, match=message) as caught:
        data.load("ethanol")
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    assert held(cache) == set()
    cache.mkdir(exist_ok=True)
    (cache / "ethanol.dat").write_bytes(CONTENT)
    with pytest.raises(data.DataError, match=message):
        data.fetch("ethanol", force=True)
    assert (cache / "ethanol.dat").read_bytes() == CONTENT
    del caught
    gc.collect()  # a socket left open causes a warning here, which is an error


def test_no_server(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/none.zip"
    monkeypatch.setitem(_DATASETS, "ethanol", small_ethanol(url))
    with pytest.raises(data.DataUnavailable, match="set OVERPARAM_DATA to a folder") as caught:
        data.load("ethanol")
    assert "\n" not in str(caught.value)
    assert held(cache) == set()


def test_archive_of_another_content_is_refused(
    server: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = small_ethanol(f"{server}/whole.zip", archive_sha256="0" * 64)
    monkeypatch.setitem(_DATASETS, "ethanol", other)
    with pytest.raises(data.DataError, match=f"found SHA-256 .*, expected {'0' * 64}"):
        data.load("ethanol")
    assert held(cache) == set()


def test_without_a_pinned_archive_the_file_itself_decides(
    server: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = small_ethanol(f"{server}/whole.zip", archive_sha256=None)
    monkeypatch.setitem(_DATASETS, "ethanol", right)
    assert data.fetch("ethanol", force=True) == cache / "ethanol.dat"
    (cache / "ethanol.dat").unlink()
    wrong = small_ethanol(f"{server}/whole.zip", archive_sha256=None, sha256="0" * 64)
    monkeypatch.setitem(_DATASETS, "ethanol", wrong)
    with pytest.raises(data.DataError, match="found a file of SHA-256"):
        data.load("ethanol")
    assert held(cache) == {"ethanol.dat.sha256"}


def test_abalone_archive_gives_the_real_file(real_folder: Path) -> None:
    content = (real_folder / "abalone" / "abalone.data").read_bytes()
    archive = zipped({"abalone.names": b"notes", "abalone.data": content}, folder="")
    assert ABALONE.files[0].unpack(archive) == content
    assert fingerprint(*parse_abalone(content)) == ABALONE.files[0].numbers


def test_cache_that_cannot_be_written(
    small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("OVERPARAM_CACHE", str(tmp_path / "file"))
    with pytest.raises(data.DataError, match="set OVERPARAM_CACHE to a folder"):
        data.load("ethanol")


def test_full_disk_leaves_nothing(small: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(data.DataError, match="No space left on device; make room"):
        data.load("ethanol")
    assert held(cache) == set()


def test_kill_while_writing_leaves_no_half_file(
    small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = ["fsync 1", "replace 1", "fsync 2", "replace 2"]
    runs = [(tmp_path / moment, moment) for moment in moments]
    assert fetch_in_processes(f"{small}/whole.zip", runs) == [-signal.SIGKILL] * 4
    for cache, _ in runs:
        monkeypatch.setenv("OVERPARAM_CACHE", str(cache))
        assert any(name.endswith(".part") for name in held(cache))
        assert not (cache / "ethanol.dat").exists()
        assert data.status()[0].where == "not here"
        assert data.load("ethanol").targets.shape == (20, 1)


def test_processes_may_fetch_at_once(small: str, cache: Path) -> None:
    assert fetch_in_processes(f"{small}/whole.zip", [(cache, "never")] * 4) == [0] * 4
    assert held(cache) == {"ethanol.dat", "ethanol.dat.sha256"}
    assert data.verify("ethanol").verified is True


def test_members_are_found_in_folders_and_inner_archives() -> None:
    files = batches()
    expected = ethanol_lines(files)
    assert ethanol_from_archive(zipped(files, folder="")) == expected
    inner = zipped(files, folder="a/b/")
    assert ethanol_from_archive(zipped({"Dataset.zip": inner, "readme.txt": b""})) == expected
    hidden = {"__MACOSX/._batch1.dat": b"not data"} | files
    assert ethanol_from_archive(zipped(hidden)) == expected


def test_broken_archives() -> None:
    files = batches()
    whole = zipped(files)
    with pytest.raises(ContentError, match="not a readable zip file"):
        zip_members(whole[: len(whole) // 2], ["batch1.dat"])
    with pytest.raises(ContentError, match=r"the archive has no file batch3\.dat"):
        ethanol_from_archive(zipped({k: v for k, v in files.items() if k != "batch3.dat"}))
    broken = files | {"batch7.dat": files["batch7.dat"].replace(b" 5:", b" 6:", 1)}
    with pytest.raises(ContentError, match=r"batch7\.dat, line 1: found '6:.* expected '5:'"):
        ethanol_from_archive(zipped(broken))


def test_works_with_torch_alone_and_names_the_extra(real_folder: Path) -> None:
    script = """
import sys, warnings
for name in ("numpy", "sklearn", "pooch", "requests"):
    sys.modules[name] = None
warnings.simplefilter("ignore")
from overparam import data
assert data.standardize(data.load("ethanol")).targets.shape == (2565, 1)
states = {state.name: state for state in data.status()}
assert states["ethanol"].verified is True and states["digits"].where == "not here"
try:
    data.load("diabetes")
except ModuleNotFoundError as error:
    assert 'pip install "overparam[lab]"' in str(error), error
else:
    raise AssertionError("loaded without scikit-learn")
"""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "src"),
        "OVERPARAM_DATA": str(real_folder),
    }
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)


def test_cache_folder_without_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OVERPARAM_CACHE")
    pooch = importlib.import_module("pooch")
    assert _known.cache_folder() == Path(pooch.os_cache("overparam"))
