"""The network of the TensorFlow tutorial for MNIST, on which the paper's last experiment is.

Two convolutions of 5 x 5, each with max-pooling by 2 and ReLU; a hidden dense layer with ReLU and
dropout; a dense layer to the classes. The L2 penalty is on the dense weights and biases. Source:
``convolutional.py`` of the tutorial; Arora, Cohen, Hazan (2018), section 8.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name that everybody knows
from torch import Tensor, nn

from overparam.data import load_images
from overparam.lab.comparison.problem import Problem, problem
from overparam.lab.problems.pieces import classification_loss, error_on, minibatches

KERNEL, CLASSES = 5, 10
PENALTY, STD = 5e-4, 0.1
NO_DATA = "none"


@problem("mnist-network")
def mnist_network(
    data: str = "mnist",
    side: int = 28,
    channels: tuple[int, int] = (32, 64),
    hidden: int = 512,
    batch: int = 64,
    dropout: float = 0.5,
    penalty: float = PENALTY,
    penalty_on: str = "weights",
    std: float = STD,
    held_out: int = 5000,
    evaluated: int = 0,
    in_order: bool = False,
    device: str = "cpu",
) -> Problem:
    """The tutorial's network, with the tutorial's sizes.

    Args:
        data: name of a set of images; ``none`` leaves the penalty alone, without any data.
        side: height and width to which the images are resized.
        channels: outputs of the two convolutions.
        hidden: width of the hidden dense layer.
        batch: images per batch.
        dropout: share of hidden units that a training step leaves out.
        penalty: coefficient of half the sum of squares of the dense weights and biases.
        penalty_on: ``weights``, which may be products, or their explicit ``factors``.
        std: standard deviation of the initial weights, before truncation at twice this value.
        held_out: number of training images, the first ones, that are kept for validation.
        evaluated: number of images to evaluate each error on; 0 for all.
        in_order: batches in the order of the data, as in the tutorial, rather than shuffled.
        device: where to train.

    Raises:
        ValueError: too few images, or an unknown word.
    """
    if penalty_on not in ("weights", "factors"):
        raise ValueError(f"penalty_on is {penalty_on!r}; use weights or factors.")

    def build() -> nn.Module:
        network = tutorial_network(side, channels, hidden, dropout, std)
        model: Any = penalty_alone(network) if data == NO_DATA else network
        return model.to(device, memory_format=torch.channels_last)  # a fifth faster on a CPU

    def half_squares(model: nn.Module) -> Tensor:
        layers = [each for each in model.modules() if isinstance(each, nn.Linear)]
        if penalty_on == "weights":
            tensors = [part for layer in layers for part in (layer.weight, layer.bias)]
        else:
            tensors = [part for layer in layers for part in layer.parameters()]
        return penalty / 2 * torch.stack([part.square().sum() for part in tensors]).sum()

    if data == NO_DATA:
        return Problem(
            title="The L2 penalty of the tutorial's network, without data",
            build=build,
            batches=[()],
            loss=lambda model, _: torch.zeros(()),
            penalty=half_squares,
        )
    found = load_images(data)
    count = len(found.images) - held_out
    if count <= batch:
        raise ValueError(
            f"{data} has {len(found.images)} images to train on, but {held_out} are held out, and "
            f"more than one batch of {batch} is needed beside them; use a smaller held_out or "
            "batch."
        )
    inputs = network_inputs(found.images, side).to(device)
    tests = network_inputs(found.test_images, side).to(device)
    labels, test_labels = found.labels.to(device), found.test_labels.to(device)
    training = (inputs[held_out:], labels[held_out:])
    held = slice(min(held_out, evaluated or held_out))
    some = slice(evaluated or None)

    return Problem(
        title=f"The TensorFlow tutorial's network on {data}, L2 penalty {penalty:g}",
        build=build,
        batches=successive(training, batch) if in_order else minibatches(training, batch),
        loss=classification_loss,
        penalty=half_squares if penalty else None,
        evaluate={
            "validation error": error_on(inputs[held], labels[held]),
            "test error": error_on(tests[some], test_labels[some]),
        },
        steps=10 * count // batch,
    )


def tutorial_network(
    side: int, channels: tuple[int, int], hidden: int, dropout: float, std: float
) -> nn.Sequential:
    """The network at its start: truncated normal weights, biases 0 in the first layer, else 0.1.

    Example:
        >>> paper = tutorial_network(28, (32, 64), 512, 0.5, 0.1)
        >>> sum(p.numel() for p in paper.parameters())
        1663370
    """
    pooled = -(-side // 4)  # halved twice, rounded up
    first, second = channels
    model = nn.Sequential(
        OrderedDict[str, nn.Module](
            first=nn.Conv2d(1, first, KERNEL, padding=KERNEL // 2),
            pool1=_pool(),
            second=nn.Conv2d(first, second, KERNEL, padding=KERNEL // 2),
            pool2=_pool(),
            flat=nn.Flatten(),
            hidden=nn.Linear(pooled * pooled * second, hidden),
            relu=nn.ReLU(),
            dropout=Dropout(dropout),
            last=nn.Linear(hidden, CLASSES),
        )
    )
    for name in ("first", "second", "hidden", "last"):
        weight, bias = model.get_submodule(name).parameters()
        truncated_normal_(weight, std)
        nn.init.constant_(bias, 0.0 if name == "first" else 0.1)
    return model


def _pool() -> nn.Module:
    """Max-pooling by 2, then ReLU: the same as before it, on a quarter of the numbers."""
    return nn.Sequential(nn.MaxPool2d(2, ceil_mode=True), nn.ReLU())


def truncated_normal_(weight: Tensor, std: float) -> Tensor:
    """Fill with entries from ``N(0, std^2)``, redrawn beyond ``2 std``: variance ``0.774 std^2``.

    As TensorFlow's ``truncated_normal``.
    """
    return nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


class Dropout(nn.Module):
    """Dropout with masks drawn on the CPU: the same on every device, and resumed with a run."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, hidden: Tensor) -> Tensor:
        """The units that are kept, divided by their share, in training; else all of them."""
        if not self.training:
            return hidden
        kept = (torch.rand(hidden.shape) >= self.share) / (1 - self.share)
        return hidden * kept.to(hidden.device)


def penalty_alone(network: nn.Module) -> nn.Module:
    """The dense layers with fewer inputs, for descending the penalty without data.

    With ``W_1^T = Q R``, the gradient of ``|W_N ... W_1|^2 / 2`` for ``W_1`` is ``(...) W_1``, and
    those for other factors depend on ``W_1 W_1^T = R^T R`` alone. So ``W_1 = L Q^T`` throughout,
    ``L = R^T`` at the start, and descending ``L`` in its place gives the same norms at every step,
    with momentum too.
    """
    small = nn.ModuleDict()
    for name, layer in network.named_children():
        if not isinstance(layer, nn.Linear):
            continue
        weight = layer.weight.detach()
        if weight.shape[0] < weight.shape[1]:
            weight = torch.linalg.qr(weight.double().mT).R.mT.float().contiguous()
        reduced = nn.Linear(weight.shape[1], weight.shape[0])
        reduced.weight, reduced.bias = nn.Parameter(weight), layer.bias
        small[name] = reduced
    return small


def network_inputs(images: Tensor, side: int) -> Tensor:
    """Images as inputs of the network: ``(B, 1, side, side)``, float32, in [-0.5, 0.5].

    Args:
        images: ``(B, height, width)``, uint8; resized by linear interpolation if their size is
            not ``side``, with antialiasing.
        side: height and width of the inputs.
    """
    pixels = (images.unsqueeze(1).float() - 127.5) / 255
    if pixels.shape[2:] == (side, side):
        return pixels
    return F.interpolate(pixels, size=(side, side), mode="bilinear", antialias=True)


def successive(data: tuple[Tensor, ...], size: int) -> Callable[[int], Iterator[Any]]:
    """Batches in the order of the data, as in the tutorial, whatever the seed.

    The batch of step ``t`` starts at row ``t * size`` modulo (number of rows - ``size``).
    """
    starts = len(data[0]) - size

    def batches(seed: int) -> Iterator[Any]:
        first = 0
        while True:
            yield tuple(tensor[first : first + size] for tensor in data)
            first = (first + size) % starts

    return batches
