"""From gradients to the directions of the end-to-end rule, for parameters of one shape at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from overparam._precision import without_autocast
from overparam.optim.routes import Route
from overparam.rule.basis import Basis, exact_basis, tracked_basis
from overparam.rule.fast import update_in_basis, update_of_rows
from overparam.rule.reference import end_to_end_update, single_output_update

State = dict[str, Any]
Write = Callable[[], None]
"""To be called once the step has succeeded."""

# Steps between two looks at the error of a tracked basis where a look makes the host wait.
_LOOK_EVERY = 100
# Entries of one stack: enough to fill an accelerator, few enough for the caches of a CPU.
_STACK_ENTRIES_CPU = 2**18
_STACK_ENTRIES = 2**26


@dataclass(slots=True)
class Item:
    """A parameter on its way through a step.

    Attributes:
        p: the parameter.
        gradient: dense, in the dtype of the state; zero where it is not finite and only the
            device knows.
        finite: whether it is finite, a scalar on the device where the host may not look.
        states: of the optimizer; that of the parameter is empty before its first step.
        route: of the parameter.
        group: of the parameter.
    """

    p: Tensor
    gradient: Tensor
    finite: bool | Tensor
    states: MutableMapping[Tensor, State]
    route: Route
    group: dict[str, Any]

    @property
    def state(self) -> State:
        """Of the parameter, to be read."""
        return self.states.get(self.p, {})


@dataclass(frozen=True)
class Options:
    """What the parameters of a group have in common.

    Attributes:
        depth: ``N``.
        floor: least singular value, in units of the weight.
        normalize: largest eigenvalue of the preconditioner is 1.
        basis: "auto", "exact" or "tracked".
        capturable: never let the host wait.
        differentiable: let autograd follow the update.
        stacked: whether parameters of one shape are updated together.
    """

    depth: float
    floor: float
    normalize: bool
    basis: str
    capturable: bool
    differentiable: bool
    stacked: bool

    def basis_of(self, p: Tensor) -> str:
        """The kind of basis of a parameter."""
        if self.basis != "auto":
            return self.basis
        return "exact" if p.device.type == "cpu" else "tracked"


def state_dtype(p: Tensor) -> torch.dtype:
    """The dtype of the update and the state: float32 for half precision, else the parameter's."""
    return torch.float32 if p.dtype in (torch.float16, torch.bfloat16) else p.dtype


def directions(
    items: Iterable[Item], options: Options
) -> Iterator[tuple[dict[Tensor, Tensor], Write | None]]:
    """``D`` of each parameter, of its shape, in the dtype of the state, stack by stack.

    Nothing is written: beside each stack comes a function that writes its new bases.

    Args:
        items: parameters with gradient.
        options: of their group.
    """
    by_shape: dict[Any, list[Item]] = {}
    for item in items:
        known = "basis" in item.state
        key = (item.route, item.p.shape, item.p.dtype, item.p.device, known)
        by_shape.setdefault(key, []).append(item)
    for alike in by_shape.values():
        for stack in _bounded(alike, options):
            with without_autocast(stack[0].p.device):
                found, write = _direction(stack, options)
            pairs = zip(stack, found.unbind(), strict=True)
            yield {item.p: _laid_out(update, item.p) for item, update in pairs}, write


def _direction(items: list[Item], options: Options) -> tuple[Tensor, Write | None]:
    """``D`` for parameters of one shape, ``(k, *shape)``, and what writes their bases."""
    route, p = items[0].route, items[0].p
    weight = route.split(_stacked([item.p for item in items]).to(state_dtype(p)))
    gradient = route.split(_stacked([item.gradient for item in items]))
    shape = tuple(p.shape)
    if options.differentiable:
        # Autograd saves what the rule reads; the parameter changes in place later.
        return route.join(_reference(route.rule, weight.clone(), gradient, options), shape), None
    kind: dict[str, Any] = {"floor": options.floor, "normalize": options.normalize}
    if route.rule == "row":
        return route.join(update_of_rows(weight, gradient, options.depth, **kind), shape), None
    new, tracked = _next_bases(items, weight, options)
    update = update_in_basis(new.left, weight, gradient, options.depth, **kind)
    return route.join(update, shape), partial(_write_bases, items, new, tracked)


def _next_bases(items: list[Item], weight: Tensor, options: Options) -> tuple[Basis, bool]:
    """The bases for this step, ``(k * batch, m, m)``, and whether they are tracked."""
    tracked = options.basis_of(items[0].p) == "tracked"
    if "basis" not in items[0].state:
        identity = torch.eye(weight.shape[-2], dtype=weight.dtype, device=weight.device)
        return exact_basis(identity.expand(*weight.shape[:-1], -1), weight), tracked
    old = _stacked([item.state["basis"] for item in items]).flatten(0, 1)
    if not tracked:
        return exact_basis(old, weight), False
    return tracked_basis(old, weight, look=_looks(items, options)), True


def _looks(items: list[Item], options: Options) -> bool:
    """Whether the error of a tracked basis is read in this step."""
    if options.capturable:
        return False
    return items[0].p.device.type == "cpu" or items[0].state["basis_age"] % _LOOK_EVERY == 0


@torch._disable_dynamo  # pyright: ignore[reportPrivateImportUsage]  # its counts would be guards
@torch.no_grad()
def _write_bases(items: list[Item], new: Basis, tracked: bool) -> None:
    batch = items[0].route.batch
    values = {
        "basis": new.left.unflatten(0, (-1, batch)),
        "basis_error": new.error.unflatten(0, (-1, batch)),
    }
    failed = new.failed.unflatten(0, (-1, batch)).to(torch.int64)
    for number, item in enumerate(items):
        state = item.states[item.p]
        if "basis" not in state:
            state.update((name, value[number].clone()) for name, value in values.items())
            state["basis_failures"] = failed[number].clone()
        else:
            for name, value in values.items():
                old, now = state[name], value[number]
                keep = item.finite
                old.copy_(torch.where(keep, now, old) if isinstance(keep, Tensor) else now)
            state["basis_failures"].add_(failed[number])
        if tracked:
            state["basis_age"] = state.get("basis_age", 0) + 1


def _reference(rule: str, weight: Tensor, gradient: Tensor, options: Options) -> Tensor:
    """The same from the differentiable reference, without a floor."""
    if rule == "matrix":
        update = end_to_end_update(weight, gradient, options.depth)
        largest = torch.linalg.matrix_norm(weight, ord=2, keepdim=True)
    else:
        update = single_output_update(weight, gradient, options.depth)
        largest = torch.linalg.vector_norm(weight, dim=-1, keepdim=True).amax(-2, keepdim=True)
    if not options.normalize:
        return update
    depth = 1.0 if math.isinf(options.depth) else options.depth
    return update / (depth * largest ** (2 - 2 / options.depth))


def _stacked(tensors: list[Tensor]) -> Tensor:
    """Tensors of one shape as one, ``(k, *shape)``; of a single one no entry is copied."""
    return torch.stack(tensors) if len(tensors) > 1 else tensors[0].unsqueeze(0)


def _laid_out(update: Tensor, p: Tensor) -> Tensor:
    """A direction in the memory layout of its parameter, as torch's fused steps take it."""
    if update.stride() == p.stride() or update.requires_grad:
        return update
    return torch.empty_like(p, dtype=update.dtype).copy_(update)


def _bounded(items: list[Item], options: Options) -> Iterator[list[Item]]:
    """Cut a list of same-shape parameters into stacks of bounded size."""
    limit = _STACK_ENTRIES_CPU if items[0].p.device.type == "cpu" else _STACK_ENTRIES
    if not options.stacked or options.differentiable:
        limit = 0
    count = max(1, limit // items[0].p.numel())
    for start in range(0, len(items), count):
        yield items[start : start + count]
