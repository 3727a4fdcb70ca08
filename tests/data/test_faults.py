"""Broken and wrong files: each error names file, line and remedy; nothing is silently wrong."""

import gzip
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.uci_files import batches, ethanol_lines, small_ethanol

from overparam import data
from overparam.data._text import finite_number
from overparam.data.abalone import parse_abalone
from overparam.data.errors import ContentError
from overparam.data.ethanol import ETHANOL
from overparam.data.registry import _DATASETS

SMALL = small_ethanol()
NUMBERS, SHA256 = SMALL.files[0].numbers, SMALL.files[0].sha256
CONTENT = ethanol_lines(batches())
LINES = CONTENT.splitlines(keepends=True)


def put(folder: Path, content: bytes) -> Path:
    path = folder / "gas_ethanol" / "ethanol.dat"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(_DATASETS, "ethanol", SMALL)
    monkeypatch.setenv("OVERPARAM_DATA", str(tmp_path / "folder"))
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


def edit(line: int, change: Callable[[bytes], bytes]) -> bytes:
    return b"".join(
        change(text) if number == line else text for number, text in enumerate(LINES, start=1)
    )


def field(line: int, index: int, new: bytes) -> bytes:
    return edit(line, lambda text: re.sub(rb" %d:\S+" % index, b" " + new, text))


BROKEN = {
    "empty": (b"", "line 1: found an empty file"),
    "blank lines only": (b"\n \r\n\n", "line 1: found an empty file"),
    "gzip": (gzip.compress(CONTENT), "line 1: found a gzip file"),
    "zip": (b"PK\x03\x04 and so on", "line 1: found a zip file"),
    "web page": (b"\n<!doctype html><title>404</title>", "line 1: found a web page"),
    "binary": (bytes(range(256)) * 9, "line 2: found byte 0x80, expected ASCII"),
    "zero bytes": (bytes(500), "line 1: found .* expected 'class;concentration'"),
    "another file": (b"M,0.455,0.365,15\n", "line 1: found 'M,0.455,0.365,15', expected 'class"),
    "cut in a line": (CONTENT[:-900], r"line 20: found \d+ features, expected 128"),
    "too few rows": (b"".join(LINES[:-1]), "line 19: found the last of 19 lines, expected 20"),
    "blank line within": (edit(5, lambda text: b" \n" + text), "line 5: found ''"),
    "no such class": (edit(3, lambda text: b"7" + text[1:]), "line 3: found '7;.* class of 1 to 6"),
    "class of two digits": (edit(3, lambda text: b"1" + text), "line 3: found '11;"),
    "another gas": (edit(4, lambda text: b"2" + text[1:]), "line 4: found gas class 2, expected"),
    "no concentration": (edit(2, lambda _: b"1; 1:0\n"), "line 2: found '1;'"),
    "repetition": (edit(9, lambda _: LINES[6]), "line 9: found a repetition of line 7"),
    "one line more": (CONTENT + LINES[0], "line 21: found a repetition of line 1"),
    "too many rows": (
        CONTENT + LINES[0].replace(b" 1:", b" 1:9"),
        "line 21: found the last of 21 lines, expected 20 lines",
    ),
    "nan": (field(6, 17, b"17:nan"), "line 6: found '17:nan', expected '17:' and a finite number"),
    "infinity": (field(6, 17, b"17:-inf"), "line 6: found '17:-inf'"),
    "overflow": (field(6, 17, b"17:1e999"), "line 6: found '17:1e999'"),
    "underscore": (field(6, 17, b"17:1_0"), "line 6: found '17:1_0'"),
    "wrong index": (field(6, 17, b"18:1.0"), "line 6: found '18:1.0', expected '17:'"),
    "no index": (field(6, 17, b"x"), "line 6: found 'x', expected '17:'"),
    "bare number": (field(6, 17, b"1.0"), "line 6: found '1.0', expected '17:'"),
    "one feature less": (field(6, 17, b""), "line 6: found 127 features, expected 128"),
    "one feature more": (field(6, 128, b"128:1 129:1"), "line 6: found 129 features"),
    "another label": (edit(1, lambda text: b"1;5" + text[2:]), "found a label of mean"),
    "label off by 1e-6": (
        edit(1, lambda text: re.sub(rb"(\S)(?= 1:)", rb"\g<1>01", text, count=1)),
        "found a label of mean .*, expected",
    ),
    "another feature": (field(6, 17, b"17:0.125"), "the numbers are not those of ethanol"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_file_names_file_line_and_remedy(case: str, folder: Path) -> None:
    content, message = BROKEN[case]
    path = put(folder, content)
    with pytest.raises(data.DataError, match=message) as caught:
        data.load("ethanol")
    text = str(caught.value)
    assert text.startswith(str(path))
    assert "Replace it with the original" in text
    assert "\n" not in text
    [state] = [state for state in data.status() if state.name == "ethanol"]
    assert (state.where, state.verified, state.problem) == ("folder", False, text)
    with pytest.raises(data.DataError, match=message):
        data.verify("ethanol")


@pytest.mark.parametrize("case", BROKEN)
def test_broken_cache_says_how_to_fetch_again(
    case: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_DATASETS, "ethanol", SMALL)
    content, message = BROKEN[case]
    cache.mkdir()
    (cache / "ethanol.dat").write_bytes(content)
    (cache / "ethanol.dat.sha256").write_text(f"{SHA256}  ethanol.dat\n")
    with pytest.raises(data.DataError, match=message) as caught:
        data.load("ethanol")
    assert str(caught.value).endswith("Run `overparam data fetch ethanol --force`.")


@pytest.mark.parametrize(
    "content",
    [
        CONTENT,
        CONTENT.replace(b"\n", b"\r\n"),
        CONTENT.replace(b" \n", b"\n"),
        CONTENT.replace(b" \n", b"  \t\n"),
        CONTENT + b"\n\n",
        CONTENT[:-2],
    ],
    ids=["as is", "CRLF", "stripped", "more blanks", "blank end", "no last line end"],
)
def test_other_spellings_of_the_same_numbers_are_read(content: bytes, folder: Path) -> None:
    put(folder, content)
    assert data.load("ethanol").fingerprint == NUMBERS


def assert_same_or_refused(path: Path, numbers: str) -> None:
    try:
        found = data.load("ethanol").fingerprint
    except data.DataError as error:
        found = str(error)
    assert found == numbers or found.startswith(str(path))


@settings(
    deadline=None,
    max_examples=400,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(draw=st.data())
def test_random_damage_is_never_silently_wrong(draw: st.DataObject, folder: Path) -> None:
    place = draw.draw(st.integers(0, len(CONTENT) - 1))
    kind = draw.draw(st.sampled_from(["truncate", "flip", "insert", "remove", "digit"]))
    byte = draw.draw(st.integers(0, 255))
    damaged = bytearray(CONTENT)
    if kind == "truncate":
        del damaged[place:]
    elif kind == "flip":
        damaged[place] ^= byte
    elif kind == "insert":
        damaged.insert(place, byte)
    elif kind == "remove":
        del damaged[place : place + 1 + byte]
    else:
        place = CONTENT.index(b".", place - 9) + 1 if place > 9 else 2
        damaged[place] = ord("0") + byte % 10
    path = put(folder, bytes(damaged))
    assert_same_or_refused(path, NUMBERS)


@settings(
    deadline=None,
    max_examples=8,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(share=st.floats(0, 0.9999), flip=st.integers(1, 255), truncate=st.booleans())
def test_damage_of_the_real_file(
    share: float,
    flip: int,
    truncate: bool,
    real_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OVERPARAM_DATA", str(tmp_path))
    content = bytearray((real_folder / "gas_ethanol" / "ethanol.dat").read_bytes())
    place = math.floor(share * len(content))
    if truncate:
        del content[place:]
    else:
        content[place] ^= flip
    path = put(tmp_path, bytes(content))
    assert_same_or_refused(path, ETHANOL.files[0].numbers)


def test_named_folder_that_is_missing_or_lacks_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for call in (data.load, data.fetch, data.verify):
        with pytest.raises(data.DataError, match=r"has no file gas_ethanol/ethanol\.dat") as caught:
            call("ethanol")
        assert str(folder) in str(caught.value)
    monkeypatch.setenv("OVERPARAM_DATA", str(folder / "nowhere"))
    with pytest.raises(data.DataError, match="nowhere, which is not a folder"):
        data.load("ethanol")
    state = data.status()[0]
    assert (state.where, state.verified) == ("not here", None)
    assert "which is not a folder" in str(state.problem)
    assert data.load("diabetes").origin == "embedded"


def test_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERPARAM_DATA", "")
    with pytest.raises(data.DataUnavailable, match="overparam data fetch ethanol"):
        data.load("ethanol", download=False)


def test_cached_file_without_its_checksum(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_DATASETS, "ethanol", small_ethanol(numbers="unknown"))
    cache.mkdir()
    (cache / "ethanol.dat").write_bytes(CONTENT)
    with pytest.raises(data.DataError, match=r"expected a checksum beside it\. Run `overparam"):
        data.load("ethanol")


def test_unknown_name_gets_a_suggestion() -> None:
    for call in (data.load, data.fetch, data.verify):
        with pytest.raises(data.DataError, match=r"Did you mean 'ethanol'\? Known: ethanol, aba"):
            call("Etanol")
    with pytest.raises(data.DataError, match=r"named 'xyz'\. Known: ethanol"):
        data.load("xyz")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"M,0.4,0.3,0.1,0.5,0.2,0.1,0.2,15\nX,0\n", "line 2: found 'X,0', expected M, F or I"),
        (b"M,0.4,0.3,0.1,0.5,0.2,0.1,15\n", "line 1: found .* 8 numbers"),
        (b"M,0.4,0.3,nan,0.5,0.2,0.1,0.2,15\n", "line 1: found 'nan', expected a finite number"),
    ],
)
def test_broken_abalone(content: bytes, message: str) -> None:
    with pytest.raises(ContentError, match=message):
        parse_abalone(content)


def test_wrong_abalone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "abalone").mkdir()
    (tmp_path / "abalone" / "abalone.data").write_bytes(b"M,0.4,0.3,0.1,0.5,0.2,0.1,0.2,15\n")
    monkeypatch.setenv("OVERPARAM_DATA", str(tmp_path))
    with pytest.raises(data.DataError, match="the numbers are not those of abalone"):
        data.load("abalone")


@given(st.floats(allow_nan=False, allow_infinity=False))
@settings(deadline=None, derandomize=True)
def test_finite_number_reads_what_python_writes(value: float) -> None:
    assert finite_number(repr(value)) == value
    assert finite_number(f"{value:.6f}") == float(f"{value:.6f}")


@given(st.text(alphabet="0123456789.+-eE_ naif\u0663", max_size=8))
@settings(deadline=None, derandomize=True)
def test_finite_number_is_float_but_stricter(text: str) -> None:
    try:
        value = float(text)
    except ValueError:
        assert finite_number(text) is None
        return
    plain = text.isascii() and not set(text) & {"_", " "} and math.isfinite(value)
    assert finite_number(text) == (value if plain else None)
