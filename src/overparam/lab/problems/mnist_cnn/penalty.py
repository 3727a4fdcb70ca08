"""The L2 penalty on dense layers, and how it falls if it is descended alone.

The tutorial adds ``coefficient * sum |v|^2 / 2`` over dense weights and biases to the
cross-entropy. The network of Arora, Cohen, Hazan (2018), section 8, replaces these weights by
products ``W_2 W_1``, and the penalty may be on the product or on each factor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from overparam.factors.product import factor_product, factor_product_vjp
from overparam.lab.problems.mnist_cnn.network import Layer, initial_network
from overparam.lab.problems.mnist_cnn.study import CnnStudy, random_source

# The variants with a penalty, by their names in a study.
FORMS = ("plain", "product", "product_factors")


def penalty(
    layers: Sequence[Layer], on: str, coefficient: float
) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
    """The penalty and its gradients.

    ``weights``: ``(c/2) (|W_N ... W_1|^2 + |b|^2)`` over layers, with the gradients
    ``c (W_N ... W_{j+1})^T W (W_{j-1} ... W_1)^T`` of the factors; ``factors``:
    ``(c/2) (sum_j |W_j|^2 + |b|^2)``, with the gradients ``c W_j``; ``none``: 0. The gradient of a
    bias is ``c b``. Source: tf.nn.l2_loss in the tutorial's ``convolutional.py``.

    Args:
        layers: dense layers.
        on: ``weights``, ``factors`` or ``none``.
        coefficient: ``c``.

    Returns:
        The penalty, a scalar, and for each layer the gradients of its factors and of its bias;
        no gradients for ``none``.

    Raises:
        ValueError: ``on`` is unknown.

    Example:
        >>> layer = Layer((2 * torch.ones(1, 3), 3 * torch.ones(1, 1)), torch.zeros(1))
        >>> value, [(first, second, bias)] = penalty([layer], "weights", 0.1)
        >>> round(value.item(), 4), round(first[0, 0].item(), 4), round(second.item(), 4)
        (5.4, 1.8, 3.6)
    """
    if on not in ("weights", "factors", "none"):
        raise ValueError(f"on is {on!r}; use weights, factors or none.")
    total = layers[0].bias.new_zeros(())
    gradients = []
    for factors, bias in layers if on != "none" else ():
        if on == "weights":
            product = factor_product(factors)
            own = factor_product_vjp(factors, coefficient * product)
            penalized = (product, bias)
        else:
            own = tuple(coefficient * factor for factor in factors)
            penalized = (*factors, bias)
        total = total + sum(tensor.square().sum() for tensor in penalized)
        gradients.append((*own, coefficient * bias))
    return coefficient / 2 * total, gradients


def reduced_factors(factors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Smaller factors, the first one square, that give the same penalty throughout the descent.

    The thin QR decomposition ``W_1^T = Q R`` gives ``W_1 = R^T Q^T``. The gradient of
    ``|W_N ... W_1|^2 / 2`` is ``(...) W_1`` for ``W_1``, and depends on ``W_1`` only through
    ``W_1 W_1^T = R^T R`` for the other factors. So throughout the descent ``W_1 = L Q^T``, with
    ``L = R^T`` at the start, and descending ``L`` instead of ``W_1`` gives exactly the same norm of
    the product at every step. Momentum does not change this, because it is a sum of gradients.

    Args:
        factors: ``(W_1, ..., W_N)``.

    Returns:
        ``(L, W_2, ..., W_N)``; the factors themselves if ``W_1`` has at least as many rows as
        columns.
    """
    first, *others = factors
    if first.shape[1] <= first.shape[0]:
        return tuple(factors)
    triangle = torch.linalg.qr(first.mT.double()).R
    return (triangle.mT.to(first.dtype).contiguous(), *others)


class PenaltyAlone:
    """Descends the penalty alone, from the initial weights of a study, without data.

    Plain weights, biases and factors with a penalty of their own are all scaled by the same number:
    ``w_t = c_t w_0`` with ``c_0 = 1``, ``v <- m v + coefficient * c``, ``c <- c - lr_t v``. A
    penalty on the product is descended on reduced factors.

    Args:
        study: the settings.
        rate: initial learning rate.
        seed: seed of the weights.
        dtype: dtype of the reduced factors.

    Attributes:
        step: number of steps done.
        records: for each recorded step so far, the step and the penalty of each of :data:`FORMS`.
    """

    def __init__(
        self, study: CnnStudy, rate: float, seed: int, dtype: torch.dtype = torch.float32
    ) -> None:
        self.study, self.rate = study, rate
        self.step = 0
        dense = initial_network(
            study.shape, 2, study.init_std, random_source(seed, "weights")
        ).dense
        exact = [Layer(tuple(f.double() for f in fs), bias.double()) for fs, bias in dense]
        plain = [Layer(factors[:1], bias) for factors, bias in exact]
        biases = [Layer((), bias) for _, bias in exact]
        coefficient = study.penalty
        # The initial value of that share of each form that is proportional to c squared.
        self._scaled = {
            "plain": penalty(plain, "weights", coefficient)[0].item(),
            "product": penalty(biases, "factors", coefficient)[0].item(),
            "product_factors": penalty(exact, "factors", coefficient)[0].item(),
        }
        self._scale, self._velocity = 1.0, 0.0
        reduced = [reduced_factors(factors) for factors, _ in exact]
        self._factors = [factor.to(dtype) for factors in reduced for factor in factors]
        self._momenta = [torch.zeros_like(factor) for factor in self._factors]
        self.records: list[tuple[float, ...]] = []

    @property
    def finished(self) -> bool:
        """Whether the last step is recorded."""
        return len(self.records) == len(self.study.record_steps)

    def advance(self, steps: int) -> None:
        """Descend for at most ``steps`` steps."""
        momentum, coefficient = self.study.momentum, self.study.penalty
        for _ in range(steps):
            if self.finished:
                return
            products = [factor_product(pair) for pair in self._pairs()]
            if self.step == self.study.record_steps[len(self.records)]:
                self._record(products)
                if self.finished:
                    return
            rate = self.study.rate_at(self.rate, self.step)
            gradients = [
                gradient
                for pair, product in zip(self._pairs(), products, strict=True)
                for gradient in factor_product_vjp(pair, coefficient * product)
            ]
            for factor, velocity, gradient in zip(
                self._factors, self._momenta, gradients, strict=True
            ):
                velocity.mul_(momentum).add_(gradient)
                factor.sub_(velocity, alpha=rate)
            self._velocity = momentum * self._velocity + coefficient * self._scale
            self._scale -= rate * self._velocity
            self.step += 1

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue the descent."""
        return {
            "step": self.step,
            "scale": self._scale,
            "velocity": self._velocity,
            "factors": self._factors,
            "momenta": self._momenta,
            "records": self.records,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state saved with the same settings."""
        self.step = state["step"]
        self._scale, self._velocity = state["scale"], state["velocity"]
        self._factors, self._momenta = state["factors"], state["momenta"]
        self.records = state["records"]

    def _pairs(self) -> list[tuple[Tensor, ...]]:
        return [tuple(self._factors[:2]), tuple(self._factors[2:])]

    def _record(self, products: list[Tensor]) -> None:
        values = {form: self._scale**2 * start for form, start in self._scaled.items()}
        squares = math.fsum(product.double().square().sum().item() for product in products)
        values["product"] += self.study.penalty / 2 * squares
        self.records.append((self.step, *(values[form] for form in FORMS)))
