"""MNIST: small made-up files in its format, with every fault they can have, and the real ones."""

import dataclasses
import gzip
import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from overparam import data
from overparam.data._dataset import ImageDataset
from overparam.data.errors import ContentError
from overparam.data.mnist import MIRRORS, MNIST, parse_idx
from overparam.data.registry import _DATASETS, _IMAGES

NAMES = [Path(file.path).name for file in MNIST.files]


def idx(array: np.ndarray) -> bytes:
    """An IDX file, written by numpy."""
    header = np.array([0x0800 + array.ndim, *array.shape], dtype=">u4")
    return header.tobytes() + array.astype(np.uint8).tobytes()


DRAW = np.random.default_rng(0)
ARRAYS = [
    DRAW.integers(0, 256, (12, 4, 4)),
    DRAW.integers(0, 10, 12),
    DRAW.integers(0, 256, (5, 4, 4)),
    DRAW.integers(0, 10, 5),
]
CONTENTS = [idx(array) for array in ARRAYS]
PACKED = dict(zip(NAMES, map(gzip.compress, CONTENTS), strict=True))
FILES = [
    dataclasses.replace(file, shape=array.shape, sha256=hashlib.sha256(content).hexdigest())
    for file, array, content in zip(MNIST.files, ARRAYS, CONTENTS, strict=True)
]
FIRST = CONTENTS[0]


def small() -> ImageDataset:
    return dataclasses.replace(MNIST, rows=17, features=16, files=tuple(FILES))


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "real_folder" not in request.fixturenames:
        monkeypatch.setitem(_IMAGES, "mnist", small())
        monkeypatch.setitem(_DATASETS, "mnist", _IMAGES["mnist"])


def put(folder: Path, **changes: bytes) -> Path:
    """Write the files below a folder, some of them changed by the number of the file."""
    (folder / "mnist").mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(NAMES):
        (folder / "mnist" / name).write_bytes(changes.get(f"file{number}", PACKED[name]))
    return folder / "mnist"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OVERPARAM_DATA", str(tmp_path / "folder"))
    put(tmp_path / "folder")
    return tmp_path / "folder"


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The files on the servers, by address; no other address answers."""
    held = {MIRRORS[0] + name: content for name, content in PACKED.items()}

    def fetch(url: str) -> bytes:
        if url not in held:
            raise ConnectionError(f"{url} does not answer")
        return held[url]

    monkeypatch.setattr("overparam.data._known.fetch_content", fetch)
    return held


def state() -> data.DatasetStatus:
    return next(state for state in data.status() if state.name == "mnist")


def test_a_folder_is_read_as_numpy_wrote_it(folder: Path) -> None:
    images = data.load_images("mnist", download=False)
    parts = (images.images, images.labels, images.test_images, images.test_labels)
    for part, array in zip(parts, ARRAYS, strict=True):
        np.testing.assert_array_equal(part.numpy(), array)
    assert (images.labels.dtype, images.images.dtype) == (torch.int64, torch.uint8)
    assert images.origin == f"folder: {folder / 'mnist'}"
    assert (state().where, state().path, state().verified) == ("folder", folder / "mnist", True)
    assert data.verify("mnist") == state()
    assert data.fetch("mnist") == folder / "mnist"


def test_another_compression_of_a_file_is_right(folder: Path) -> None:
    before = data.load_images("mnist").fingerprint
    other = gzip.compress(FIRST, compresslevel=1, mtime=7)
    assert other != PACKED[NAMES[0]]
    put(folder, file0=other)
    assert data.load_images("mnist").fingerprint == before


GZIP = PACKED[NAMES[0]]
BROKEN = {
    "empty": (b"", "found 0 bytes of something else, expected a gzip file"),
    "not compressed": (FIRST, r"found \d+ bytes of something else, expected a gzip file"),
    "web page": (b"<!doctype html>", "found a web page, expected a gzip file"),
    "zip": (b"PK\x03\x04...", "found a zip file"),
    "cut": (GZIP[:-20], r"gzip file of \d+ bytes is broken \(.*end-of-stream"),
    "bad checksum": (GZIP[:-8] + bytes(8), "is broken .*CRC"),
    "bad stream": (GZIP[:12] + bytes(30) + GZIP[42:], "is broken"),
    "no header": (gzip.compress(b""), "found magic number 0x, expected 0x00000803"),
    "labels": (gzip.compress(CONTENTS[1]), "magic number 0x00000801, expected .* 3 dimensions"),
    "float entries": (gzip.compress(b"\0\0\x0d" + FIRST[3:]), "magic number 0x00000d03"),
    "cut header": (gzip.compress(FIRST[:9]), "found 9 bytes, expected 208"),
    "another count": (gzip.compress(CONTENTS[2]), "found 5 x 4 x 4 entries, expected 12 x 4 x 4"),
    "fewer bytes": (gzip.compress(FIRST[:-1]), "found 207 bytes, expected 208"),
    "more bytes": (gzip.compress(FIRST + bytes(50_000)), "found more bytes, expected 208"),
    "another image": (gzip.compress(FIRST[:-1] + b"\x07"), "well formed, but not the expected"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_named_with_the_remedy(case: str, folder: Path, cache: Path) -> None:
    content, message = BROKEN[case]
    put(folder, file0=content)
    with pytest.raises(data.DataError, match=message) as caught:
        data.load_images("mnist")
    text = str(caught.value)
    assert text.startswith(f"{folder / 'mnist' / NAMES[0]}: ")
    assert "Replace it with the original" in text
    assert "\n" not in text
    assert (state().verified, state().problem) == (False, text)


@pytest.mark.parametrize("number", range(4))
def test_each_file_is_checked(number: int, folder: Path) -> None:
    put(folder, **{f"file{number}": gzip.compress(CONTENTS[number][:-1])})
    with pytest.raises(data.DataError, match=NAMES[number]):
        data.verify("mnist")


@settings(
    deadline=None,
    max_examples=200,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(place=st.integers(0, len(GZIP) - 1), flip=st.integers(1, 255), cut=st.booleans())
def test_random_damage_is_never_silently_wrong(
    place: int, flip: int, cut: bool, folder: Path
) -> None:
    damaged = bytearray(GZIP)
    if cut:
        del damaged[place:]
    else:
        damaged[place] ^= flip
    put(folder, file0=bytes(damaged))
    try:
        found = data.load_images("mnist").images.numpy()
    except data.DataError as error:
        found = str(error)
    if isinstance(found, str):
        assert NAMES[0] in found
    else:  # a byte of the header without meaning, such as the time
        np.testing.assert_array_equal(found, ARRAYS[0])


def test_a_folder_that_lacks_a_file(folder: Path) -> None:
    (folder / "mnist" / NAMES[2]).unlink()
    for call in (data.load_images, data.fetch, data.verify):
        with pytest.raises(data.DataError, match=f"has no file mnist/{re.escape(NAMES[2])}"):
            call("mnist")
    assert (state().where, state().verified) == ("not here", None)


def test_a_download_fills_the_cache_once(
    servers: dict[str, bytes], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert state().where == "not here"
    images = data.load_images("mnist")
    assert images.origin == f"download: {cache / 'mnist'}"
    assert {path.name: path.read_bytes() for path in (cache / "mnist").iterdir()} == PACKED
    servers.clear()
    again = data.load_images("mnist")
    assert again.origin == f"cache: {cache / 'mnist'}"
    assert again.fingerprint == images.fingerprint
    assert (state().where, state().verified) == ("cache", True)


def test_a_broken_cache_is_repaired_by_force(servers: dict[str, bytes], cache: Path) -> None:
    data.fetch("mnist")
    (cache / "mnist" / NAMES[1]).write_bytes(b"half")
    with pytest.raises(data.DataError, match="Run `overparam data fetch mnist --force`"):
        data.fetch("mnist")
    assert data.fetch("mnist", force=True) == cache / "mnist"
    assert data.verify("mnist").verified is True


def test_what_is_there_already_is_not_fetched_again(servers: dict[str, bytes], cache: Path) -> None:
    lost = servers.pop(MIRRORS[0] + NAMES[3])
    with pytest.raises(data.DataUnavailable, match=NAMES[3]):
        data.fetch("mnist")
    assert len(list((cache / "mnist").iterdir())) == 3
    assert state().where == "not here"
    servers.clear()
    servers[MIRRORS[0] + NAMES[3]] = lost
    assert data.load_images("mnist").origin.startswith("download")


def test_the_next_server_is_asked(servers: dict[str, bytes]) -> None:
    url = MIRRORS[0] + NAMES[0]
    servers[MIRRORS[2] + NAMES[0]] = servers.pop(url)
    servers[MIRRORS[1] + NAMES[0]] = b"<html>moved</html>"
    assert len(data.load_images("mnist").images) == 12


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (dict.clear, data.DataUnavailable, "does not answer.*set OVERPARAM_DATA to a folder"),
        (
            lambda held: held.update(dict.fromkeys(held, b"<html>")),
            data.DataError,
            "train-images-idx3-ubyte.gz is wrong: found a web page",
        ),
    ],
)
def test_no_server_has_it(
    change: Callable[[dict[str, bytes]], None],
    kind: type[data.DataError],
    message: str,
    servers: dict[str, bytes],
    cache: Path,
) -> None:
    change(servers)
    with pytest.raises(data.DataError, match=message) as caught:
        data.load_images("mnist")
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    assert not (cache / "mnist").exists()


def test_without_permission_the_network_is_not_used(servers: dict[str, bytes]) -> None:
    with pytest.raises(data.DataUnavailable, match="overparam data fetch mnist"):
        data.load_images("mnist", download=False)


def test_a_cache_that_cannot_be_written(
    servers: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("OVERPARAM_CACHE", str(tmp_path / "file"))
    with pytest.raises(data.DataError, match="set OVERPARAM_CACHE to a folder"):
        data.load_images("mnist")


@settings(deadline=None, max_examples=60, derandomize=True)
@given(shape=st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple), seed=st.integers(0, 9))
def test_idx_of_any_shape(shape: tuple[int, ...], seed: int) -> None:
    array = np.random.default_rng(seed).integers(0, 256, shape)
    np.testing.assert_array_equal(parse_idx(idx(array), shape).numpy(), array)
    with pytest.raises(ContentError, match="entries, expected"):
        parse_idx(idx(array), (shape[0] + 1, *shape[1:]))


def test_images_and_regression_data_are_kept_apart(folder: Path) -> None:
    with pytest.raises(data.DataError, match=r"load_images\('mnist'\), or use one of ethanol, aba"):
        data.load("mnist")
    with pytest.raises(data.DataError, match=r"ethanol is regression data .* one of mnist, digits"):
        data.load_images("ethanol")
    with pytest.raises(data.DataError, match="Did you mean 'mnist'"):
        data.load_images("Mnist")
    assert set(data.regression_names()) | set(data.image_names()) == set(data.names())


def test_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    expected = load_digits()
    digits = data.load_images("digits")
    images = torch.cat([digits.images, digits.test_images]).numpy()
    np.testing.assert_array_equal(np.round(images.astype(float) * 16 / 255), expected.images)
    labels = torch.cat([digits.labels, digits.test_labels]).numpy()
    np.testing.assert_array_equal(labels, expected.target)
    assert (len(digits.images), len(digits.test_images)) == (1500, 297)
    assert torch.equal(digits.test_labels.unique(), torch.arange(10))


def test_bad_images_are_errors() -> None:
    good = data.load_images("digits")

    def changed(**parts: torch.Tensor) -> None:
        dataclasses.replace(good, **parts)

    with pytest.raises(data.DataError, match=r"digits: images are torch\.float32"):
        changed(images=good.images.float())
    with pytest.raises(data.DataError, match="non-empty uint8"):
        changed(test_images=good.test_images[:0])
    with pytest.raises(data.DataError, match=r"labels are torch\.int64 of shape \(5,\) for 1500"):
        changed(labels=good.labels[:5])
    with pytest.raises(data.DataError, match=r"labels go from 1 to 10; they must lie in 0\.\.9"):
        changed(labels=good.labels + 1)
    with pytest.raises(data.DataError, match=r"\(8, 8\) and those to test on \(4, 8\)"):
        changed(test_images=good.test_images[:, :4])
    flipped = dataclasses.replace(good, images=good.images.flip(0))
    assert flipped.fingerprint != good.fingerprint


def test_real_mnist(real_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERPARAM_DATA", str(real_folder))
    mnist = data.load_images("mnist", download=False)
    assert (len(mnist.images), len(mnist.test_images)) == (60_000, 10_000)
    # Published: 6,742 ones and 5,421 fives to train on, 980 zeros to test on; mean grey 0.1307.
    counts = mnist.labels.bincount()
    assert (counts[1].item(), counts[5].item()) == (6742, 5421)
    assert mnist.test_labels.bincount()[0] == 980
    assert mnist.images.double().mean().item() / 255 == pytest.approx(0.1307, abs=5e-5)
    assert mnist.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
