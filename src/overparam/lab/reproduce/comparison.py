"""Findings on methods of one study, each at its best rate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from overparam.lab.reproduce.chapter import PartResult
from overparam.lab.reproduce.measures import is_near_start, tuned_distances
from overparam.lab.reproduce.verdict import Finding, order, too_early


def tuned_orders(
    part: PartResult,
    pairs: Iterable[tuple[str, str]],
    what: str,
    labels: Mapping[str, str],
    authors_iterations: int,
) -> tuple[Finding, ...]:
    """Whether the first method of each pair ends below the second.

    Undecided where one of them is near its start, in a run that is shorter than the authors': near
    zero, a product of layers waits before it moves.

    Args:
        part: with all methods.
        pairs: names of methods.
        what: the quantity, for people.
        labels: of the methods, for people.
        authors_iterations: length of the authors' run.
    """
    distances = tuned_distances(part.curves, part.optimum)
    found = []
    for pair in pairs:
        (better, first), (worse, second) = ((labels[name], distances[name]) for name in pair)
        finding = order(better, first, worse, second, what)
        waiting = [labels[m] for m in pair if is_near_start(part.curves, part.optimum, m)]
        if waiting:
            text = f"{finding.text} A seed of {' and one of '.join(waiting)} is near its start."
            finding = Finding(text, finding.agrees)
            finding = too_early(finding, part.study.iterations, authors_iterations)
        found.append(finding)
    return tuple(found)
