"""Weights of Factored that others change: adopted at the next step, with a word if need be."""

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from support.inner_cases import HALF, STEPS, advance, batches, loss_of, network
from torch import Tensor, nn

from overparam.optim import Factored


def begun(steps: int) -> tuple[nn.Sequential, Factored]:
    model = network()
    optimizer = Factored(model, lr=0.02, inner="adamw")
    advance(model, optimizer, range(steps))
    return model, optimizer


def still(model: nn.Module, optimizer: Factored, step: int) -> None:
    """A step that adopts, without moving."""
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    advance(model, optimizer, [step])
    for group, lr in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = lr


def assert_factors(model: nn.Sequential, optimizer: Factored, weight: Tensor) -> None:
    """They are factors of a weight, which has stayed bit for bit where they have not moved."""
    first, second = optimizer.factors(model[0].weight)
    torch.testing.assert_close(second @ first, weight, atol=1e-6, rtol=1e-5)
    assert torch.equal(model[0].weight, weight)


def test_weights_loaded_after_construction_are_adopted_without_a_word() -> None:
    model, optimizer = begun(0)
    loaded = network(seed=5)
    model.load_state_dict(loaded.state_dict())
    still(model, optimizer, 0)
    assert_factors(model, optimizer, loaded[0].weight.detach())
    # From there on it is a run that began with those weights.
    twin = network(seed=5)
    again = Factored(twin, lr=0.02, inner="adamw")
    still(twin, again, 0)
    for each in ((model, optimizer), (twin, again)):
        advance(*each, range(1, STEPS))
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def clamp(p: Tensor) -> None:
    p.clamp_(-0.2, 0.2)


def clamp_data(p: Tensor) -> None:
    p.data.clamp_(-0.2, 0.2)


def exchange_data(p: Tensor) -> None:
    p.data = p.data.clamp(-0.2, 0.2)


@torch.no_grad()
def one_entry(p: Tensor) -> None:
    p[1, 2] += 2e-7 + p[1, 2].abs() * 2e-7


@pytest.mark.parametrize("change", [clamp, clamp_data, exchange_data, one_entry])
def test_weights_changed_in_mid_run_are_adopted_with_one_warning(
    change: Callable[[Tensor], None],
) -> None:
    model, optimizer = begun(HALF)
    before = model[0].weight.detach().clone()
    change(model[0].weight)
    weight, other = model[0].weight.detach().clone(), model[2].weight.detach().clone()
    assert not torch.equal(weight, before)
    kept = copy.deepcopy(optimizer.factors(model[2].weight))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        still(model, optimizer, HALF)
    [warning] = caught
    assert str(warning.message).startswith("0.weight changed since the last step")
    assert_factors(model, optimizer, weight)
    assert torch.equal(model[2].weight, other)
    for factor, old in zip(optimizer.factors(model[2].weight), kept, strict=True):
        assert torch.equal(factor, old)
    advance(model, optimizer, range(HALF, STEPS))  # without a further word
    first, second = optimizer.factors(model[0].weight)
    assert torch.equal(model[0].weight, second @ first)


def test_averaged_weights_swapped_in_and_out_are_no_change() -> None:
    model, optimizer = begun(HALF)
    twin, again = begun(HALF)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    )
    for step in range(HALF, STEPS):
        average.update_parameters(model)
        saved = copy.deepcopy(model.state_dict())
        model.load_state_dict(average.module.state_dict())
        with torch.no_grad():
            loss_of(model, batches()[step])
        model.load_state_dict(saved)
        advance(model, optimizer, [step])
        advance(twin, again, [step])
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)


def test_averaged_weights_swapped_in_to_stay_are_adopted() -> None:
    model, optimizer = begun(HALF)
    average = copy.deepcopy(model.state_dict())
    advance(model, optimizer, range(HALF, STEPS))
    model.load_state_dict(average)
    expected = model[0].weight.detach().clone()
    with pytest.warns(UserWarning, match=r"^0\.weight, 2\.weight changed since the last step"):
        still(model, optimizer, 0)
    assert_factors(model, optimizer, expected)
