"""One step of EndToEnd for a stack of parameters that share a rule and a shape."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from overparam.optim.bases import exact_basis
from overparam.optim.directions import BasisState, Options, direction, next_bases
from overparam.optim.routing import Route

State = dict[str, Any]

# Entries of one stack: enough to fill an accelerator, few enough for the caches of a CPU.
_STACK_ENTRIES_CPU = 2**18
_STACK_ENTRIES = 2**26


@dataclass
class Item:
    """A parameter with its gradient on its way through a step.

    Attributes:
        p: the parameter.
        gradient: dense, in the dtype of the state, sign flipped where the group maximizes.
        state: of the parameter.
        route: of the parameter.
        finite: whether the gradient is finite, on the device; None where the host knows it is.
    """

    p: Tensor
    gradient: Tensor
    state: State
    route: Route
    finite: Tensor | None


def fresh_state(p: Tensor, group: dict[str, Any], route: Route) -> State:
    """The state of a parameter before its first step: tensors only."""
    dtype = state_dtype(p)
    step_device = p.device if group["capturable"] else torch.device("cpu")
    state: State = {
        "step": torch.zeros((), dtype=torch.float32, device=step_device),
        "skipped": torch.zeros((), dtype=torch.int64, device=p.device),
    }
    if group["momentum"] != 0:
        state["momentum_buffer"] = _empty_momentum(p)
    if route.rule == "matrix":
        with torch.no_grad():
            identity = torch.eye(route.rows, dtype=dtype, device=p.device)
            basis = identity.repeat(route.batch, 1, 1)
            if _basis_kind(p, group) == "tracked":
                basis = exact_basis(basis, route.split(p).to(dtype)).left
        state["basis"] = basis
        state["basis_error"] = torch.zeros(route.batch, dtype=dtype, device=p.device)
        state["basis_failures"] = torch.zeros(route.batch, dtype=torch.int64, device=p.device)
    return state


def state_dtype(p: Tensor) -> torch.dtype:
    """The dtype of the update and the state: float32 for half precision, else the parameter's."""
    return torch.float32 if p.dtype in (torch.float16, torch.bfloat16) else p.dtype


def stacks(
    routed: Iterator[tuple[Tensor, Route]], group: dict[str, Any], states: dict[Tensor, State]
) -> Iterator[list[Item]]:
    """The parameters of a group that have a gradient to step along, in stacks of one shape.

    On the CPU a parameter with a non-finite gradient is left out and counted here; elsewhere
    the device decides.
    """
    by_shape: dict[Any, list[Item]] = {}
    for p, route in routed:
        if p.grad is None or p.numel() == 0:
            continue
        gradient = p.grad.to_dense() if p.grad.is_sparse else p.grad
        gradient = gradient.to(state_dtype(p))
        state = states[p]
        finite = _all_finite(gradient.detach())
        if not group["capturable"] and p.device.type == "cpu":
            if not finite.item():
                state["skipped"] += 1
                continue
            finite = None
        item = Item(p, -gradient if group["maximize"] else gradient, state, route, finite)
        key = (route.rule, route.rows, route.columns, p.dtype, p.device)
        by_shape.setdefault(key, []).append(item)
    for items in by_shape.values():
        yield from _bounded(items, group)


def step_stack(items: list[Item], group: dict[str, Any]) -> None:
    """Update the parameters of one stack, and their state."""
    averaged = [_momentum(item, group) for item in items]
    rule = items[0].route.rule
    updates = averaged if rule == "gradient" else _directions(rule, items, averaged, group)
    for item, update in zip(items, updates, strict=True):
        _apply(item, update, group)
        item.state["step"] += 1
        if item.finite is not None:
            item.state["skipped"] += ~item.finite


def _directions(
    rule: str, items: list[Item], averaged: list[Tensor], group: dict[str, Any]
) -> list[Tensor]:
    """``D`` for each parameter, from one call on the stack."""
    first = items[0]
    options = Options(
        depth=float(group["depth"]),
        floor=float(group["singular_value_floor"]),
        normalize=bool(group["normalize"]),
        basis=_basis_kind(first.p, group),
        capturable=bool(group["capturable"]),
        differentiable=bool(group["differentiable"]),
    )
    dtype = state_dtype(first.p)
    weight = _concatenate([item.route.split(item.p).to(dtype) for item in items])
    if options.differentiable:
        # Autograd saves what the rule reads; the parameter changes in place below.
        weight = weight.clone()
    gradient = _concatenate(
        [item.route.split(each) for item, each in zip(items, averaged, strict=True)]
    )
    left = None
    if rule == "matrix" and not options.differentiable:
        left = _turn_bases(items, weight, options)
    update = direction(rule, weight, gradient, left, options)
    parts = update.split([item.route.batch for item in items])
    return [
        item.route.join(part, tuple(item.p.shape)) for item, part in zip(items, parts, strict=True)
    ]


def _turn_bases(items: list[Item], weight: Tensor, options: Options) -> Tensor:
    """The bases for this step, also written to the state of parameters with finite gradients."""
    names = ("basis", "basis_error", "basis_failures")
    old = BasisState(*(_concatenate([item.state[name] for item in items]) for name in names))
    step = None if options.capturable else int(items[0].state["step"])
    new = next_bases(old, weight, options, step)
    sizes = [item.route.batch for item in items]
    for name, values in zip(names, (new.left, new.error, new.failures), strict=True):
        for item, value in zip(items, values.split(sizes), strict=True):
            _keep(item.state[name], value, item.finite)
    return new.left


def _momentum(item: Item, group: dict[str, Any]) -> Tensor:
    """The gradient, or its running sum as in torch.optim.SGD; never an alias that is written."""
    momentum, gradient = group["momentum"], item.gradient
    if momentum == 0:
        return gradient
    if "momentum_buffer" not in item.state:
        # A scheduler has turned momentum on.
        item.state["momentum_buffer"] = _empty_momentum(item.p)
    buffer = item.state["momentum_buffer"]
    if item.finite is None:
        buffer.mul_(momentum).add_(gradient)
    else:
        _keep(buffer, buffer * momentum + gradient, item.finite)
    if group["nesterov"]:
        return gradient.add(buffer, alpha=momentum)
    # As for the weight: the buffer changes in place at the next step.
    return buffer.clone() if group["differentiable"] else buffer


def _apply(item: Item, update: Tensor, group: dict[str, Any]) -> None:
    """``W <- (1 - lr * decay) W - lr * D``, one rounding for half precision."""
    p, lr = item.p, group["lr"]
    lr = lr.reshape(()) if isinstance(lr, Tensor) else lr
    decay = group["weight_decay"]
    if item.route.rule != "gradient" and not group["normalize"] and math.isfinite(group["depth"]):
        decay = decay * group["depth"]
    if item.finite is None and p.dtype == update.dtype:
        if decay != 0:
            p.mul_(1 - lr * decay)
        if isinstance(lr, Tensor):
            p.add_(update * -lr)
        else:
            p.add_(update, alpha=-lr)
        return
    wide = p.to(update.dtype)
    if decay != 0:
        wide = wide * (1 - lr * decay)
    _keep(p, (wide - lr * update).to(p.dtype), item.finite)


def _keep(target: Tensor, value: Tensor, finite: Tensor | None) -> None:
    """Write ``value``, but leave ``target`` bit-equal where the gradient was not finite."""
    target.copy_(value if finite is None else torch.where(finite, value, target))


def _basis_kind(p: Tensor, group: dict[str, Any]) -> str:
    if group["basis"] != "auto":
        return group["basis"]
    return "exact" if p.device.type == "cpu" else "tracked"


def _empty_momentum(p: Tensor) -> Tensor:
    return torch.zeros_like(p, dtype=state_dtype(p), memory_format=torch.preserve_format)


def _all_finite(tensor: Tensor) -> Tensor:
    """Whether every entry is finite, in one pass: extremes propagate NaN."""
    low, high = torch.aminmax(tensor)
    return low.isfinite() & high.isfinite()


def _concatenate(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _bounded(items: list[Item], group: dict[str, Any]) -> Iterator[list[Item]]:
    """Cut a list of same-shape parameters into stacks of bounded size."""
    limit = _STACK_ENTRIES_CPU if items[0].p.device.type == "cpu" else _STACK_ENTRIES
    if items[0].route.rule == "gradient" or group["foreach"] is False:
        limit = 0
    count = max(1, limit // max(item.p.numel() for item in items))
    for start in range(0, len(items), count):
        yield list(itertools.islice(items, start, start + count))
