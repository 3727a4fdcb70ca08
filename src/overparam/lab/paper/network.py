"""Does depth accelerate the paper's convolutional network, or only its penalty?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from overparam.lab.paper.claims import (
    Claim,
    Evidence,
    order,
    order_of_shares,
    undecided_at_edge,
    within,
)
from overparam.lab.paper.distances import interval, span
from overparam.lab.paper.network_charts import (
    error_chart,
    penalty_chart,
    rate_chart,
    split_chart,
)
from overparam.lab.paper.network_curves import last_values, load_curves, steps_to
from overparam.lab.paper.network_study import (
    AUTHORS_LOSS,
    AUTHORS_STEPS,
    METHODS,
    PAPER,
    NetworkJob,
    NetworkStudy,
    alone_jobs,
    paper_jobs,
)
from overparam.lab.paper.results import ExperimentReport
from overparam.lab.report.page import Section, html_table
from overparam.lab.summary import tuned

_LEVELS = (1.0, 0.5, 0.2, 0.1, 0.05)
_PAIR = {"product": "product", "plain": "original"}
_ORDERED = {
    "loss": "batch loss at the end (cross-entropy plus penalty, as the authors plot)",
    "mean_cross_entropy": "cross-entropy, mean over the run",
    "cross_entropy": "cross-entropy at the end",
    "test_error": "test error at the end",
}
_SHARES = {
    "penalty_share": "share of the penalty in the last loss",
    "penalty_majority": "share of the steps at which the penalty is most of the loss",
}
# Two numbers within 10 % of each other look the same on the paper's axis.
_SAME = (0.9, 1.1)


@dataclass(frozen=True)
class NetworkResult:
    """The stored curves of the network.

    Attributes:
        study: the settings; the claims are about its first learning rate.
        curves: the training curves.
        alone: the penalty descended alone, without data, at the size of the study.
        paper_alone: the same at the paper's size; None if that is the size of the study.
        tested: number of images behind each test error.
    """

    study: NetworkStudy
    curves: pl.DataFrame
    alone: pl.DataFrame
    paper_alone: pl.DataFrame | None
    tested: int


def load_result(
    study: NetworkStudy, jobs: Sequence[NetworkJob], test_images: int
) -> NetworkResult | None:
    """The curves that the jobs of a study have stored, or None if a job is not finished.

    Args:
        study: the settings.
        jobs: the jobs, from :func:`overparam.lab.paper.network_study.network_jobs`.
        test_images: number of test images in the data.

    Raises:
        ValueError: a file is damaged.
    """
    if not all(job.finished() for job in jobs):
        return None
    alone, papers = alone_jobs(study, jobs[0].folder), paper_jobs(study, jobs[0].folder)
    return NetworkResult(
        study,
        load_curves([job for job in jobs if job.images]),
        load_curves(alone),
        None if set(papers) <= set(alone) else load_curves(papers),
        min(study.evaluated or test_images, test_images),
    )


def report(result: NetworkResult) -> ExperimentReport:
    """The claims and the sections on the network."""
    at_rate = pl.col("rate") == result.study.rates[0]
    curves, alone = result.curves.filter(at_rate), result.alone.filter(at_rate)
    one = dataclasses.replace(result, curves=curves, alone=alone)
    claims = [_acceleration(one), _is_penalty(one)]
    sections = [
        Section(
            "Batch loss, and the penalty alone",
            chart=penalty_chart(curves, alone, result.paper_alone),
            caption="Solid: cross-entropy plus penalty during training. Dashed: the penalty "
            "descended alone, without data, from the same weights. Diamonds: the batch loss in the "
            "paper's figure after 8,600 steps, read by eye. Line: median over the seeds that have "
            "not diverged. Band: smallest to largest.",
        ),
        Section(
            "Cross-entropy and penalty apart",
            _last_table(one) + _steps_table(one),
            split_chart(curves),
            "Cross-entropy with dropout, of each batch before its own step, averaged since the "
            "previous point. Line: median over the seeds that have not diverged.",
        ),
        Section("Test error", chart=error_chart(curves)),
    ]
    if len(result.study.rates) > 1:
        claims.append(_tuned(result))
        sections.append(
            Section(
                "The network at several learning rates",
                chart=rate_chart(result.curves),
                caption="Median over seeds, with the range. There is no range if a seed diverged, "
                "and no point if half of the seeds or more did.",
            )
        )
    return ExperimentReport("The convolutional network on MNIST", tuple(claims), tuple(sections))


def _acceleration(result: NetworkResult) -> Claim:
    without = {"product_unpenalized": "product", "plain_unpenalized": "original"}
    what = "cross-entropy without penalty, mean over the run"
    untuned = f"Only at the authors' learning rate, {result.study.rates[0]:g}: not tuned. "
    return Claim(
        "Replacing each dense weight by a product of two makes the MNIST network train faster.",
        f"Batch loss after {AUTHORS_STEPS:,} steps: original {AUTHORS_LOSS['plain']:g}, "
        f"overparameterized {AUTHORS_LOSS['product']:g}.",
        (
            *(_order(result, quantity) for quantity in _ORDERED),
            _order(result, "mean_cross_entropy", without, what=what),
        ),
        "The batch loss contains the L2 penalty, which says nothing about how well the network "
        "fits. " + (untuned if len(result.study.rates) == 1 else "") + _size_remark(result.study),
    )


def _order(
    result: NetworkResult, quantity: str, names: Mapping[str, str] = _PAIR, what: str = ""
) -> Evidence:
    """Whether the first of two methods, by name, ends lower."""
    first, second = (interval(_last(result.curves, method, quantity)) for method in names)
    better, worse = names.values()
    orders = (better, first, worse, second, what or _ORDERED[quantity])
    return order_of_shares(*orders, result.tested) if quantity == "test_error" else order(*orders)


def _is_penalty(result: NetworkResult) -> Claim:
    curves, evidence = result.curves, []
    for name in AUTHORS_LOSS:
        label = METHODS[name].label
        trained, alone = (_last(table, name, "penalty") for table in (curves, result.alone))
        ratio = np.divide(trained, alone)
        text = f"{label}: penalty after training over penalty without data"
        evidence.append(within(text, interval(ratio.tolist()), *_SAME))
        for quantity, text in _SHARES.items():
            share = interval(_last(curves, name, quantity))
            evidence.append(within(f"{label}: {text}", share, 0.5, 1))
    penalty, loss = (
        np.subtract(_last(curves, "product", what), _last(curves, "plain", what))
        for what in ("penalty", "loss")
    )
    with np.errstate(all="ignore"):  # the last values of a run that diverged are infinite
        share = interval((penalty / loss).tolist())
    text = "Share of the penalty in the difference between the last losses"
    return Claim(
        "The two curves of the paper's figure are the L2 penalty, not the fit.",
        "Not considered; a question of ours.",
        (*evidence, within(text, share, *_SAME), *_against_authors(result)),
        "Once the penalty has become small, what is left is the cross-entropy. "
        + _size_remark(result.study),
    )


def _against_authors(result: NetworkResult) -> list[Evidence]:
    """The penalty alone and the trained loss at the paper's size, against the authors' values."""
    found = []
    alone = result.alone if result.paper_alone is None else result.paper_alone
    for name, theirs in AUTHORS_LOSS.items():
        label = METHODS[name].label
        ratio = interval([penalty / theirs for penalty in _last(alone, name, "penalty")])
        text = f"{label}: penalty alone at the paper's size over the paper's {theirs:g}"
        found.append(within(text, ratio, *_SAME))
        if _is_papers(result.study):
            loss = interval([value / theirs for value in _last(result.curves, name, "loss")])
            text = f"{label}: trained batch loss over the paper's {theirs:g}"
            found.append(within(text, loss, 0.5, 2))
    return found


def _tuned(result: NetworkResult) -> Claim:
    errors = last_values(result.curves).with_columns(loss="validation_error", step=pl.lit(0))
    best = tuned(errors)
    at_best = result.curves.join(best, on=["method", "rate"], how="semi")
    one = dataclasses.replace(result, curves=at_best)
    rows = {row["method"]: row for row in best.to_dicts()}
    names = {key: f"{name} at {rows[key]['rate']:g}" for key, name in _PAIR.items()}
    product, plain = ((name, rows[key]["edge"]) for key, name in names.items())
    evidence = tuple(
        undecided_at_edge(_order(one, quantity, names), product, plain)
        for quantity in ("mean_cross_entropy", "test_error")
    )
    remark = (
        "Each network is at the learning rate with its lowest validation error, out of the same "
        "learning rates."
    )
    if edges := [METHODS[key].label for key, row in rows.items() if row["edge"]]:
        remark += f" The best one is the smallest or the largest tried for: {', '.join(edges)}."
    return Claim(
        "The product also trains faster with the learning rate tuned for each network.",
        "Not shown: one learning rate for both.",
        evidence,
        remark,
    )


def _last_table(result: NetworkResult) -> str:
    quantities = {
        "cross_entropy": "Cross-entropy",
        "penalty": "Penalty",
        "loss": "Sum",
        "last_batch": "Sum, last batch alone",
        "test_error": "Test error, %",
    }
    percent = last_values(result.curves).with_columns(pl.col("test_error") * 100)
    rows = []
    for name, method in METHODS.items():
        own = percent.filter(method=name)
        rows.append([method.label, *(str(interval(own[q].to_list())) for q in quantities)])
    note = (
        f"<p class='note'>After {result.study.steps:,} steps; median over seeds and range. The "
        "sum on the last batch alone is what the tutorial prints, here before the step on that "
        "batch.</p>"
    )
    return note + html_table(("Network", *quantities.values()), rows)


def _steps_table(result: NetworkResult) -> str:
    reached = [steps_to(result.curves, level) for level in _LEVELS]
    rows = [
        [method.label, *(_steps(each.filter(method=name)["steps"]) for each in reached)]
        for name, method in METHODS.items()
    ]
    header = ("Network", *(f"cross-entropy ≤ {level:g}" for level in _LEVELS))
    return (
        "<p class='note'>Steps until the mean cross-entropy since the previous record first "
        "reaches a level, range over seeds.</p>" + html_table(header, rows)
    )


def _steps(by_seed: pl.Series) -> str:
    known = by_seed.drop_nulls().to_list()
    if len(known) < len(by_seed):
        return f"{len(known)} of {len(by_seed)} seeds" if known else "not reached"
    return span(known)


def _last(curves: pl.DataFrame, method: str, quantity: str) -> list[float]:
    """The last value of a quantity for each seed; the curves are at one learning rate."""
    return last_values(curves.filter(method=method))[quantity].to_list()


def _is_papers(study: NetworkStudy) -> bool:
    names = ("side", "channels", "hidden", "steps", "data")
    same = all(getattr(study, name) == getattr(PAPER, name) for name in names)
    return same and study.rates[0] == PAPER.rates[0]


def _size_remark(study: NetworkStudy) -> str:
    if _is_papers(study):
        return "At the authors' size and horizon."
    return (
        f"A smaller run on {study.data}: images of {study.side} x {study.side}, "
        f"{study.channels[0]} and {study.channels[1]} channels, {study.hidden} hidden units, "
        f"{study.steps:,} steps; the authors' has {PAPER.side} x {PAPER.side}, "
        f"{PAPER.channels[0]} and {PAPER.channels[1]}, {PAPER.hidden}, {PAPER.steps:,}. The "
        "penalty alone needs no data and is run at their full size."
    )
