"""An inner optimizer with two modes: train() and eval() go through, and change nothing else."""

import copy

import pytest
import torch
from support.inner_cases import HALF, STEPS, WRAPPERS, advance, batches, loss_of, network
from torch import Tensor
from torch.optim import Optimizer

schedulefree = pytest.importorskip(
    "schedulefree", reason="schedulefree is not installed; install the extra 'test'"
)
every_wrapper = pytest.mark.parametrize("wrapper", WRAPPERS)


def made(wrapper: str, model: torch.nn.Module, **options: object) -> Optimizer:
    inner = schedulefree.AdamWScheduleFree
    return WRAPPERS[wrapper](model, lr=0.05, inner=inner, weight_decay=0.1, **options)


def weights(model: torch.nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def products(model: torch.nn.Sequential, optimizer: Optimizer) -> None:
    """The weights are the products of their factors."""
    for layer in (model[0], model[2]):
        first, second = optimizer.factors(layer.weight)
        assert torch.equal(layer.weight, second @ first)


@every_wrapper
def test_modes_go_through(wrapper: str) -> None:
    model = network()
    optimizer = made(wrapper, model)
    with pytest.raises(Exception, match="not in train mode"):
        advance(model, optimizer, [0])
    optimizer.train()
    assert not optimizer.state
    advance(model, optimizer, range(HALF))
    training = weights(model)
    optimizer.train()  # again: nothing
    assert equal(weights(model), training)
    optimizer.eval()
    averaged = weights(model)
    assert all(not torch.equal(a, b) for a, b in zip(training, averaged, strict=True))
    assert [group["train_mode"] for group in optimizer.param_groups] == [False]
    optimizer.eval()
    assert equal(weights(model), averaged)
    if wrapper == "Factored":
        products(model, optimizer)
        for p in (model[0].weight, model[2].weight):
            for name, factor in zip(("factor1", "factor2"), optimizer.factors(p), strict=True):
                z = optimizer.state[p][f"{name}_z"]
                assert not torch.equal(factor, z)
    optimizer.train()
    torch.testing.assert_close(weights(model), training)
    if wrapper == "Factored":
        products(model, optimizer)
    advance(model, optimizer, range(HALF, STEPS))


@pytest.mark.parametrize("wrapper", ["EndToEnd", "Factored", "Radial"])
def test_with_one_the_modes_are_the_inner_ones(wrapper: str) -> None:
    models = [network(), network()]
    plain = schedulefree.AdamWScheduleFree(models[0].parameters(), lr=0.05, weight_decay=0.1)
    one = {"radial": 1} if wrapper == "Radial" else {"depth": 1}
    optimizer = made(wrapper, models[1], **one)
    for word in ("train", "eval", "train", "train", "eval"):
        for model, each in zip(models, (plain, optimizer), strict=True):
            getattr(each, word)()
            if word == "train":
                advance(model, each, range(HALF))
        assert equal(*(weights(model) for model in models))


@every_wrapper
def test_a_checkpoint_of_either_mode(wrapper: str) -> None:
    model = network()
    optimizer = made(wrapper, model)
    optimizer.train()
    advance(model, optimizer, range(HALF))
    optimizer.eval()
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    other = network(seed=9)
    resumed = made(wrapper, other)
    other.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    for each in ((model, optimizer), (other, resumed)):
        each[1].train()
        advance(*each, range(HALF, STEPS))
        each[1].eval()
    assert equal(weights(model), weights(other))


@every_wrapper
def test_without_modes_train_and_eval_do_nothing(wrapper: str) -> None:
    """Some trainers call train() before every step, of any optimizer that has it."""
    model = network()
    optimizer = WRAPPERS[wrapper](model, lr=0.05, inner="adamw")
    optimizer.train()
    assert not optimizer.state
    advance(model, optimizer, range(HALF))
    with torch.no_grad():
        model[0].weight.clamp_(-0.1, 0.1)
    before, state = weights(model), copy.deepcopy(optimizer.state_dict())
    optimizer.eval()
    optimizer.train()
    assert equal(weights(model), before)
    assert list(state["state"][0]) == list(optimizer.state_dict()["state"][0])


def test_changed_weights_are_not_lost_where_the_mode_changes() -> None:
    model = network()
    optimizer = made("Factored", model)
    optimizer.train()
    advance(model, optimizer, range(HALF))
    optimizer.zero_grad()
    changed = torch.full_like(model[0].weight, 0.25)
    with torch.no_grad():
        model[0].weight.copy_(changed)
    with pytest.warns(UserWarning, match=r"0\.weight changed since the last step"):
        optimizer.train()  # is in that mode already
    assert torch.equal(model[0].weight, changed)
    optimizer.eval()
    assert not torch.equal(model[0].weight, changed)
    first, second = optimizer.factors(model[0].weight)
    assert torch.equal(model[0].weight, second @ first)
    loss_of(model, batches()[0]).backward()
