"""The form of the rule for each parameter of EndToEnd, and its directions, one shape at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from overparam._compiled import uncompiled
from overparam._copies import laid_out, stacked
from overparam._finite import is_finite, largest_entries
from overparam._precision import state_dtype, without_autocast
from overparam.layers.route import Route
from overparam.layers.table import PLAIN
from overparam.rule.basis import Basis, exact_basis, tracked_basis
from overparam.rule.fast import update_in_basis, update_of_rows
from overparam.rule.metric import metric_normalized
from overparam.rule.normalized import reference_update, reference_update_of_rows
from overparam.rule.options import fast_options

State = dict[str, Any]
Write = Callable[[], None]
"""To be called once the step has succeeded."""

# Steps between two looks at the error of a tracked basis where a look makes the host wait.
_LOOK_EVERY = 100
# Entries of one stack: enough to fill an accelerator, few enough for the caches of a CPU.
_STACK_ENTRIES_CPU = 2**18
_STACK_ENTRIES = 2**26


@dataclass(slots=True, eq=False)
class Item:
    """A parameter on its way through a step.

    Attributes:
        p: the parameter.
        gradient: dense, in the dtype of the state.
        states: of the optimizer; that of the parameter is empty before its first step.
        route: of the parameter.
        group: of the parameter.
        finite: whether the gradient is, a scalar on the device where the host may not look.
    """

    p: Tensor
    gradient: Tensor
    states: MutableMapping[Tensor, State]
    route: Route
    group: dict[str, Any]
    finite: bool | Tensor = True

    @property
    def state(self) -> State:
        """Of the parameter, to be read."""
        return self.states.get(self.p, {})


def mark_finite(items: Sequence[Item]) -> None:
    """Find out which gradients are finite, on an accelerator without a look by the host.

    There, those that are not become zeros: here where there is no rule, else in their stack.
    """
    unseen: dict[Any, list[Item]] = {}
    for item in items:
        if item.p.device.type == "cpu" and not item.group["capturable"]:
            item.finite = is_finite(item.gradient)
        else:
            unseen.setdefault((item.p.device, item.gradient.dtype), []).append(item)
    for alike in unseen.values():
        flags = torch.stack(largest_entries([item.gradient for item in alike])) < math.inf
        plain: dict[Any, list[Item]] = {}
        for item, flag in zip(alike, flags.unbind(), strict=True):
            item.finite = flag
            if item.route.rule == PLAIN:
                plain.setdefault(item.p.shape, []).append(item)
        for stack in plain.values():
            gradients = _finite_or_zero(stack, stacked([item.gradient for item in stack]))
            gradients = gradients.reshape(len(stack), *stack[0].p.shape).unbind()
            for item, gradient in zip(stack, gradients, strict=True):
                item.gradient = gradient


def _finite_or_zero(items: list[Item], gradients: Tensor) -> Tensor:
    """Gradients, as they are stacked, with zeros for those of which the device knows no good."""
    flags = [item.finite for item in items if isinstance(item.finite, Tensor)]
    if not flags:
        return gradients
    return torch.where(stacked(flags).reshape(-1, *[1] * (gradients.ndim - 1)), gradients, 0.0)


def directions(
    items: Sequence[Item], keep_bases: bool = False
) -> Iterator[tuple[dict[Tensor, Tensor], Write | None]]:
    """``D`` of each parameter, of its shape, in the dtype of the state, stack by stack.

    Nothing is written: beside each stack comes a function that writes its new bases.

    Args:
        items: parameters that have a rule.
        keep_bases: take those of the state, whether they are due or not.
    """
    by_shape: dict[Any, list[Item]] = {}
    for item in items:
        p, due = item.p, False if keep_bases else is_due(item)
        key = (id(item.group), item.route, p.shape, p.dtype, p.device, due)
        by_shape.setdefault(key, []).append(item)
    for key, alike in by_shape.items():
        for stack in _bounded(alike):
            with without_autocast(stack[0].p.device):
                found, write = _direction(stack, due=key[-1])
            pairs = zip(stack, found, strict=True)
            yield {item.p: laid_out(update, item.p) for item, update in pairs}, write


def is_due(item: Item) -> bool | None:
    """Whether the basis of a parameter is to follow its weight in this step; None: to be made."""
    if item.route.rule != "matrix":
        return False
    state, every = item.state, item.group["basis_every"]
    if "basis" not in state:
        return None
    return every == 1 or _age(state) % every == 0


@uncompiled  # ages would be guards
def _age(state: State) -> int:
    """Steps since the basis of a parameter was made."""
    return state.get("basis_age", 0)


def _direction(items: list[Item], due: bool | None) -> tuple[Sequence[Tensor], Write | None]:
    """``D`` for parameters of one shape, and what writes their bases."""
    route, p, group = items[0].route, items[0].p, items[0].group
    depth = float(group["depth"])
    weight = route.split(stacked([item.p for item in items]).to(state_dtype(p)))
    gradient = stacked([item.gradient for item in items])
    gradient = route.split(_finite_or_zero(items, gradient))
    form, basis = fast_options(group, route.transposed), None
    if group.get("differentiable"):
        # Autograd saves what the rule reads; the parameter changes in place later.
        of_route = reference_update if route.rule == "matrix" else reference_update_of_rows
        update = of_route(weight.clone(), gradient, depth, form["offsets"], form["normalize"])
    elif route.rule == "matrix":
        basis = _next_bases(items, weight, due)
        update = update_in_basis(basis.left, weight, gradient, depth, **form)
    else:
        update = update_of_rows(weight, gradient, depth, look=not group["capturable"], **form)
    if group["normalize"] == "metric":
        update = metric_normalized(update, gradient)
    write = None if basis is None else partial(_write_bases, items, basis, due)
    return route.join(update, p.shape, len(items)), write


def _next_bases(items: list[Item], weight: Tensor, due: bool | None) -> Basis:
    """The bases for this step, ``(k * batch, m, m)``."""
    group, on_host = items[0].group, items[0].p.device.type == "cpu"
    if due is None:
        identity = torch.eye(weight.shape[-2], dtype=weight.dtype, device=weight.device)
        return exact_basis(identity.expand(*weight.shape[:-1], -1), weight)
    old = stacked([item.state["basis"] for item in items]).to(weight.dtype)
    old = old.reshape(-1, *old.shape[-2:])
    if not due:
        return Basis(old, old, old)  # nothing is written
    if group["basis"] == "exact" or (group["basis"] == "auto" and on_host):
        return exact_basis(old, weight)
    # A look makes the host wait: for an accelerator once in a while.
    may_look = not group["capturable"]
    look = may_look and (on_host or _age(items[0].state) % _LOOK_EVERY < group["basis_every"])
    return tracked_basis(old, weight, look=look)


@uncompiled  # its counts would be guards
@torch.no_grad()
def _write_bases(items: list[Item], new: Basis, due: bool | None) -> None:
    states, names = [item.states[item.p] for item in items], ("basis", "basis_error")
    for state in states:
        state["basis_age"] = _age(state) + 1
    if due is False:
        return
    batch = items[0].route.batch
    left, error, failed = (each.reshape(len(items), batch, *each.shape[1:]) for each in new)
    failures = failed.to(torch.int64).unbind()
    if due:
        torch._foreach_add_([state["basis_failures"] for state in states], failures)  # pyright: ignore[reportPrivateImportUsage]
    else:
        for state, failure in zip(states, failures, strict=True):
            state["basis_failures"] = failure
    for name, value in zip(names, (left, error), strict=True):
        if due and items[0].group["capturable"]:  # a graph writes to the same memory each time
            old = [state[name] for state in states]
            keep = torch.stack([torch.as_tensor(item.finite) for item in items])
            keep = keep.reshape(-1, *[1] * (value.ndim - 1))
            torch._foreach_copy_(old, torch.where(keep, value, torch.stack(old)).unbind())  # pyright: ignore[reportPrivateImportUsage]
            continue
        for state, own in zip(states, value.unbind(), strict=True):
            state[name] = own


def _bounded(items: list[Item]) -> Iterator[list[Item]]:
    """Cut a list of same-shape parameters of a group into stacks of bounded size."""
    group = items[0].group
    limit = _STACK_ENTRIES_CPU if items[0].p.device.type == "cpu" else _STACK_ENTRIES
    if group.get("foreach") is False or group.get("differentiable"):
        limit = 0
    count = max(1, limit // items[0].p.numel())
    for start in range(0, len(items), count):
        yield items[start : start + count]
