"""What is it in depth that helps? The parts of the rule, one by one, for several optimizers."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from overparam.lab.methods import OPTIMIZERS, label_of, parse_method
from overparam.lab.paper.claims import Claim
from overparam.lab.paper.comparison import compare_tuned
from overparam.lab.paper.distances import Interval, speed_up, tuned_distances
from overparam.lab.paper.results import ExperimentReport, StudyResult
from overparam.lab.paper.studies import MECHANISM_OPTIMIZERS, MECHANISM_PARTS
from overparam.lab.report.page import Section, html_table
from overparam.lab.summary import tuned

# A sentence, and pairs of methods of which the first ends lower if it is true.
QUESTIONS: dict[str, tuple[tuple[str, str], ...]] = {
    "The norm factor alone makes gradient descent faster.": (("norm:2", "gd"), ("norm:3", "gd")),
    "The stretch alone makes gradient descent faster.": (("radial:2", "gd"), ("radial:4", "gd")),
    "Norm factor and stretch together are faster than either alone.": (
        ("rule:2", "norm:2"),
        ("rule:2", "radial:2"),
    ),
    "An imbalance makes the rule of depth 2 faster.": (
        ("rule:2,lam=0.3", "rule:2"),
        ("rule:2,lam=1", "rule:2"),
        ("rule:2,lam=3", "rule:2"),
    ),
    "The normalized gradient is faster than the rule.": (
        ("normalized", "rule:2"),
        ("normalized", "rule:3"),
    ),
    "The metric step of depth 2 is faster than the normalized gradient.": (
        ("metric:2", "normalized"),
    ),
    "A stretch makes Adam faster.": (
        ("adam+radial:2", "adam"),
        ("adam+radial:4", "adam"),
        ("adam+radial:8", "adam"),
    ),
    "Adam stretched four times is faster than Adam on two factors.": (
        ("adam+radial:4", "adam+factors:2"),
    ),
}


def part_table(curves: pl.DataFrame, optimum: float) -> pl.DataFrame:
    """One row per method of :func:`~overparam.lab.paper.studies.mechanism_methods` in the curves.

    Columns: ``method, optimizer, part`` (empty for the plain weight), ``rate, edge`` of
    :func:`~overparam.lab.summary.tuned`, ``distance`` and ``speed_up`` against the plain weight
    (see :mod:`overparam.lab.paper.distances`), each with ``_low`` and ``_high``, and ``arrive``:
    whether both end at the optimum, where round-off decides which learning rate is the best one.
    """
    best = {row["method"]: row for row in tuned(curves).to_dicts()}
    distances = tuned_distances(curves, optimum)
    rows = []
    for name, distance in distances.items():
        optimizer = parse_method(name).optimizer
        faster = speed_up(curves, optimum, name, optimizer)
        arrive = distance.median == distances[optimizer].median == 0
        rows.append(
            {
                "method": name,
                "optimizer": optimizer,
                "part": name.removeprefix(optimizer).removeprefix("+"),
                "rate": best[name]["rate"],
                "edge": best[name]["edge"],
                **_columns("distance", distance),
                **_columns("speed_up", faster),
                "arrive": arrive,
            }
        )
    return pl.DataFrame(rows)


def _columns(name: str, value: Interval) -> dict[str, float]:
    return {name: value.median, f"{name}_low": value.low, f"{name}_high": value.high}


def cell_grid(table: pl.DataFrame, quantity: str) -> tuple[list[str], list[list[str]]]:
    """A :func:`part_table` as text: a row per part, a column per optimizer.

    Args:
        table: from :func:`part_table`.
        quantity: ``distance`` or ``speed_up``.

    Returns:
        The header and the rows.
    """
    found = {(row["optimizer"], row["part"]): row for row in table.to_dicts()}
    optimizers = [name for name in MECHANISM_OPTIMIZERS if (name, "") in found]
    rows = []
    for part in ("", *MECHANISM_PARTS):
        cells = [_cell(found.get((optimizer, part)), quantity) for optimizer in optimizers]
        if any(cells) and (part or quantity == "distance"):
            rows.append([label_of(part) if part else "Plain", *cells])
    return ["Part", *(OPTIMIZERS[name].label for name in optimizers)], rows


def _cell(row: dict[str, float] | None, quantity: str) -> str:
    if row is None:
        return ""
    if row["distance"] == float("inf"):
        return "diverged"
    if quantity == "speed_up" and row["arrive"]:
        return "both arrive"
    value = Interval(row[quantity], row[f"{quantity}_low"], row[f"{quantity}_high"])
    return str(value) + (" *" if row["edge"] else "")


def report(results: Mapping[str, StudyResult]) -> ExperimentReport:
    """The claims and the sections, from every study whose name begins with ``mechanism-``."""
    studies = [result for name, result in results.items() if name.startswith("mechanism-")]
    return ExperimentReport(
        "Beyond the paper: what it is in depth that helps",
        tuple(_claim(studies, statement) for statement in QUESTIONS),
        tuple(_section(result) for result in studies),
    )


def _title(result: StudyResult) -> str:
    study = result.study
    return f"{study.data}, p = {study.power:g}, {study.schedule} lr"


def _claim(studies: list[StudyResult], statement: str) -> Claim:
    evidence = []
    for result in studies:
        what = f"{_title(result)}, distance after {{:,}} iterations"
        evidence += compare_tuned(result, QUESTIONS[statement], what)
    return Claim(
        statement,
        "Not asked; a question of ours.",
        tuple(evidence),
        "The rule of one output is the gradient times the norm factor |W|^(2-2/N), stretched N "
        "times along the weight (Claim 2). Each part is trained alone. Distances after a fixed "
        "number of iterations: where both reach round-off, see the speed-ups.",
    )


def _section(result: StudyResult) -> Section:
    study = result.study
    table = part_table(result.curves, result.optimum)
    note = (
        f"<p class='note'>{study.iterations:,} iterations, {len(study.seeds)} seeds, each method "
        f"at the best of {len(study.rates)} learning rates from {study.rates[0]:.2g} to "
        f"{study.rates[-1]:.2g}. Median and range over seeds. A star: the best learning rate is "
        "the smallest or the largest tried. Stretched r times: the step's component along the "
        "weight. Distance from the optimum; then how many times fewer iterations than the same "
        "optimizer on the plain weight.</p>"
    )
    tables = (html_table(*cell_grid(table, quantity)) for quantity in ("distance", "speed_up"))
    return Section(f"The parts of depth: {_title(result)}", note + "".join(tables))
