"""RegressionData and standardize on made-up numbers."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from overparam.data import DataError, RegressionData, standardize


def make(features: Tensor, targets: Tensor) -> RegressionData:
    return RegressionData("toy", "A toy", features, targets, "made up", "embedded")


def random_problem(seed: int, rows: int, features: int, outputs: int) -> RegressionData:
    draw = torch.Generator().manual_seed(seed)
    return make(
        torch.randn(rows, features, generator=draw, dtype=torch.float64),
        torch.randn(rows, outputs, generator=draw, dtype=torch.float64),
    )


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    seed=st.integers(0, 99),
    rows=st.integers(2, 30),
    features=st.integers(1, 6),
    outputs=st.integers(1, 3),
    scale=st.sampled_from([1e-100, 1e-3, 1.0, 1e6, 1e100]),
    shift=st.sampled_from([0.0, 1.0, -300.0]),
)
def test_standardize_equals_numpy_and_ignores_units(
    seed: int, rows: int, features: int, outputs: int, scale: float, shift: float
) -> None:
    raw = random_problem(seed, rows, features, outputs)
    moved = make(scale * (raw.features + shift), scale * (raw.targets + shift))
    ready = standardize(moved)
    for before, after in ((raw.features, ready.features), (raw.targets, ready.targets)):
        values = before.numpy()
        expected = (values - values.mean(axis=0)) / values.std(axis=0, ddof=1)
        np.testing.assert_allclose(after.numpy(), expected, rtol=1e-8, atol=1e-9)
    assert ready.standardized
    assert standardize(ready) is ready


def test_standardize_leaves_its_argument_alone() -> None:
    raw = random_problem(0, 5, 2, 1)
    before = raw.features.clone()
    standardize(raw)
    assert torch.equal(raw.features, before)
    assert not raw.standardized


def test_constant_features_are_dropped_and_recorded() -> None:
    raw = random_problem(1, 6, 5, 1)
    raw.features[:, 1] = 0.1  # its mean is not 0.1 in floating point
    raw.features[:, 4] = 0.0
    ready = standardize(raw)
    assert ready.dropped == (1, 4)
    assert ready.features.shape == (6, 3)


def test_what_cannot_be_standardized_is_an_error() -> None:
    raw = random_problem(2, 6, 3, 2)
    constant = raw.targets.clone()
    constant[:, 1] = 7.5
    with pytest.raises(DataError, match=r"toy: output 1 is 7\.5 in every example"):
        standardize(dataclasses.replace(raw, targets=constant))
    with pytest.raises(DataError, match="every feature is constant"):
        standardize(dataclasses.replace(raw, features=torch.ones_like(raw.features)))
    with pytest.raises(DataError, match="has one example"):
        standardize(random_problem(0, 1, 3, 1))
    for extreme in (1e-320, 1e308):
        with pytest.raises(DataError, match=r"toy: features: column 0 .* standard deviation"):
            standardize(dataclasses.replace(raw, features=raw.features.sign() * extreme))


def test_fingerprint_is_the_identity_of_the_numbers() -> None:
    raw = random_problem(3, 4, 2, 1)
    same = make(raw.features.mT.contiguous().mT, raw.targets.clone())
    assert same.fingerprint == raw.fingerprint
    changed = raw.features.clone()
    changed[3, 1] = torch.nextafter(changed[3, 1], torch.tensor(9.0, dtype=torch.float64))
    swapped = make(raw.features[[1, 0, 2, 3]], raw.targets[[1, 0, 2, 3]])
    reshaped = make(raw.features.reshape(4, 2)[:, :1], raw.targets)
    others = [make(changed, raw.targets), swapped, reshaped, standardize(raw)]
    assert len({raw.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_bad_tensors_are_errors() -> None:
    good = torch.ones(3, 2, dtype=torch.float64)
    label = torch.ones(3, 1, dtype=torch.float64)
    with pytest.raises(DataError, match=r"features is torch\.float32"):
        make(good.float(), label)
    with pytest.raises(DataError, match=r"targets is torch\.float64 of shape \(3,\)"):
        make(good, label[:, 0])
    with pytest.raises(DataError, match="non-empty"):
        make(good[:0], label[:0])
    with pytest.raises(DataError, match="3 rows of features and 2 of targets"):
        make(good, label[:2])
    broken = good.clone()
    broken[2, 1] = torch.nan
    with pytest.raises(DataError, match=r"features\[2, 1\] is nan"):
        make(broken, label)
