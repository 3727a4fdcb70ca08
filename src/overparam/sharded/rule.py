"""The directions of the end-to-end rule for DTensors: the owner of each matrix finds them.

Weight and gradient of each matrix go to its owner, with the basis; the owner takes whole matrices
through the code of one process; direction and basis come back to the shards. Buckets overlap: the
next one is on its way while one is computed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from overparam._precision import state_dtype
from overparam.optim.direction import Item, Route, Write, directions, is_due
from overparam.rule.fast import update_of_rows
from overparam.rule.options import fast_options
from overparam.sharded import is_dtensor, local
from overparam.sharded.agreement import largest, raise_together_on_cpu
from overparam.sharded.exchange import Exchange, Leaf, overlapped
from overparam.sharded.layout import (
    Layout,
    cut_like,
    gathered,
    laid_out_as,
    layout_of,
    sliced,
)
from overparam.sharded.plan import buckets, cost_of, owners

Group = torch.distributed.ProcessGroup
Found = tuple[dict[Tensor, Tensor], Write | None]

# What the owner keeps of a basis besides it: whole on every rank, a number per matrix.
_SMALL = ("basis_error", "basis_failures")


def directions_of_shards(items: Sequence[Item], among: Group | None) -> Iterator[Found]:
    """As :func:`overparam.optim.direction.directions`, for parameters that processes share.

    Args:
        items: of all groups, in the same order on every rank.
        among: the processes that divide the work on plain tensors.
    """
    rows: list[Item] = []
    everywhere: list[Item] = []
    owned: dict[Any, list[Item]] = {}
    for item in items:
        layout = layout_of(item.p, among)
        one_length = item.group["normalize"] == "metric"  # of all rows
        if item.route.rule == "row" and not one_length and _has_whole_rows(item, layout):
            rows.append(item)
        elif layout.has_owner:
            owned.setdefault(layout.alike, []).append(item)
        else:
            everywhere.append(item)
    yield from _of_whole_rows(rows)
    for together in owned.values():
        yield from _by_owners(together, layout_of(together[0].p, among).group)
    for item in everywhere:
        yield from _on_every_rank(item)


# Rows that no process shares: all but the normalization is local.


def _has_whole_rows(item: Item, layout: Layout) -> bool:
    route, p = item.route, item.p
    return layout.dim == 0 and not route.turned and route.batch == 1 and route.rows == p.shape[0]


def _of_whole_rows(items: Sequence[Item]) -> Iterator[Found]:
    if not items:
        return
    weights = {item.p: _rows(item.p, item) for item in items}
    lengths = {p: torch.linalg.vector_norm(w, dim=-1) for p, w in weights.items()}
    longest = largest({p: _largest_entry(each).double() for p, each in lengths.items()})
    for item in items:
        p, group, weight = item.p, item.group, weights[item.p]
        # A row without gradient that is as long as the longest one of all ranks.
        row = weight.new_zeros(1, weight.shape[1])
        row[0, 0] = longest[p][0]
        update = update_of_rows(
            torch.cat([weight, row]),
            torch.cat([_rows(item.gradient, item), torch.zeros_like(row)]),
            float(group["depth"]),
            **fast_options(group, item.route.transposed),
        )[:-1]
        yield {p: laid_out_as(update.reshape(local(p).shape).contiguous(), p)}, None


def _rows(tensor: Tensor, item: Item) -> Tensor:
    part = local(tensor.detach()).to(state_dtype(item.p))
    return (
        part.reshape(part.shape[0], -1) if part.numel() else part.new_zeros(0, item.route.columns)
    )


def _largest_entry(vector: Tensor) -> Tensor:
    return vector.amax().reshape(1) if vector.numel() else vector.new_zeros(1)


# Layouts over several dimensions of a mesh, and copies: every process does the whole work.


def _on_every_rank(item: Item) -> Iterator[Found]:
    whole = gathered(item.p.detach())
    states: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)
    if basis := _basis_of(item):
        states[whole] = {name: _copy(gathered(value)) for name, value in basis.items()}
    twin = Item(whole, gathered(item.gradient), states, item.route, item.group, item.finite)
    ((found, write),) = directions([twin])
    if write is not None:
        write()
    later = partial(_take_over, item, states.get(whole, {}))
    yield {item.p: sliced(found[whole], item.p)}, later


# One dimension cut, or work that is divided: owners.


def _by_owners(items: Sequence[Item], group: Group) -> Iterator[Found]:
    """The directions of matrices that the same processes share."""
    world = torch.distributed.get_world_size(group)
    costs = [cost_of(item.route) for item in items]
    work = list(zip(items, owners(costs, [0.0] * world), strict=True))
    parts = [
        [work[number] for number in part]
        for part in buckets(costs, [item.p.numel() for item in items], world)
    ]
    leaving: list[Callable[[], Iterator[Found]]] = []
    error: Exception | None = None
    for bucket in overlapped(partial(_Bucket, group, part) for part in parts):
        wait, met = bucket.computed()
        leaving.append(wait)
        error = error or met
    raise_together_on_cpu([item.p for item in items], group, error)
    for wait in leaving:
        yield from wait()


class _Bucket:
    """Matrices on their way to their owners, from construction on."""

    def __init__(self, group: Group, work: Sequence[tuple[Item, int]]) -> None:
        self._group, self._work = group, work
        self._names: list[tuple[int, str]] = []
        leaves, parts = [], []
        for number, (item, owner) in enumerate(work):
            dim = layout_of(item.p).dim
            basis = _basis_of(item).get("basis")
            pieces = [("weight", item.p.detach(), dim), ("gradient", item.gradient, dim)]
            pieces += [] if basis is None else [("basis", basis, None if dim is None else 1)]
            for name, tensor, cut in pieces:
                self._names.append((number, name))
                leaves.append(Leaf(tuple(tensor.shape), cut, owner, tensor.dtype))
                parts.append(_part(tensor, leaves[-1], group))
        self._arriving: Callable[[], dict[int, Tensor]] | None
        self._arriving = Exchange(group, leaves).gather(parts)

    def computed(self) -> tuple[Callable[[], Iterator[Found]], Exception | None]:
        """Wait, take what this rank owns through the rule, and start to send it back.

        Returns:
            A function that waits for what the owners send; the error that this owner met, which
            sends zeros, so that the others do not wait for it.
        """
        assert self._arriving is not None
        whole = {self._names[i]: tensor for i, tensor in self._arriving().items()}
        self._arriving = None  # its buffers can go
        results, error = self._through_rule(whole)
        names, leaves = [], []
        for number, (item, owner) in enumerate(self._work):
            route, dtype, dim = item.route, state_dtype(item.p), layout_of(item.p).dim
            names.append((number, "direction"))
            leaves.append(Leaf(tuple(item.p.shape), dim, owner, dtype))
            if is_due(item) is not False:
                names += [(number, name) for name in ("basis", *_SMALL)]
                leaves.append(Leaf(_basis_shape(route), None if dim is None else 1, owner, dtype))
                leaves += [Leaf((route.batch,), None, owner, dtype) for _ in _SMALL]
        device, exchange = local(self._work[0][0].p).device, Exchange(self._group, leaves)
        here = {
            i: torch.zeros(leaves[i].shape, dtype=leaves[i].dtype, device=device)
            if error
            else results[names[i]].to(leaves[i].dtype)
            for i in exchange.mine
        }
        wait = exchange.scatter(here, device)

        def found() -> Iterator[Found]:
            parts = dict(zip(names, wait(), strict=True))
            for number, (item, _) in enumerate(self._work):
                update = {item.p: laid_out_as(parts[number, "direction"], item.p)}
                if item.route.rule != "matrix":
                    yield update, None
                    continue
                state: dict[str, Any] = {"basis_age": item.state.get("basis_age", 0) + 1}
                if (number, "basis") in parts:
                    state |= {name: parts[number, name] for name in _SMALL}
                    basis, shape = parts[number, "basis"], _basis_shape(item.route)
                    state["basis"] = cut_like(basis, item.p, 1, shape)
                yield update, partial(_take_over, item, state)

        return found, error

    def _through_rule(
        self, whole: Mapping[tuple[int, str], Tensor]
    ) -> tuple[dict[Any, Tensor], Exception | None]:
        """What this rank owns, through the code of one process; or the error that it met."""
        states: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)
        twins: list[Item] = []
        places: dict[Tensor, int] = {}
        for number, (item, _) in enumerate(self._work):
            if (number, "weight") not in whole:
                continue
            weight, gradient = whole[number, "weight"], whole[number, "gradient"]
            places[weight] = number
            if (number, "basis") in whole:
                kept = {name: _copy(value) for name, value in _basis_of(item).items()}
                states[weight] = {**kept, "basis": whole[number, "basis"]}
            twins.append(Item(weight, gradient, states, item.route, item.group, item.finite))
        results: dict[Any, Tensor] = {}
        try:
            for found, write in directions(twins):
                if write is not None:
                    write()
                results.update(((places[p], "direction"), update) for p, update in found.items())
        except Exception as error:
            if local(self._work[0][0].p).device.type != "cpu":
                raise  # to tell the others, the host would have to wait in every step
            return {}, error
        for weight, state in states.items():
            results.update(((places[weight], name), state[name]) for name in ("basis", *_SMALL))
        return results, None


def _basis_shape(route: Route) -> tuple[int, int, int]:
    return (route.batch, route.rows, route.rows)


def _basis_of(item: Item) -> dict[str, Any]:
    """What the state of a parameter says of its basis."""
    return {name: value for name, value in item.state.items() if name.startswith("basis")}


def _part(tensor: Tensor, leaf: Leaf, group: Group) -> Tensor:
    """What this rank holds of a tensor; one that was loaded whole is cut."""
    if is_dtensor(tensor) or leaf.dim is None:
        return local(tensor)
    dist = torch.distributed
    return leaf.cut(tensor, dist.get_world_size(group), dist.get_rank(group))


def _copy(value: Any) -> Any:
    return local(value).clone() if isinstance(value, Tensor) else value


@torch.no_grad()
def _take_over(item: Item, new: Mapping[str, Any]) -> None:
    """Put what the owner sent into the state of a parameter."""
    if not new:
        return
    state = item.states[item.p]
    for name, value in new.items():
        if name == "basis_failures":
            value = value.round().to(torch.int64)
        old = state.get(name)
        if not isinstance(value, Tensor) or old is None or is_dtensor(old) != is_dtensor(value):
            state[name] = value
        else:
            local(old).copy_(local(value))
