"""The real files and the embedded sets, against numpy and the published numbers."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from overparam import data
from overparam.data._text import text_lines
from overparam.data.ethanol import parse_uci


@pytest.fixture
def named(real_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OVERPARAM_DATA", str(real_folder))
    return real_folder


def test_ethanol_has_the_published_moments(named: Path) -> None:
    ethanol = data.load("ethanol", download=False)
    assert ethanol.features.shape == (2565, 128)
    assert ethanol.targets.shape == (2565, 1)
    assert ethanol.features.dtype == ethanol.targets.dtype == torch.float64
    label = ethanol.targets.numpy()[:, 0]
    assert label.mean() == pytest.approx(114.95029239766082, rel=1e-14)
    assert label.std(ddof=1) == pytest.approx(86.63749164182786, rel=1e-14)
    assert ethanol.origin == f"folder: {named / 'gas_ethanol' / 'ethanol.dat'}"
    assert "CC BY 4.0" in ethanol.source


def test_ethanol_equals_a_naive_reading(named: Path) -> None:
    ethanol = data.load("ethanol")
    text = (named / "gas_ethanol" / "ethanol.dat").read_text()
    naive = np.array(
        [[float(part) for part in line.replace(";", ":").replace(":", " ").split()]
         for line in text.splitlines()]
    )  # fmt: skip
    np.testing.assert_array_equal(ethanol.targets.numpy()[:, 0], naive[:, 1])
    np.testing.assert_array_equal(ethanol.features.numpy(), naive[:, 3::2])


def test_standardized_ethanol_has_the_known_least_squares_optimum(named: Path) -> None:
    ready = data.standardize(data.load("ethanol"))
    features, targets = ready.features.numpy(), ready.targets.numpy()
    weight, *_ = np.linalg.lstsq(features, targets, rcond=None)
    assert ((features @ weight - targets) ** 2).mean() == pytest.approx(0.0999455, abs=5e-8)


def test_original_batch_has_90_ethanol_rows_of_445(named: Path) -> None:
    content = (named / "gas_ethanol" / "uci270_batch1.dat").read_bytes()
    rows = list(parse_uci(text_lines(content)))
    counts = np.bincount([row.gas for row in rows])
    assert counts.tolist() == [0, 90, 98, 83, 30, 70, 74]
    first = data.load("ethanol").features[:90]
    kept = torch.tensor([row.features for row in rows if row.gas == 1], dtype=torch.float64)
    assert torch.equal(first, kept)


def test_abalone_equals_a_naive_reading(named: Path) -> None:
    abalone = data.load("abalone")
    with (named / "abalone" / "abalone.data").open(newline="") as file:
        rows = list(csv.reader(file))
    assert len(rows) == 4177
    numbers = np.array([row[1:] for row in rows], dtype=float)
    np.testing.assert_array_equal(abalone.features[:, :7].numpy(), numbers[:, :7])
    np.testing.assert_array_equal(abalone.targets[:, 0].numpy(), numbers[:, 7])
    for column, sex in ((7, "F"), (8, "I")):
        expected = np.array([row[0] == sex for row in rows], dtype=float)
        np.testing.assert_array_equal(abalone.features[:, column].numpy(), expected)
    centred = data.standardize(abalone).features
    assert torch.linalg.matrix_rank(centred) == 9


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("diabetes", (442, 10, 1)),
        ("breast_cancer", (569, 30, 1)),
        ("digits", (1797, 64, 10)),
        ("linnerud", (20, 3, 3)),
    ],
)
def test_embedded_sets(name: str, shape: tuple[int, int, int]) -> None:
    problem = data.load(name, download=False)
    assert (*problem.features.shape, problem.targets.shape[1]) == shape
    assert problem.origin == "embedded"
    assert data.fetch(name) is None
    assert data.verify(name).verified is True


def test_digits_are_one_hot_and_their_constant_pixels_are_dropped() -> None:
    from sklearn.datasets import load_digits

    pixels, classes = load_digits(return_X_y=True)
    digits = data.load("digits")
    assert torch.equal(digits.targets.argmax(dim=1), torch.tensor(classes))
    assert torch.equal(digits.targets.sum(dim=1), torch.ones(1797, dtype=torch.float64))
    ready = data.standardize(digits)
    constant = np.flatnonzero(pixels.std(axis=0) == 0)
    assert ready.dropped == tuple(constant)
    assert ready.features.shape == (1797, 64 - len(constant))


def test_diabetes_is_in_its_own_units() -> None:
    ages = data.load("diabetes").features[:, 0]
    assert torch.equal(ages, ages.round())
    assert (ages.min(), ages.max()) == (19, 79)


def test_breast_cancer_is_a_number() -> None:
    values, counts = data.load("breast_cancer").targets.unique(return_counts=True)
    assert values.tolist() == [0.0, 1.0]
    assert counts.tolist() == [212, 357]  # malignant, benign: as published


@pytest.mark.parametrize("name", data.regression_names())
def test_standardize_agrees_with_numpy(name: str, request: pytest.FixtureRequest) -> None:
    if name in ("ethanol", "abalone"):
        request.getfixturevalue("named")
    raw = data.load(name)
    ready = data.standardize(raw)
    kept = [column for column in range(raw.features.shape[1]) if column not in ready.dropped]
    for before, after in (
        (raw.features[:, kept].numpy(), ready.features.numpy()),
        (raw.targets.numpy(), ready.targets.numpy()),
    ):
        expected = (before - before.mean(axis=0)) / before.std(axis=0, ddof=1)
        np.testing.assert_allclose(after, expected, rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(after.std(axis=0, ddof=1), 1, rtol=1e-12)
        np.testing.assert_allclose(after.mean(axis=0), 0, atol=1e-12)


def test_status_and_verify_of_the_real_folder(named: Path) -> None:
    states = {state.name: state for state in data.status()}
    assert tuple(states) == data.names()
    for name in ("ethanol", "abalone", "mnist"):
        assert (states[name].where, states[name].verified) == ("folder", True)
        assert states[name].problem is None
        assert data.verify(name) == states[name]
        assert data.fetch(name) == states[name].path
