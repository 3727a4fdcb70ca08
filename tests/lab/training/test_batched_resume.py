"""A batched sweep that is saved and restored gives the same bytes as one that is not."""

import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from overparam.lab.methods import OPTIMIZERS, parse_method
from overparam.lab.study import DTYPES, Run, Study
from overparam.lab.training.batched import Sweep
from overparam.lab.training.objective import PowerLoss

METHODS = (*OPTIMIZERS, "rule:2", "rule:2.5", "factors:3", "adam+factors:2")


def study_of(dtype):
    return Study("small", methods=METHODS, iterations=40, points=60, init_std=0.3, dtype=dtype)


def runs_of(dtype):
    too_large = 1e200 if dtype == "float64" else 1e20
    rates = (1e-4, too_large, 2e-4, 3e-2)
    return [Run(parse_method(name), rate, 0) for name in METHODS for rate in rates]


def sweep_of(dtype, data):
    study = study_of(dtype)
    objective = PowerLoss(data.features, data.targets, study.power, DTYPES[dtype])
    return Sweep(objective, study, runs_of(dtype))


def trained(dtype, data):
    sweep = sweep_of(dtype, data)
    while not sweep.finished:
        sweep.advance(64)
    return sweep


@pytest.fixture(scope="session", params=list(DTYPES))
def uninterrupted(request, small_data):
    dtype = request.param
    sweep = trained(dtype, small_data)
    assert (sweep.diverged_at >= 0).any()
    assert (sweep.diverged_at < 0).any()
    return dtype, as_bytes(sweep)


def as_bytes(sweep):
    return sweep.losses.numpy().tobytes(), sweep.diverged_at.tolist()


@settings(max_examples=6, deadline=None, derandomize=True)
@given(stops=st.lists(st.integers(0, 40), min_size=1, max_size=3))
def test_saved_sweeps_continue_bit_for_bit(uninterrupted, small_data, stops):
    dtype, expected = uninterrupted
    sweep = sweep_of(dtype, small_data)
    for stop in stops:
        sweep.advance(stop)
        file = io.BytesIO()
        torch.save(sweep.state_dict(), file)
        file.seek(0)
        # The old sweep continues to train, which must not change the saved state.
        sweep.advance(3)
        sweep = sweep_of(dtype, small_data)
        sweep.load_state_dict(torch.load(file, weights_only=True))
    sweep.advance(1000)
    assert sweep.finished
    assert as_bytes(sweep) == expected


def test_two_sweeps_give_the_same_bytes(uninterrupted, small_data):
    dtype, expected = uninterrupted
    assert as_bytes(trained(dtype, small_data)) == expected


def test_a_state_of_an_earlier_version_is_not_used(uninterrupted, small_data):
    dtype, expected = uninterrupted
    sweep = sweep_of(dtype, small_data)
    sweep.load_state_dict({"step": 7, "groups": []})
    assert sweep.step == 0
    sweep.advance(1000)
    assert as_bytes(sweep) == expected
