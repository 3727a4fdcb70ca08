"""Weights of Factored that several processes hold: whole, with all their state, at an owner.

Each weight that is a DTensor, or all of them where the work is divided, has one owner among the
processes that share it, which keeps a whole copy, the factors and the inner state. For a step the
owner's groups hold the whole copies in the place of shards, so the code of one process does the
work; then the products go back to the shards.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from overparam._fingerprint import fingerprint
from overparam.factors.store import Weight
from overparam.layers.groups import parameter_names
from overparam.sharded import is_dtensor, local
from overparam.sharded.agreement import (
    check_presence,
    largest,
    raise_together,
    raise_together_on_cpu,
)
from overparam.sharded.layout import gradient_like
from overparam.sharded.owners import Owners, Shards
from overparam.sharded.states import agree_on_names

if TYPE_CHECKING:
    from overparam.factors.layout import MatrixLayout
    from overparam.optim.factored import Factored

_BESIDE = ("params", "views", "param_names")


class Owned:
    """The shards of one optimizer, and the whole copies of those that this process owns."""

    def __init__(self, optimizer: Factored, among: dist.ProcessGroup | None) -> None:
        self._optimizer, self.owners = optimizer, Owners(among)
        self._whole: dict[Tensor, nn.Parameter] = {}
        self._named: set[Tensor] = set()
        self._moving: dict[Tensor, str] = {}
        self._met: Exception | None = None
        self._written: dict[Tensor, tuple[int, int, Tensor]] = {}

    # Whole weights

    def whole(self, shards: Shards) -> dict[Tensor, Tensor]:
        """The weights of this process, by shard, as they are now."""
        self.owners.admit(shards)
        for arrived in self.owners.gathered(shards, lambda p: p.detach()):
            for p, value in arrived.items():
                if p not in self._whole:
                    self._whole[p] = nn.Parameter(value, requires_grad=p.requires_grad)
                else:
                    self._whole[p].copy_(value)
        return {p: self._whole[p] for p in shards if p in self._whole}

    @contextmanager
    def admitting(self, group: dict[str, Any]) -> Iterator[None]:
        """A new group with whole weights in the place of shards, where this process owns them."""
        shards = {p: n for p, n in self.owners.shards([group]).items() if not p.is_meta}
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
        shards = {p: n for p, n in self.owners.shards(groups).items() if not p.is_meta}
        self.send_back(shards)
        for p in shards:
            if p in self._whole:
                self._optimizer.store.rename(self._whole[p], p)

    def send_back(
        self,
        shards: Shards,
        make: Callable[[Sequence[nn.Parameter]], None] = lambda weights: None,
    ) -> None:
        """Write the whole weights to the shards.

        Args:
            shards: to write to.
            make: makes the whole weights of a bucket, while the one before is on its way.
        """

        def made(params: Sequence[Tensor]) -> dict[Tensor, Tensor]:
            wholes = {p: self._whole[p] for p in params if p in self._whole}
            make(list(wholes.values()))
            return {p: whole.detach() for p, whole in wholes.items()}

        self.owners.scatter(shards, made)
        for p in shards:
            part = local(p.detach())
            self._written[p] = (part._version, part.data_ptr(), fingerprint(part))

    # A step

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """The optimizer with whole weights and gradients of this process, for a step."""
        shards = self.owners.shards(self._optimizer.param_groups)
        if not shards:
            yield
            return
        self.owners.admit(shards)
        check_presence(shards, self.owners.among)
        moving = {p: name for p, name in shards.items() if p.grad is not None}
        changed = self._changed(moving)
        self.whole(changed)
        with self._exchanged(shards):
            try:
                self._moving, self._met = moving, None
                if changed:
                    with self.together(changed):
                        # Before this, no process knows whether they can be factored.
                        store, groups = self._optimizer.store, self._optimizer.param_groups
                        store.adopt(self.moving_weights(), lambda: parameter_names(groups))
                yield
            finally:
                self._moving, self._met = {}, None
        for group in self._optimizer.param_groups:
            for p in group["params"]:
                if p in moving:
                    state = self._optimizer.state[p]
                    if self.owners.owns(p):
                        state.setdefault("depth", group["depth"])
                    else:
                        state.pop("written", None)  # as at the owner
        self.agree_on_names({p: n for p, n in moving.items() if p not in self._named})

    def moving_weights(self) -> list[Weight]:
        """The weights of this process that the step moves."""
        mine = {self._whole[p] for p in self._moving if p in self._whole}
        weights = self._optimizer.store.weights(self._optimizer.param_groups)
        return [weight for weight in weights if weight[0] in mine or weight[0].grad is not None]

    def pull_back(self, weights: Sequence[Weight]) -> None:
        """Give factors their gradients: a bucket is on its way while the one ahead is at work.

        An error waits until all buckets have come, and for :meth:`inner_step`.
        """
        store, layouts = self._optimizer.store, {p: layout for p, layout, _ in weights}
        alone = {p: p.grad for p in layouts if p.grad is not None}
        arriving = self.owners.gathered(self._moving, lambda p: gradient_like(p, _gradient(p)))
        whole = ({self._whole[p]: each for p, each in part.items()} for part in arriving)
        for gradients in itertools.chain([alone], whole):
            try:
                if self._met is None:
                    for p, gradient in gradients.items():
                        store.pull_back(p, layouts[p], gradient)
            except Exception as error:
                self._met = error

    def write(self, changed: Sequence[tuple[Tensor, MatrixLayout]]) -> None:
        """Write products: a bucket of them is on its way to its shards while the next is made."""
        store, layouts = self._optimizer.store, dict(changed)
        own = {self._whole[p] for p in self._moving if p in self._whole}
        store.write(*[each for each in changed if each[0] not in own])
        self.send_back(
            self._moving,
            lambda wholes: store.write(*[(p, layouts[p]) for p in wholes if p in layouts]),
        )

    def agree_on_names(self, shards: Shards) -> None:
        """Let the state of all processes have the names that it has at the owner."""
        agree_on_names(self.owners, self._optimizer.state, shards)
        self._named.update(shards)

    def _changed(self, shards: Shards) -> dict[Tensor, str]:
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
        found = largest(flags, self.owners.among)
        return changed | {p: shards[p] for p, flag in found.items() if bool(flag)}

    @contextmanager
    def together(self, shards: Shards) -> Iterator[None]:
        """An error of one process becomes one of all that share these weights."""
        error = None
        try:
            yield
        except Exception as met:
            error = met
        for params in self.owners.alike(shards):
            for group in self.owners.layout(params[0]).groups:
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
        error = self._met or error
        for params in self.owners.alike(self._moving):
            for group in self.owners.layout(params[0]).groups:
                raise_together_on_cpu(params, group, error)
        if error is not None:
            raise error

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """The optimizer with whole weights as they are now, which are sent back in the end."""
        shards = self.owners.shards(self._optimizer.param_groups)
        if not shards:
            yield
            return
        self.whole(shards)
        with self.together(shards), self._exchanged(shards):
            yield
        self.send_back(shards)
        self.agree_on_names(shards)

    @contextmanager
    def _exchanged(self, shards: Shards) -> Iterator[None]:
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
        self, group: dict[str, Any], before: Mapping[str, Any], shards: Shards
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
