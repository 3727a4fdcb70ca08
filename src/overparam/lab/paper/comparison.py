"""Findings on methods of one study, each at its best rate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import polars as pl

from overparam.lab.paper.chapter import PartResult
from overparam.lab.paper.measurements import at_rates, is_near_start, tuned_distances
from overparam.lab.paper.verdict import Finding, order, too_early, unless_at_edge
from overparam.lab.summary import tuned


def tuned_orders(
    part: PartResult,
    pairs: Iterable[tuple[str, str]],
    what: str,
    labels: Mapping[str, str],
    authors_iterations: int,
) -> tuple[Finding, ...]:
    """Whether the first method of each pair ends below the second.

    Undecided where the order over seeds is another, or none, with the first, third, ... learning
    rate alone or with the second, fourth, ...: then the grid decides it, because the best rate of a
    method may lie just below the one at which it diverges, or far; where the best rate of the one
    that ends above is the smallest or the largest tried; and where one is near its start, in a run
    that is shorter than the authors': near zero, a product of layers waits before it moves.

    Args:
        part: with all methods.
        pairs: names of methods.
        what: the quantity, for people.
        labels: of the methods, for people.
        authors_iterations: length of the authors' run; 0 for a question that they did not ask.
    """
    found = []
    for pair in pairs:
        runs = part.curves.filter(pl.col("method").is_in(pair))
        both = PartResult(part.study, runs, part.optimum)
        finding = _order(both, pair, what, labels)
        halves = [
            _order(replace(both, curves=half), pair, what, labels).agrees
            for half in _halves(runs, pair)
        ]
        if finding.agrees is not None and set(halves) != {finding.agrees}:
            text = f"{finding.text} Every other learning rate alone does not always say so."
            finding = Finding(text, None)
        edges = {row["method"]: row["edge"] for row in tuned(runs).to_dicts()}
        first, second = pair
        names, at_edge = (labels[first], labels[second]), (edges[first], edges[second])
        finding = unless_at_edge(finding, names, at_edge)
        waiting = [labels[m] for m in pair if is_near_start(runs, part.optimum, m)]
        if waiting:
            text = f"{finding.text} A seed of {' and one of '.join(waiting)} is near its start."
            finding = Finding(text, finding.agrees)
            finding = too_early(finding, part.study.iterations, authors_iterations)
        found.append(finding)
    return tuple(found)


def _halves(runs: pl.DataFrame, pair: tuple[str, str]) -> list[pl.DataFrame]:
    """The runs at every other learning rate that both methods have, twice; of one rate, once."""
    first, second = (set(runs.filter(pl.col("method") == name)["rate"]) for name in pair)
    rates = sorted(first & second)
    return [at_rates(runs, half) for half in (rates[::2], rates[1::2]) if half]


def _order(
    part: PartResult, pair: tuple[str, str], what: str, labels: Mapping[str, str]
) -> Finding:
    distances = tuned_distances(part.curves, part.optimum)
    (better, first), (worse, second) = ((labels[name], distances[name]) for name in pair)
    return order(better, first, worse, second, what)
