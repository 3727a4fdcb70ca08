import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import nn

from overparam.lab.problems.mnist_cnn.network import (
    Layer,
    Network,
    NetworkShape,
    initial_network,
    logits,
    network_inputs,
    truncated_normal,
)

PAPER = NetworkShape(28, (32, 64), 512)
SMALL = NetworkShape(13, (3, 4), 7)


def start(shape, depth, seed=0):
    return initial_network(shape, depth, 0.1, torch.Generator().manual_seed(seed))


def as_modules(network):
    """The same function with PyTorch's modules, with dense weights multiplied out in float64."""

    def loaded(module, layer):
        weight = layer.factors[0].double()
        for factor in layer.factors[1:]:
            weight = factor.double() @ weight
        module.double()
        with torch.no_grad():
            module.weight.copy_(weight)
            module.bias.copy_(layer.bias)
        return module

    def convolution(layer):
        out, into = layer.factors[0].shape[:2]
        return loaded(nn.Conv2d(into, out, 5, padding="same"), layer)

    def dense(layer):
        rows, columns = layer.factors[-1].shape[0], layer.factors[0].shape[1]
        return loaded(nn.Linear(columns, rows), layer)

    pool = nn.MaxPool2d(2, ceil_mode=True)
    first, second = network.convolutions
    hidden, last = network.dense
    return (
        nn.Sequential(
            convolution(first), nn.ReLU(), pool, convolution(second), nn.ReLU(), pool,
            nn.Flatten(), dense(hidden), nn.ReLU(),
        ),
        dense(last),
    )  # fmt: skip


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("side", [8, 13])
def test_logits_are_those_of_modules(depth, side):
    network = start(NetworkShape(side, (3, 4), 7), depth)
    images = torch.rand(5, 1, side, side) - 0.5
    body, head = as_modules(network)
    hidden = body(images.double())
    torch.testing.assert_close(logits(network, images).double(), head(hidden), rtol=1e-4, atol=1e-5)
    kept = torch.tensor([0.0, 2.0, 2.0, 0.0, 2.0, 2.0, 0.0]).repeat(5, 1)
    torch.testing.assert_close(
        logits(network, images, kept).double(), head(hidden * kept), rtol=1e-4, atol=1e-5
    )


def test_pooling_of_an_odd_image_is_that_of_same_padding():
    """TensorFlow's SAME fills up the last window with padding at the end."""
    image = torch.rand(1, 1, 5, 5)
    padded = nn.functional.pad(image, (0, 1, 0, 1), value=-math.inf)
    torch.testing.assert_close(
        nn.functional.max_pool2d(image, 2, ceil_mode=True), nn.functional.max_pool2d(padded, 2)
    )


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("shape", [PAPER, SMALL])
def test_sizes(shape, depth):
    network = start(shape, depth)
    assert sum(tensor.numel() for tensor in network.tensors()) == shape.parameters(depth)
    assert network.dense[0].factors[0].shape == (shape.hidden, shape.features)
    images = torch.zeros(2, 1, shape.side, shape.side)
    assert logits(network, images).shape == (2, 10)


def test_the_papers_network_has_the_papers_sizes():
    """(3136 x 512)(512 x 512) and (512 x 10)(10 x 10): 15.8 % more parameters."""
    network = start(PAPER, 2)
    shapes = [[tuple(factor.shape) for factor in layer.factors] for layer in network.dense]
    assert shapes == [[(512, 3136), (512, 512)], [(10, 512), (10, 10)]]
    more = PAPER.parameters(2) / PAPER.parameters(1) - 1
    assert round(100 * more, 1) == 15.8


def test_truncated_normal_is_that_of_scipy():
    drawn = truncated_normal((400, 500), 0.1, torch.Generator().manual_seed(3)).numpy()
    assert np.abs(drawn).max() <= 0.2
    expected = scipy.stats.truncnorm(-2, 2, scale=0.1)
    assert drawn.var() == pytest.approx(0.7737 * 0.01, rel=5e-3)
    assert expected.var() == pytest.approx(0.7737 * 0.01, rel=1e-4)
    assert scipy.stats.kstest(drawn.ravel()[:20_000], expected.cdf).pvalue > 1e-3


def test_networks_of_one_seed_have_convolutions_and_first_factors_in_common():
    plain, deep = start(SMALL, 1), start(SMALL, 3)
    for one, other in zip((*plain.convolutions, *plain.dense), (*deep.convolutions, *deep.dense),
                          strict=True):  # fmt: skip
        assert torch.equal(one.factors[0], other.factors[0])
        assert torch.equal(one.bias, other.bias)
    assert not torch.equal(start(SMALL, 1, seed=1).dense[0].factors[0], plain.dense[0].factors[0])
    assert not torch.equal(deep.dense[0].factors[1], deep.dense[0].factors[2])


def test_biases_start_at_zero_then_a_tenth():
    network = start(SMALL, 2)
    first, *others = [layer.bias for layer in (*network.convolutions, *network.dense)]
    assert torch.equal(first, torch.zeros(3))
    assert all(torch.equal(bias, torch.full_like(bias, 0.1)) for bias in others)


def test_inputs_lie_between_minus_and_plus_one_half():
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16)
    inputs = network_inputs(images, 16)
    assert inputs.shape == (1, 1, 16, 16)
    assert inputs.dtype == torch.float32
    expected = (np.arange(256) - 127.5) / 255
    np.testing.assert_allclose(inputs.flatten().numpy(), expected, atol=1e-7)
    assert (inputs.min().item(), inputs.max().item()) == (-0.5, 0.5)


def test_halved_images_are_weighted_means():
    """A triangle of half-width 2 at a factor of 2: weights 1, 3, 3, 1 of 8 in each direction."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, 28, 28), generator=generator, dtype=torch.uint8)
    found = network_inputs(images, 14)
    weights = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    pixels = (images.float() - 127.5) / 255
    for row, column in ((1, 1), (6, 9), (12, 3)):
        window = pixels[:, 2 * row - 1 : 2 * row + 3, 2 * column - 1 : 2 * column + 3]
        expected = torch.einsum("bij,i,j->b", window, weights, weights)
        torch.testing.assert_close(found[:, 0, row, column], expected)


def test_enlarged_images_keep_what_is_flat():
    images = torch.full((2, 8, 8), 51, dtype=torch.uint8)
    torch.testing.assert_close(network_inputs(images, 28), torch.full((2, 1, 28, 28), -0.3))


def test_tensors_come_layer_by_layer():
    network = start(SMALL, 2)
    first, second = network.convolutions
    hidden, last = network.dense
    expected = [*first.factors, first.bias, *second.factors, second.bias, *hidden.factors,
                hidden.bias, *last.factors, last.bias]  # fmt: skip
    assert all(a is b for a, b in zip(network.tensors(), expected, strict=True))
    assert isinstance(network, Network)
    assert isinstance(hidden, Layer)
