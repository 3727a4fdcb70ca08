"""The network against formulas written out, from the same start."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch.nn import functional
from torch.nn.utils import parametrize

from overparam.data import load_images
from overparam.lab.comparison.protocol import Trial
from overparam.lab.comparison.trial import TrialRun
from overparam.lab.paper import network_study
from overparam.lab.paper.network_study import METHODS, NetworkStudy, paper_start
from overparam.lab.problems.mnist_network import (
    NO_DATA,
    PENALTY,
    Dropout,
    mnist_network,
    network_inputs,
    successive,
    truncated_normal_,
    tutorial_network,
)

SIZES = {"side": 8, "channels": (2, 3), "hidden": 6}
STUDY = NetworkStudy(data="digits", batch=16, epoch=110, record_every=1, **SIZES)
HELD_OUT = 1440  # of 1,500 images: 44 starts of batches, which come round within a test


def run_of(method, lr=0.05, steps=25, seed=1, study=STUDY, data="digits"):
    on = METHODS[method].penalty
    problem = mnist_network(
        data, batch=16, dropout=0.0, std=0.3, penalty=0.0 if on == "none" else PENALTY,
        penalty_on="factors" if on == "factors" else "weights", held_out=HELD_OUT, in_order=True,
        **SIZES,
    )  # fmt: skip
    return TrialRun(problem, Trial(method, lr, steps, seed), study)


def parts_of(run):
    """Kernels and biases, then the factors and bias of each dense layer, float64, to train."""
    model, found = run.model, []
    for name in ("first", "second", "hidden", "last"):
        layer = getattr(model, name, None)
        if layer is not None:
            weights = layer.parameters()
            if parametrize.is_parametrized(layer):
                weights = layer.parametrizations.weight.parameters()
            found.append([*(part for part in weights if part is not layer.bias), layer.bias])
    return [[part.detach().double().requires_grad_() for part in layer] for layer in found]


def product_of(factors):
    weight = factors[0]
    for factor in factors[1:]:
        weight = factor @ weight
    return weight


def penalty_of(dense, on):
    """The tutorial's: half the sum of squares of weights (or factors) and biases."""
    total = torch.zeros((), dtype=torch.float64)
    for *factors, bias in dense:
        penalized = {"weights": [product_of(factors), bias], "factors": [*factors, bias]}
        total = total + sum((part**2).sum() / 2 for part in penalized.get(on, []))
    return PENALTY * total


def descend(parts, losses, study, lr, steps):
    """TensorFlow's momentum on the sum of what ``losses`` gives; its values before each step."""
    flat = [part for layer in parts for part in layer]
    velocities, values = [torch.zeros_like(part) for part in flat], []
    for step in range(steps):
        terms = losses(step)
        values.append([term.item() for term in terms])
        gradients = torch.autograd.grad(sum(terms), flat, allow_unused=True)
        rate = lr * 0.95 ** (step * study.batch // study.epoch)
        for part, velocity, gradient in zip(flat, velocities, gradients, strict=True):
            velocity.mul_(0.9).add_(0 if gradient is None else gradient)
            part.data -= rate * velocity
    return values


@pytest.mark.parametrize("method", METHODS)
def test_training_is_the_one_written_out(method):
    """Explicit factors by autograd, step by step: loss, penalty, and the weights at the end."""
    images = load_images("digits")
    run = run_of(method)
    parts, on = parts_of(run), METHODS[method].penalty

    def losses(step):
        first, second, *dense = parts
        start = HELD_OUT + step * 16 % (len(images.images) - HELD_OUT - 16)
        hidden = (images.images[start : start + 16, None].double() - 127.5) / 255
        for kernel, bias in (first, second):
            hidden = torch.relu(functional.conv2d(hidden, kernel, bias, padding=2))
            hidden = functional.max_pool2d(hidden, 2)
        (*hidden_factors, hidden_bias), (*last_factors, last_bias) = dense
        hidden = torch.relu(hidden.flatten(1) @ product_of(hidden_factors).T + hidden_bias)
        logits = hidden @ product_of(last_factors).T + last_bias
        labels = images.labels[start : start + 16]
        cross_entropy = -logits.log_softmax(1)[torch.arange(16), labels].mean()
        return cross_entropy, penalty_of(dense, on)

    values = descend(parts, losses, STUDY, 0.05, 25)
    run.advance(25)
    assert not run.failure
    for (cross_entropy, _), (_, found) in zip(values, run.curve, strict=True):
        assert found == pytest.approx(cross_entropy, rel=1e-4)
    for (_, penalty), seen in zip(values[1:], run.seen, strict=False):
        assert seen["penalty"] == pytest.approx(penalty, rel=1e-5)
    for expected, found in zip(parts, parts_of(run), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    assert min(value for value, _ in values) < values[0][0] - 0.02


@pytest.mark.parametrize("method", [name for name, (*_, on) in METHODS.items() if on != "none"])
def test_the_penalty_alone_is_descent_on_the_whole_network(method):
    """On fewer inputs, but with the norms of all of them, from the start of the run with data."""
    study = NetworkStudy(batch=110, epoch=110, record_every=1, **SIZES)  # lr falls at each step
    whole = parts_of(run_of(method, study=study))[2:]
    on = METHODS[method].penalty
    values = descend(whole, lambda step: [penalty_of(whole, on)], study, 60.0, 80)
    run = run_of(method, 60.0, 80, study=study, data=NO_DATA)
    run.advance(80)
    assert run.model.hidden.weight.shape == (6, 6)
    assert run.model.last.weight.shape == (10, 6)
    for [expected], seen in zip(values[1:], run.seen, strict=False):
        assert seen["penalty"] == pytest.approx(expected, rel=1e-4)
    assert values[-1][0] < 0.2 * values[0][0]


def test_the_papers_network_has_the_papers_sizes():
    """(3136 x 512)(512 x 512) and (512 x 10)(10 x 10): 15.8 % more parameters."""
    model = tutorial_network(28, (32, 64), 512, 0.5, 0.1)
    assert sum(p.numel() for p in model.parameters()) == 1_663_370
    NetworkStudy().optimizer(None, Trial("product", 0.01, 1, 0), model)
    dense = [layer.parametrizations.weight.parameters() for layer in (model.hidden, model.last)]
    shapes = [[tuple(factor.shape) for factor in factors] for factors in dense]
    assert shapes == [[(512, 3136), (512, 512)], [(10, 512), (10, 10)]]
    more = sum(p.numel() for p in model.parameters()) / 1_663_370 - 1
    assert round(100 * more, 1) == 15.8


def course_of(method, steps, **options):
    """The penalty alone, every 500 steps of the tutorial's schedule."""
    run = TrialRun(
        mnist_network(NO_DATA, **options), Trial(method, 0.01, steps, 0), NetworkStudy(**EVERY)
    )
    run.advance(steps)
    assert not run.failure
    points = zip(run.curve, run.seen, strict=True)
    return {step: seen["penalty"] for (step, _), seen in points}


EVERY = {"record_every": 500}


def test_the_papers_product_at_a_quarter_of_the_size(monkeypatch):
    """12.3, 3.06, 1.17, 0.32.

    With weights 4 times smaller in each dimension and of 4 times the variance the spectra of the
    factors are the same, up to a random part, and the penalty is 4 times smaller.
    """
    monkeypatch.setattr(network_study, "STD", 0.2)
    course = course_of("product", 2000, channels=(1, 16), hidden=128, std=0.2)
    for step, expected in ((1, 12.3), (500, 3.06), (1000, 1.17), (2000, 0.32)):
        assert 4 * course[step] == pytest.approx(expected, rel=0.06)


def test_the_papers_plain_penalty():
    """3.10 at the start and 1.73 after 7,000 steps; its course does not depend on the size."""
    course = course_of("plain", 7000, side=4, hidden=2, channels=(1, 1))
    weights = PENALTY / 2 * 0.7737 * 0.01 * (3136 * 512 + 512 * 10)
    start = weights + PENALTY / 2 * 0.01 * (512 + 10)
    assert start == pytest.approx(3.10, rel=0.01)
    assert start * course[7000] / course[1] == pytest.approx(1.73, rel=0.01)


def test_methods_of_one_seed_have_the_plain_start_in_common():
    plain, product = parts_of(run_of("plain")), parts_of(run_of("product"))
    for (first, *_), (other, *_) in zip(plain, product, strict=True):
        assert torch.equal(first, other)
    squares = [layer[1] for layer in product[2:]]
    assert [tuple(each.shape) for each in squares] == [(6, 6), (10, 10)]
    assert 0.05 < squares[1].std() < 0.12
    again = paper_start(torch.zeros(6, 12), 3)
    assert [tuple(each.shape) for each in again] == [(6, 12), (6, 6), (6, 6)]
    assert not torch.equal(again[1], again[2])


def test_biases_start_at_zero_then_a_tenth():
    model = tutorial_network(13, (3, 4), 7, 0.5, 0.1)
    assert not model.first.bias.any()
    for layer in (model.second, model.hidden, model.last):
        assert torch.equal(layer.bias, torch.full_like(layer.bias, 0.1))


def test_pooling_of_an_odd_image_is_that_of_same_padding():
    """TensorFlow's SAME fills up the last window with padding at the end."""
    model = tutorial_network(13, (3, 4), 7, 0.5, 0.1)
    image = torch.rand(2, 1, 13, 13) - 0.5
    hidden = image
    for layer in (model.first, model.second):
        hidden = torch.relu(layer(hidden))
        width = hidden.shape[-1] % 2
        hidden = functional.pad(hidden, (0, width, 0, width), value=-math.inf)
        hidden = functional.max_pool2d(hidden, 2)
    assert hidden.shape[1:] == (4, 4, 4)
    expected = model.last(torch.relu(model.hidden(hidden.flatten(1))))
    torch.testing.assert_close(model.eval()(image), expected)


def test_dropout_keeps_the_mean_and_knows_evaluation():
    drop = Dropout(0.25)
    torch.manual_seed(0)
    found = drop(torch.ones(1000, 100))
    assert set(found.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert found.mean() == pytest.approx(1, abs=0.01)
    assert torch.equal(drop.eval()(torch.ones(3)), torch.ones(3))


def test_truncated_normal_is_that_of_scipy():
    torch.manual_seed(3)
    drawn = truncated_normal_(torch.empty(400, 500), 0.1).numpy()
    assert np.abs(drawn).max() <= 0.2
    expected = scipy.stats.truncnorm(-2, 2, scale=0.1)
    assert drawn.var() == pytest.approx(expected.var(), rel=5e-3)
    assert scipy.stats.kstest(drawn.ravel()[:20_000], expected.cdf).pvalue > 1e-3


def test_inputs_lie_between_minus_and_plus_one_half():
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16)
    expected = (np.arange(256) - 127.5) / 255
    np.testing.assert_allclose(network_inputs(images, 16).flatten().numpy(), expected, atol=1e-7)


def test_halved_images_are_weighted_means():
    """A triangle of half-width 2 at a factor of 2: weights 1, 3, 3, 1 of 8 in each direction."""
    images = torch.randint(0, 256, (3, 28, 28), dtype=torch.uint8)
    found = network_inputs(images, 14)
    weights = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    pixels = (images.float() - 127.5) / 255
    for row, column in ((1, 1), (6, 9), (12, 3)):
        window = pixels[:, 2 * row - 1 : 2 * row + 3, 2 * column - 1 : 2 * column + 3]
        expected = torch.einsum("bij,i,j->b", window, weights, weights)
        torch.testing.assert_close(found[:, 0, row, column], expected)


def test_batches_come_in_the_order_of_the_data_and_round_again():
    stream = successive((torch.arange(7), torch.arange(7) + 10), 3)(5)
    found = [next(stream) for _ in range(4)]
    assert [rows.tolist() for rows, _ in found] == [[0, 1, 2], [3, 4, 5], [2, 3, 4], [1, 2, 3]]
    assert found[1][1].tolist() == [13, 14, 15]


def test_what_cannot_be_trained_is_refused():
    with pytest.raises(ValueError, match="penalty_on is 'product'; use weights or factors"):
        mnist_network("digits", penalty_on="product")
    with pytest.raises(ValueError, match="1500 images to train on, but 1490 are held out"):
        mnist_network("digits", held_out=1490, **SIZES)
