"""Steps of EndToEnd, Factored and Radial on several processes, against one."""

from __future__ import annotations

from typing import Any

import pytest
import torch.distributed as dist
from torch import nn

from overparam import EndToEnd, Factored, Radial
from overparam.factors.store import FactorStore
from overparam.sharded import plan, rule
from overparam.sharded.exchange import Exchange, measured
from support.optim_cases import mixed
from support.sharded_cases import assert_equal, assert_same_run, pair, train
from support.sharded_layouts import (
    by_columns,
    by_layer,
    hybrid,
    in_half_precision,
    tensor_parallel,
    tensor_parallel_and_sharded,
)

# Keys have biases without an effect: with its own eps Adam makes steps of the round-off of zero.
ADAM = {"inner": "adamw", "weight_decay": 0.1, "eps": 1e-4}


def made(kind, **options):
    return lambda model: kind(model, lr=0.05, **options)


def directions_on_shards() -> None:
    tracked = {"basis": "tracked", "targets": "all", "depth": 3.5, **ADAM}
    assert_same_run(by_layer, made(EndToEnd, momentum=0.9))
    assert_same_run(by_layer, made(EndToEnd, singular_value_floor=0.1, **tracked))
    assert_same_run(by_columns, made(EndToEnd, **tracked))


def work_in_many_buckets() -> None:
    """A bucket for each matrix: the next is on its way while one is computed."""
    for kind, place, work, way in (
        (EndToEnd, rule, "directions", "gather"),
        (Factored, FactorStore, "pull_back", "gather"),
        (Factored, FactorStore, "write", "scatter"),
    ):
        make = made(kind, inner="sgd", momentum=0.9)
        model, alone = mixed(), mixed()
        by_layer(model)
        optimizer = make(model)
        train(model, optimizer, 2)
        with measured() as traffic:
            train(model, optimizer, 1)
        assert traffic.calls == 2
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(plan, "BUCKET_ENTRIES", 1)
            under_way = watched(patch, way, place, work)
            with measured() as traffic:
                train(model, optimizer, 1)
        assert traffic.calls >= 6
        assert max(under_way) == 1, under_way
        train(alone, make(alone), 4)
        assert_equal(model, alone)


def watched(patch: pytest.MonkeyPatch, way: str, place: Any, work: str) -> list[int]:
    """How many exchanges are on their way whenever work is done."""
    under_way, found = [0], []
    start, function = getattr(Exchange, way), getattr(place, work)

    def starting(*arguments: Any) -> Any:
        wait = start(*arguments)
        under_way[0] += 1

        def waiting() -> Any:
            under_way[0] -= 1
            return wait()

        return waiting

    def working(*arguments: Any) -> Any:
        found.append(under_way[0])
        return function(*arguments)

    patch.setattr(Exchange, way, starting)
    patch.setattr(place, work, working)
    return found


def directions_of_rows() -> None:
    every_row = {"granularity": "row", "targets": "all"}
    assert_same_run(by_layer, made(EndToEnd, singular_value_floor=0.1, **every_row))
    assert_same_run(by_columns, made(EndToEnd, normalize=False, **every_row))
    assert_same_run(by_layer, made(EndToEnd, granularity="tensor"))


def directions_of_the_family() -> None:
    metric = {"imbalance": 0.5, "normalize": "metric"}
    assert_same_run(by_layer, made(EndToEnd, targets="all", basis="tracked", **metric))
    assert_same_run(by_columns, made(EndToEnd, depth=3, imbalance=(0.1, 0.0, 0.2)))
    assert_same_run(by_layer, made(EndToEnd, imbalance=0.5, granularity="row"))
    assert_same_run(by_layer, made(EndToEnd, granularity="row", **metric))
    assert_same_run(by_layer, made(EndToEnd, imbalance=0.5, granularity="entry"))


def directions_under_a_precision_policy() -> None:
    # Forward and backward passes are in bfloat16 here, and in float64 alone.
    assert_same_run(in_half_precision, made(EndToEnd), pair, most=0.01)


def directions_on_other_layouts() -> None:
    tracked = {"basis": "tracked", "momentum": 0.9}
    assert_same_run(tensor_parallel, made(EndToEnd, **tracked), pair)
    if dist.get_world_size() == 4:
        assert_same_run(hybrid, made(EndToEnd, **tracked))
        assert_same_run(tensor_parallel_and_sharded, made(EndToEnd, **tracked), pair)


def factors_on_shards() -> None:
    decayed = {"depth": 3, "weight_decay_on": "product", **ADAM}
    assert_same_run(by_layer, made(Factored, inner="sgd", momentum=0.9, foreach=True))
    assert_same_run(by_columns, made(Factored, fallback="sgd", **decayed))


def factors_on_other_layouts() -> None:
    assert_same_run(tensor_parallel, made(Factored, **ADAM), pair)
    if dist.get_world_size() == 4:
        assert_same_run(hybrid, made(Factored, inner="sgd"))
        assert_same_run(tensor_parallel_and_sharded, made(Factored, **ADAM), pair)


def steps_along_weights() -> None:
    assert_same_run(by_layer, made(Radial, radial=3, **ADAM))
    assert_same_run(by_columns, made(Radial, granularity="matrix", **ADAM))
    assert_same_run(by_layer, made(Radial, inner="sgd", momentum=0.9, granularity="row"))
    if dist.get_world_size() == 4:
        assert_same_run(tensor_parallel_and_sharded, made(Radial), pair)


def work_that_is_divided() -> None:
    """Under DistributedDataParallel: each process works on some matrices."""
    for make, options in (
        (EndToEnd, {"momentum": 0.9, "basis": "tracked"}),
        (EndToEnd, {"granularity": "row", "targets": "all"}),
        (Factored, ADAM),
    ):
        model, alone = mixed(), mixed()
        parallel = nn.parallel.DistributedDataParallel(model)
        optimizer = make(parallel, lr=0.05, divide_among=dist.group.WORLD, **options)
        train(parallel, optimizer, 3)
        train(alone, make(alone, lr=0.05, **options), 3)
        assert_equal(model, alone)


CASES = (
    directions_on_shards,
    work_in_many_buckets,
    directions_of_rows,
    directions_of_the_family,
    directions_under_a_precision_policy,
    directions_on_other_layouts,
    factors_on_shards,
    factors_on_other_layouts,
    steps_along_weights,
    work_that_is_divided,
)
FEWER = (
    directions_on_shards,
    directions_on_other_layouts,
    factors_on_shards,
    factors_on_other_layouts,
)
