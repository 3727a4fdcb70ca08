"""Stopped half-way, saved, loaded and gone on: the same bits as in one piece."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from support.inner_cases import (
    HALF,
    INNER,
    STEPS,
    WRAPPERS,
    advance,
    assert_same,
    contents,
    in_one_piece,
    network,
    started,
    wrapped,
)
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)
from torch.optim import Optimizer

pytestmark = [
    # Without a process group torch's checkpoints say that there is one process.
    pytest.mark.filterwarnings("ignore:torch.distributed is disabled, unavailable"),
    pytest.mark.filterwarnings("ignore:TypedStorage is deprecated"),  # torch 2.9 in its own
]

Save = Callable[[Path, nn.Module, Optimizer], None]


def save_plainly(folder: Path, model: nn.Module, optimizer: Optimizer) -> None:
    torch.save((model.state_dict(), optimizer.state_dict()), folder / "saved.pt")


def load_plainly(folder: Path, model: nn.Module, optimizer: Optimizer) -> None:
    weights, state = torch.load(folder / "saved.pt", weights_only=True)
    model.load_state_dict(weights)
    optimizer.load_state_dict(state)


def load_state_first(folder: Path, model: nn.Module, optimizer: Optimizer) -> None:
    weights, state = torch.load(folder / "saved.pt", weights_only=True)
    optimizer.load_state_dict(state)
    model.load_state_dict(weights)


def distributed(*, in_memory: bool = False, **options: Any) -> tuple[Save, Save]:
    """torch.distributed.checkpoint, in a folder or in a file of torch.save."""
    asked = StateDictOptions(**options)

    def save(folder: Path, model: nn.Module, optimizer: Optimizer) -> None:
        weights, state = get_state_dict(model, optimizer, options=asked)
        if in_memory:
            torch.save((weights, state), folder / "saved.pt")
        else:
            dcp.save({"model": weights, "optimizer": state}, checkpoint_id=folder, no_dist=True)

    def load(folder: Path, model: nn.Module, optimizer: Optimizer) -> None:
        if in_memory:
            weights, state = torch.load(folder / "saved.pt", weights_only=True)
        else:
            weights, state = get_state_dict(model, optimizer, options=asked)
            whole = {"model": weights, "optimizer": state}
            dcp.load(whole, checkpoint_id=folder, no_dist=True)
            weights, state = whole["model"], whole["optimizer"]
        set_state_dict(
            model, optimizer, model_state_dict=weights, optim_state_dict=state, options=asked
        )

    return save, load


FRAMEWORKS: dict[str, tuple[Save, Save]] = {
    "torch.save": (save_plainly, load_plainly),
    "state first": (save_plainly, load_state_first),
    "nested": distributed(),
    "flat": distributed(flatten_optimizer_state_dict=True),
    "full": distributed(full_state_dict=True, in_memory=True),
}


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_resume(wrapper: str, inner: str, framework: str, tmp_path: Path) -> None:
    expected = in_one_piece(wrapper, inner)
    save, load = FRAMEWORKS[framework]
    if (framework, inner) == ("full", "Prodigy"):
        pytest.skip("torch does not load groups that gained options, of a plain Prodigy either")
    model, optimizer = started(wrapper, inner)
    advance(model, optimizer, range(HALF))
    save(tmp_path, model, optimizer)
    resumed = started(wrapper, inner, seed=9)
    load(tmp_path, *resumed)
    for each in ((model, optimizer), resumed):  # saving disturbs nothing either
        advance(*each, range(HALF, STEPS))
        assert_same(contents(*each), expected)


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_resume_where_the_weights_are_there_before_the_optimizer(wrapper: str, inner: str) -> None:
    model, optimizer = started(wrapper, inner)
    advance(model, optimizer, range(HALF))
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    other = network(seed=9)
    other.load_state_dict(saved[0])
    again = wrapped(wrapper, inner, other)
    again.load_state_dict(saved[1])
    advance(other, again, range(HALF, STEPS))
    assert_same(contents(other, again), in_one_piece(wrapper, inner))


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_resume_before_the_first_step(wrapper: str, framework: str, tmp_path: Path) -> None:
    save, load = FRAMEWORKS[framework]
    model, optimizer = started(wrapper, "AdamW")
    save(tmp_path, model, optimizer)
    resumed = started(wrapper, "AdamW", seed=9)
    load(tmp_path, *resumed)
    for each in ((model, optimizer), resumed):
        advance(*each, range(STEPS))
    assert_same(contents(*resumed), contents(model, optimizer))


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_what_has_never_stepped_is_loaded(wrapper: str, inner: str) -> None:
    model, first = started(wrapper, inner)
    other, second = started(wrapper, inner, seed=1)
    other.load_state_dict(model.state_dict())
    second.load_state_dict(first.state_dict())
    advance(other, second, range(STEPS))
    assert_same(contents(other, second), in_one_piece(wrapper, inner))
