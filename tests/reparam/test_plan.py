"""Settings from words to layouts, refusals before anything changes, and the report."""

import sys
from typing import Any

import numpy as np
import pytest
import torch
from support.unusual_layers import Tied
from torch import nn

from overparam.reparam import overparameterize, plan_overparameterization
from overparam.reparam.attach import places


def _model() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 6, 5), nn.Linear(8, 4), nn.Linear(4, 3))


@pytest.mark.parametrize(
    ("width", "shapes"),
    [
        (None, ((4, 8), (4, 4), (4, 4))),
        (6, ((6, 8), (6, 6), (4, 6))),
        (1.5, ((6, 8), (6, 6), (4, 6))),
        ([5, 7], ((5, 8), (7, 5), (4, 7))),
        (np.int64(6), ((6, 8), (6, 6), (4, 6))),
        (np.float32(1.5), ((6, 8), (6, 6), (4, 6))),
        (list(np.array([5, 7])), ((5, 8), (7, 5), (4, 7))),
    ],
)
def test_widths(width: Any, shapes: tuple[tuple[int, ...], ...]) -> None:
    plan = plan_overparameterization(_model(), 3, width=width, targets=["1"], init="near_zero")
    assert plan.entries[0].layout.shapes == shapes


def test_overrides_merge_in_order() -> None:
    plan = plan_overparameterization(
        _model(),
        targets="all",
        overrides={"[12]": {"depth": 3, "init": "identity"}, r"2\.weight": {"depth": 4}},
    )
    assert [(entry.layout.depth, entry.init) for entry in plan.entries] == [
        (2, "balanced"),
        (3, "identity"),
        (4, "identity"),
    ]


def test_report() -> None:
    report = str(plan_overparameterization(_model(), targets="all", strategy="kernels"))
    # 300 -> 2*8*9 + 6*8*9, 32 -> 4*8 + 4*4, 12 -> 3*4 + 3*3
    assert "3 weight(s) become products: 344 -> 645 parameters" in report
    assert "chosen by kind; 6x8x3x3 8x2x3x3, balanced" in report
    assert "as a matrix: strategy 'kernels' is for convolutions; this weight is linear" in report
    assert "plain    it acts entry by entry" in report


def test_counts_and_flops_of_a_tied_weight() -> None:
    (entry,) = plan_overparameterization(Tied(), targets="all").entries
    assert (entry.parameters_before, entry.parameters_after) == (28, 44)
    # One product of 7x4 and 4x4, thrice in a step, at two places.
    assert entry.flops_per_step == 2 * 3 * 2 * 7 * 4 * 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 0}, r"0\.weight: depth is 0"),
        ({"depth": 1.5}, "a product has a whole number of factors"),
        ({"width": 2}, r"0\.weight: a hidden width of 2 cannot hold this weight, which needs 6"),
        ({"width": 0}, "at least one unit"),
        ({"width": -0.5}, "a ratio is a number above 0"),
        ({"width": [4, 4]}, "width lists 2 hidden layers; there are 1"),
        ({"width": "wide"}, "width is 'wide'"),
        ({"init": "zeros"}, "init='zeros' is unknown"),
        ({"strategy": "cp"}, "strategy='cp' is unknown"),
        ({"init": "near_zero", "std": 0.0}, "two factors are zero"),
        ({"overrides": {"9": {"depth": 3}}}, "matches no chosen weight"),
        ({"overrides": {"1": {"detph": 3}}}, r"sets \['detph'\]"),
        ({"overrides": {"1": {"init": "zeros"}}}, "init='zeros' is unknown"),
        ({"targets": ["bias"]}, r"no weight is chosen.*entry by entry"),
        ({"weight_decay_on": "product"}, "needs the optimizer"),
        ({"weight_decay_on": "both"}, "weight_decay_on='both' is unknown"),
        ({"optimizer": torch.optim.SGD([nn.Parameter(torch.ones(2))])}, "does not hold a chosen"),
    ],
)
def test_refusals_change_nothing(arguments: dict[str, Any], message: str) -> None:
    model = _model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises((TypeError, ValueError), match=message):
        overparameterize(model, **arguments)
    assert not list(places(model))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("value", "message"),
    [(0.0, "makes 1 of 1 product.* dead"), (float("nan"), "non-finite entries")],
)
def test_weights_without_a_balanced_start(value: float, message: str) -> None:
    model = _model()
    with torch.no_grad():
        model[2].weight.fill_(value)
    with pytest.raises(ValueError, match=r"2\.weight: .*" + message):
        overparameterize(model)
    assert not list(places(model))
    overparameterize(model, overrides={"2": {"init": "near_zero"}})


def test_all_refused_weights_are_named_at_once() -> None:
    model = _model()
    with torch.no_grad():
        for layer in model[1:]:
            layer.weight.zero_()
    with pytest.raises(ValueError, match=r"1\.weight: .* dead.*Refused too: 2\.weight\."):
        overparameterize(model)


def test_a_dead_group_is_counted() -> None:
    model = nn.Conv2d(4, 4, 3, groups=4)
    with torch.no_grad():
        model.weight[1] = 0
    with pytest.raises(ValueError, match="makes 1 of 4 product"):
        overparameterize(model, targets="all")


def test_meta_models_are_refused() -> None:
    with pytest.raises(ValueError, match="meta device"):
        overparameterize(nn.Linear(3, 2, device="meta"))


def test_generator_makes_starts_repeatable() -> None:
    starts = []
    for seed in (3, 3, 4):
        torch.manual_seed(0)
        model = _model()
        overparameterize(model, init="fresh", generator=torch.Generator().manual_seed(seed))
        starts.append(model[1].weight.detach())
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def test_a_model_that_was_not_sharded_imports_nothing_to_see_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "torch.distributed.fsdp"
    monkeypatch.delitem(sys.modules, name, raising=False)
    overparameterize(nn.Linear(3, 2))
    assert name not in sys.modules
