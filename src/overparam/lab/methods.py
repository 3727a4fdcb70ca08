"""Training methods by name: a base optimizer, an engine of depth, and a depth.

``gd``, ``momentum``, ``adam`` train the plain weight. ``rule:2.5`` is gradient descent by the
end-to-end rule of depth 2.5, ``rule_normalized:2.5`` the same divided by the largest eigenvalue of
its preconditioner, ``factors:3`` gradient descent on three explicit factors, and
``adam+factors:2`` Adam on two. Whatever the engine, it takes the gradient first, and the base
optimizer steps with what it gives.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from overparam._words import did_you_mean
from overparam.lab.training.scaling import GradientScaling, by_loss, by_norm


class BaseOptimizer(NamedTuple):
    """What a method does with the gradient, apart from depth.

    Attributes:
        label: a name for people.
        build: the torch optimizer, with rate 1; None for plain descent.
        scaling: what the gradient of the weight is multiplied by before anything else.
    """

    label: str
    build: Callable[[list[Tensor]], torch.optim.Optimizer] | None = None
    scaling: GradientScaling | None = None


# Every step of these is linear in its learning rate, so one optimizer with rate 1 serves a batch
# of runs, each with its own rate. Hyperparameters are torch's defaults, momentum 0.9.
OPTIMIZERS = {
    "gd": BaseOptimizer("Gradient descent"),
    "momentum": BaseOptimizer("Heavy ball", lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9)),
    "nesterov": BaseOptimizer(
        "Nesterov", lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9, nesterov=True)
    ),
    "adagrad": BaseOptimizer("AdaGrad", lambda p: torch.optim.Adagrad(p, lr=1.0)),
    "adadelta": BaseOptimizer("AdaDelta", lambda p: torch.optim.Adadelta(p, lr=1.0)),
    "adam": BaseOptimizer("Adam", lambda p: torch.optim.Adam(p, lr=1.0)),
    "normalized": BaseOptimizer("Normalized gradient", scaling=by_norm),
    "loss_scaled": BaseOptimizer("Step scaled by the loss", scaling=by_loss),
}
ENGINES = ("plain", "rule", "rule_normalized", "factors")

_PATTERN = re.compile(r"(?P<optimizer>\w+)|(?:(?P<base>\w+)\+)?(?P<engine>\w+):(?P<depth>[\w.]+)")
_EXAMPLES = "gd, adam, rule:2, rule:2.5, factors:3, adam+factors:2"


@dataclass(frozen=True)
class Method:
    """How a weight is trained.

    Attributes:
        optimizer: base optimizer, a key of ``OPTIMIZERS``.
        engine: ``plain``, ``rule`` (the end-to-end rule), ``rule_normalized`` (the same over
            ``N s_max^(2-2/N)``) or ``factors`` (explicit factors).
        depth: ``N``; 1 for the plain engine, whole for factors.
    """

    optimizer: str = "gd"
    engine: str = "plain"
    depth: float = 1.0

    @property
    def name(self) -> str:
        """The canonical name, which :func:`parse_method` reads."""
        if self.engine == "plain":
            return self.optimizer
        engine = f"{self.engine}:{_exact(self.depth)}"
        return engine if self.optimizer == "gd" else f"{self.optimizer}+{engine}"

    @property
    def label(self) -> str:
        """A name for people, in figures and tables."""
        base = OPTIMIZERS[self.optimizer].label
        if self.engine == "plain":
            return base
        depth = f"depth {_exact(self.depth)} ({self.engine.replace('_', ', ')})"
        return depth.capitalize() if self.optimizer == "gd" else f"{base}, {depth}"


def parse_method(text: str) -> Method:
    """Read a method from its name.

    Raises:
        ValueError: unknown name or impossible depth, with the nearest known name.

    Example:
        >>> parse_method("adam+factors:2")
        Method(optimizer='adam', engine='factors', depth=2.0)
    """
    match = _PATTERN.fullmatch(text.strip())
    if not match:
        raise ValueError(f"method {text!r} is not understood; examples: {_EXAMPLES}.")
    optimizer = match["optimizer"] or match["base"] or "gd"
    engine = match["engine"] or "plain"
    _known("optimizer", optimizer, tuple(OPTIMIZERS), text)
    _known("engine", engine, ENGINES, text)
    if engine == "plain":
        if match["depth"]:
            raise ValueError(f"method {text!r}: plain weights have no depth; write {optimizer!r}.")
        return Method(optimizer)
    try:
        depth = float(match["depth"])
    except ValueError:
        raise ValueError(
            f"method {text!r}: depth {match['depth']!r} is no number; examples: {_EXAMPLES}."
        ) from None
    if not 1 <= depth < float("inf"):
        raise ValueError(f"method {text!r}: depth {depth:g} is not a finite number of at least 1.")
    if engine == "factors" and not depth.is_integer():
        raise ValueError(
            f"method {text!r}: a product has a whole number of factors; "
            f"for depth {depth:g} use {Method(optimizer, 'rule', depth).name!r}."
        )
    return Method(optimizer, engine, depth)


def _exact(depth: float) -> str:
    """The shortest text that reads back as the same depth, without an exponent."""
    return str(int(depth)) if depth.is_integer() else repr(depth)


def _known(kind: str, word: str, words: tuple[str, ...], text: str) -> None:
    if word in words:
        return
    if kind == "optimizer" and word in ENGINES[1:]:
        hint = f" Did you mean '{word}:2'?"  # an engine that lacks its depth
    elif kind == "engine" and word in OPTIMIZERS:
        # An optimizer that was given a depth.
        hint = f" Did you mean {Method(word, 'factors', 2.0).name!r}?"
    else:
        hint = did_you_mean(word, words)
    raise ValueError(
        f"method {text!r}: unknown {kind} {word!r}.{hint} Known: {', '.join(words)}; "
        f"examples: {_EXAMPLES}."
    )
