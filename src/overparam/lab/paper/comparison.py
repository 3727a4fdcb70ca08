"""Evidence on pairs of methods, each at its best learning rate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import polars as pl

from overparam.lab.methods import label_of
from overparam.lab.paper.claims import Evidence, order, too_early, undecided_at_edge
from overparam.lab.paper.distances import at_rates, is_near_start, tuned_distances
from overparam.lab.paper.results import StudyResult
from overparam.lab.summary import tuned

TUNED = "distance after {:,} iterations, tuned"


def compare_tuned(
    result: StudyResult,
    pairs: Iterable[tuple[str, str]],
    what: str = TUNED,
    *,
    labels: Mapping[str, str] = {},
    authors_iterations: int = 0,
) -> tuple[Evidence, ...]:
    """Whether the first method of each pair ends below the second.

    A pair is undecided in three cases:

    - The grid decides: with only every other learning rate the order is a different one, or there
      is none. This happens because the best lr of a method may lie just below the one at which it
      diverges, or far below.
    - The best lr of the method that is behind is the smallest or the largest tried.
    - A method is still near its start in a run that is shorter than the authors': near zero, a
      product of layers waits before it moves.

    Args:
        result: the curves of all methods.
        pairs: names of methods.
        what: the quantity, in words, with a place for the number of iterations.
        labels: names of methods for people, where they differ from those of the lab.
        authors_iterations: length of the authors' run; 0 for a question that they did not ask, so
            that a method that waits at its start is behind.
    """
    what = what.format(result.study.iterations)
    compared = []
    for pair in pairs:
        names = {method: labels.get(method, label_of(method)) for method in pair}
        runs = result.curves.filter(pl.col("method").is_in(pair))
        found, *halves = (
            _order(curves, result.optimum, names, what) for curves in (runs, *_halves(runs, pair))
        )
        if found.agrees is not None and {half.agrees for half in halves} != {found.agrees}:
            found = found.but("With only every other learning rate this is not always so.")
        edges = {row["method"]: row["edge"] for row in tuned(runs).to_dicts()}
        found = undecided_at_edge(found, *((name, edges[m]) for m, name in names.items()))
        waiting = [name for m, name in names.items() if is_near_start(runs, result.optimum, m)]
        if waiting:
            text = f"A seed of {' and one of '.join(waiting)} is near its start."
            found = found.but(text, found.agrees)
            found = too_early(found, result.study.iterations, authors_iterations)
        compared.append(found)
    return tuple(compared)


def _halves(runs: pl.DataFrame, pair: tuple[str, str]) -> list[pl.DataFrame]:
    """The runs at the first, third, ... lr that both methods have; at the second, fourth, ..."""
    first, second = (set(runs.filter(pl.col("method") == name)["rate"]) for name in pair)
    rates = sorted(first & second)
    return [at_rates(runs, half) for half in (rates[::2], rates[1::2]) if half]


def _order(curves: pl.DataFrame, optimum: float, names: Mapping[str, str], what: str) -> Evidence:
    distances = tuned_distances(curves, optimum)
    (better, first), (worse, second) = ((name, distances[m]) for m, name in names.items())
    return order(better, first, worse, second, what)
