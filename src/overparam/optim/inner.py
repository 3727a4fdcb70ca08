"""The inner optimizer: found by name, class or factory, checked, and stepped as an engine.

An engine owns nothing. Before each step it is linked to the groups of the user (the same dicts,
with other tensors in ``"params"``) and to the state of those tensors.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from overparam._words import did_you_mean

InnerName = Literal[
    "adadelta", "adafactor", "adagrad", "adam", "adamax", "adamw", "asgd", "muon", "nadam", "radam",
    "rmsprop", "rprop", "sgd", "sparseadam",
]  # fmt: skip
Inner = InnerName | Callable[..., Optimizer]
"""A class, a function of groups and options, or a name: ``"adamw"``."""

_BY_NAME: dict[str, type[Optimizer]] = {
    name.lower(): kind
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and issubclass(kind, Optimizer) and kind is not Optimizer
}


def make_inner(argument: str, inner: Any, options: dict[str, Any]) -> Optimizer:
    """An inner optimizer without parameters; its constructor has checked the options.

    Args:
        argument: "inner" or "fallback", for messages.
        inner: a class, a factory or a name.
        options: of the inner optimizer.

    Raises:
        TypeError: an instance, a number, an optimizer of this package, one that calls the model by
            itself, or an option that the optimizer does not take.
        ValueError: an unknown name, an option out of range, or ``differentiable=True`` where
            gradients cannot flow.
    """
    factory = _factory(argument, inner)
    if getattr(factory, "is_transform", False):
        raise TypeError(
            f"{argument} is {inner.__name__}, which has an inner optimizer of its own; give an "
            "optimizer that steps by itself, for example torch.optim.AdamW."
        )
    made = factory([torch.zeros(1, 1)], **options)
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
    made.param_groups, made.state = [], defaultdict(dict)
    return made


def _factory(argument: str, inner: Any) -> Callable[..., Any]:
    if isinstance(inner, str):
        if inner.lower() not in _BY_NAME:
            raise ValueError(
                f"{argument}={inner!r} is not an optimizer of torch.optim."
                f"{did_you_mean(inner.lower(), _BY_NAME)} Give one of those names, or a class."
            )
        return _BY_NAME[inner.lower()]
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


def check_takes(engine: Optimizer, tensors: Sequence[tuple[str, Tensor]], remedy: str) -> None:
    """Raise where an inner optimizer refuses tensors of a shape that it would be given.

    Tries one small tensor for each number of dimensions; the engine stays as it is.

    Args:
        engine: from :func:`make_inner`.
        tensors: names and tensors.
        remedy: what to do, for the message.

    Raises:
        ValueError: it refuses one; the message names the tensors and the remedy.
    """
    for dimensions in sorted({tensor.ndim for _, tensor in tensors}):
        trial = torch.zeros((1,) * dimensions)
        accepted = inspect.signature(type(engine)).parameters
        options = {name: value for name, value in engine.defaults.items() if name in accepted}
        try:
            type(engine)([trial], **options)
        except ValueError as error:
            names = [name for name, tensor in tensors if tensor.ndim == dimensions]
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            raise ValueError(
                f"{type(engine).__name__} does not take {', '.join(names[:5])}{more}: {error} "
                f"{remedy}"
            ) from None
        except TypeError:
            return  # its constructor asks for something that its defaults do not hold


@contextmanager
def linked(
    engine: Optimizer, groups: list[dict[str, Any]], state: dict[Tensor, dict[str, Any]]
) -> Iterator[Optimizer]:
    """An engine with groups and state for a while."""
    engine.param_groups, engine.state = groups, state  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield engine
    finally:
        engine.state = defaultdict(dict)


def take_step(engine: Optimizer) -> None:
    """One step, without the hooks that torch runs around steps: the outer step has run them."""
    step = type(engine).step
    if getattr(step, "hooked", False):
        step = step.__wrapped__  # pyright: ignore[reportFunctionMemberAccess]
    step(engine)
