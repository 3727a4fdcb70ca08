"""Code as users write it: `tests/test_typing.py` checks its types in pyright's strict mode."""

from __future__ import annotations

from typing import assert_type

import torch
from torch import Tensor, nn

import overparam
from overparam import (
    AveragedWeights,
    EndToEnd,
    Factored,
    PreconditionerSpectrum,
    Radial,
    balanced_factors,
    collapse,
    collapsed,
    end_to_end_update,
    factor_product,
    factor_product_vjp,
    imbalance,
    overparameterize,
    plan_overparameterization,
    preconditioner_spectrum,
    register_view,
    single_output_update,
)
from overparam.layers import MatrixView, packed_view
from overparam.simple import end_to_end_step, factored_step


class Net(nn.Module):
    """A model of a user."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(8, 4)
        self.head = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.hidden(x)))

    def only_here(self) -> str:
        return "a method that nn.Module does not have"


class TwoHeads(nn.Module):
    """A layer of a user."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6, 4))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.mT


def view(layer: TwoHeads, name: str) -> MatrixView | None:
    return packed_view(layer.weight.shape, 2, "linear") if name == "weight" else None


def formulas(weight: Tensor, gradient: Tensor) -> None:
    assert_type(end_to_end_update(weight, gradient, depth=2.5), Tensor)
    assert_type(single_output_update(weight, gradient, depth=2), Tensor)
    assert_type(preconditioner_spectrum(weight, depth=3), PreconditionerSpectrum)
    factors = balanced_factors(weight, depth=3)
    assert_type(factor_product(factors), Tensor)
    for slope in factor_product_vjp(factors, gradient):
        assert_type(slope, Tensor)
    assert_type(end_to_end_step(weight, gradient, lr=0.1, depth=2), Tensor)
    assert_type(factored_step([weight], gradient, lr=0.1), list[Tensor])
    imbalance(factors)


def optimizers(model: Net) -> list[torch.optim.Optimizer]:
    first = EndToEnd(model, lr=0.1, depth=2, momentum=0.9)
    second = Factored(model.parameters(), lr=1e-3, inner="adamw", depth=2, weight_decay=0.01)
    third = Radial([{"params": model.head, "lr": 0.1}], inner=torch.optim.SGD, radial=4)
    fourth = Factored(model, lr=0.1, inner=torch.optim.SGD, fallback="adamw")
    print(first.routing())
    for factor in second.factors(model.hidden.weight):
        assert_type(factor, Tensor)
    return [first, second, third, fourth]


def models() -> str:
    model = Net()
    print(plan_overparameterization(model, depth=3, exclude=["head"]))
    assert_type(overparameterize(model, depth=2), Net)
    optimizer = torch.optim.AdamW(model.parameters())
    with collapsed(model) as plain:
        assert_type(plain, Net)
    average = AveragedWeights(model)
    print(average, imbalance(model))
    assert_type(collapse(model, optimizer=optimizer, example_inputs=torch.ones(1, 8)), Net)
    return collapse(overparameterize(Net())).only_here()


def layers() -> None:
    register_view(TwoHeads, view)
    assert_type(overparameterize(TwoHeads()), TwoHeads)
    print(overparam.__version__)
