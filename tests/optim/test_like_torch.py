"""What people do to an optimizer in mid-run: the wrappers do what torch.optim.AdamW does."""

import copy
import io
import math
import pickle
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.inner_cases import HALF, STEPS, WRAPPERS, advance, batches, loss_of, network
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from overparam import EndToEnd, Factored, Radial

Run = tuple[nn.Sequential, Optimizer]
OPTIONS: dict[str, Any] = {"lr": 0.02, "weight_decay": 0.1}
every_kind = pytest.mark.parametrize("kind", ["torch", *WRAPPERS])


def made(kind: str, params: Any, **options: Any) -> Optimizer:
    if kind == "torch":
        return AdamW(params, **{**OPTIONS, **options})
    return WRAPPERS[kind](params, inner="adamw", **{**OPTIONS, **options})


def of_layers(kind: str, model: nn.Sequential, layers: tuple[int, ...] = (0, 2)) -> Optimizer:
    """One group for each layer."""
    return made(kind, [{"params": list(model[layer].parameters())} for layer in layers])


def begun(kind: str) -> Run:
    model = network()
    optimizer = of_layers(kind, model)
    advance(model, optimizer, range(HALF))
    return model, optimizer


def values(optimizer: Optimizer, *params: Tensor) -> list[Any]:
    """Parameters and their state, copied."""
    return [
        (p.detach().clone(), {name: copy.deepcopy(v) for name, v in optimizer.state[p].items()})
        for p in params
    ]


def assert_equal(found: Any, expected: Any) -> None:
    if isinstance(expected, Tensor):
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        assert_equal(list(found.values()), list(expected.values()))
    elif isinstance(expected, (list, tuple)):
        for one, other in zip(found, expected, strict=True):
            assert_equal(one, other)
    else:
        assert found == expected


def counts(optimizer: Optimizer, p: Tensor) -> set[float]:
    """How many steps the state of a parameter tells of."""
    return {float(v) for name, v in optimizer.state[p].items() if name.endswith("step")}


# After these the run goes on as if nothing had been.


def reverse_groups(model: nn.Sequential, optimizer: Optimizer) -> Run:
    optimizer.param_groups.reverse()
    return model, optimizer


def new_groups(model: nn.Sequential, optimizer: Optimizer) -> Run:
    optimizer.param_groups = [dict(group) for group in optimizer.param_groups]
    return model, optimizer


def new_state_for_each(model: nn.Sequential, optimizer: Optimizer) -> Run:
    """As Lightning does when it moves an optimizer to a device."""
    for p, state in optimizer.state.items():
        optimizer.state[p] = {
            name: v.clone() if isinstance(v, Tensor) else v for name, v in state.items()
        }
    return model, optimizer


def new_state(model: nn.Sequential, optimizer: Optimizer) -> Run:
    optimizer.state = defaultdict(dict, {p: dict(s) for p, s in optimizer.state.items()})
    return model, optimizer


def key_added(model: nn.Sequential, optimizer: Optimizer) -> Run:
    optimizer.param_groups[0]["note"] = "of mine"
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert optimizer.param_groups[0]["note"] == "of mine"
    return model, optimizer


def copied(model: nn.Sequential, optimizer: Optimizer) -> Run:
    return copy.deepcopy((model, optimizer))


def pickled(model: nn.Sequential, optimizer: Optimizer) -> Run:
    return pickle.loads(pickle.dumps((model, optimizer)))


def saved_whole(model: nn.Sequential, optimizer: Optimizer) -> Run:
    buffer = io.BytesIO()
    torch.save((model, optimizer), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def shared_with_a_copy(model: nn.Sequential, optimizer: Optimizer) -> Run:
    """A copy that trains on leaves the original alone."""
    other = copy.deepcopy((model, optimizer))
    advance(*other, range(HALF))
    return model, optimizer


def a_closure_that_raises(model: nn.Sequential, optimizer: Optimizer) -> Run:
    def closure() -> float:
        raise ArithmeticError("of mine")

    with pytest.raises(ArithmeticError, match="of mine"):
        optimizer.step(closure)
    return model, optimizer


def lr_as_a_tensor(model: nn.Sequential, optimizer: Optimizer) -> Run:
    """A step with a rate of zero, in which the weights stay; then the rate as it was."""
    state = copy.deepcopy(optimizer.state_dict())
    before = [p.detach().clone() for p in model.parameters()]
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(0.0)
    optimizer.step()
    assert_equal([p.detach() for p in model.parameters()], before)
    for group in optimizer.param_groups:
        group["lr"].fill_(0.02)
    optimizer.step()
    assert not torch.equal(model[0].weight, before[0])
    for p, old in zip(model.parameters(), before, strict=True):
        p.detach().copy_(old)
    optimizer.load_state_dict(state)
    return model, optimizer


HARMLESS: list[Callable[[nn.Sequential, Optimizer], Run]] = [
    reverse_groups,
    new_groups,
    new_state_for_each,
    new_state,
    key_added,
    copied,
    pickled,
    saved_whole,
    shared_with_a_copy,
    a_closure_that_raises,
    lr_as_a_tensor,
]


@pytest.mark.parametrize("change", HARMLESS)
@every_kind
def test_the_run_goes_on_bit_for_bit(kind: str, change: Callable[..., Run]) -> None:
    runs = [begun(kind), change(*begun(kind))]
    for run in runs:
        advance(*run, range(HALF, STEPS))
    found, expected = ([*values(o, *m.parameters())] for m, o in runs)
    assert_equal(found, expected)


@every_kind
def test_a_group_taken_away_stays_as_it_is(kind: str) -> None:
    model, optimizer = begun(kind)
    gone = list(model[2].parameters())
    before, moving = values(optimizer, *gone), model[0].weight.detach().clone()
    optimizer.param_groups.pop()
    advance(model, optimizer, range(HALF, STEPS))
    assert_equal(values(optimizer, *gone), before)
    assert not torch.equal(model[0].weight, moving)


@every_kind
def test_a_group_added_trains_from_its_own_beginning(kind: str) -> None:
    model = network()
    optimizer = of_layers(kind, model, layers=(0,))
    advance(model, optimizer, range(HALF))
    before = model[2].weight.detach().clone()
    optimizer.add_param_group({"params": list(model[2].parameters()), "lr": 0.01})
    advance(model, optimizer, range(HALF, STEPS))
    assert not torch.equal(model[2].weight, before)
    assert counts(optimizer, model[0].weight) == {STEPS}
    assert counts(optimizer, model[2].weight) == {STEPS - HALF}


@pytest.mark.parametrize("rows", [6, 5])
@every_kind
def test_a_parameter_exchanged_starts_afresh(kind: str, rows: int) -> None:
    model, optimizer = begun(kind)
    old, generator = model[0].weight, torch.Generator().manual_seed(1)
    before = values(optimizer, old, model[0].bias)
    new, twin = (nn.Parameter(torch.zeros(rows, 4)) for _ in range(2))
    new.data.normal_(generator=generator)
    twin.data.copy_(new)
    new.grad, twin.grad = (torch.ones(rows, 4) for _ in range(2))
    optimizer.param_groups[0]["params"][0] = new
    optimizer.step()
    made(kind, [twin]).step()
    assert_equal(new.detach(), twin.detach())
    assert counts(optimizer, new) == {1}
    assert counts(optimizer, model[0].bias) == {HALF + 1}
    assert_equal(values(optimizer, old), before[:1])


@every_kind
def test_state_that_is_cleared_starts_afresh(kind: str) -> None:
    model, optimizer = begun(kind)
    loss_of(model, batches()[HALF]).backward()
    twin = copy.deepcopy(model)
    for p, other in zip(model.parameters(), twin.parameters(), strict=True):
        other.grad = p.grad.clone()
    again = of_layers(kind, twin)
    optimizer.state.clear()
    for each in ((model, optimizer), (twin, again)):
        each[1].step()
        advance(*each, range(HALF + 1, STEPS))
    assert_equal(values(optimizer, *model.parameters()), values(again, *twin.parameters()))


@every_kind
def test_hooks_see_one_step_a_step(kind: str) -> None:
    seen: list[tuple[str, Optimizer]] = []
    model, optimizer = begun(kind)
    hooks = [
        register_optimizer_step_pre_hook(lambda o, *_: seen.append(("before", o))),
        register_optimizer_step_post_hook(lambda o, *_: seen.append(("after", o))),
        optimizer.register_step_pre_hook(lambda o, *_: seen.append(("own before", o))),
        optimizer.register_step_post_hook(lambda o, *_: seen.append(("own after", o))),
    ]
    try:
        advance(model, optimizer, range(2))
    finally:
        for hook in hooks:
            hook.remove()
    words = ["after", "after", "before", "before"]
    assert sorted(word.removeprefix("own ") for word, _ in seen) == sorted(2 * words)
    assert all(each is optimizer for _, each in seen)


SCHEDULERS: dict[str, Callable[[Optimizer], Any]] = {
    "lambda": lambda o: LambdaLR(o, lambda step: 1 / (1 + step)),
    "cosine": lambda o: CosineAnnealingLR(o, T_max=STEPS),
    "one cycle": lambda o: OneCycleLR(o, max_lr=0.1, total_steps=STEPS + 1),
}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@every_kind
def test_schedulers_set_the_same_rates_and_momenta(kind: str, scheduler: str) -> None:
    rates = []
    for each in (kind, "torch"):
        model = network()
        optimizer = of_layers(each, model)
        schedule = SCHEDULERS[scheduler](optimizer)
        for step in range(STEPS):
            advance(model, optimizer, [step])
            schedule.step()
            rates.append([(g["lr"], g["betas"], g["initial_lr"]) for g in optimizer.param_groups])
    assert rates[:STEPS] == rates[STEPS:]


@every_kind
def test_a_gradient_scaler_skips_and_goes_on(kind: str) -> None:
    model, optimizer = begun(kind)
    twin, plain = copy.deepcopy((model, optimizer))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for step, batch in enumerate(batches()[HALF:]):
        optimizer.zero_grad()
        scaler.scale(loss_of(model, batch)).backward()
        if step == 1:
            before = values(optimizer, *model.parameters())
            model[2].weight.grad[0, 0] = math.inf
        if step == 2:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        if step == 1:
            assert_equal(values(optimizer, *model.parameters()), before)
    assert scaler.get_scale() == 2.0**9
    advance(twin, plain, [HALF, HALF + 2])
    assert_equal(values(optimizer, *model.parameters()), values(plain, *twin.parameters()))


@pytest.mark.parametrize("kind", [EndToEnd, Factored, Radial])
def test_parameters_may_be_put_in_another_order(kind) -> None:
    """Within a group, in place: the reading of a weight goes with the weight."""
    ends = []
    for reverse in (False, True):
        torch.manual_seed(0)
        model, x = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)), torch.randn(8, 4)
        optimizer = kind(model, lr=0.05, inner="adamw")
        for number in range(6):
            if reverse and number == 3:
                optimizer.param_groups[0]["params"].reverse()
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
        ends.append(model[0].weight.detach())
    assert torch.equal(*ends)
