"""The doors that choose weights, as tables by name of parameter; a layer that no one knows."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from overparam import EndToEnd, Factored, Radial, plan_overparameterization
from overparam.layers import MatrixView, packed_view
from overparam.layers.table import WeightTable

OPTIMIZERS = (EndToEnd, Factored, Radial)
DOORS: dict[str, Callable[[nn.Module], WeightTable]] = {
    "EndToEnd": lambda model: EndToEnd(model).routing(),
    "Factored": lambda model: Factored(model).routing(),
    "Radial": lambda model: Radial(model).routing(),
    "plan": lambda model: plan_overparameterization(model).table(),
}


class Mixer(nn.Module):
    """Two maps stacked in one tensor, and a table that is added."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.randn(6, 4))
        self.offset = nn.Parameter(torch.randn(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.mix.mT).unflatten(-1, (2, 3)) + self.offset


def linear_mixer(layer: nn.Module, name: str) -> MatrixView | None:
    """A view of a Mixer whose kind is chosen by default."""
    return packed_view(layer.mix.shape, 2, "linear") if name == "mix" else None


def rows(door: str, model: nn.Module) -> dict[str, dict[str, Any]]:
    """What a door says of each parameter."""
    return {row["parameter"]: row for row in DOORS[door](model)}
