"""Weights of Factored that several processes hold: whole, with all their state, at an owner.

Each weight that is a DTensor, or all of them where the work is divided, has one owner among the
processes that share it, which keeps a whole copy, the factors and the inner state. For a step the
owner's groups hold the whole copies in the place of shards, so the code of one process does the
work; then the products go back to the shards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from overparam._fingerprint import fingerprint
from overparam.factors.store import is_factored
from overparam.layers.entries import names_of, readings
from overparam.layers.groups import parameter_names
from overparam.sharded import is_dtensor, local
from overparam.sharded.agreement import (
    check_presence,
    largest,
    raise_together,
    raise_together_on_cpu,
)
from overparam.sharded.exchange import Exchange, Leaf
from overparam.sharded.layout import (
    Layout,
    check_layout,
    gathered,
    gradient_like,
    layout_of,
    sliced,
)
from overparam.sharded.plan import owners
from overparam.sharded.states import agree_on_names

if TYPE_CHECKING:
    from overparam.optim.factored import Factored

_BESIDE = ("params", "views", "param_names")


class Owned:
    """The shards of one optimizer, and the whole copies of those that this process owns."""

    def __init__(self, optimizer: Factored, among: dist.ProcessGroup | None) -> None:
        self._optimizer, self.among = optimizer, among
        self._owner: dict[Tensor, int | None] = {}
        self._load: dict[Any, list[float]] = {}
        self._whole: dict[Tensor, nn.Parameter] = {}
        self._named: set[Tensor] = set()
        self._moving: dict[Tensor, str] = {}
        self._written: dict[Tensor, tuple[int, int, Tensor]] = {}

    # Plan

    def shards(self, groups: Sequence[dict[str, Any]]) -> dict[Tensor, str]:
        """The factored weights of groups that processes share, with a name for each."""
        return {
            p: name
            for number, group in enumerate(groups)
            for (p, view, _), name in zip(
                readings(group), names_of(group, f"group {number}, "), strict=True
            )
            if (self.among is not None or is_dtensor(p)) and is_factored(p, view, group)
        }

    def layout(self, p: Tensor) -> Layout:
        """Which processes share a weight, and how."""
        return layout_of(p, self.among)

    def owns(self, p: Tensor) -> bool:
        """Whether this process keeps the state of a weight."""
        owner = self._owner.get(p)
        return owner is None or owner == dist.get_rank(self.layout(p).group)

    def admit(self, shards: Mapping[Tensor, str]) -> None:
        """Give weights without an owner one; those of involved layouts are owned by all."""
        fresh: dict[Any, list[Tensor]] = {}
        for p, name in shards.items():
            if p not in self._owner:
                if is_dtensor(p):
                    check_layout(name, p)
                layout = self.layout(p)
                self._owner[p] = None
                if layout.has_owner:
                    fresh.setdefault(layout.alike, []).append(p)
        for key, params in fresh.items():
            world = dist.get_world_size(self.layout(params[0]).group)
            load = self._load.setdefault(key, [0.0] * world)
            costs = [float(p.numel()) for p in params]
            self._owner.update(zip(params, owners(costs, load), strict=True))

    # Whole weights

    def whole(self, shards: Mapping[Tensor, str]) -> dict[Tensor, Tensor]:
        """The weights of this process, by shard, as they are now."""
        self.admit(shards)
        for p, value in self._gathered(shards, lambda p: p.detach()).items():
            if p not in self._whole:
                self._whole[p] = nn.Parameter(value, requires_grad=p.requires_grad)
            else:
                self._whole[p].copy_(value)
        return {p: self._whole[p] for p in shards if p in self._whole}

    @contextmanager
    def admitting(self, group: dict[str, Any]) -> Iterator[None]:
        """A new group with whole weights in the place of shards, where this process owns them."""
        shards = {p: n for p, n in self.shards([group]).items() if not p.is_meta}
        self.whole(shards)
        before = {name: group[name] for name in _BESIDE if name in group}
        rows = [
            (self._whole.get(p, p), *rest)
            for p, *rest in zip(*before.values(), strict=True)
            if p not in shards or p in self._whole
        ]
        _fill(group, before, rows)
        try:
            with self.together(shards):
                yield
        finally:
            group.update(before)

    def begin(self, groups: Sequence[dict[str, Any]]) -> None:
        """Send the first products of whole weights in new groups to their shards."""
        shards = {p: n for p, n in self.shards(groups).items() if not p.is_meta}
        self.send_back(shards)
        for p in shards:
            if p in self._whole:
                self._optimizer.store.rename(self._whole[p], p)

    def send_back(self, shards: Mapping[Tensor, str]) -> None:
        """Write the whole weights to the shards."""
        for params in self.alike(shards):
            layout = self.layout(params[0])
            leaves = [self._leaf(p, p) for p in params]
            mine = {i: self._whole[p].detach() for i, p in enumerate(params) if p in self._whole}
            if layout.has_owner:
                parts = Exchange(layout.group, leaves).scatter(mine, params[0].device)()
            else:
                parts = [local(sliced(mine[i], p)) for i, p in enumerate(params)]
            for p, part in zip(params, parts, strict=True):
                local(p.detach()).copy_(part)
        for p in shards:
            part = local(p.detach())
            self._written[p] = (part._version, part.data_ptr(), fingerprint(part))

    def _gathered(
        self, shards: Mapping[Tensor, str], read: Callable[[Tensor], Tensor]
    ) -> dict[Tensor, Tensor]:
        """Something of the shards, whole at their owners."""
        found: dict[Tensor, Tensor] = {}
        for params in self.alike(shards):
            layout, values = self.layout(params[0]), [read(p) for p in params]
            if layout.has_owner:
                leaves = [self._leaf(p, v) for p, v in zip(params, values, strict=True)]
                arrived = Exchange(layout.group, leaves).gather([local(v) for v in values])()
                found.update((params[i], value) for i, value in arrived.items())
            else:
                found.update((p, gathered(v)) for p, v in zip(params, values, strict=True))
        return found

    def alike(self, shards: Mapping[Tensor, str]) -> list[list[Tensor]]:
        """The shards, by the processes that share them."""
        together: dict[Any, list[Tensor]] = {}
        for p in shards:
            layout = self.layout(p)
            together.setdefault(layout.alike, []).append(p)
        return list(together.values())

    def _leaf(self, p: Tensor, value: Tensor) -> Leaf:
        return Leaf(tuple(p.shape), self.layout(p).dim, self._owner[p] or 0, value.dtype)

    # A step

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """The optimizer with whole weights and gradients of this process, for a step."""
        shards = self.shards(self._optimizer.param_groups)
        if not shards:
            yield
            return
        self.admit(shards)
        check_presence(shards, self.among)
        moving = {p: name for p, name in shards.items() if p.grad is not None}
        changed = self._changed(moving)
        self.whole(changed)
        gradients = self._gathered(moving, lambda p: gradient_like(p, _gradient(p)))
        for p, gradient in gradients.items():
            self._whole[p].grad = gradient
        with self._exchanged(shards):
            try:
                self._moving = moving
                if changed:
                    with self.together(changed):
                        self._adopt()
                yield
            finally:
                self._moving = {}
                for p in gradients:
                    self._whole[p].grad = None
        self.send_back(moving)
        for group in self._optimizer.param_groups:
            for p in group["params"]:
                if p in moving and self.owns(p):
                    self._optimizer.state[p].setdefault("depth", group["depth"])
        self.agree_on_names({p: n for p, n in moving.items() if p not in self._named})

    def _adopt(self) -> None:
        """Factor again what others changed; before that, no process knows whether it can be."""
        groups, store = self._optimizer.param_groups, self._optimizer.store
        weights = [weight for weight in store.weights(groups) if weight[0].grad is not None]
        store.adopt(weights, lambda: parameter_names(groups))

    def agree_on_names(self, shards: Mapping[Tensor, str]) -> None:
        """Let the state of all processes have the names that it has at the owner."""
        agree_on_names(self, self._optimizer.state, shards)
        self._named.update(shards)

    def _changed(self, shards: Mapping[Tensor, str]) -> dict[Tensor, str]:
        """The weights that are not what was sent back last, on any process."""
        flags: dict[Tensor, Tensor] = {}
        changed: dict[Tensor, str] = {}
        for p, name in shards.items():
            known, part = self._written.get(p), local(p.detach())
            if known is None:
                differs = True
            elif p.device.type == "cpu":
                differs = not torch.equal(known[2], fingerprint(part))
            else:  # the version is the same on all processes, and the host need not wait
                differs = known[:2] != (part._version, part.data_ptr())
            if p.device.type == "cpu":
                flags[p] = torch.tensor([float(differs)], dtype=torch.float64)
            elif differs:
                changed[p] = name
        found = largest(flags, self.among)
        return changed | {p: shards[p] for p, flag in found.items() if bool(flag)}

    @contextmanager
    def together(self, shards: Mapping[Tensor, str]) -> Iterator[None]:
        """An error of one process becomes one of all that share these weights."""
        error = None
        try:
            yield
        except Exception as met:
            error = met
        for params in self.alike(shards):
            for group in self.layout(params[0]).groups:
                raise_together(group, error)
        if error is not None:
            raise error

    @contextmanager
    def inner_step(self) -> Iterator[None]:
        """As :meth:`together`, for the inner step on factors: cheap where all goes well."""
        error = None
        try:
            yield
        except Exception as met:
            error = met
        for params in self.alike(self._moving):
            for group in self.layout(params[0]).groups:
                raise_together_on_cpu(params, group, error)
        if error is not None:
            raise error

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """The optimizer with whole weights as they are now, which are sent back in the end."""
        shards = self.shards(self._optimizer.param_groups)
        if not shards:
            yield
            return
        self.whole(shards)
        with self.together(shards), self._exchanged(shards):
            yield
        self.send_back(shards)

    @contextmanager
    def _exchanged(self, shards: Mapping[Tensor, str]) -> Iterator[None]:
        """Whole weights in the place of shards, in groups and in state."""
        groups = self._optimizer.param_groups
        kept = [{name: group[name] for name in _BESIDE if name in group} for group in groups]
        count = len(groups)
        self._rename({p: whole for p, whole in self._whole.items() if p in shards})
        try:
            for group, before in zip(groups[:count], kept, strict=True):
                groups += self._swap(group, before, shards)
            yield
        finally:
            del groups[count:]
            for group, before in zip(groups, kept, strict=True):
                group.update(before)
            self._rename({whole: p for p, whole in self._whole.items() if p in shards})

    def _swap(
        self, group: dict[str, Any], before: Mapping[str, Any], shards: Mapping[Tensor, str]
    ) -> list[dict[str, Any]]:
        """Put whole weights into a group; what stays a DTensor goes to a group of its own.

        torch's ``foreach`` and ``fused`` steps do not mix the two.
        """
        rows = list(zip(*before.values(), strict=True))
        whole = [(self._whole[p], *rest) for p, *rest in rows if p in shards and p in self._whole]
        stay = [row for row in rows if row[0] not in shards]
        parts = [row for row in stay if is_dtensor(row[0])]
        plain = [row for row in stay if not is_dtensor(row[0])]
        if not (whole or plain):
            whole, parts = parts, []
        _fill(group, before, [*whole, *plain])
        if not parts:
            return []
        other = dict(group)
        _fill(other, before, parts)
        return [other]

    def _rename(self, names: Mapping[Tensor, Tensor]) -> None:
        state = self._optimizer.state
        for old, new in names.items():
            if old in state:
                state[new] = state.pop(old)
            self._optimizer.store.rename(old, new)


def _fill(group: dict[str, Any], names: Mapping[str, Any], rows: Sequence[Any]) -> None:
    for place, name in enumerate(names):
        group[name] = [row[place] for row in rows]


def _gradient(p: Tensor) -> Tensor:
    assert p.grad is not None
    return p.grad
