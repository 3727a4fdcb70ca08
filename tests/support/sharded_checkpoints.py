"""Checkpoints of several processes, and of one, each loaded by others."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.fsdp import fully_shard

from overparam import EndToEnd, Factored, collapse, collapse_state_dict, overparameterize
from support.optim_cases import mixed
from support.sharded_cases import Make, assert_equal, pair, train
from support.sharded_layouts import by_layer, hybrid

MAKES: dict[str, Make] = {
    "exact": lambda model: EndToEnd(model, lr=0.05, inner="adamw", eps=1e-4),
    "tracked": lambda model: EndToEnd(model, lr=0.05, basis="tracked", momentum=0.9),
    "factors": lambda model: Factored(model, lr=0.05, inner="adamw", eps=1e-4),
}
FORMATS = {
    "nested": StateDictOptions(),
    "flattened": StateDictOptions(flatten_optimizer_state_dict=True),
    "full": StateDictOptions(full_state_dict=True),
}
Shard = Callable[[nn.Module], None]
FOLDER = "OVERPARAM_TEST_FOLDER"


def place(world: int | str, make: str, form: str) -> Path:
    return Path(os.environ[FOLDER], f"{world}-{make}-{form}")


def save(model: nn.Module, optimizer: torch.optim.Optimizer, path: Path, form: str) -> None:
    weights, state = get_state_dict(model, optimizer, options=FORMATS[form])
    both = {"model": weights, "optimizer": state}
    if form != "full":
        dcp.save(both, checkpoint_id=path, no_dist=not dist.is_initialized())
    elif not dist.is_initialized() or dist.get_rank() == 0:
        torch.save(both, path)


def load(model: nn.Module, optimizer: torch.optim.Optimizer, path: Path, form: str) -> None:
    if form == "full":
        both = torch.load(path, weights_only=False)
    else:
        weights, state = get_state_dict(model, optimizer, options=FORMATS[form])
        both = {"model": weights, "optimizer": state}
        dcp.load(both, checkpoint_id=path, no_dist=not dist.is_initialized())
    set_state_dict(
        model,
        optimizer,
        model_state_dict=both["model"],
        optim_state_dict=both["optimizer"],
        options=FORMATS[form],
    )


def build(shard: Shard, seed: int = 0) -> nn.Module:
    model = mixed(seed=seed)
    if dist.is_initialized():
        shard(model)
    return model


def write_all(
    world: int | str, forms: tuple[str, ...] = tuple(FORMATS), shard: Shard = by_layer
) -> None:
    """Checkpoints after two steps."""
    for make, optimizer_of in MAKES.items():
        model = build(shard)
        optimizer = optimizer_of(model)
        assert_same_keys(model, optimizer)
        train(model, optimizer, 2)
        assert_same_keys(model, optimizer)
        for form in forms:
            save(model, optimizer, place(world, make, form), form)


def assert_same_keys(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """All processes have state of the same names, as checkpoints need it; of known kinds."""
    packed = optimizer.state_dict()["state"]
    names = {str(index): sorted(state) for index, state in packed.items()}
    names |= {name: sorted(optimizer.state.get(p, {})) for name, p in model.named_parameters()}
    for state in optimizer.state.values():
        assert all(isinstance(value, (torch.Tensor, int, float)) for value in state.values())
    if dist.is_initialized():
        everyone = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, names)
        assert all(each == names for each in everyone)


def checkpoints_before_a_step(shard: Shard = by_layer) -> None:
    """What has never stepped has the same names on all processes, is saved and is loaded.

    With ``get_state_dict`` by others, after the step of zeros that torch takes there.
    """
    for make, optimizer_of in MAKES.items():
        alone, model, other, plain = mixed(), build(shard), build(shard, 1), build(shard)
        optimizers = [optimizer_of(each) for each in (alone, model, other, plain)]
        assert_same_keys(model, optimizers[1])
        optimizers[3].load_state_dict(optimizers[1].state_dict())
        expected = mixed()
        train(expected, optimizer_of(expected), 2)
        train(plain, optimizers[3], 2)
        assert_equal(plain, expected)
        get_state_dict(alone, optimizers[0])
        train(alone, optimizers[0], 2)
        save(model, optimizers[1], place("fresh", make, "nested"), "nested")
        assert_same_keys(model, optimizers[1])
        load(other, optimizers[2], place("fresh", make, "nested"), "nested")
        for each, optimizer in ((model, optimizers[1]), (other, optimizers[2])):
            train(each, optimizer, 2)
            assert_equal(each, alone)


def read_all(
    world: int | str, forms: tuple[str, ...] = tuple(FORMATS), shard: Shard = by_layer
) -> None:
    """What resumes from them is what was never interrupted."""
    for make, optimizer_of in MAKES.items():
        alone = mixed()
        train(alone, optimizer_of(alone), 3)
        for form in forms:
            model = build(shard, seed=1)
            optimizer = optimizer_of(model)
            load(model, optimizer, place(world, make, form), form)
            train(model, optimizer, 1)
            assert_equal(model, alone)


def checkpoints_of_divided_work() -> None:
    """Processes that hold the same weights and divide the factors, from one process and back."""
    alone = mixed()
    train(alone, MAKES["factors"](alone), 3)
    for form in ("nested", "flattened"):
        path = place(1, "factors", form)
        for steps in (0, 1):
            model = mixed(seed=1)
            optimizer = Factored(
                model, lr=0.05, inner="adamw", eps=1e-4, divide_among=dist.group.WORLD
            )
            load(model, optimizer, path, form)
            path = path.with_name(f"divided-{form}")
            if steps == 0:
                save(model, optimizer, path, form)
            train(model, optimizer, 1)
            assert_equal(model, alone)
            with pytest.raises(NotImplementedError, match=r"use state_dict\(\)"):
                copy.deepcopy(optimizer)


def checkpoint_of_factors_in_the_model() -> None:
    """overparameterize, then fully_shard: what is saved collapses to the plain model."""
    model, alone = overparameterize(pair(), depth=2), overparameterize(pair(), depth=2)
    fully_shard(model)
    for each in (model, alone):
        train(each, torch.optim.SGD(each.parameters(), lr=0.05, momentum=0.9), 3)
    path = Path(os.environ[FOLDER], "overparameterized")
    dcp.save({"model": get_model_state_dict(model)}, checkpoint_id=path)
    saved = {"model": overparameterize(pair(), depth=2).state_dict()}
    dcp.load(saved, checkpoint_id=path)
    plain = pair()
    plain.load_state_dict(collapse_state_dict(saved["model"]))
    assert_equal(plain, collapse(alone))


def checkpoints_on_two() -> None:
    read_all(1)
    write_all(2)
    checkpoints_before_a_step()
    checkpoints_of_divided_work()
    checkpoint_of_factors_in_the_model()


def checkpoints_on_four() -> None:
    """Also four shards to two copies of two, whose checkpoint is that of two shards."""
    read_all(1, ("full",))
    read_all(2, ("nested",))
    write_all(4, ("flattened",))
    read_all(4, ("flattened",), hybrid)
    write_all("copies", ("nested",), hybrid)
