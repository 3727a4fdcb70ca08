"""The settings and variants of the paper's convolutional network.

Arora, Cohen, Hazan (2018), section 8, last experiment: the MNIST network of the TensorFlow
tutorial, with each dense weight either as it is or replaced by a product of two matrices.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch

from overparam.lab.problems.mnist_cnn.network import NetworkShape
from overparam.lab.study import check_settings, is_device

# Batch loss after 8,600 steps, read by eye from the paper's last figure.
AUTHORS_STEPS = 8600
AUTHORS_LOSS = {"plain": 1.6, "product": 0.04}


class Variant(NamedTuple):
    """A network and its penalty.

    Attributes:
        label: a name for people.
        depth: number of factors of each dense weight.
        penalty: where the L2 penalty is: on the ``weights`` (end to end), on the ``factors``, or
            ``none``.
    """

    label: str
    depth: int
    penalty: str


VARIANTS = {
    "plain": Variant("Original, penalty on the weights", 1, "weights"),
    "plain_unpenalized": Variant("Original, no penalty", 1, "none"),
    "product": Variant("Product, penalty on the product", 2, "weights"),
    "product_factors": Variant("Product, penalty on the factors", 2, "factors"),
    "product_unpenalized": Variant("Product, no penalty", 2, "none"),
}


@dataclass(frozen=True)
class CnnStudy:
    """Training of the network by stochastic gradient descent with momentum.

    The defaults are the tutorial's: ten epochs of 55,000 images.

    Attributes:
        data: name of a set of images.
        variants: keys of :data:`VARIANTS`.
        rates: initial learning rates; the paper's is 0.01.
        seeds: random seeds, one initialization and one sequence of dropout masks each.
        steps: number of batches to train on.
        side: height and width to which the images are resized.
        channels: output channels of the two convolutions.
        hidden: width of the hidden dense layer.
        batch: images per batch.
        momentum: ``v <- momentum * v + gradient``, ``w <- w - lr * v``.
        decay: factor on the learning rate after each ``epoch`` images.
        epoch: images between two decays of the learning rate.
        penalty: coefficient of half the sum of squares of dense weights and biases.
        dropout: share of hidden units that a training step leaves out.
        init_std: standard deviation of the initial weights, before truncation at twice this value.
        held_out: number of training images, the first ones, that are kept for validation.
        record_every: steps between two records; they are closer together at the beginning.
        evaluate_every: steps between two evaluations of validation and test error, which are also
            evaluated at the end.
        evaluated: number of images to evaluate each of the two on; 0 for all.
        device: where to train: ``cpu``, ``cuda`` or another PyTorch device.
    """

    data: str = "mnist"
    variants: tuple[str, ...] = tuple(VARIANTS)
    rates: tuple[float, ...] = (0.01,)
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 8593
    side: int = 28
    channels: tuple[int, int] = (32, 64)
    hidden: int = 512
    batch: int = 64
    momentum: float = 0.9
    decay: float = 0.95
    epoch: int = 55_000
    penalty: float = 5e-4
    dropout: float = 0.5
    init_std: float = 0.1
    held_out: int = 5000
    record_every: int = 100
    evaluate_every: int = 1000
    evaluated: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Refuse settings that cannot run; the message has the value and the remedy."""
        for name in ("variants", "rates", "seeds", "channels"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        # 1 and 1.0 must give the same identity.
        object.__setattr__(self, "rates", tuple(map(float, self.rates)))
        for name in ("momentum", "decay", "penalty", "dropout", "init_std"):
            object.__setattr__(self, name, float(getattr(self, name)))
        check_settings(self, self._checks())

    def _checks(self) -> Iterator[tuple[str, bool, str]]:
        known = set(self.variants) <= set(VARIANTS)
        yield "variants", known, f"use some of {', '.join(VARIANTS)}"
        usable = all(0 < rate < math.inf for rate in self.rates)
        yield "rates", usable, "use finite numbers above 0"
        two = len(self.channels) == 2 and min(self.channels) >= 1
        yield "channels", two, "give two numbers of at least 1"
        yield "momentum", 0 <= self.momentum < 1, "use a number from 0 to below 1"
        yield "decay", 0 < self.decay <= 1, "use a number above 0 and at most 1"
        yield "penalty", 0 <= self.penalty < math.inf, "use a finite number of at least 0"
        yield "dropout", 0 <= self.dropout < 1, "use a share from 0 to below 1"
        yield "init_std", 0 < self.init_std < math.inf, "use a finite number above 0"
        yield "held_out", self.held_out >= 1, "use at least 1, for the validation error"
        yield "evaluated", self.evaluated >= 0, "use 0 for all images"
        yield "device", is_device(self.device), "use cpu, cuda or cuda:0"
        for name in ("steps", "side", "hidden", "batch", "epoch", "record_every", "evaluate_every"):
            yield name, getattr(self, name) >= 1, "use at least 1"
        for name in ("variants", "rates", "seeds"):
            values = getattr(self, name)
            once = bool(values) and len(set(values)) == len(values)
            yield name, once, "give at least one, and each only once"

    @property
    def shape(self) -> NetworkShape:
        """Sizes of the network."""
        return NetworkShape(self.side, self.channels, self.hidden)

    @property
    def record_steps(self) -> tuple[int, ...]:
        """Steps at which losses are stored: at regular intervals, and powers of 2 before that."""
        doublings = {2**i for i in range(self.record_every.bit_length())}
        regular = {*range(0, self.steps, self.record_every), *doublings}
        return tuple(sorted(step for step in {*regular, self.steps} if step <= self.steps))

    def rate_at(self, rate: float, step: int) -> float:
        """The lr at a step (counted from 0): ``rate * decay^(images seen // epoch)``."""
        return rate * self.decay ** (step * self.batch // self.epoch)

    def evaluates(self, step: int) -> bool:
        """Whether the errors are evaluated at a recorded step."""
        return step % self.evaluate_every == 0 or step == self.steps


def on_digits(study: CnnStudy) -> CnnStudy:
    """The same study on the digits in scikit-learn, 8 x 8 pixels resized to the side of the study.

    200 of the 1,500 training images are held out. Schedule and horizon are unchanged, so the
    network sees each image many times more often.
    """
    return dataclasses.replace(study, data="digits", held_out=200)


def random_source(seed: int, purpose: str) -> torch.Generator:
    """A source of random numbers for one purpose, independent of the sources for others."""
    digest = hashlib.sha256(f"{purpose} {seed}".encode()).digest()
    # The generator on the CPU uses only 32 bits of its seed.
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))


# The quick scale reduces images to 14 x 14, the first convolution to 8 channels, the hidden layer
# to 256 and the steps to 900. The dense weights remain large (1024 x 256), so the penalty on them
# still outweighs the cross-entropy, and falls within the horizon as it does at the paper's size.
_QUICK = CnnStudy(
    side=14,
    channels=(8, 64),
    hidden=256,
    steps=900,
    record_every=25,
    evaluate_every=150,
    evaluated=2000,
)
SCALES = {
    "paper": CnnStudy(),
    # The claims are about the first lr, the tutorial's. The others show what tuning changes.
    "standard": dataclasses.replace(_QUICK, rates=(0.01, 0.0025, 0.005, 0.02, 0.04)),
    "quick": _QUICK,
    "tiny": CnnStudy(
        data="digits",
        side=8,
        channels=(2, 3),
        hidden=6,
        steps=40,
        batch=16,
        seeds=(0, 1),
        held_out=100,
        epoch=160,
        record_every=10,
        evaluate_every=20,
    ),
}
