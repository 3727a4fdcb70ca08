"""Who works on what: one owner for each matrix, the same plan on every rank; what it moves."""

from __future__ import annotations

from collections.abc import Sequence

from overparam.optim.direction import Route

BUCKET_ENTRIES = 2**24
"""Of one bucket for each rank: enough to use the network, little beside a model."""


def owners(costs: Sequence[float], load: list[float]) -> list[int]:
    """An owner for each piece of work: the costliest first, each to the least loaded rank.

    Ties go to the earlier piece and to the lower rank, so every rank finds the same plan. From an
    empty load on, the largest is at most 4/3 of the least possible one (Graham 1969).

    Args:
        costs: of the pieces.
        load: of each rank, by other work; the new work is added to it.

    Example:
        >>> owners([1.0, 3.0, 2.0], [0.0, 0.0])
        [1, 0, 1]
    """
    found = [0] * len(costs)
    for piece in sorted(range(len(costs)), key=lambda piece: -costs[piece]):
        found[piece] = owner = min(range(len(load)), key=lambda rank: (load[rank], rank))
        load[owner] += costs[piece]
    return found


def buckets(costs: Sequence[float], sizes: Sequence[int], world: int) -> list[list[int]]:
    """Cut work in parts of bounded size, the costliest pieces first: all owners have some.

    Args:
        costs: of the pieces.
        sizes: entries of the pieces.
        world: number of ranks.

    Returns:
        The numbers of the pieces in each part.
    """
    found: list[list[int]] = []
    size = 0
    for piece in sorted(range(len(costs)), key=lambda piece: -costs[piece]):
        size += sizes[piece]
        if not found or size > BUCKET_ENTRIES * world:
            found.append([])
            size = sizes[piece]
        found[-1].append(piece)
    return found


def cost_of(route: Route) -> float:
    """Flops of one step of a parameter, roughly: the products of the rule, and of its basis."""
    m, n = route.rows, route.columns
    if route.rule == "matrix":
        return route.batch * (14.0 * m**2 * n + 12.0 * m**3)
    return 8.0 * route.batch * m * n


def entries_of_end_to_end(m: int, n: int, world: int) -> float:
    """Entries that a rank sends per step for a matrix ``(m, n)``, ``m <= n``, on the average.

    ``(3mn + 2m^2) (p-1) / p^2``: weight and gradient to the owner and the direction back, the
    basis to the owner and back. All but 1/p of each is with other ranks; p ranks share it.

    Example:
        >>> entries_of_end_to_end(2, 4, 2)
        8.0
    """
    return (3 * m * n + 2 * m**2) * (world - 1) / world**2


def entries_of_factored(m: int, n: int, world: int) -> float:
    """The same for factors: ``2mn (p-1) / p^2``, the gradient there and the product back.

    Example:
        >>> entries_of_factored(2, 4, 2)
        4.0
    """
    return 2 * m * n * (world - 1) / world**2
