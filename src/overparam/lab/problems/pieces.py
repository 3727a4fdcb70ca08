"""What problems are made of: data in batches, losses, errors, networks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name that everybody knows
from torch import Tensor, nn
from torch.nn.utils import parametrizations

NORMS = ("none", "batch", "layer", "weight")


def minibatches(data: tuple[Tensor, ...], size: int) -> Callable[[int], Iterator[Any]]:
    """Batches without end, in a new order for each epoch; a short last one is left out.

    Args:
        data: tensors with the same number of rows.
        size: rows of a batch.
    """
    count = len(data[0])
    size = min(size, count)

    def batches(seed: int) -> Iterator[Any]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            order = torch.randperm(count, generator=generator)
            for first in range(0, count - size + 1, size):
                rows = order[first : first + size]
                yield tuple(tensor[rows] for tensor in data)

    return batches


def classification_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Mean cross-entropy of a batch of inputs and classes."""
    inputs, labels = batch
    return F.cross_entropy(model(inputs), labels)


def squared_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Mean squared error of a batch of inputs and targets."""
    inputs, targets = batch
    return F.mse_loss(model(inputs), targets)


def error_on(inputs: Tensor, labels: Tensor) -> Callable[[nn.Module], float]:
    """The share of inputs that a model puts into a wrong class."""

    def error(model: nn.Module) -> float:
        wrong = 0
        with torch.no_grad():
            for some, own in zip(inputs.split(500), labels.split(500), strict=True):
                wrong += int((model(some).argmax(dim=1) != own).sum())
        return wrong / len(labels)

    return error


def mlp(*sizes: int, norm: str = "none") -> nn.Module:
    """A perceptron with ReLUs between its layers.

    Args:
        sizes: of inputs, hidden layers and outputs.
        norm: of the hidden layers: none, batch, layer, or weight (the layers' own weights).

    Raises:
        ValueError: an unknown normalization.
    """
    if norm not in NORMS:
        raise ValueError(f"norm is {norm!r}; use one of {', '.join(NORMS)}.")
    layers: list[nn.Module] = []
    *hidden, (last, outputs) = itertools.pairwise(sizes)
    for inputs, width in hidden:
        linear = nn.Linear(inputs, width)
        layers.append(parametrizations.weight_norm(linear) if norm == "weight" else linear)
        if norm == "batch":
            layers.append(nn.BatchNorm1d(width))
        elif norm == "layer":
            layers.append(nn.LayerNorm(width))
        layers.append(nn.ReLU())
    return nn.Sequential(*layers, nn.Linear(last, outputs))


def tanh_network(inputs: int, width: int) -> nn.Module:
    """Three hidden layers of one width with tanh, and one output: a function on space and time."""
    layers: list[nn.Module] = [nn.Linear(inputs, width), nn.Tanh()]
    for _ in range(2):
        layers += [nn.Linear(width, width), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(width, 1))


def space_and_time(low: float, high: float, count: int = 128) -> Callable[[int], Iterator[Any]]:
    """Batches of random points ``(count,)``: ``x`` between two ends, ``t`` between 0 and 1."""

    def points(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            x, t = torch.rand(2, count, generator=generator)
            yield low + (high - low) * x, t

    return points


def low_rank(size: int, rank: int, generator: torch.Generator) -> Tensor:
    """A random square matrix of this rank, whose entries have variance 1.

    Raises:
        ValueError: the rank is not between 1 and the size.
    """
    if not 1 <= rank <= size:
        raise ValueError(f"rank is {rank}; a matrix of size {size} has a rank from 1 to {size}.")
    left, right = (torch.randn(size, rank, generator=generator) for _ in range(2))
    return left @ right.T / rank**0.5


def small_matrix(rows: int, columns: int) -> nn.Linear:
    """A matrix to find, as the weight of a layer: its start is near zero."""
    model = nn.Linear(columns, rows, bias=False)
    nn.init.normal_(model.weight, std=1e-2)
    return model
