"""What optimizers do with a direction: one small function each, without a look at the host.

An update takes a batch of directions ``(runs, ...)`` and its own state, changes the state in place,
and returns the direction in which the parameter moves, against its sign, at a learning rate of 1.
All are linear in the learning rate, so one update serves a batch of runs, each with its own.
``torch.optim`` is their ground truth: the tests compare them step by step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

# The factor and the divisor of step t, counted from 1: see Numbers.
Corrections = Callable[[int], tuple[float, float]]
State = Mapping[str, Tensor]
_MOMENTUM = 0.9
_RHO = 0.9
_BETA_1, _BETA_2 = 0.9, 0.999
# The defaults of torch.optim.
_EPS = {"adagrad": 1e-10, "adadelta": 1e-6, "adam": 1e-8}


class Numbers(NamedTuple):
    """The numbers of one step, each a tensor without dimensions.

    Attributes:
        rate: the factor on the learning rate.
        factor: what an update multiplies its mean by.
        divisor: what an update divides its root mean square by.
    """

    rate: Tensor
    factor: Tensor
    divisor: Tensor


class Move(NamedTuple):
    """The direction of a step.

    Attributes:
        direction: what the learning rate multiplies, ``(runs, ...)``.
        metric: ``s`` of Adam, whose direction is ``m / s``; None for all others.
    """

    direction: Tensor
    metric: Tensor | None = None


class Update(NamedTuple):
    """An optimizer without its learning rate.

    Attributes:
        step: from a direction (which it may overwrite), the state, and the numbers of the step.
        state: names of its tensors, each of the shape of the parameter and zero at the start.
        corrections: the numbers of the step that depend on ``t`` alone, if it has any.
    """

    step: Callable[[Tensor, State, Numbers], Move]
    state: tuple[str, ...] = ()
    corrections: Corrections | None = None


def _plain(direction: Tensor, state: State, numbers: Numbers) -> Move:
    return Move(direction)


def _momentum(direction: Tensor, state: State, numbers: Numbers) -> Move:
    """``b <- 0.9 b + d``, the heavy ball of Polyak (1964)."""
    return Move(state["buffer"].mul_(_MOMENTUM).add_(direction))


def _nesterov(direction: Tensor, state: State, numbers: Numbers) -> Move:
    """``b <- 0.9 b + d``, and the step is ``d + 0.9 b``."""
    buffer = state["buffer"].mul_(_MOMENTUM).add_(direction)
    return Move(direction.add_(buffer, alpha=_MOMENTUM))


def _adagrad(direction: Tensor, state: State, numbers: Numbers) -> Move:
    """``d / (sqrt(sum d^2) + eps)``, Duchi, Hazan, Singer (2011)."""
    metric = state["sum"].addcmul_(direction, direction).sqrt().add_(_EPS["adagrad"])
    return Move(direction.div_(metric))


def _adadelta(direction: Tensor, state: State, numbers: Numbers) -> Move:
    """``sqrt(mean u^2 + eps) / sqrt(mean d^2 + eps) d``, Zeiler (2012)."""
    square, moved = state["square"], state["moved"]
    square.mul_(_RHO).addcmul_(direction, direction, value=1 - _RHO)
    step = moved.add(_EPS["adadelta"]).sqrt_().div_(square.add(_EPS["adadelta"]).sqrt_())
    step.mul_(direction)
    moved.mul_(_RHO).addcmul_(step, step, value=1 - _RHO)
    return Move(step)


def _adam(direction: Tensor, state: State, numbers: Numbers) -> Move:
    """``m^ / (sqrt(v^) + eps)``, Kingma and Ba (2015)."""
    mean, square = state["mean"], state["square"]
    mean.lerp_(direction, 1 - _BETA_1)
    square.mul_(_BETA_2).addcmul_(direction, direction, value=1 - _BETA_2)
    metric = square.sqrt().div_(numbers.divisor).add_(_EPS["adam"])
    return Move(torch.mul(mean, numbers.factor).div_(metric), metric)


def _adam_corrections(step: int) -> tuple[float, float]:
    """``1 / (1 - beta_1^t)`` of the mean, and ``sqrt(1 - beta_2^t)`` of the root mean square."""
    return 1 / (1 - _BETA_1**step), math.sqrt(1 - _BETA_2**step)


UPDATES = {
    "plain": Update(_plain),
    "momentum": Update(_momentum, ("buffer",)),
    "nesterov": Update(_nesterov, ("buffer",)),
    "adagrad": Update(_adagrad, ("sum",)),
    "adadelta": Update(_adadelta, ("square", "moved")),
    "adam": Update(_adam, ("mean", "square"), _adam_corrections),
}
