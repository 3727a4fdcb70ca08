"""A layer of your own: say once how its weights are read. Run ``python examples/own_layer.py``."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from overparam import EndToEnd, collapse, overparameterize, register_view
from overparam.layers import MatrixView, packed_view


class HeadMixer(nn.Module):
    """``heads`` linear maps, stacked along the rows of ``weight``, and a scale for each."""

    def __init__(self, heads: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.heads = heads
        self.weight = nn.Parameter(torch.randn(heads * outputs, inputs) / inputs**0.5)
        self.scale = nn.Parameter(torch.ones(heads, 1))

    def forward(self, x: Tensor) -> Tensor:
        """The mean of all heads, each with its scale: (batch, outputs)."""
        return ((x @ self.weight.mT).unflatten(-1, (self.heads, -1)) * self.scale).mean(-2)


def view(layer: HeadMixer, name: str) -> MatrixView | None:
    """One matrix for each head; the scales act entry by entry."""
    return packed_view(layer.weight.shape, layer.heads, "linear") if name == "weight" else None


def train(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> float:
    """A hundred steps of least squares; returns the loss after them."""
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
    return nn.functional.mse_loss(model(x), y).item()


def main() -> None:
    """Train with the end-to-end rule, then with explicit factors, and collapse them."""
    torch.manual_seed(0)
    x = torch.randn(256, 8)
    y = x @ torch.randn(8, 3)
    register_view(HeadMixer, view)
    model = nn.Sequential(HeadMixer(4, 8, 16), nn.Tanh(), nn.Linear(16, 3))
    optimizer = EndToEnd(model, lr=0.2, depth=2)
    print(optimizer.routing())
    first = train(model, optimizer, x, y)
    overparameterize(model, depth=2)
    second = train(model, torch.optim.SGD(model.parameters(), lr=0.02), x, y)
    collapse(model)
    print(f"loss {first:.3f} -> {second:.3f}")
    assert second < first < 0.5
    assert list(model.state_dict()) == ["0.weight", "0.scale", "2.weight", "2.bias"]


if __name__ == "__main__":
    main()
