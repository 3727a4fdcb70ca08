"""The state of owners in a state_dict: every process holds a part, as it does of Adam's state.

So ``torch.distributed.checkpoint`` saves it once, and loads it on any number of processes.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from overparam.sharded.exchange import Exchange, Leaf
from overparam.sharded.layout import cut_among, cut_like, gathered
from overparam.sharded.owners import Owners, Shards

State = dict[str, Any]


@torch.no_grad()
def shared(
    owners: Owners, groups: Sequence[dict[str, Any]], packed: dict[str, Any]
) -> dict[str, Any]:
    """A state_dict of this process, with parts of what one of them owns. All processes call it.

    Tensors become DTensors, cut along their longest dimension; scalars and numbers are the same
    everywhere.

    Args:
        owners: of the weights.
        groups: of the optimizer.
        packed: as torch packs it.
    """
    params = [p for group in groups for p in group["params"]]
    places = {p: place for place, p in enumerate(params)}
    states = dict(packed["state"])
    for together in owners.alike(owners.shards(groups)):
        layout = owners.layout(together[0])
        if not layout.has_owner:
            continue  # every process has all of it
        mine = {places[p]: states.get(places[p], {}) for p in together if owners.owns(p)}
        table = _table(layout.group, mine)
        leaves, keys = [], []
        for place in (places[p] for p in together):
            owner, contents = table[place]
            states.pop(place, None)
            if contents:
                states[place] = {n: value for n, (shape, value) in contents.items() if not shape}
            for name, (shape, dtype) in contents.items():
                if shape:
                    longest = max(range(len(shape)), key=lambda d, s=shape: s[d])
                    leaves.append(Leaf(shape, longest, owner, dtype))
                    keys.append((place, name))
        here = {i: mine[k][name].detach() for i, (k, name) in enumerate(keys) if k in mine}
        parts = Exchange(layout.group, leaves).scatter(here, together[0].device)()
        for (place, name), leaf, part in zip(keys, leaves, parts, strict=True):
            part, dim = part.clone(), leaf.dim or 0
            states[place][name] = (
                cut_like(part, params[place], dim, leaf.shape)
                if layout.among is None
                else cut_among(part, layout.among, dim, leaf.shape)
            )
    ordered = {place: states.pop(place) for place in range(len(params)) if place in states}
    return {**packed, "state": {**ordered, **states}}


def agree_on_names(owners: Owners, state: MutableMapping[Tensor, State], shards: Shards) -> None:
    """Give this process entries of the names that owners have: checkpoints go by the names.

    All processes call it. The entries have the shapes of the owners' tensors and no memory.
    """
    for together in owners.alike(shards):
        layout = owners.layout(together[0])
        if layout.has_owner:
            mine = {i: state.get(p, {}) for i, p in enumerate(together) if owners.owns(p)}
            for place, (_, contents) in _table(layout.group, mine).items():
                if place not in mine and contents:
                    state[together[place]] = {
                        name: _stand_in(shape, value, together[place].device)
                        for name, (shape, value) in contents.items()
                    }


def _stand_in(shape: tuple[int, ...], value: Any, device: torch.device) -> Any:
    return torch.zeros((), dtype=value, device=device).expand(shape) if shape else value


def _table(group: dist.ProcessGroup, mine: dict[int, State]) -> dict[int, tuple[int, State]]:
    """Who owns each state, and what is in it: shape and dtype, or no shape and a number."""
    described = {
        place: {name: _described(value) for name, value in state.items()}
        for place, state in mine.items()
    }
    everyone: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(everyone, described, group=group)
    return {
        place: (rank, contents)
        for rank, each in enumerate(everyone)
        for place, contents in each.items()
    }


def _described(value: Any) -> tuple[tuple[int, ...], Any]:
    if not isinstance(value, Tensor):
        return (), value
    return tuple(value.shape), value.dtype if value.ndim else value.detach().cpu()


@torch.no_grad()
def received(
    owners: Owners,
    groups: Sequence[dict[str, Any]],
    saved: Sequence[dict[str, Any]],
    states: dict[Any, State],
) -> dict[Any, State]:
    """Saved states with whole tensors at their owners. All processes call it.

    Args:
        owners: of the weights.
        groups: of the optimizer.
        saved: the groups of the checkpoint.
        states: of the checkpoint, with DTensors or whole tensors.
    """
    shards = owners.shards(groups)
    owners.admit(shards)
    for group, given in zip(groups, saved, strict=True):
        for p, index in zip(group["params"], given["params"], strict=False):
            if p not in shards or index not in states:
                continue
            whole: State = {}
            for name in sorted(states[index]):  # in one order on all processes
                value = states[index][name]
                whole[name] = gathered(value) if isinstance(value, Tensor) else value
            states[index] = whole if owners.owns(p) else {}
    return states
