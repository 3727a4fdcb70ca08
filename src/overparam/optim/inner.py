"""The inner optimizer: found by name, class or factory, and checked; what it steps on, and undone.

It owns nothing: for each step it is given the groups of the user (the same dicts, with other
tensors in ``"params"``) and the state of those tensors.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from overparam._optimizers import OF_TORCH, OPTIMIZERS
from overparam._words import did_you_mean
from overparam.layers.views import MatrixView

State = dict[str, Any]
Group = dict[str, Any]

InnerName = Literal[
    "adadelta", "adafactor", "adagrad", "adam", "adamax", "adamw", "asgd", "muon", "nadam", "radam",
    "rmsprop", "rprop", "sgd", "sparseadam",
]  # fmt: skip
Inner = InnerName | Callable[..., Optimizer]
"""A class, a function of groups and options, or a name: ``"adamw"``."""


def make_inner(argument: str, inner: Any, options: dict[str, Any]) -> Optimizer:
    """An inner optimizer without parameters; its constructor has checked the options.

    Args:
        argument: "inner" or "fallback", for messages.
        inner: a class, a factory or a name.
        options: of the inner optimizer.

    Raises:
        TypeError: an instance, a number, an optimizer of this package, one that calls the model by
            itself or keeps parameters or state where only it sees them, or an option that the
            optimizer does not take.
        ValueError: an unknown name, an option out of range, or ``differentiable=True`` where
            gradients cannot flow.
    """
    factory = _factory(argument, inner)
    if getattr(factory, "is_transform", False):
        raise TypeError(
            f"{argument} is {inner.__name__}, which has an inner optimizer of its own; give an "
            "optimizer that steps by itself, for example torch.optim.AdamW."
        )
    trial = torch.zeros(1, 1)
    made = factory([trial], **options)
    if not isinstance(made, Optimizer):
        raise TypeError(
            f"{argument} returned a {type(made).__name__}; a factory takes groups and options and "
            "returns a torch.optim.Optimizer."
        )
    if getattr(made, "is_transform", False):
        raise TypeError(f"{argument} returned {type(made).__name__}, which has an inner optimizer.")
    closure = inspect.signature(type(made).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise TypeError(
            f"{type(made).__name__} calls the model by itself within a step and cannot be an inner "
            "optimizer; use one whose step needs no closure."
        )
    if type(made) not in OF_TORCH:
        _check_owns_nothing(made, trial)
    for group in made.param_groups:
        made.defaults.update((name, value) for name, value in group.items() if name != "params")
    beside: dict[Any, Any] = {
        key: value for key, value in made.state.items() if not isinstance(key, Tensor)
    }
    made.param_groups, made.state = [], defaultdict(dict, beside)
    return made


def _check_owns_nothing(made: Optimizer, trial: Tensor) -> None:
    """Raise where an optimizer keeps what its groups and state should: it would not be seen here.

    Attributes that it counts in or fills later cannot be seen either, and are not in checkpoints.
    """
    name, others = type(made).__name__, ("param_groups", "state")
    held = [each for each, value in vars(made).items() if each not in others and _has(value, trial)]
    if held:
        what, remedy = f"keeps parameters in {held[0]!r}", "reads self.param_groups at each step"
    elif trial in made.state:
        what, remedy = "makes state in its constructor", "makes it in the first step"
    elif type(made).state_dict is not Optimizer.state_dict:
        what, remedy = "has a state_dict of its own", "keeps all in its state and its groups"
    else:
        return
    raise TypeError(f"{name} {what} and cannot be an inner optimizer; give one that {remedy}.")


def _has(value: Any, trial: Tensor) -> bool:
    """Whether a value is a tensor, or a container that holds it."""
    if isinstance(value, dict):
        return any(_has(each, trial) for each in (*value, *value.values()))
    if isinstance(value, (list, tuple, set)):
        return any(_has(each, trial) for each in value)
    return value is trial


def _factory(argument: str, inner: Any) -> Callable[..., Any]:
    if isinstance(inner, str):
        if inner.lower() not in OPTIMIZERS:
            raise ValueError(
                f"{argument}={inner!r} is not an optimizer of torch.optim."
                f"{did_you_mean(inner.lower(), OPTIMIZERS)} Give one of those names, or a class."
            )
        return OPTIMIZERS[inner.lower()]
    if isinstance(inner, Optimizer):
        raise TypeError(
            f"{argument} is an instance of {type(inner).__name__}; give the class itself, "
            f"{argument}={type(inner).__qualname__}, and its options beside it."
        )
    if not callable(inner):
        raise TypeError(
            f"{argument} is {inner!r}; give a class such as torch.optim.AdamW, a name such as "
            '"adamw", or a function of groups and options. (The learning rate is lr.)'
        )
    return inner


def check_takes(optimizer: Optimizer, tensors: Sequence[tuple[str, Tensor]], remedy: str) -> None:
    """Raise where an inner optimizer refuses tensors of a shape that it would be given.

    Tries one small tensor for each number of dimensions; the optimizer stays as it is.

    Args:
        optimizer: from :func:`make_inner`.
        tensors: names and tensors.
        remedy: what to do, for the message.

    Raises:
        ValueError: it refuses one; the message names the tensors and the remedy.
    """
    for dimensions in sorted({tensor.ndim for _, tensor in tensors}):
        trial = torch.zeros((1,) * dimensions)
        accepted = inspect.signature(type(optimizer)).parameters
        options = {name: value for name, value in optimizer.defaults.items() if name in accepted}
        try:
            type(optimizer)([trial], **options)
        except ValueError as error:
            names = [name for name, tensor in tensors if tensor.ndim == dimensions]
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            raise ValueError(
                f"{type(optimizer).__name__} does not take {', '.join(names[:5])}{more}: "
                f"{str(error).rstrip('.')}. {remedy}"
            ) from None
        except TypeError:
            return  # its constructor asks for something that its defaults do not hold


@dataclass(slots=True, eq=False)
class StandIn:
    """A tensor that the inner optimizer steps on, for a parameter.

    Attributes:
        p: the parameter.
        tensor: the parameter itself, or one of the tensors in its place.
        prefix: of the inner optimizer's names in ``state[p]``.
        group: of the parameter.
        view: of the parameter.
        names: of its inner state before the step.
        before: the tensor and those of its state, each with a copy, to undo a step; of DTensors
            what this process holds.
    """

    p: Tensor
    tensor: Tensor
    prefix: str = ""
    group: Group = field(default_factory=dict)
    view: MatrixView | None = None
    names: Sequence[str] = ()
    before: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def is_as_before(self) -> bool:
        """Whether the step left the tensor as it was; False where asking makes the host wait."""
        on_host = bool(self.before) and self.tensor.device.type == "cpu"
        return on_host and torch.equal(*self.before[0])

    def begun(self, state: State) -> list[tuple[Tensor, Tensor]]:
        """What counts steps and was made in this one, with its values before the first."""
        made = [] if self.names else [(state.get("step"), 0.0), (state.get("mu_product"), 1.0)]
        return [(t, torch.full_like(t, value)) for t, value in made if isinstance(t, Tensor)]

    def undo(self) -> None:
        """Put the copies back."""
        for tensor, copy in self.before:
            tensor.copy_(copy)
