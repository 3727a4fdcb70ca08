"""Methods by name: any optimizer of torch, alone or with depth, made of the shipped optimizers.

``adamw``, ``sgd(momentum=0.9)``, ``muon``; ``+factors:N`` trains each weight as N factors
(:class:`overparam.Factored`), ``+rule:N`` by the end-to-end rule (:class:`overparam.EndToEnd`),
``+radial:r`` stretches the steps along the weight (:class:`overparam.Radial`), and ``+model:N``
puts explicit factors into the model (:func:`overparam.overparameterize`), with convolutions as
matrices; ``+sides:N`` and ``+kernels:N`` are the same with convolutions as chains of kernels, of
sides 1, k, 1 or of 3 x 3 each. ``+rwf:mu`` is random weight factorization
(:class:`overparam.lab.comparison.row_scales.RowScales`).
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from overparam import EndToEnd, Factored, Radial, overparameterize
from overparam._optimizers import OPTIMIZERS
from overparam._words import did_you_mean
from overparam.lab.comparison.names import parse_call
from overparam.lab.comparison.row_scales import scale_rows
from overparam.layers import select_parameters

PLAIN = "plain"
# Explicit factors, by the strategy for convolutions.
_STRATEGIES = {"model": "matrix", "sides": "sides", "kernels": "kernels"}
KINDS = ("factors", "rule", "radial", *_STRATEGIES, "rwf")
DEPTH = ("factors", "rule", *_STRATEGIES)
EXAMPLES = "adamw, sgd(momentum=0.9), adamw+factors:2, sgd+rule:2.5, adamw+radial:4, muon+model:2"

# Where the search for the learning rate starts; optimizers not named here start at their default.
_STARTS = {"sgd": 0.1, "momentum": 0.03, "adagrad": 0.01, "adafactor": 1e-3, "muon": 3e-3}
_SHORT = {"momentum": ("sgd", {"momentum": 0.9})}
# Its steps then have the size of AdamW's, so that both can have the same learning rate.
_MUON = {"adjust_lr_fn": "match_rms_adamw"}

_PATTERN = re.compile(r"(?P<base>[^+]+?)(?:\+(?P<kind>\w+):(?P<amount>[\w.]+))?")


@dataclass(frozen=True)
class Method:
    """An optimizer and depth.

    Attributes:
        name: as the user typed it, without spaces at its ends.
        base: name of the optimizer.
        options: of the optimizer; torch's defaults for all others.
        kind: ``plain`` or one of :data:`KINDS`.
        amount: depth, the radial factor, or the mean of the logarithms of row scales.
    """

    name: str
    base: str
    options: tuple[tuple[str, Any], ...]
    kind: str = PLAIN
    amount: float = 1.0

    @property
    def is_baseline(self) -> bool:
        """Whether it has no depth."""
        return self.kind == PLAIN

    @property
    def plain_name(self) -> str:
        """The name of the same optimizer without depth, and without the options of depth."""
        if self.is_baseline:
            return self.name
        written = self.name.rpartition("+")[0]
        word, options = parse_call(written, "optimizer")
        taken = inspect.signature(_inner(self.base)).parameters
        kept = [f"{name}={value!r}" for name, value in options.items() if name in taken]
        if len(kept) == len(options):
            return written
        return f"{word}({', '.join(kept)})" if kept else word

    @property
    def start(self) -> float:
        """The learning rate at which the search starts."""
        return _STARTS.get(self.base, 0.0) or _default_lr(self.base)

    def make(
        self, model: nn.Module, lr: float, exclude: tuple[str, ...] = ()
    ) -> torch.optim.Optimizer:
        """The optimizer of a model; methods with explicit factors change it.

        Args:
            model: freshly built.
            lr: the learning rate.
            exclude: weights that are not factored, and that Muon leaves to AdamW.

        Raises:
            Exception: whatever an optimizer raises for a model that it does not take.
        """
        inner, options = _inner(self.base), dict(self.options)
        chosen: dict[str, Any] = {"exclude": list(exclude) or None}
        whole = {"targets": options.get("targets"), **chosen}
        if not self.is_baseline and not select_parameters(model, **whole, optimizer=True).selected:
            raise ValueError("no weight of the model is read as a matrix: depth changes nothing.")
        if self.base == "muon":
            options = {**_MUON, **options}
            chosen |= {"fallback": "adamw", "fallback_options": {"lr": lr}}
        if self.kind == "factors":
            return Factored(model, lr, inner, int(self.amount), **chosen, **options)
        if self.kind == "rule":
            return EndToEnd(model, lr, self.amount, inner, **chosen, **options)
        if self.kind == "radial":
            return Radial(model, lr, inner, self.amount, **chosen, **options)
        if self.kind in _STRATEGIES:
            strategy = _STRATEGIES[self.kind]
            overparameterize(model, int(self.amount), strategy=strategy, exclude=chosen["exclude"])
        if self.kind == "rwf":
            scale_rows(model, self.amount, chosen["exclude"])
        if self.base == "muon":
            return EndToEnd(model, lr, 1.0, inner, **chosen, **options)
        return inner(model.parameters(), lr=lr, **options)


def parse_method(text: str) -> Method:
    """Read a method from its name.

    Raises:
        ValueError: the name is unknown or the amount impossible; the message names the nearest
            known name.

    Example:
        >>> parse_method("adamw+factors:2").kind
        'factors'
    """
    name = text.strip()
    match = _PATTERN.fullmatch(name)
    if not match:
        raise ValueError(f"method {text!r} is not understood; examples: {EXAMPLES}.")
    word, options = parse_call(match["base"], "optimizer")
    base, own = _SHORT.get(word.lower(), (word.lower(), {}))
    if base not in OPTIMIZERS:
        hint = did_you_mean(base, [*OPTIMIZERS, *_SHORT])
        raise ValueError(
            f"method {text!r}: {word!r} is not an optimizer of torch.optim.{hint} "
            f"Examples: {EXAMPLES}."
        )
    given = tuple({**own, **options}.items())
    if "lr" in options:
        raise ValueError(f"method {text!r}: the learning rate is always tuned; leave lr out.")
    kind = match["kind"] or PLAIN
    if kind == PLAIN:
        return Method(name, base, given)
    if kind not in KINDS:
        raise ValueError(
            f"method {text!r}: {kind!r} is not a kind of depth.{did_you_mean(kind, KINDS)} "
            f"Known: {', '.join(KINDS)}."
        )
    return Method(name, base, given, kind, _amount(text, kind, match["amount"]))


def _amount(text: str, kind: str, word: str) -> float:
    try:
        amount = float(word)
    except ValueError:
        raise ValueError(
            f"method {text!r}: {word!r} is not a number; examples: {EXAMPLES}."
        ) from None
    least = 1 if kind in DEPTH else 0
    if not least <= amount < math.inf:
        raise ValueError(f"method {text!r}: {word} is not a finite number of at least {least}.")
    if kind in DEPTH and kind != "rule" and not amount.is_integer():
        raise ValueError(f"method {text!r}: a product has a whole number of factors.")
    return amount


def _inner(base: str) -> Callable[..., torch.optim.Optimizer]:
    return OPTIMIZERS[base]


def _default_lr(base: str) -> float:
    made = _inner(base)([torch.zeros(1, 1)])
    return float(made.defaults["lr"])
