"""What an optimizer keeps, what happens when something fails, and bugs other optimizers had."""

import copy
import math

import pytest
import torch
from support.optim_cases import assert_same_bits, mixed, mixed_loss, parameters_of, run
from support.optim_cases import weight_with_gradient as drawn
from torch import Tensor, nn

from overparam import end_to_end_update
from overparam.optim import EndToEnd, Factored, bases

TRACKED = {"basis": "tracked", "momentum": 0.9}


def state_of(optimizer: torch.optim.Optimizer, p: Tensor) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in optimizer.state[p].items()}


def test_state_is_complete_at_construction_and_holds_tensors_only() -> None:
    model = mixed()
    optimizer = EndToEnd(model, 0.1, momentum=0.9)
    before = {p: state_of(optimizer, p) for p in model.parameters()}
    run(model, optimizer, 2)
    for p in model.parameters():
        after = optimizer.state[p]
        assert {k: (v.shape, v.dtype) for k, v in before[p].items()} == {
            k: (v.shape, v.dtype) for k, v in after.items()
        }
    assert set(before) == set(optimizer.state)


def test_state_does_not_depend_on_which_parameters_had_gradients() -> None:
    """Distributed savers need the same state on every rank."""
    keys = []
    for used in (True, False):
        params = [drawn(3, 4), drawn(4, 4)]
        if not used:
            params[1].grad = None
        optimizer = EndToEnd(params, 0.1, momentum=0.9)
        optimizer.step()
        state = optimizer.state_dict()["state"]
        keys.append({i: {k: v.shape for k, v in s.items()} for i, s in state.items()})
    assert keys[0] == keys[1]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "options",
    [
        {"momentum": 0.9},
        {**TRACKED, "weight_decay": 0.1},
        {**TRACKED, "capturable": True, "weight_decay": 0.1},
        {"granularity": "row", "momentum": 0.9, "nesterov": True},
        {"depth": 1, "momentum": 0.9},
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
    for key in ("momentum_buffer", "basis"):
        if key in state:
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
    assert optimizer.state[p]["step"] == 3
    assert optimizer.state[p]["skipped"] == 2
    optimizer.state[p]["basis_failures"] += 1
    [entry] = optimizer.routing()
    assert entry["reason"] == (
        "by shape; 2 steps skipped for a non-finite gradient; 1 times the old basis was kept"
    )


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


def test_layers_are_read_as_the_optimizer_reads_them_unless_it_knows_no_layer() -> None:
    conv = nn.Conv2d(6, 6, 3, groups=2)
    by_layer, by_shape = EndToEnd(conv, 0.1), EndToEnd(conv.parameters(), 0.1)
    saved = [copy.deepcopy(each.state_dict()) for each in (by_layer, by_shape)]
    for optimizer in (by_layer, by_shape):
        for state in saved[::-1]:  # that of bare parameters first
            optimizer.load_state_dict(copy.deepcopy(state))
        optimizer.load_state_dict(copy.deepcopy(saved[1]))
        assert next(iter(optimizer.routing()))["matrices"] == "2 x (3, 27)"
        conv.weight.grad = torch.randn_like(conv.weight)
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
            return [value]
        each = value.values() if isinstance(value, dict) else value
        return [tensor for part in each for tensor in tensors(part)]

    pairs = zip(tensors(saved["state"]), tensors(optimizer.state_dict()["state"]), strict=True)
    for before, after in pairs:
        assert before.dtype == after.dtype != torch.bfloat16
        assert torch.equal(before, after)


@pytest.mark.parametrize("granularity", ["row", "auto"])
def test_the_basis_of_a_checkpoint_with_other_matrices_starts_anew(granularity: str) -> None:
    """Saved without a basis, or with that of the kernel as one matrix, before views existed."""
    conv = nn.Conv1d(4, 6, 3, groups=2)
    old = EndToEnd(conv.parameters(), 0.1, granularity=granularity).state_dict()
    for option in ("views", "granularity"):
        del old["param_groups"][0][option]
    resumed = EndToEnd(conv, 0.1)
    fresh = state_of(resumed, conv.weight)
    resumed.load_state_dict(old)
    assert torch.equal(resumed.state[conv.weight]["basis"], fresh["basis"])
    conv.weight.grad = torch.randn_like(conv.weight)
    resumed.step()


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
    assert optimizer.state[p]["step"] == 2
    assert torch.equal(optimizer.state[p]["momentum_buffer"], 0.5 * buffer + p.grad)


@pytest.mark.parametrize("kind", [EndToEnd, Factored])
def test_a_state_dict_that_does_not_fit_changes_nothing(kind) -> None:
    model = mixed()
    optimizer = kind(model, lr=0.1)
    run(model, optimizer, 1)
    saved = optimizer.state_dict()
    before = copy.deepcopy(saved)
    for spoil in (lambda views: views[:-1], lambda views: views[::-1]):
        bad = copy.deepcopy(saved)
        bad["param_groups"][0]["lr"] = 0.5
        bad["param_groups"][0]["views"] = spoil(bad["param_groups"][0]["views"])
        with pytest.raises(ValueError, match=r"views lists|its view is for"):
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
@pytest.mark.parametrize("shape", [(3, 4), (5,)])
def test_momentum_is_no_alias_of_the_update(dtype, nesterov: bool, shape) -> None:
    """The buffer is the sum of gradients and nothing else, whatever the step did with it."""
    p = drawn(*shape, dtype=dtype)
    gradient = p.grad.clone()
    optimizer = EndToEnd([p], 0.1, momentum=0.5, nesterov=nesterov, weight_decay=0.1)
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
