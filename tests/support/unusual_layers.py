"""One small example of each kind of layer, with inputs: the table that drives the tests."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


class Experts(nn.Module):
    """A batch of linear layers in one three-dimensional parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4, 5) / 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("eoi,bi->beo", self.weight, x)


class Regression(nn.Module):
    """The paper's example: one vector of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w


class SelfAttention(nn.MultiheadAttention):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x, x, x)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embed(x).tanh())


@dataclass(frozen=True)
class Layer:
    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[], Tensor]


def _normal(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(shape)


def _tokens() -> Tensor:
    return torch.tensor([[1, 2, 0], [6, 3, 2]])


LAYERS = [
    Layer("linear", lambda: nn.Linear(5, 4), _normal(3, 5)),
    Layer("wide", lambda: nn.Linear(3, 8, bias=False), _normal(3, 3)),
    Layer("single", lambda: nn.Linear(5, 1), _normal(3, 5)),
    Layer("conv1d", lambda: nn.Conv1d(3, 4, 5, stride=2, padding=2), _normal(2, 3, 9)),
    Layer("conv2d", lambda: nn.Conv2d(3, 4, 3, padding=1), _normal(2, 3, 6, 6)),
    Layer("grouped", lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2), _normal(2, 4, 6, 6)),
    Layer("depthwise", lambda: nn.Conv2d(4, 8, 3, groups=4), _normal(2, 4, 6, 6)),
    Layer(
        "dilated",
        lambda: nn.Conv2d(2, 3, (5, 3), stride=(1, 2), dilation=2, padding="valid"),
        _normal(2, 2, 11, 9),
    ),
    Layer(
        "reflected",
        lambda: nn.Conv2d(2, 3, 5, padding=2, padding_mode="reflect"),
        _normal(2, 2, 6, 6),
    ),
    Layer("conv3d", lambda: nn.Conv3d(2, 3, (1, 3, 5), padding=1), _normal(1, 2, 4, 5, 6)),
    Layer("transposed1d", lambda: nn.ConvTranspose1d(3, 4, 5, stride=2), _normal(2, 3, 5)),
    Layer(
        "transposed2d",
        lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
        _normal(2, 4, 4, 4),
    ),
    Layer("embedding", lambda: nn.Embedding(7, 4, padding_idx=0), _tokens),
    Layer("bag", lambda: nn.EmbeddingBag(7, 4), _tokens),
    Layer("bilinear", lambda: nn.Sequential(nn.Linear(5, 4), _Square()), _normal(3, 5)),
    Layer("attention", lambda: SelfAttention(8, 2, batch_first=True), _normal(2, 3, 8)),
    Layer(
        "encoder",
        lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.3),
        _normal(2, 3, 8),
    ),
    Layer("rnn", lambda: nn.RNN(4, 3, bidirectional=True), _normal(5, 2, 4)),
    Layer("lstm", lambda: nn.LSTM(4, 3, num_layers=2, bidirectional=True), _normal(5, 2, 4)),
    Layer("gru", lambda: nn.GRU(4, 3, num_layers=2, dropout=0.4), _normal(5, 2, 4)),
    Layer("cell", lambda: nn.GRUCell(4, 3), _normal(2, 4)),
    Layer("experts", Experts, _normal(2, 5)),
    Layer("tied", Tied, _tokens),
    Layer(
        "normed",
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU()),
        _normal(4, 2, 5, 5),
    ),
]


class _Square(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.form = nn.Bilinear(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.form(x, x)


def outputs(model: nn.Module, x: Tensor) -> list[Tensor]:
    """All tensors that a model returns, with fixed random numbers."""
    torch.manual_seed(7)
    result = torch.utils._pytree.tree_leaves(model(x))
    return [leaf for leaf in result if isinstance(leaf, Tensor)]


def values(model: nn.Module, x: Tensor) -> list[Tensor]:
    """The same, without a graph."""
    return [output.detach() for output in outputs(model, x)]


def train(model: nn.Module, x: Tensor, steps: int = 3, lr: float = 0.05) -> None:
    """A few steps of momentum that lower the sum of squares of the outputs."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        sum(output.square().mean() for output in outputs(model, x)).backward()
        optimizer.step()
