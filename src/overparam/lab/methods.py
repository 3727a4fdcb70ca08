"""Training methods by name: an optimizer, and how much depth of which kind.

``gd``, ``momentum`` and ``adam`` train the plain weight. ``rule:2.5`` is gradient descent with the
end-to-end rule of depth 2.5, ``rule_normalized:2.5`` the same divided by the largest eigenvalue of
its preconditioner, ``norm:2`` the rule's factor ``|W|^(2-2/N)`` alone, ``entry:2`` the rule of each
entry by itself, ``factors:3`` is gradient descent on three explicit factors, and ``adam+factors:2``
is Adam on two. ``rule:2,lam=1`` is the
rule of two factors that are out of balance by 1, and ``metric:2`` the rule over its length in its
own metric. Depth takes the gradient first, and the optimizer steps with what it gives.
``adam+radial:4`` is the other way round: the step of Adam is stretched four times along the weight.

A new optimizer is a function in :mod:`~overparam.lab.training.updates` and a line here; a new kind
of depth is a function and a line in :mod:`~overparam.lab.training.directions`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from overparam._words import did_you_mean
from overparam.lab.training.directions import DEPTH_KINDS
from overparam.lab.training.scaling import GradientScaling, by_loss, by_norm
from overparam.lab.training.updates import UPDATES, Update


class BaseOptimizer(NamedTuple):
    """What a method does with the gradient, apart from depth.

    Attributes:
        label: a name for people.
        update: from a direction to a step at an lr of 1.
        scaling: scales the gradient of the weight before anything else; None for no scaling.
    """

    label: str
    update: Update = UPDATES["plain"]
    scaling: GradientScaling | None = None


# Hyperparameters are torch's defaults; momentum is 0.9.
OPTIMIZERS = {
    "gd": BaseOptimizer("Gradient descent"),
    "momentum": BaseOptimizer("Heavy ball", UPDATES["momentum"]),
    "nesterov": BaseOptimizer("Nesterov", UPDATES["nesterov"]),
    "adagrad": BaseOptimizer("AdaGrad", UPDATES["adagrad"]),
    "adadelta": BaseOptimizer("AdaDelta", UPDATES["adadelta"]),
    "adam": BaseOptimizer("Adam", UPDATES["adam"]),
    "normalized": BaseOptimizer("Normalized gradient", scaling=by_norm),
    "loss_scaled": BaseOptimizer("Step scaled by the loss", scaling=by_loss),
}

_PATTERN = re.compile(
    r"(?P<optimizer>\w+)|(?:(?P<base>\w+)\+)?(?P<kind>\w+):(?P<depth>[\w.]+)"
    r"(?:,lam=(?P<imbalance>[-+\w.]+))?"
)
_EXAMPLES = "gd, adam, rule:2, rule:2.5, rule:2,lam=1, factors:3, adam+factors:2"


@dataclass(frozen=True)
class Method:
    """How a weight is trained.

    Attributes:
        optimizer: a key of ``OPTIMIZERS``.
        depth_kind: ``plain`` (no depth), ``rule`` (the end-to-end rule), ``rule_normalized`` (the
            same over ``N s_max^(2-2/N)``), ``metric`` (the same over ``sqrt(<G, D>)``), ``norm``
            (its factor ``|W|^(2-2/N)`` alone), ``entry`` (the rule of each entry), ``radial``
            (steps stretched along the weight) or ``factors`` (explicit factors).
        depth: ``N``; 1 for a plain weight, a whole number for factors, the stretch for ``radial``.
        imbalance: ``lam`` of the rule of depth 2, as in :func:`overparam.end_to_end_update`; 0 for
            balanced factors.
    """

    optimizer: str = "gd"
    depth_kind: str = "plain"
    depth: float = 1.0
    imbalance: float = 0.0

    @property
    def name(self) -> str:
        """The canonical name, which :func:`parse_method` reads."""
        if self.depth_kind == "plain":
            return self.optimizer
        depth = f"{self.depth_kind}:{_exact(self.depth)}"
        if self.imbalance:
            depth += f",lam={_exact(self.imbalance)}"
        return depth if self.optimizer == "gd" else f"{self.optimizer}+{depth}"

    @property
    def label(self) -> str:
        """A name for people, in figures and tables."""
        base = OPTIMIZERS[self.optimizer].label
        if self.depth_kind == "plain":
            return base
        number = _exact(self.depth)
        if self.imbalance:
            number += f", imbalance {_exact(self.imbalance)}"
        depth = DEPTH_KINDS[self.depth_kind].label.format(number)
        return depth.capitalize() if self.optimizer == "gd" else f"{base}, {depth}"


def parse_method(text: str) -> Method:
    """Read a method from its name.

    Raises:
        ValueError: the name is unknown or the depth impossible; the message names the nearest
            known name.

    Example:
        >>> parse_method("adam+factors:2")
        Method(optimizer='adam', depth_kind='factors', depth=2.0, imbalance=0.0)
    """
    match = _PATTERN.fullmatch(text.strip())
    if not match:
        raise ValueError(f"method {text!r} is not understood; examples: {_EXAMPLES}.")
    optimizer = match["optimizer"] or match["base"] or "gd"
    kind = match["kind"] or "plain"
    _check_known("optimizer", optimizer, tuple(OPTIMIZERS), text)
    _check_known("kind of depth", kind, tuple(DEPTH_KINDS), text)
    if kind == "plain":
        if match["depth"]:
            raise ValueError(f"method {text!r}: plain weights have no depth; write {optimizer!r}.")
        return Method(optimizer)
    depth = _number("depth", match["depth"], text)
    least = DEPTH_KINDS[kind].least
    if not least <= depth < float("inf"):
        raise ValueError(
            f"method {text!r}: depth {depth:g} is not a finite number of at least {least:g}."
        )
    if DEPTH_KINDS[kind].whole and not depth.is_integer():
        raise ValueError(
            f"method {text!r}: a product has a whole number of factors; "
            f"for depth {depth:g} use {Method(optimizer, 'rule', depth).name!r}."
        )
    imbalance = _number("imbalance", match["imbalance"] or "0", text)
    if not math.isfinite(imbalance):
        raise ValueError(f"method {text!r}: imbalance {imbalance:g} is not a finite number.")
    if imbalance and (kind, depth) != ("rule", 2):
        raise ValueError(
            f"method {text!r}: an imbalance is that of the rule of depth 2; "
            f"write {Method(optimizer, 'rule', 2.0, imbalance).name!r}."
        )
    return Method(optimizer, kind, depth, imbalance or 0.0)


def label_of(name: str) -> str:
    """The label of a method, from its name."""
    return parse_method(name).label


def _number(what: str, written: str, text: str) -> float:
    try:
        return float(written)
    except ValueError:
        raise ValueError(
            f"method {text!r}: {what} {written!r} is not a number; examples: {_EXAMPLES}."
        ) from None


def _exact(number: float) -> str:
    """The shortest text that reads back as the same number, without an exponent."""
    return str(int(number)) if number.is_integer() else f"{Decimal(repr(number)):f}"


def _check_known(what: str, word: str, words: tuple[str, ...], text: str) -> None:
    if word in words:
        return
    if what == "optimizer" and word in DEPTH_KINDS and word != "plain":
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
