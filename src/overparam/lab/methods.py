"""Training methods by name: an optimizer, and how much depth of which kind.

``gd``, ``momentum`` and ``adam`` train the plain weight. ``rule:2.5`` is gradient descent with the
end-to-end rule of depth 2.5, ``rule_normalized:2.5`` the same divided by the largest eigenvalue of
its preconditioner, ``factors:3`` is gradient descent on three explicit factors, and
``adam+factors:2`` is Adam on two. Depth takes the gradient first, and the optimizer steps with what
it gives.
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
        build: makes the torch optimizer with lr 1; None for plain gradient descent.
        scaling: scales the gradient of the weight before anything else; None for no scaling.
    """

    label: str
    build: Callable[[list[Tensor]], torch.optim.Optimizer] | None = None
    scaling: GradientScaling | None = None


# Their steps are linear in the lr, so one optimizer with lr 1 serves a batch of runs, each with its
# own lr. Hyperparameters are torch's defaults; momentum is 0.9.
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
DEPTH_KINDS = ("plain", "rule", "rule_normalized", "factors")

_PATTERN = re.compile(r"(?P<optimizer>\w+)|(?:(?P<base>\w+)\+)?(?P<kind>\w+):(?P<depth>[\w.]+)")
_EXAMPLES = "gd, adam, rule:2, rule:2.5, factors:3, adam+factors:2"


@dataclass(frozen=True)
class Method:
    """How a weight is trained.

    Attributes:
        optimizer: a key of ``OPTIMIZERS``.
        depth_kind: ``plain`` (no depth), ``rule`` (the end-to-end rule), ``rule_normalized`` (the
            same over ``N s_max^(2-2/N)``) or ``factors`` (explicit factors).
        depth: ``N``; 1 for a plain weight, a whole number for factors.
    """

    optimizer: str = "gd"
    depth_kind: str = "plain"
    depth: float = 1.0

    @property
    def name(self) -> str:
        """The canonical name, which :func:`parse_method` reads."""
        if self.depth_kind == "plain":
            return self.optimizer
        depth = f"{self.depth_kind}:{_exact(self.depth)}"
        return depth if self.optimizer == "gd" else f"{self.optimizer}+{depth}"

    @property
    def label(self) -> str:
        """A name for people, in figures and tables."""
        base = OPTIMIZERS[self.optimizer].label
        if self.depth_kind == "plain":
            return base
        depth = f"depth {_exact(self.depth)} ({self.depth_kind.replace('_', ', ')})"
        return depth.capitalize() if self.optimizer == "gd" else f"{base}, {depth}"


def parse_method(text: str) -> Method:
    """Read a method from its name.

    Raises:
        ValueError: the name is unknown or the depth impossible; the message names the nearest
            known name.

    Example:
        >>> parse_method("adam+factors:2")
        Method(optimizer='adam', depth_kind='factors', depth=2.0)
    """
    match = _PATTERN.fullmatch(text.strip())
    if not match:
        raise ValueError(f"method {text!r} is not understood; examples: {_EXAMPLES}.")
    optimizer = match["optimizer"] or match["base"] or "gd"
    kind = match["kind"] or "plain"
    _check_known("optimizer", optimizer, tuple(OPTIMIZERS), text)
    _check_known("kind of depth", kind, DEPTH_KINDS, text)
    if kind == "plain":
        if match["depth"]:
            raise ValueError(f"method {text!r}: plain weights have no depth; write {optimizer!r}.")
        return Method(optimizer)
    try:
        depth = float(match["depth"])
    except ValueError:
        raise ValueError(
            f"method {text!r}: depth {match['depth']!r} is not a number; examples: {_EXAMPLES}."
        ) from None
    if not 1 <= depth < float("inf"):
        raise ValueError(f"method {text!r}: depth {depth:g} is not a finite number of at least 1.")
    if kind == "factors" and not depth.is_integer():
        raise ValueError(
            f"method {text!r}: a product has a whole number of factors; "
            f"for depth {depth:g} use {Method(optimizer, 'rule', depth).name!r}."
        )
    return Method(optimizer, kind, depth)


def label_of(name: str) -> str:
    """The label of a method, from its name."""
    return parse_method(name).label


def _exact(depth: float) -> str:
    """The shortest text that reads back as the same depth, without an exponent."""
    return str(int(depth)) if depth.is_integer() else repr(depth)


def _check_known(what: str, word: str, words: tuple[str, ...], text: str) -> None:
    if word in words:
        return
    if what == "optimizer" and word in DEPTH_KINDS[1:]:
        hint = f" Did you mean '{word}:2'?"  # the depth is missing
    elif what == "kind of depth" and word in OPTIMIZERS:
        # An optimizer with a depth, such as adam:2.
        hint = f" Did you mean {Method(word, 'factors', 2.0).name!r}?"
    else:
        hint = did_you_mean(word, words)
    raise ValueError(
        f"method {text!r}: unknown {what} {word!r}.{hint} Known: {', '.join(words)}; "
        f"examples: {_EXAMPLES}."
    )
