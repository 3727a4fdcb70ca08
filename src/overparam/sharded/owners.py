"""Which process owns which weight of Factored, and the way of tensors to owners and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch.distributed as dist
from torch import Tensor

from overparam.factors.store import is_factored
from overparam.layers.entries import names_of, readings
from overparam.sharded import is_dtensor, local
from overparam.sharded.exchange import Exchange, Leaf, overlapped
from overparam.sharded.layout import Layout, check_layout, gathered, layout_of, sliced
from overparam.sharded.plan import buckets, owners

Shards = Mapping[Tensor, str]
"""Weights that processes share, with a name for each; the same on all of them."""


class Owners:
    """The owners of weights that processes share.

    Args:
        among: the processes that divide the work on plain tensors.
    """

    def __init__(self, among: dist.ProcessGroup | None) -> None:
        self.among = among
        self._owner: dict[Tensor, int | None] = {}
        self._load: dict[Any, list[float]] = {}

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

    def alike(self, shards: Shards) -> list[list[Tensor]]:
        """The shards, by the processes that share them."""
        together: dict[Any, list[Tensor]] = {}
        for p in shards:
            together.setdefault(self.layout(p).alike, []).append(p)
        return list(together.values())

    def owns(self, p: Tensor) -> bool:
        """Whether this process keeps the state of a weight."""
        owner = self._owner.get(p)
        return owner is None or owner == dist.get_rank(self.layout(p).group)

    def admit(self, shards: Shards) -> None:
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
            self._owner.update(zip(params, owners([_cost(p) for p in params], load), strict=True))

    def gathered(
        self, shards: Shards, read: Callable[[Tensor], Tensor]
    ) -> Iterator[dict[Tensor, Tensor]]:
        """Something of the shards, whole at their owners: one bucket is used, the next comes.

        Args:
            shards: have owners.
            read: gives what this process holds of it, for each shard.
        """
        starts = (partial(self._gather, params, read) for params in self._buckets(shards))
        for wait in overlapped(starts):
            yield wait()

    def _gather(
        self, params: Sequence[Tensor], read: Callable[[Tensor], Tensor]
    ) -> Callable[[], dict[Tensor, Tensor]]:
        values, layout = [read(p) for p in params], self.layout(params[0])
        if not layout.has_owner:
            return lambda: {p: gathered(v) for p, v in zip(params, values, strict=True)}
        leaves = [self._leaf(p, v) for p, v in zip(params, values, strict=True)]
        wait = Exchange(layout.group, leaves).gather([local(v) for v in values])
        return lambda: {params[i]: value for i, value in wait().items()}

    def scatter(
        self, shards: Shards, make: Callable[[Sequence[Tensor]], Mapping[Tensor, Tensor]]
    ) -> None:
        """Write to the shards what their owners have: one bucket goes, the next is made.

        Args:
            shards: have owners.
            make: gives what this process has for the shards of a bucket, whole.
        """
        starts = (partial(self._scatter, params, make) for params in self._buckets(shards))
        for write in overlapped(starts):
            write()

    def _scatter(
        self,
        params: Sequence[Tensor],
        make: Callable[[Sequence[Tensor]], Mapping[Tensor, Tensor]],
    ) -> Callable[[], None]:
        wholes, layout = make(params), self.layout(params[0])
        parts: Callable[[], list[Tensor]]
        if layout.has_owner:
            mine = {i: wholes[p] for i, p in enumerate(params) if p in wholes}
            exchange = Exchange(layout.group, [self._leaf(p, p) for p in params])
            parts = exchange.scatter(mine, params[0].device)
        else:
            parts = lambda: [local(sliced(wholes[p], p)) for p in params]  # noqa: E731

        def write() -> None:
            for p, part in zip(params, parts(), strict=True):
                local(p.detach()).copy_(part)

        return write

    def _buckets(self, shards: Shards) -> Iterator[list[Tensor]]:
        """The shards in parts of bounded size, each of weights that the same processes share."""
        for params in self.alike(shards):
            layout, sizes = self.layout(params[0]), [p.numel() for p in params]
            world = dist.get_world_size(layout.group) if layout.has_owner else 1
            for bucket in buckets([_cost(p) for p in params], sizes, world):
                yield [params[i] for i in bucket]

    def _leaf(self, p: Tensor, value: Tensor) -> Leaf:
        return Leaf(tuple(p.shape), self.layout(p).dim, self._owner[p] or 0, value.dtype)


def _cost(p: Tensor) -> float:
    """What one step on factors costs grows with the entries, roughly."""
    return float(p.numel())
