"""Who works on what, where tensors are cut, and what the formulas count."""

import itertools
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from overparam.sharded import plan
from overparam.sharded.exchange import Leaf, span
from overparam.sharded.plan import entries_of_end_to_end, entries_of_factored, owners

costs_of_one = st.integers(1, 20).map(float)
costs = st.lists(costs_of_one, min_size=1, max_size=6)


@given(costs, st.integers(1, 3))
def test_the_largest_load_is_near_the_least_possible(pieces: list[float], world: int) -> None:
    def loads(plan: Sequence[int]) -> list[float]:
        pairs = list(zip(pieces, plan, strict=True))
        return [sum(cost for cost, owner in pairs if owner == rank) for rank in range(world)]

    load = [0.0] * world
    assert loads(owners(pieces, load)) == load
    least = min(max(loads(plan)) for plan in itertools.product(range(world), repeat=len(pieces)))
    assert max(load) <= (4 / 3 - 1 / (3 * world)) * least + 1e-9


def test_work_that_is_there_counts() -> None:
    load = [5.0, 0.0]
    assert owners([1.0, 2.0], load) == [1, 1]
    assert load == [5.0, 3.0]


@given(st.lists(st.tuples(costs_of_one, st.integers(1, 9)), min_size=1, max_size=8))
def test_buckets_hold_all_work_and_are_bounded(pieces: list[tuple[float, int]]) -> None:
    costs, sizes = zip(*pieces, strict=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "BUCKET_ENTRIES", 5)
        found = plan.buckets(costs, sizes, 2)
    assert sorted(itertools.chain(*found)) == list(range(len(pieces)))
    assert all(len(part) == 1 or sum(sizes[i] for i in part) <= 10 for part in found)
    ordered = [costs[i] for i in itertools.chain(*found)]
    assert ordered == sorted(ordered, reverse=True)


@given(st.integers(0, 12), st.integers(1, 5))
def test_parts_are_those_of_chunk(size: int, parts: int) -> None:
    whole = torch.arange(size)
    chunks = [whole[slice(*span(size, parts, part))] for part in range(parts)]
    expected = list(whole.chunk(parts)) if size else []
    expected += [whole[:0]] * (parts - len(expected))
    for chunk, known in zip(chunks, expected, strict=True):
        assert torch.equal(chunk, known)


@pytest.mark.parametrize("dim", [0, 1])
def test_parts_of_a_leaf(dim: int) -> None:
    leaf, whole = Leaf((5, 3), dim, 0, torch.float32), torch.randn(5, 3)
    parts = [leaf.cut(whole, 4, rank) for rank in range(4)]
    assert [tuple(part.shape) for part in parts] == [leaf.part(4, rank) for rank in range(4)]
    assert torch.equal(torch.cat(parts, dim), whole)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_entries_are_those_that_leave_a_process(world: int) -> None:
    """Counted one by one: each process sends its part to the owner, who sends the parts back."""
    m, n = 8, 16
    there = {"end to end": 2 * m * n + m * m, "factors": m * n}
    back = {"end to end": m * n + m * m, "factors": m * n}
    for kind, entries in (("end to end", entries_of_end_to_end), ("factors", entries_of_factored)):
        sent = 0.0
        for rank in range(world):
            sent += there[kind] / world if rank != 0 else back[kind] * (world - 1) / world
        assert entries(m, n, world) == pytest.approx(sent / world)
