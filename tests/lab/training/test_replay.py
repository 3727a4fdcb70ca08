"""The steps of a sweep as a graph: what is captured and replayed is what runs eagerly."""

import contextlib
import logging

import pytest
import torch
from support import tape

from overparam.lab.methods import OPTIMIZERS, parse_method
from overparam.lab.study import DTYPES, PAPER_METHODS, Run, Study
from overparam.lab.training.batch import Batch
from overparam.lab.training.batched import Sweep
from overparam.lab.training.objective import PowerLoss
from overparam.lab.training.replay import Stepper, cuda_graph

METHODS = (
    *OPTIMIZERS, "rule:2", "rule:2.5", "rule_normalized:3", "norm:3", "entry:3", "factors:2",
    "factors:4", "adam+rule:2", "adam+factors:2", "adam+factors:3", "radial:0", "adam+radial:4",
    "momentum+radial:2", "rule:2,lam=1", "metric:2",
)  # fmt: skip
STEPS = 130


def study_of(**changes) -> Study:
    given = {"power": 4.0, "dtype": "float64", "init_std": 0.3, "points": 40, "width": 1}
    return Study("small", methods=METHODS, iterations=STEPS, **(given | changes))


def runs_of(dtype="float64", methods=METHODS):
    too_large = 1e200 if dtype == "float64" else 1e20
    rates = (1e-4, too_large, 3e-1, 2e-4)
    return [Run(parse_method(name), rate, 0) for name in methods for rate in rates]


def objective_of(data, study):
    return PowerLoss(data.features, data.targets, study.power, DTYPES[study.dtype])


def swept(data, study, **how):
    sweep = Sweep(objective_of(data, study), study, runs_of(study.dtype), **how)
    while not sweep.finished:
        sweep.advance(50)
    return sweep


# All pairs of the three.
@pytest.mark.parametrize(
    ("power", "warm_up", "dtype"),
    [
        (power, warm_up, dtype)
        for i, power in enumerate((2.0, 3.0, 4.0, 6.0))
        for j, warm_up in enumerate((0, 60))
        for k, dtype in enumerate(DTYPES)
        if (i + j + k) % 2 == 0
    ],
)
def test_a_replayed_sweep_is_that_of_single_steps(small_data, power, warm_up, dtype):
    study = study_of(power=power, warm_up=warm_up, dtype=dtype)
    expected = swept(small_data, study)
    assert 10 < (expected.diverged_at >= 0).sum() < 60
    for how in ({}, {"capture": tape.capture}):
        found = swept(small_data, study, look_every=25, **how)
        assert torch.equal(found.diverged_at, expected.diverged_at)
        tolerance = 1e-9 if dtype == "float64" else 1e-3
        torch.testing.assert_close(
            found.losses, expected.losses, rtol=tolerance, atol=0, equal_nan=True
        )


def test_graphs_are_taken_and_used(small_data):
    lengths = []

    def capture(work):
        replay = tape.capture(work)
        lengths.append(0)
        number = len(lengths) - 1

        def counting():
            lengths[number] += 1
            replay()

        return counting

    study = study_of(points=3)
    runs = [Run(parse_method("gd"), 1e-4, 0)]
    sweep = Sweep(objective_of(small_data, study), study, runs, look_every=25, capture=capture)
    sweep.advance(STEPS)
    # Records at 0, 1, 11 and 130: one eager step; then 10 and 14 single steps, four times 25, 5.
    assert lengths == [29, 4]


@pytest.mark.parametrize("warm_up", [0, 60])
def test_no_step_waits_for_the_device(small_data, warm_up):
    study = study_of(warm_up=warm_up)
    batch = Batch(objective_of(small_data, study), study, runs_of())
    assert batch.replayable
    batch.steps(1)
    with tape.Tape():
        batch.steps(5, torch.empty(5, len(runs_of()), dtype=torch.float64))


def test_the_tape_notices_a_look_at_a_value():
    value = torch.ones(3)
    for look in (
        lambda: value.sum().item(),
        lambda: bool((value > 0).all()),
        lambda: value[value > 0],
        lambda: value.nonzero(),
    ):
        with tape.Tape(), pytest.raises(RuntimeError, match="waits for the device"):
            look()


def test_operations_per_step(small_data):
    """Launches bound a sweep on a GPU: five methods of the paper, and all nine."""
    for methods, most in ((("gd",), 6), (PAPER_METHODS[:5], 31), (PAPER_METHODS, 60)):
        study, runs = study_of(), runs_of(methods=methods)
        batch = Batch(objective_of(small_data, study), study, runs)
        sizes = torch.empty(10, len(runs), dtype=torch.float64)
        batch.steps(1)
        with tape.Tape() as written:
            batch.steps(10, sizes)
        assert len(written.launches()) <= 10 * most


def test_several_outputs_are_replayed_unless_they_are_decomposed(small_data):
    x = small_data.features
    study = study_of(width=2)
    objective = PowerLoss(x, x[:, :3], study.power)
    replayable = {
        name: Batch(objective, study, runs_of(methods=(name,))).replayable for name in METHODS
    }
    decomposed = {name for name in METHODS if "rule" in name or "metric" in name}
    assert {name for name, ready in replayable.items() if not ready} == decomposed


def test_a_capture_that_fails_is_logged_and_steps_stay_eager(small_data, caplog):
    def refuse(work):
        raise RuntimeError("operation not permitted when stream is capturing")

    with caplog.at_level(logging.WARNING):
        found = swept(small_data, study_of(), look_every=25, capture=refuse)
    assert "run eagerly: operation not permitted" in caplog.text
    expected = swept(small_data, study_of(), look_every=25)
    torch.testing.assert_close(found.losses, expected.losses, rtol=0, atol=0, equal_nan=True)


def test_a_sweep_between_two_looks_is_saved_and_goes_on(small_data):
    study = study_of()
    expected = swept(small_data, study, look_every=25)
    objective = objective_of(small_data, study)
    sweep = Sweep(objective, study, runs_of(), look_every=25)
    for steps in (7, 31, 60):
        sweep.advance(steps)
        following = Sweep(objective, study, runs_of(), look_every=25)
        following.load_state_dict(sweep.state_dict())
        sweep.advance(3)  # which must not change what was handed on
        sweep = following
    sweep.advance(1000)
    assert sweep.finished
    torch.testing.assert_close(sweep.losses, expected.losses, rtol=1e-9, atol=0, equal_nan=True)
    assert torch.equal(sweep.diverged_at, expected.diverged_at)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_gpu_replays_what_the_cpu_computes(small_data, dtype, caplog):
    study = study_of(dtype=dtype)
    objective = PowerLoss(
        small_data.features, small_data.targets, study.power, DTYPES[dtype], "cuda"
    )
    found = Sweep(objective, study, runs_of(dtype))
    while not found.finished:
        found.advance(50)
    assert not caplog.records
    expected = swept(small_data, study)
    kept = expected.diverged_at < 0
    # Products of four factors multiply rounding errors as they leave their start.
    rtol = 1e-8 if dtype == "float64" else 5e-2
    torch.testing.assert_close(found.losses[kept], expected.losses[kept], rtol=rtol, atol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_a_graph_is_captured_on_a_gpu(small_data):
    study = study_of()
    objective = PowerLoss(
        small_data.features, small_data.targets, study.power, torch.float64, "cuda"
    )
    eager, captured = (Batch(objective, study, runs_of()) for _ in range(2))
    stepper = Stepper(captured, 25, cuda_graph)
    for _ in range(3):
        eager.steps(25)
        stepper.run(25)
    assert list(stepper._graphs) == [25]
    torch.testing.assert_close(captured.weights, eager.weights, rtol=1e-9, atol=0, equal_nan=True)


def test_blocks_run_side_by_side_unless_they_share_buffers(small_data):
    """Each block forks into a lane of its own, and all join before the next gradient."""
    seen = []

    class Lanes:
        def lane(self, number):
            seen.append(number)
            return contextlib.nullcontext()

        def join(self):
            seen.append("join")

    names = ("gd", "rule:2", "factors:2", "factors:3", "loss_scaled", "adam", "momentum")
    study, runs = study_of(), runs_of(methods=names)
    Batch(objective_of(small_data, study), study, runs).steps(2, None, Lanes())
    assert seen == [0, 1, 3, 4, "join"] * 2
