"""A user's own table: what is read, and which errors name what cannot be."""

import csv
import math
import os
from pathlib import Path

import polars as pl
import pytest
import torch

from overparam import data
from overparam.data import DataError, load_table

GOOD = "size,rooms,price\n50,2,100.5\n75, 3 ,1.5e2\n-20,1,+7\n"


def written(tmp_path, text, name="prices.csv", encoding="utf-8"):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    return path


def test_columns_become_features_and_the_target(tmp_path):
    table = load_table(written(tmp_path, GOOD), "price")
    assert table.features.tolist() == [[50, 2], [75, 3], [-20, 1]]
    assert table.targets.tolist() == [[100.5], [150], [7]]
    assert (table.name, table.standardized) == ("prices.csv", False)
    assert table.origin == f"file: {tmp_path / 'prices.csv'}"
    chosen = load_table(written(tmp_path, GOOD), "size", ["price", "rooms"])
    assert chosen.features.tolist() == [[100.5, 2], [150, 3], [7, 1]]
    # Standardized as in the paper: mean 0, standard deviation 1 with B - 1.
    ready = data.standardize(table)
    assert ready.features.std(dim=0, correction=1).tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text,
        lambda text: text + "\n\n",
        lambda text: text.replace("50,", '"50",'),
        lambda text: text.rstrip("\n"),
    ],
)
def test_spellings_of_the_same_numbers_have_the_same_identity(tmp_path, change):
    expected = load_table(written(tmp_path, GOOD), "price")
    found = load_table(written(tmp_path, change(GOOD), "other.csv"), "price")
    assert found.fingerprint == expected.fingerprint
    other = load_table(written(tmp_path, GOOD.replace("50,2", "50,3")), "price")
    assert other.fingerprint != expected.fingerprint


def test_parquet_is_recognized_by_its_content(tmp_path):
    path = tmp_path / "prices.csv"
    frame = pl.DataFrame(
        {"size": [50, 75, -20], "rooms": ["2", "3", "1"], "price": [100.5, 150, 7]}
    )
    frame.write_parquet(path)
    found = load_table(path, "price")
    assert found.fingerprint == load_table(written(tmp_path, GOOD, "text.csv"), "price").fingerprint
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"prices\.csv is a damaged Parquet file .*write it again"):
        load_table(path, "price")
    pl.DataFrame({"a": [1.0, None], "y": [1, 2]}).write_parquet(path)
    with pytest.raises(DataError, match="row 2, column 'a': the value is missing; fill it in"):
        load_table(path, "y")
    pl.DataFrame({"a": [True, False], "y": [1, 2]}).write_parquet(path)
    with pytest.raises(DataError, match="row 1, column 'a': 'True' is not a finite number"):
        load_table(path, "y")


@pytest.mark.parametrize(
    "name", ["a[1]", "<b>", "a,b", "é 漢", ":smile:", "{{ x }}", "a\nb", 'say "so"', "~", "*"]
)
def test_odd_names_of_columns_and_files(tmp_path, name):
    file = f"{name}.csv"
    path = tmp_path / file
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([[name, "y"], [1, 2], [3, 4]])
    table = load_table(path, name)
    assert table.targets.tolist() == [[1], [3]]
    assert table.name == file


def test_a_file_name_that_is_no_text(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.csv"))
    path.write_text(GOOD)
    assert load_table(path, "price").name == path.name


@pytest.mark.parametrize(
    ("text", "target", "features", "message"),
    [
        ("a,y\n1,2\n3,x\n", "y", (), r"row 2 \(line 3\), column 'y': 'x' is not a finite number"),
        ("a,y\n\n1,2\n3,\n", "y", (), r"row 2 \(line 4\), column 'y': the value is missing; fill"),
        ("a,y\n1,NA\n3,4\n", "y", (), r"row 1 .*is missing \('NA'\); fill it in, remove the row"),
        ("a,y\n1,inf\n3,4\n", "y", (), r"row 1 \(line 2\), column 'y': 'inf' is not a finite"),
        ("a,y\n1,1e999\n3,4\n", "y", (), "'1e999' is not a finite number"),
        ('a,y\n"1,5",2\n3,4\n', "y", (), "column 'a': '1,5' is not a finite number"),
        ("a,y\n1_0,2\n3,4\n", "y", (), "'1_0' is not a finite number; correct it"),
        ("a,y\n1,2,3\n", "y", (), r"row 1 \(line 2\) has 3 values for 2 columns"),
        ("a,y\n1\n", "y", (), "has 1 values for 2 columns"),
        ("y\n1\n2\n", "y", (), "has one column, 'y'; a target and at least one feature"),
        ("a;y\n1;2\n", "y", (), "separated by ';'; save the file with commas"),
        ("a\ty\n1\t2\n", "y", (), r"separated by '\\t'"),
        ("", "y", (), "is empty; the first line must hold the names"),
        ("a,y\n", "y", (), "has 0 rows below its names"),
        ("a,y\n1,2\n", "y", (), "has 1 row below its names"),
        (
            "price,b\n1,2\n3,4\n",
            "prise",
            (),
            "no column 'prise'. Did you mean 'price'.* 'price', 'b'",
        ),
        ("a,y\n1,2\n3,4\n", None, (), "name the column to predict with --target.* 'a', 'y'"),
        ("1,2\n3,4\n5,6\n", "y", (), "must hold the names of the columns; it holds numbers"),
        ("a,b,y\n1,5,2\n3,4,4\n", "y", ("a", "c"), "has no column 'c'"),
        ("a,b,y\n1,5,2\n3,4,4\n", "y", ("a", "a"), "feature 'a' is named twice"),
        ("a,b,y\n1,5,2\n3,4,4\n", "y", ("a", "y"), "'y' is both the target and a feature"),
        ("a,a,y\n1,5,2\n3,4,4\n", "y", (), "columns 1 and 2 are both named 'a'; rename"),
        (",a,y\n1,5,2\n2,4,4\n", "y", (), "column 1 has no name .*--features"),
        ("a,b,y\n1,5,2\n3,5,4\n", "y", (), "'b' has the same value in every row .*--features 'a'"),
        ("a,y\n5,2\n5,4\n", "y", (), "'a' has the same value .*add a feature that varies"),
        ("a,y\n1,2\n3,2\n", "y", (), "the target 'y' is 2 in every row; .*another --target"),
        ("a,y\n1e308,2\n-1e308,4\n", "y", (), "'a' has standard deviation inf .*rescale it first"),
        ('a,y\n"1,2\n3,4\n', "y", (), "correct the quotes"),
    ],
)
def test_errors_name_the_value_and_the_remedy(tmp_path, text, target, features, message):
    with pytest.raises(DataError, match=message) as caught:
        load_table(written(tmp_path, text), target, features)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD.encode("utf-16"), "is encoded as UTF-16; save it as UTF-8"),
        (b"a,y\n1,2\ncaf\xe9,3\n", "line 3: byte 0xe9 is not UTF-8; save the file as UTF-8"),
        (b"PK\x03\x04rest", "is a zip file, not CSV; unpack it, or save the spreadsheet as CSV"),
        (b"\x1f\x8brest", "is a gzip file"),
    ],
)
def test_files_that_are_no_csv(tmp_path, content, message):
    path = tmp_path / "prices.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_table(path, "y")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match=r"absent\.csv cannot be read: No such file"):
        load_table(tmp_path / "absent.csv", "y")
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        load_table(tmp_path, "y")


def test_a_known_set_as_a_table_has_its_numbers(tmp_path, real_folder, monkeypatch):
    monkeypatch.setenv("OVERPARAM_DATA", str(real_folder))
    known = data.load("abalone")
    path = tmp_path / "abalone.csv"
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow([*(f"f{i}" for i in range(known.features.shape[1])), "rings"])
        writer.writerows(torch.cat([known.features, known.targets], dim=1).tolist())
    assert load_table(path, "rings").fingerprint == known.fingerprint


def test_repr_is_one_short_line(tmp_path):
    table = load_table(written(tmp_path, GOOD), "price")
    for found in (table, data.standardize(table), data.load_images("digits")):
        assert len(repr(found)) < 120 + len(str(tmp_path))
        assert "tensor" not in repr(found)
    assert "3 examples, 2 features, 1 outputs" in repr(table)
    assert math.isclose(data.standardize(table).features.mean().item(), 0, abs_tol=1e-12)
