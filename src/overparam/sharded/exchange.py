"""Shards to whole tensors at owner ranks, and back: one all-to-all per dtype each way."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

_Started = TypeVar("_Started")


@dataclass
class Traffic:
    """What this rank sent to others.

    Attributes:
        sent: bytes.
        calls: collectives.
    """

    sent: int = 0
    calls: int = 0


_meters: list[Traffic] = []


@contextmanager
def measured() -> Iterator[Traffic]:
    """Count what exchanges send meanwhile."""
    traffic = Traffic()
    _meters.append(traffic)
    try:
        yield traffic
    finally:
        _meters.remove(traffic)


def span(size: int, parts: int, part: int) -> tuple[int, int]:
    """Where DTensor cuts a dimension, as ``torch.chunk``: the last parts may be short, or empty.

    Example:
        >>> [span(5, 4, part) for part in range(4)]
        [(0, 2), (2, 4), (4, 5), (5, 5)]
    """
    chunk = -(-size // parts)
    return min(part * chunk, size), min((part + 1) * chunk, size)


def overlapped(starts: Iterable[Callable[[], _Started]]) -> Iterator[_Started]:
    """Call each function before what the one ahead of it gave is used.

    So a bucket is on its way while the one ahead of it is computed.

    Example:
        >>> for number in overlapped([lambda: print("start") or 1, lambda: print("start") or 2]):
        ...     print(number)
        start
        start
        1
        2
    """
    ahead: list[_Started] = []
    for start in starts:
        ahead.append(start())
        if len(ahead) > 1:
            yield ahead.pop(0)
    yield from ahead


class Leaf(NamedTuple):
    """One tensor of an exchange.

    Attributes:
        shape: of the whole.
        dim: which is cut; None where it is sent whole, from its owner to all.
        owner: a rank of the group.
        dtype: of the tensor.
    """

    shape: tuple[int, ...]
    dim: int | None
    owner: int
    dtype: torch.dtype

    def part(self, world: int, rank: int) -> tuple[int, ...]:
        """The shape of what a rank holds."""
        if self.dim is None:
            return self.shape
        low, high = span(self.shape[self.dim], world, rank)
        return (*self.shape[: self.dim], high - low, *self.shape[self.dim + 1 :])

    def cut(self, whole: Tensor, world: int, rank: int) -> Tensor:
        """What a rank holds of the whole."""
        if self.dim is None:
            return whole
        low, high = span(self.shape[self.dim], world, rank)
        return whole.narrow(self.dim, low, high - low)


class Exchange:
    """A plan for a list of leaves. Both ways start to send, and return a function that waits.

    Args:
        group: the processes that hold the leaves between them.
        leaves: the same list on every rank.
    """

    def __init__(self, group: dist.ProcessGroup, leaves: Sequence[Leaf]) -> None:
        self.group, self.leaves = group, list(leaves)
        self.rank, self.world = dist.get_rank(group), dist.get_world_size(group)
        self.mine = [i for i, leaf in enumerate(self.leaves) if leaf.owner == self.rank]

    def gather(self, parts: Sequence[Tensor]) -> Callable[[], dict[int, Tensor]]:
        """Send the parts of every leaf to its owner.

        Args:
            parts: of this rank, one for each leaf; of a leaf that is not cut the owner's own.

        Returns:
            A function that gives the whole leaves of this rank, by number.
        """
        every = range(self.world)
        cut = [(i, leaf) for i, leaf in enumerate(self.leaves) if leaf.dim is not None]
        sends = [[(i, parts[i]) for i, leaf in cut if leaf.owner == rank] for rank in every]
        takes = [
            [(i, leaf.part(self.world, rank)) for i, leaf in cut if leaf.owner == self.rank]
            for rank in every
        ]
        wait = self._start(sends, takes, parts[0].device, [leaf for _, leaf in cut])

        def whole() -> dict[int, Tensor]:
            found = wait()
            return {i: self._joined(i, found) if (0, i) in found else parts[i] for i in self.mine}

        return whole

    def scatter(
        self, wholes: Mapping[int, Tensor], device: torch.device
    ) -> Callable[[], list[Tensor]]:
        """Send every rank its part of each leaf.

        Args:
            wholes: the leaves of this rank, by number.
            device: of the parts.

        Returns:
            A function that gives the parts of this rank, one for each leaf.
        """
        every = range(self.world)
        sends = [
            [(i, self.leaves[i].cut(wholes[i], self.world, rank)) for i in self.mine]
            for rank in every
        ]
        takes = [
            [
                (i, leaf.part(self.world, self.rank))
                for i, leaf in enumerate(self.leaves)
                if leaf.owner == rank
            ]
            for rank in every
        ]
        wait = self._start(sends, takes, device, self.leaves)

        def parts() -> list[Tensor]:
            found = wait()
            return [found[leaf.owner, i] for i, leaf in enumerate(self.leaves)]

        return parts

    def _joined(self, i: int, found: Mapping[tuple[int, int], Tensor]) -> Tensor:
        """A leaf from its parts of all ranks."""
        return torch.cat([found[rank, i] for rank in range(self.world)], self.leaves[i].dim or 0)

    def _start(
        self,
        sends: Sequence[Sequence[tuple[int, Tensor]]],
        takes: Sequence[Sequence[tuple[int, tuple[int, ...]]]],
        device: torch.device,
        leaves: Sequence[Leaf],
    ) -> Callable[[], dict[tuple[int, int], Tensor]]:
        """Send to each rank, take from each rank; gives what came, by rank and number."""
        pending = []
        for dtype in dict.fromkeys(leaf.dtype for leaf in leaves):
            out = [[t for i, t in each if self.leaves[i].dtype == dtype] for each in sends]
            into = [[(i, s) for i, s in each if self.leaves[i].dtype == dtype] for each in takes]
            sizes = [sum(t.numel() for t in each) for each in out]
            expected = [sum(math.prod(shape) for _, shape in each) for each in into]
            flat = [t.reshape(-1) for each in out for t in each]
            buffer = torch.cat(flat) if flat else torch.empty(0, dtype=dtype, device=device)
            received = torch.empty(sum(expected), dtype=dtype, device=device)
            for meter in _meters:
                meter.sent += (sum(sizes) - sizes[self.rank]) * dtype.itemsize
                meter.calls += 1
            work = dist.all_to_all_single(
                received, buffer, expected, sizes, group=self.group, async_op=True
            )
            pending.append((work, buffer, received, expected, into))

        def wait() -> dict[tuple[int, int], Tensor]:
            found: dict[tuple[int, int], Tensor] = {}
            for work, _, received, expected, into in pending:
                work.wait()
                for rank, (block, each) in enumerate(
                    zip(received.split(expected), into, strict=True)
                ):
                    pieces = block.split([math.prod(shape) for _, shape in each]) if each else []
                    for piece, (i, shape) in zip(pieces, each, strict=True):
                        found[rank, i] = piece.view(shape)
            return found

        return wait
