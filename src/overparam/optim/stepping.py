"""One step of EndToEnd for a stack of parameters that share a rule and a shape."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from overparam.optim.bases import exact_basis
from overparam.optim.directions import Options, direction, next_bases
from overparam.optim.routing import Route
from overparam.optim.stack import Stack

State = dict[str, Any]

# Entries of one stack: enough to fill an accelerator, few enough for the caches of a CPU.
_STACK_ENTRIES_CPU = 2**18
_STACK_ENTRIES = 2**26


@dataclass(slots=True)
class Item:
    """A parameter with its gradient on its way through a step.

    Attributes:
        p: the parameter.
        gradient: dense, in the dtype of the state, sign flipped where the group maximizes.
        state: of the parameter.
        route: of the parameter.
    """

    p: Tensor
    gradient: Tensor
    state: State
    route: Route


def fresh_state(
    p: Tensor, group: dict[str, Any], route: Route, *, basis: bool, momentum: bool = False
) -> State:
    """The state of a parameter before its first step: tensors only.

    Args:
        p: the parameter.
        group: its group.
        route: of the parameter.
        basis: whether it has one where its rule needs one.
        momentum: whether it has a running sum though the group asks for none.
    """
    dtype = state_dtype(p)
    step_device = p.device if group["capturable"] else torch.device("cpu")
    state: State = {
        "step": torch.zeros((), dtype=torch.float32, device=step_device),
        "skipped": torch.zeros((), dtype=torch.int64, device=p.device),
    }
    if momentum or group["momentum"] != 0:
        layout = torch.preserve_format
        state["momentum_buffer"] = torch.zeros_like(p, dtype=dtype, memory_format=layout)
    if route.rule == "matrix" and basis:
        with torch.no_grad():
            identity = torch.eye(route.rows, dtype=dtype, device=p.device)
            left = identity.repeat(route.batch, 1, 1)
            if _basis_kind(p, group) == "tracked":
                left = exact_basis(left, route.split(p.unsqueeze(0)).to(dtype)).left
        state["basis"] = left
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

    Where the host can tell, a parameter with a non-finite gradient is left out and counted here.
    """
    by_shape: dict[Any, list[Item]] = {}
    for p, route in routed:
        if p.grad is None or p.numel() == 0:
            continue
        gradient = p.grad.to_dense() if p.grad.is_sparse else p.grad
        if gradient.dtype != state_dtype(p):
            gradient = gradient.to(state_dtype(p))
        if _host_decides(p, group) and not _finite_on_host(gradient):
            states[p]["step"] += 1
            states[p]["skipped"] += 1
            continue
        item = Item(p, -gradient if group["maximize"] else gradient, states[p], route)
        by_shape.setdefault((route, p.shape, p.dtype, p.device), []).append(item)
    for items in by_shape.values():
        yield from _bounded(items, group)


def step_stack(items: list[Item], group: dict[str, Any]) -> None:
    """Update the parameters of one stack, and their state."""
    first = items[0]
    for item in items:
        _complete_state(item, group)
    gradients = Stack([item.gradient for item in items]).value
    finite = None if _host_decides(first.p, group) else _finite(gradients)
    weights = Stack([item.p for item in items], state_dtype(first.p), finite)
    averaged = _momentum(items, gradients, group, finite)
    update = averaged
    if first.route.rule != "gradient":
        update = _direction(items, weights.value, averaged, group, finite)
    _apply(weights, update, first.route, group)
    steps = Stack([item.state["step"] for item in items])
    steps.write(steps.scratch().add_(1))
    if finite is not None:
        skipped = Stack([item.state["skipped"] for item in items])
        skipped.write(skipped.scratch().add_(~finite))


def _direction(
    items: list[Item],
    weights: Tensor,
    averaged: Tensor,
    group: dict[str, Any],
    finite: Tensor | None,
) -> Tensor:
    """``D`` for each parameter, ``(k, *shape)``."""
    route, p = items[0].route, items[0].p
    options = Options(
        depth=float(group["depth"]),
        floor=float(group["singular_value_floor"]),
        normalize=bool(group["normalize"]),
        basis=_basis_kind(p, group),
        capturable=bool(group["capturable"]),
        differentiable=bool(group["differentiable"]),
    )
    weight, gradient = route.split(weights), route.split(averaged)
    if options.differentiable:
        # Autograd saves what the rule reads; the parameter changes in place below.
        weight = weight.clone()
    left = None
    if route.rule == "matrix" and not options.differentiable:
        left = _turn_bases(items, weight, options, finite)
    return route.join(direction(route.rule, weight, gradient, left, options), tuple(p.shape))


def _turn_bases(
    items: list[Item], weight: Tensor, options: Options, finite: Tensor | None
) -> Tensor:
    """The bases for this step, also written to the state of parameters with finite gradients."""
    bases, errors, failures = (
        Stack([item.state[name] for item in items], keep=finite)
        for name in ("basis", "basis_error", "basis_failures")
    )
    step = None if options.capturable else int(items[0].state["step"])
    new = next_bases(bases.value.flatten(0, 1), weight, options, step)
    bases.write(new.left.view_as(bases.value))
    errors.write(new.error.view_as(errors.value))
    failures.write(failures.scratch().add_(new.failed.view_as(failures.value)))
    return new.left


def _momentum(
    items: list[Item], gradients: Tensor, group: dict[str, Any], finite: Tensor | None
) -> Tensor:
    """The gradients, or their running sums as in torch.optim.SGD; never to be written to."""
    momentum = group["momentum"]
    if momentum == 0:
        return gradients
    buffers = Stack([item.state["momentum_buffer"] for item in items], keep=finite)
    averaged = buffers.scratch().mul_(momentum).add_(gradients)
    buffers.write(averaged)
    if group["nesterov"]:
        return gradients.add(averaged, alpha=momentum)
    # As for the weight: the buffer changes in place at the next step.
    return averaged.clone() if group["differentiable"] else averaged


def _apply(weights: Stack, update: Tensor, route: Route, group: dict[str, Any]) -> None:
    """``W <- (1 - lr * decay) W - lr * D``, one rounding for half precision."""
    lr, decay = group["lr"], group["weight_decay"]
    lr = lr.reshape(()) if isinstance(lr, Tensor) else lr
    if route.rule != "gradient" and not group["normalize"] and math.isfinite(group["depth"]):
        decay = decay * group["depth"]
    new = weights.scratch()
    if decay != 0:
        new.mul_(1 - lr * decay)
    if isinstance(lr, Tensor):
        new.add_(update * -lr)
    else:
        new.add_(update, alpha=-lr)
    weights.write(new)


def _basis_kind(p: Tensor, group: dict[str, Any]) -> str:
    if group["basis"] != "auto":
        return group["basis"]
    return "exact" if p.device.type == "cpu" else "tracked"


def _complete_state(item: Item, group: dict[str, Any]) -> None:
    """Add what was not asked for at first: momentum by a scheduler, depth, a weight unfrozen."""
    momentum = group["momentum"] != 0 and "momentum_buffer" not in item.state
    if momentum or (item.route.rule == "matrix" and "basis" not in item.state):
        item.state.update({**fresh_state(item.p, group, item.route, basis=True), **item.state})


def _host_decides(p: Tensor, group: dict[str, Any]) -> bool:
    """Whether the host may read values: elsewhere it would wait for the device."""
    return p.device.type == "cpu" and not group["capturable"]


def _finite_on_host(tensor: Tensor) -> bool:
    """Whether every entry is finite, in one pass: extremes propagate NaN."""
    return all(math.isfinite(extreme.item()) for extreme in torch.aminmax(tensor))


def _finite(stack: Tensor) -> Tensor:
    """Which tensors of a stack are finite, ``(k,)``, on their device."""
    flat = stack.flatten(1) if stack.ndim > 1 else stack.unsqueeze(1)
    return (flat.amin(1) > -math.inf) & (flat.amax(1) < math.inf)


def _bounded(items: list[Item], group: dict[str, Any]) -> Iterator[list[Item]]:
    """Cut a list of same-shape parameters into stacks of bounded size."""
    limit = _STACK_ENTRIES_CPU if items[0].p.device.type == "cpu" else _STACK_ENTRIES
    if group["foreach"] is False or group["differentiable"]:
        limit = 0
    count = max(1, limit // items[0].p.numel())
    for start in range(0, len(items), count):
        yield items[start : start + count]
