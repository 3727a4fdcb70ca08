"""What an optimizer keeps, what happens when something fails, and bugs other optimizers had."""

import copy
import math
import warnings

import pytest
import torch
from support.optim_cases import assert_same_bits, mixed, mixed_loss, parameters_of, run
from support.optim_cases import weight_with_gradient as drawn
from torch import Tensor, nn

from overparam import end_to_end_update
from overparam.optim import EndToEnd, Factored
from overparam.rule import basis as bases

TRACKED = {"basis": "tracked", "momentum": 0.9}


def state_of(optimizer: torch.optim.Optimizer, p: Tensor) -> dict[str, Tensor]:
    return copy.deepcopy(optimizer.state[p])


@pytest.mark.parametrize("kind", [EndToEnd, Factored])
def test_state_is_made_at_the_first_step_and_is_flat(kind) -> None:
    model = mixed()
    optimizer = kind(model, lr=0.1)
    assert not optimizer.state
    run(model, optimizer, 2)
    for p in model.parameters():
        assert optimizer.state[p]
        assert all(isinstance(v, (Tensor, int, float)) for v in optimizer.state[p].values())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "options",
    [
        {"momentum": 0.9},
        {**TRACKED, "weight_decay": 0.1},
        {**TRACKED, "capturable": True, "weight_decay": 0.1},
        {"granularity": "row", "momentum": 0.9, "nesterov": True},
        {"inner": "adamw", "weight_decay": 0.1},
    ],
)
def test_a_bad_gradient_leaves_everything_bit_equal(options: dict, bad: float) -> None:
    good, broken = drawn(3, 4, seed=1), drawn(3, 4)
    optimizer = EndToEnd([good, broken], 0.1, **options)
    optimizer.step()
    value, state, other = (
        broken.detach().clone(),
        state_of(optimizer, broken),
        good.detach().clone(),
    )
    broken.grad[1, 2] = bad
    optimizer.step()
    assert torch.equal(broken, value)
    for key in set(state) - {"skipped", "basis_error", "basis_failures", "basis_age"}:
        assert torch.equal(optimizer.state[broken][key], state[key])
    assert optimizer.state[broken]["skipped"] == 1
    assert optimizer.state[good]["skipped"] == 0
    assert not torch.equal(good, other)
    broken.grad = drawn(3, 4).grad
    optimizer.step()
    assert optimizer.state[broken]["skipped"] == 1
    assert not torch.equal(broken, value)


@pytest.mark.parametrize("capturable", [False, True])
def test_failures_are_counted_and_the_report_tells_them(capturable: bool) -> None:
    p = drawn(3, 4)
    optimizer = EndToEnd([p], 0.1, capturable=capturable)
    assert "skipped" not in str(optimizer.routing())
    for bad in (True, False, True):
        p.grad = drawn(3, 4).grad
        if bad:
            p.grad[0, 0] = math.nan
        optimizer.step()
    assert optimizer.state[p]["skipped"] == 2
    optimizer.state[p]["basis_failures"] += 1
    [entry] = optimizer.routing()
    assert entry["reason"].split("; ") == [
        "read by its shape",
        "2 steps skipped for a non-finite gradient",
        "1 times the old basis was kept",
    ]


def fail_for(monkeypatch: pytest.MonkeyPatch, dtypes: tuple[torch.dtype, ...]) -> list[torch.dtype]:
    """Let decompositions of these dtypes fail; the list shows what was tried."""
    tried: list[torch.dtype] = []
    original = bases.exact_left_basis

    def fragile(weight: Tensor) -> Tensor:
        tried.append(weight.dtype)
        if weight.dtype in dtypes:
            raise torch.linalg.LinAlgError("did not converge")
        return original(weight)

    monkeypatch.setattr(bases, "exact_left_basis", fragile)
    return tried


def test_a_failed_decomposition_is_tried_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    p, twin = drawn(3, 4, dtype=torch.float32), drawn(3, 4, dtype=torch.float32)
    EndToEnd([twin], 0.1).step()
    optimizer = EndToEnd([p], 0.1)
    tried = fail_for(monkeypatch, (torch.float32,))
    optimizer.step()
    assert tried == [torch.float32, torch.float32, torch.float64]
    assert optimizer.state[p]["basis_failures"].tolist() == [0]
    torch.testing.assert_close(p, twin)


def test_where_that_fails_too_the_old_basis_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    p = drawn(3, 4, dtype=torch.float32)
    optimizer = EndToEnd([p], 0.01)
    optimizer.step()
    old, value = optimizer.state[p]["basis"].clone(), p.detach().clone()
    fail_for(monkeypatch, (torch.float32, torch.float64))
    for _ in range(2):
        optimizer.step()
    assert torch.equal(optimizer.state[p]["basis"], old)
    assert optimizer.state[p]["basis_failures"].tolist() == [2]
    # Still a descent direction.
    assert (p.grad * (value - p.detach())).sum() > 0


def test_one_bad_matrix_of_a_stack_does_not_spoil_the_others(monkeypatch) -> None:
    params = [drawn(3, 4, seed=seed, dtype=torch.float32) for seed in range(3)]
    optimizer = EndToEnd(params, 0.1)
    original, calls = bases.exact_left_basis, []

    def fragile(weight: Tensor) -> Tensor:
        calls.append(weight.shape)
        second = weight.shape == (3, 4) and torch.equal(weight.float(), params[1].detach())
        if weight.ndim == 3 or second:
            raise torch.linalg.LinAlgError("did not converge")
        return original(weight)

    monkeypatch.setattr(bases, "exact_left_basis", fragile)
    expected = [end_to_end_update(p.detach(), p.grad, 2) for p in params]
    before = [p.detach().clone() for p in params]
    optimizer.param_groups[0]["normalize"] = False
    optimizer.step()
    failures = [optimizer.state[p]["basis_failures"].item() for p in params]
    assert failures == [0, 1, 0]
    for index in (0, 2):
        update = (before[index] - params[index].detach()) / 0.1
        torch.testing.assert_close(update, expected[index], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["exact", "tracked"])
def test_a_weight_that_is_not_finite_keeps_its_basis_and_is_counted(kind: str) -> None:
    params = [drawn(3, 4, seed=seed) for seed in range(2)]
    optimizer = EndToEnd(params, 0.01, basis=kind)
    optimizer.step()
    old = optimizer.state[params[0]]["basis"].clone()
    with torch.no_grad():
        params[0][0, 0] = math.nan
    for _ in range(2):
        optimizer.step()
    assert torch.equal(optimizer.state[params[0]]["basis"], old)
    assert [optimizer.state[p]["basis_failures"].tolist() for p in params] == [[2], [0]]
    assert params[1].isfinite().all()


@pytest.mark.parametrize("kind", ["exact", "tracked"])
def test_a_frozen_weight_has_no_basis_until_it_is_trained(kind: str) -> None:
    p = drawn(3, 4).requires_grad_(False)
    value, gradient = p.clone(), p.grad
    assert gradient is not None
    p.grad = None
    optimizer = EndToEnd([p], 0.1, basis=kind, normalize=False, momentum=0.9)
    optimizer.step()
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert "basis" not in optimizer.state[p]
    assert torch.equal(p, value)
    p.requires_grad_(True)
    p.grad = gradient
    optimizer.step()
    update = (value - p.detach()) / 0.1
    torch.testing.assert_close(update, end_to_end_update(value, gradient, 2), atol=1e-6, rtol=1e-6)
    # Frozen again: what was tracked goes through a checkpoint.
    p.requires_grad_(False)
    basis = optimizer.state[p]["basis"].clone()
    resumed = EndToEnd([p], 0.1, basis=kind)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert torch.equal(resumed.state[p]["basis"], basis)


def test_layers_are_read_as_the_optimizer_reads_them() -> None:
    conv = nn.Conv2d(6, 6, 3, groups=2)
    expected = {}
    for params, matrices in ((conv, "2 x (3, 27)"), (conv.parameters(), "1 x (6, 27)")):
        optimizer = EndToEnd(params, 0.1)
        conv.weight.grad = torch.randn_like(conv.weight)
        optimizer.step()
        expected[matrices] = (optimizer, copy.deepcopy(optimizer.state_dict()))
    for matrices, (optimizer, _) in expected.items():
        for _, state in expected.values():
            optimizer.load_state_dict(copy.deepcopy(state))
            assert next(iter(optimizer.routing()))["matrices"] == matrices
            optimizer.step()


def test_weights_changed_from_outside_reset_a_tracked_basis() -> None:
    p = drawn(6, 8)
    optimizer = EndToEnd([p], 0.1, normalize=False, **TRACKED)
    optimizer.step()
    with torch.no_grad():
        p.copy_(drawn(6, 8, seed=5))
    optimizer.state[p]["momentum_buffer"].zero_()
    before, expected = p.detach().clone(), end_to_end_update(p.detach(), p.grad, 2)
    optimizer.step()
    torch.testing.assert_close((before - p.detach()) / 0.1, expected)


def test_resume_is_bit_exact_for_a_whole_model() -> None:
    model = mixed(torch.float32)
    optimizer = EndToEnd(model, 0.05, depth=3, weight_decay=0.01, **TRACKED)
    run(model, optimizer, 5)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    run(model, optimizer, 5)
    other = mixed(torch.float32, seed=9)
    resumed = EndToEnd(other, 0.7)
    other.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    run(other, resumed, 5)
    assert_same_bits(parameters_of(model), parameters_of(other))


@pytest.mark.parametrize("kind", [EndToEnd, Factored])
def test_loading_keeps_the_dtype_of_state_of_half_precision_parameters(kind) -> None:
    p = drawn(4, 6, dtype=torch.bfloat16)
    optimizer = kind([p], lr=1e-3)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    optimizer.load_state_dict(saved)

    def tensors(value: object) -> list[Tensor]:
        if isinstance(value, Tensor):
            return [value] if value.ndim else []
        if isinstance(value, int):
            return []
        each = value.values() if isinstance(value, dict) else value
        return [tensor for part in each for tensor in tensors(part)]

    pairs = zip(tensors(saved["state"]), tensors(optimizer.state_dict()["state"]), strict=True)
    for before, after in pairs:
        assert before.dtype == after.dtype != torch.bfloat16
        assert torch.equal(before, after)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_state_of_version_0_1_is_loaded_or_refused_by_name(momentum: float) -> None:
    """Its momentum was a sum of gradients, and its bases may be of other matrices."""
    conv = nn.Conv1d(4, 6, 3, groups=2)
    view = ("convolution", (6, 2, 3), 2, 3, 6, False)
    state = {"step": torch.tensor(3.0), "skipped": torch.tensor(1), "basis": torch.eye(6)[None]}
    if momentum:
        state["momentum_buffer"] = torch.ones(6, 2, 3)
    group = {"params": [0, 1], "lr": 0.3, "momentum": momentum, "views": [view, None]}
    optimizer = EndToEnd(conv, 0.1)
    if momentum:
        with pytest.raises(ValueError, match=r"version 0\.1.*momentum_buffer"):
            optimizer.load_state_dict({"state": {0: state}, "param_groups": [group]})
        assert optimizer.param_groups[0]["lr"] == 0.1
        return
    optimizer.load_state_dict({"state": {0: state}, "param_groups": [group]})
    assert optimizer.param_groups[0]["lr"] == 0.3
    assert list(optimizer.state[conv.weight]) == ["skipped"]
    conv.weight.grad = torch.randn_like(conv.weight)
    optimizer.step()


def test_momentum_that_rests_is_loaded_too() -> None:
    """As in torch.optim.SGD: with momentum 0 for a while, its sum stays in the state."""
    p = drawn(3, 4)
    optimizer = EndToEnd([p], 0.1, momentum=0.5)
    optimizer.step()
    optimizer.param_groups[0]["momentum"] = 0.0
    buffer = optimizer.state[p]["momentum_buffer"].clone()
    for fitting in (optimizer, EndToEnd([p], 0.1)):
        fitting.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        assert torch.equal(fitting.state[p]["momentum_buffer"], buffer)
        fitting.step()
        assert torch.equal(fitting.state[p]["momentum_buffer"], buffer)


def test_state_for_a_new_option_leaves_the_rest() -> None:
    p = drawn(3, 4)
    optimizer = EndToEnd([p], 0.1, depth=1, momentum=0.5)
    optimizer.step()
    buffer = optimizer.state[p]["momentum_buffer"].clone()
    optimizer.param_groups[0]["depth"] = 3
    optimizer.step()
    change = optimizer.state[p]["momentum_buffer"] - 0.5 * buffer
    assert 0 < change.norm() < p.grad.norm()


@pytest.mark.parametrize("kind", [EndToEnd, Factored])
def test_a_state_dict_that_does_not_fit_changes_nothing(kind) -> None:
    model = mixed()
    optimizer = kind(model, lr=0.1)
    run(model, optimizer, 1)
    before = copy.deepcopy(optimizer.state_dict())
    bad = copy.deepcopy(before)
    bad["param_groups"][0]["lr"] = 0.5
    bad["param_groups"][0]["params"].pop()
    with pytest.raises(ValueError, match="doesn't match the size"):
        optimizer.load_state_dict(bad)
    assert optimizer.state_dict()["param_groups"] == before["param_groups"]
    run(model, optimizer, 1)


# Bugs that other optimizers had.


@pytest.mark.parametrize("options", [{}, TRACKED, {"momentum": 0.9}])
def test_the_first_step_is_not_skipped(options: dict) -> None:
    p = drawn(3, 4)
    before, expected = p.detach().clone(), end_to_end_update(p.detach(), p.grad, 2)
    EndToEnd([p], 0.1, normalize=False, **options).step()
    torch.testing.assert_close((before - p.detach()) / 0.1, expected)


def test_a_changed_lr_acts_at_once() -> None:
    for lr in (0.1, torch.tensor(0.1, dtype=torch.float64)):
        p = drawn(3, 4)
        optimizer = EndToEnd([p], lr)
        optimizer.step()
        value = p.detach().clone()
        if isinstance(lr, Tensor):
            lr.zero_()
        else:
            optimizer.param_groups[0]["lr"] = 0.0
        optimizer.step()
        assert torch.equal(p, value)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_is_no_alias_of_the_update(dtype, nesterov: bool) -> None:
    """The buffer is the sum of gradients and nothing else, whatever the step did with it."""
    p = drawn(5, dtype=dtype)
    gradient = p.grad.clone()
    optimizer = EndToEnd([p], 0.1, momentum=0.5, nesterov=nesterov)
    expected = torch.zeros_like(gradient, dtype=torch.float32)
    for _ in range(3):
        optimizer.step()
        expected = expected * 0.5 + gradient.float()
        assert torch.equal(optimizer.state[p]["momentum_buffer"], expected)
        assert torch.equal(p.grad, gradient)


@pytest.mark.parametrize("shape", [(1, 6), (6, 1)])
@pytest.mark.parametrize("granularity", ["auto", "row", "tensor"])
@pytest.mark.parametrize("kind", ["exact", "tracked"])
def test_one_row_or_one_column_trains(shape, granularity: str, kind: str) -> None:
    p = nn.Parameter(torch.ones(shape))
    optimizer = EndToEnd([p], 0.1, depth=3, granularity=granularity, basis=kind)
    for _ in range(60):
        p.grad = p.detach() - 2
        optimizer.step()
    torch.testing.assert_close(p.detach(), torch.full(shape, 2.0), atol=0.05, rtol=0)


def test_a_kernel_is_flattened_by_output_channel() -> None:
    """A kernel whose rank over (out, in * k) is one stays so; any other flattening mixes it."""
    kernel = drawn(5, 1, 1, 1).detach() * drawn(1, 4, 3, 3).detach()
    p = nn.Parameter(kernel.clone())
    p.grad = drawn(5, 4, 3, 3).grad
    EndToEnd([p], 1e-3, depth=3, normalize=False).step()
    matrix = kernel.flatten(1)
    expected = matrix - 1e-3 * end_to_end_update(matrix, p.grad.flatten(1), 3)
    torch.testing.assert_close(p.detach().flatten(1), expected)


@pytest.mark.parametrize("kind", [EndToEnd, Factored])
def test_loading_into_an_optimizer_that_has_stepped_or_not(kind) -> None:
    p = drawn(3, 4)
    stepped = kind([p], lr=0.1)
    stepped.step()
    unstepped = kind([p], lr=0.1)
    for source, target in ((stepped, unstepped), (kind([p], lr=0.1), stepped)):
        target.load_state_dict(copy.deepcopy(source.state_dict()))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*changed since the last step")  # by one another
            target.step()
    assert p.isfinite().all()


def test_the_loss_of_a_closure_comes_from_the_old_weights() -> None:
    model = mixed()
    optimizer = EndToEnd(model, 0.1)
    before = mixed_loss(model).item()

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = mixed_loss(model)
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == before
