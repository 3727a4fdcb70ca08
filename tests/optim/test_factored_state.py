"""What Factored loads, refuses, warns of and leaves alone."""

import copy
import itertools

import pytest
import torch
from support.optim_cases import assert_same_bits, mixed, parameters_of, run
from support.optim_cases import weight_with_gradient as drawn
from torch import Tensor, nn

from overparam.optim import Factored

AdamW = torch.optim.AdamW


def on_meta(matrices: Tensor, depth: int, width: object) -> tuple[Tensor, ...]:
    """Factors on the meta device, which stands for an accelerator."""
    *batch, rows, columns = matrices.shape
    sizes = [columns, *[min(rows, columns)] * (depth - 1), rows]
    return tuple(torch.empty(*batch, m, n, device="meta") for n, m in itertools.pairwise(sizes))


def trained(make, seed: int = 0) -> tuple[nn.Module, dict, dict]:
    """A model after some steps, its state and that of its optimizer."""
    model = mixed(seed=seed)
    optimizer = make(model)
    run(model, optimizer, 3)
    return model, copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())


MISFITS = {
    "a plain optimizer": lambda model: AdamW(model.parameters(), lr=0.05),
    "another depth": lambda model: Factored(model, inner=AdamW, depth=3, lr=0.05),
    "another width": lambda model: Factored(model, inner=AdamW, depth=2, width=12, lr=0.05),
    "no depth": lambda model: Factored(model, inner=AdamW, depth=1, lr=0.05),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_state_that_does_not_fit_leaves_the_weights_alone(misfit: str) -> None:
    _, weights, state = trained(MISFITS[misfit])
    model = mixed(seed=7)
    optimizer = Factored(model, inner=AdamW, depth=2, lr=0.01)
    model.load_state_dict(weights)
    loaded, before = parameters_of(model), copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match="saved by another optimizer"):
        optimizer.load_state_dict(state)
    assert_same_bits(parameters_of(model), loaded)
    assert optimizer.state_dict()["param_groups"] == before["param_groups"]
    # The weights were loaded after the optimizer was made: they are adopted, without a word.
    optimizer.param_groups[0]["lr"] = 0.0
    run(model, optimizer, 1)
    for p, old in zip(model.parameters(), loaded, strict=True):
        torch.testing.assert_close(p.detach(), old, atol=1e-13, rtol=0)


def test_factors_of_the_transposed_reading_are_not_taken_over() -> None:
    """Square matrices: the shapes of the factors are the same."""
    p = drawn(4, 4)
    plain = Factored([p], inner=torch.optim.SGD, lr=0.1)
    plain.step()
    state, before = copy.deepcopy(plain.state_dict()), p.detach().clone()
    turned = {"params": [p], "views": [("", "linear", (4, 4), 1, 4, 4, True)]}
    optimizer = Factored([turned], inner=torch.optim.SGD, lr=0.1)
    with pytest.raises(ValueError, match="reading of the layer"):
        optimizer.load_state_dict(state)
    torch.testing.assert_close(p.detach(), before)


@pytest.mark.parametrize("depth", [1, 2])
def test_state_of_version_0_1_loads(depth: int) -> None:
    """Lists of factors and of inner states become flat; the trajectory goes on."""
    models = [nn.Linear(4, 3).double() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    ours = [Factored(m, inner="sgd", depth=depth, lr=0.1, momentum=0.9) for m in models]
    for optimizer, model in zip(ours, models, strict=True):
        run(model, optimizer, 2, loss=lambda model: model(torch.ones(2, 4).double()).sum())
    old: dict = {"state": {}, "param_groups": ours[0].state_dict()["param_groups"]}
    for index, p in enumerate(models[0].parameters()):
        factors = ours[0].factors(p)
        prefixes = [f"factor{j}_" for j in range(1, len(factors) + 1)] or [""]
        inner = [ours[0].inner_state(p, prefix) for prefix in prefixes]
        old["state"][index] = {"factors": factors, "inner": inner}
    fresh = Factored(models[0], inner="sgd", depth=depth, lr=0.1, momentum=0.9)
    fresh.load_state_dict(copy.deepcopy(old))
    for optimizer, model in zip((fresh, ours[1]), models, strict=True):
        run(model, optimizer, 2, loss=lambda model: model(torch.ones(2, 4).double()).sum())
    for p, twin in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(p, twin, rtol=1e-13, atol=1e-13)


def inner_states(optimizer: Factored) -> list[tuple[Tensor, dict]]:
    found = []
    for p in optimizer.state:
        factors = optimizer.factors(p)
        prefixes = [f"factor{j}_" for j in range(1, len(factors) + 1)] or [""]
        states = [optimizer.inner_state(p, prefix) for prefix in prefixes]
        found += list(zip(factors or [p], states, strict=True))
    return found


@pytest.mark.parametrize("options", [{}, {"capturable": True}, {"fused": True}])
@pytest.mark.parametrize("inner", [AdamW, torch.optim.SGD])
def test_state_goes_to_the_device_of_its_factor(inner, options: dict) -> None:
    """As torch's test_cpu_load_state_dict: the step stays, unless it must be on the device."""
    if inner is torch.optim.SGD and "capturable" in options:
        return
    options = {**options, **({"momentum": 0.9} if inner is torch.optim.SGD else {"amsgrad": True})}
    here = nn.Linear(5, 4)
    # Capturable optimizers step on an accelerator alone: the option comes with the checkpoint.
    stepping = {name: value for name, value in options.items() if name != "capturable"}
    saving = Factored(here, inner=inner, lr=0.01, **stepping)
    here(torch.ones(2, 5)).sum().backward()
    saving.step()
    saved = saving.state_dict()
    saved["param_groups"][0].update(options)
    with torch.device("meta"):
        there = nn.Linear(5, 4)
    optimizer = Factored(there, inner=inner, lr=0.01, init=on_meta)
    optimizer.load_state_dict(saved)
    on_device = "capturable" in options or "fused" in options
    states = inner_states(optimizer)
    assert len(states) == 3
    for target, state in states:
        assert state
        for name, value in state.items():
            expected = target.device if name != "step" or on_device else torch.device("cpu")
            assert value.device == expected, name
    # The checkpoint is as it was.
    for _, state in inner_states(saving):
        assert all(value.device.type == "cpu" for value in state.values())


def test_state_takes_the_dtype_of_its_factor() -> None:
    p = drawn(3, 4)
    wide = Factored([p], inner=AdamW, lr=0.01)
    wide.step()
    narrow = Factored([p], inner=AdamW, lr=0.01, factor_dtype=torch.float32)
    narrow.load_state_dict(wide.state_dict())
    # Factors and their state keep the dtype that they were saved in.
    for factor, state in inner_states(narrow):
        assert {value.dtype for name, value in state.items() if name != "step"} == {factor.dtype}


@pytest.mark.parametrize(("made", "asked"), [(2, 1), (1, 2), (2, 3), (2, 2.5)])
def test_another_depth_during_a_run_is_refused_before_anything_changes(made, asked) -> None:
    params = [drawn(3, 4), drawn(4)]
    optimizer = Factored(params, inner=torch.optim.SGD, depth=made, lr=0.1)
    optimizer.step()
    before = [p.detach().clone() for p in params]
    optimizer.param_groups[0]["depth"] = asked
    for call in (optimizer.step, optimizer.refactor):
        with pytest.raises(ValueError, match=rf"depth is {asked} .*depth {made}: .*collapse\(\)"):
            call()
    assert_same_bits([p.detach() for p in params], before)
    optimizer.param_groups[0]["depth"] = made
    optimizer.step()
    expanded = Factored.expand(optimizer.collapse(), depth=3)
    assert len(expanded.factors(params[0])) == 3


def test_a_group_without_matrices_has_any_depth() -> None:
    optimizer = Factored([drawn(4)], inner=torch.optim.SGD, lr=0.1)
    optimizer.param_groups[0]["depth"] = 5
    optimizer.step()


@pytest.mark.parametrize("init", ["balanced", lambda w, d, k: (0 * w, w.new_zeros(3, 3))])
def test_frozen_weights_stay_bit_for_bit_until_they_are_trained(init) -> None:
    model = nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 3))
    model[0].requires_grad_(False)
    frozen, inputs = parameters_of(model[0]), torch.randn(4, 5)

    def loss(model: nn.Module) -> Tensor:
        return model(inputs).square().mean()

    groups = [{"params": model[0], "init": init}, {"params": model[1]}]
    optimizer = Factored(groups, inner=torch.optim.SGD, lr=0.1, weight_decay=0.1)
    moving = parameters_of(model[1])
    run(model, optimizer, 2, loss=loss)
    optimizer.refactor()
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert_same_bits(parameters_of(model[0]), frozen)
    assert all(not torch.equal(p, old) for p, old in zip(model[1].parameters(), moving))  # noqa: B905
    model[0].requires_grad_(True)
    run(model, optimizer, 1, loss=loss)
    moved = (model[0].weight - frozen[0]).norm() / frozen[0].norm()
    assert 1e-5 < moved < 0.5


def test_a_weight_without_gradient_is_not_written() -> None:
    params = [drawn(3, 4), drawn(4, 4)]
    optimizer = Factored(params, inner=torch.optim.SGD, lr=0.1, weight_decay=0.1)
    params[1].grad = None
    with torch.no_grad():
        params[1].fill_(2.0)
    optimizer.step()
    assert (params[1] == 2.0).all()


def test_zero_weights_warn() -> None:
    layer = nn.Linear(4, 3)
    nn.init.zeros_(layer.weight)
    with pytest.warns(UserWarning, match="all-zero weights stay zero.*: weight. .*give init"):
        Factored(layer, inner=torch.optim.SGD, lr=0.1)
    Factored(layer, inner=torch.optim.SGD, depth=1, lr=0.1)

    def one_zero(matrices: Tensor, depth: int, width: object) -> list[Tensor]:
        return [torch.ones(2, 4), torch.zeros(3, 2)]  # the upper factor has a gradient

    optimizer = Factored(layer, inner=torch.optim.SGD, init=one_zero, lr=0.1)
    layer(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    assert layer.weight.abs().sum() > 0


@pytest.mark.parametrize("lr", [2.0, torch.tensor(2.0), torch.tensor([2.0])])
def test_decay_by_more_than_the_whole_is_refused_for_a_tensor_too(lr) -> None:
    p = drawn(3, 4)
    on = {"weight_decay": 1.0, "weight_decay_on": "product"}
    optimizer = Factored([p], inner=torch.optim.SGD, lr=lr, **on)
    before = p.detach().clone()
    with pytest.raises(ValueError, match=r"lr \* weight_decay is 2"):
        optimizer.step()
    assert torch.equal(p, before)
    optimizer.param_groups[0]["lr"] = torch.tensor(2.0, device="meta")
    optimizer._check_groups()  # a learning rate on an accelerator is not read


def test_expand_takes_the_options_it_is_given() -> None:
    p = drawn(3, 4)
    plain = torch.optim.SGD([p], lr=0.1, momentum=0.9)
    plain.param_groups[0]["initial_lr"] = 0.4
    plain.step()
    asked = {"lr": 0.5, "momentum": 0.3, "weight_decay": 0.2, "weight_decay_on": "factors"}
    [group] = Factored.expand(plain, **asked).param_groups
    assert {name: group[name] for name in asked} == asked
    assert group["initial_lr"] == 0.5
    [group] = Factored.expand(plain).param_groups
    assert (group["lr"], group["momentum"], group["initial_lr"]) == (0.1, 0.9, 0.4)


def test_a_learning_rate_tensor_is_not_shared_between_optimizers() -> None:
    p, lr = drawn(3, 4), torch.tensor(0.1, dtype=torch.float64)
    plain = torch.optim.SGD([p], lr=lr, foreach=False)
    expanded = Factored.expand(plain)
    collapsed = expanded.collapse()
    lr.zero_()
    expanded.param_groups[0]["lr"].mul_(2)
    rates = [each.param_groups[0]["lr"].item() for each in (plain, expanded, collapsed)]
    assert rates == pytest.approx([0, 0.2, 0.1])
    before = p.detach().clone()
    collapsed.step()
    torch.testing.assert_close(p.detach(), before - 0.1 * p.grad)
    collapsed.param_groups[0]["initial_lr"] = 0.1
    [group] = Factored.expand(collapsed, lr=lr).param_groups
    lr.add_(0.5)
    assert (group["lr"].item(), group["initial_lr"].item()) == (0.5, 0)


def test_schedulers_go_on_after_expand_and_collapse() -> None:
    plain = torch.optim.SGD([drawn(3, 4)], lr=0.4)
    scheduler = torch.optim.lr_scheduler.LambdaLR(plain, lambda step: 1 / (1 + step))
    for _ in range(2):
        plain.step()
        scheduler.step()
    collapsed = Factored.expand(plain).collapse()
    assert not {"depth", "views", "init"} & set(collapsed.param_groups[0])
    torch.optim.lr_scheduler.LambdaLR(collapsed, lambda step: 1 / (1 + step), last_epoch=2)
    assert collapsed.param_groups[0]["lr"] == pytest.approx(0.1)


@pytest.mark.parametrize("rows", [1, 3])
def test_refactor_keeps_the_widths_of_an_initialization_of_ones_own(rows: int) -> None:
    """One row is the trap: its narrow factors would be broadcast into the wide ones."""

    def wide(matrices: Tensor, depth: int, width: object) -> list[Tensor]:
        return [matrices.new_ones(6, 4), matrices.new_ones(rows, 6)]

    p = drawn(rows, 4)
    optimizer = Factored([p], inner=torch.optim.SGD, init=wide, lr=0.1)
    changed = drawn(rows, 4, seed=3).detach()
    with torch.no_grad():
        p.copy_(changed)
    optimizer.refactor()
    torch.testing.assert_close(p.detach(), changed)
    assert [tuple(f.shape) for f in optimizer.factors(p)] == [(6, 4), (rows, 6)]


def test_refactor_refuses_factors_too_narrow_before_anything_changes() -> None:
    def narrow(matrices: Tensor, depth: int, width: object) -> list[Tensor]:
        rows, columns = matrices.shape
        return [matrices.new_ones(2, columns), matrices.new_ones(rows, 2)]

    params = [drawn(2, 4), drawn(3, 4)]
    optimizer = Factored(params, inner=torch.optim.SGD, init=narrow, lr=0.1)
    with torch.no_grad():
        params[0].mul_(2)
    before = copy.deepcopy([optimizer.factors(p) for p in params])
    values = [p.detach().clone() for p in params]
    with pytest.raises(ValueError, match="width 2 is below 3"):
        optimizer.refactor()
    assert_same_bits([p.detach() for p in params], values)
    for p, factors in zip(params, before, strict=True):
        assert_same_bits(optimizer.factors(p), factors)


@pytest.mark.parametrize(("made", "asked"), [(2, 1), (1, 2), (2, 3)])
def test_the_remedy_for_another_depth_keeps_the_momentum(made: int, asked: int) -> None:
    """As the error says, with the depth of the group as it was asked for."""
    p = drawn(3, 4)
    optimizer = Factored([p], inner=torch.optim.SGD, depth=made, lr=0.1, momentum=0.9)
    optimizer.step()
    momentum = optimizer.collapse().state[p]["momentum_buffer"]
    optimizer.param_groups[0]["depth"] = asked
    expanded = Factored.expand(optimizer.collapse(), depth=asked)
    torch.testing.assert_close(expanded.collapse().state[p]["momentum_buffer"], momentum)
    expanded.step()
