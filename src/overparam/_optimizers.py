"""The optimizers of torch by name, and a step of one without the hooks around it."""

from __future__ import annotations

import torch
from torch.optim import Optimizer

OPTIMIZERS: dict[str, type[Optimizer]] = {
    name.lower(): kind
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and issubclass(kind, Optimizer) and kind is not Optimizer
}
OF_TORCH = frozenset(OPTIMIZERS.values())
"""These leave alone what has no gradient."""


def take_step(optimizer: Optimizer) -> None:
    """One step, without the hooks that torch runs around steps: the outer step has run them."""
    _begin_adagrad(optimizer)
    step = type(optimizer).step
    if getattr(step, "hooked", False):
        step = step.__wrapped__  # pyright: ignore[reportFunctionMemberAccess]
    step(optimizer)


def _begin_adagrad(optimizer: Optimizer) -> None:
    """Make the state of Adagrad, which torch 2.9 makes in its constructor and not in the step."""
    if type(optimizer) is not torch.optim.Adagrad:
        return
    start = optimizer.defaults["initial_accumulator_value"]
    for group in optimizer.param_groups:
        new = [p for p in group["params"] if p.grad is not None and not optimizer.state.get(p)]
        if new:
            made = torch.optim.Adagrad(new, initial_accumulator_value=start, fused=group["fused"])
            optimizer.state.update(made.state)
