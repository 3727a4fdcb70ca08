"""The network of the TensorFlow tutorial for MNIST, with dense weights plain or as products.

Two convolutions of 5 x 5, each with ReLU and max-pooling by 2; a hidden dense layer with ReLU and
dropout; a dense layer to the classes. Arora, Cohen, Hazan (2018), section 8, use the network of
this tutorial (``convolutional.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - the name that everybody knows
from torch import Tensor

KERNEL = 5
_CUT = 2.0


class NetworkShape(NamedTuple):
    """Sizes of the network.

    Attributes:
        side: height and width of an image.
        channels: output channels of the two convolutions.
        hidden: width of the hidden dense layer.
        classes: number of outputs.
    """

    side: int
    channels: tuple[int, int]
    hidden: int
    classes: int = 10

    @property
    def features(self) -> int:
        """Inputs of the first dense layer: the image is halved twice, rounded up."""
        pooled = -(-self.side // 4)
        return pooled * pooled * self.channels[1]

    def parameters(self, depth: int) -> int:
        """The number of trained parameters.

        Example:
            >>> paper = NetworkShape(28, (32, 64), 512)
            >>> paper.parameters(1), round(100 * (paper.parameters(2) / paper.parameters(1) - 1), 1)
            (1663370, 15.8)
        """
        first, second = self.channels
        convolutions = KERNEL**2 * (first + first * second) + first + second
        hidden = self.hidden * (self.features + (depth - 1) * self.hidden + 1)
        return convolutions + hidden + self.classes * (self.hidden + (depth - 1) * self.classes + 1)


class Layer(NamedTuple):
    """A bias, and a weight as a product of factors, of which the first multiplies the input."""

    factors: tuple[Tensor, ...]
    bias: Tensor


class Network(NamedTuple):
    """All parameters.

    Attributes:
        convolutions: two layers with one factor each, ``(out, in, 5, 5)``.
        dense: two layers with factors ``(out, in)``.
    """

    convolutions: tuple[Layer, Layer]
    dense: tuple[Layer, Layer]

    def tensors(self) -> Iterator[Tensor]:
        """All tensors, layer by layer: the factors, then the bias."""
        for layer in (*self.convolutions, *self.dense):
            yield from layer.factors
            yield layer.bias


def truncated_normal(shape: tuple[int, ...], std: float, generator: torch.Generator) -> Tensor:
    """Entries from ``N(0, std^2)``, redrawn if they are beyond ``2 std``.

    Like TensorFlow's ``truncated_normal``; the variance is ``0.7737 std^2``.
    """
    empty = torch.empty(shape)
    return torch.nn.init.trunc_normal_(
        empty, std=std, a=-_CUT * std, b=_CUT * std, generator=generator
    )


def initial_network(
    shape: NetworkShape, depth: int, std: float, generator: torch.Generator
) -> Network:
    """The initial network: truncated normal weights, biases 0 in the first layer and 0.1 elsewhere.

    The convolutions and the first factor of each dense layer are drawn first, so networks of
    different depths share them if they use the same seed. All further factors are square.

    Args:
        shape: sizes.
        depth: number of factors of each dense weight.
        std: standard deviation of the weights before truncation.
        generator: source of random numbers.

    Returns:
        The parameters, float32.
    """
    first, second = shape.channels
    shapes = [
        (first, 1, KERNEL, KERNEL),
        (second, first, KERNEL, KERNEL),
        (shape.hidden, shape.features),
        (shape.classes, shape.hidden),
    ]
    weights: list[tuple[Tensor, ...]] = [
        (truncated_normal(size, std, generator),) for size in shapes
    ]
    for _ in range(depth - 1):
        for layer in (2, 3):
            square = (shapes[layer][0],) * 2
            weights[layer] += (truncated_normal(square, std, generator),)
    biases = [torch.zeros(first), *(torch.full((size[0],), 0.1) for size in shapes[1:])]
    layers = [Layer(factors, bias) for factors, bias in zip(weights, biases, strict=True)]
    return Network((layers[0], layers[1]), (layers[2], layers[3]))


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


def logits(network: Network, inputs: Tensor, kept: Tensor | None = None) -> Tensor:
    """Unnormalized log-probabilities of the classes.

    Args:
        network: the parameters.
        inputs: ``(B, 1, side, side)``, see :func:`network_inputs`.
        kept: ``(B, hidden)``, factors on the hidden units: 0 for units that dropout leaves out,
            otherwise 1 / (share that is kept). None outside training.

    Returns:
        ``(B, classes)``.
    """
    hidden = inputs
    for (weight,), bias in network.convolutions:
        hidden = F.relu(F.conv2d(hidden, weight, bias, padding=KERNEL // 2))
        hidden = F.max_pool2d(hidden, 2, ceil_mode=True)
    first, last = network.dense
    hidden = F.relu(_dense(hidden.flatten(1), first))
    return _dense(hidden if kept is None else hidden * kept, last)


def _dense(inputs: Tensor, layer: Layer) -> Tensor:
    """Apply the factors one by one, without forming their product."""
    for factor in layer.factors[:-1]:
        inputs = inputs @ factor.mT
    return F.linear(inputs, layer.factors[-1], layer.bias)
