"""Does depth accelerate the paper's convolutional network, or only its penalty?"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from overparam.lab.paper.claims import (
    Claim,
    Evidence,
    order,
    order_of_shares,
    undecided_at_edge,
    within,
)
from overparam.lab.paper.distances import Interval, interval
from overparam.lab.paper.results import ExperimentReport
from overparam.lab.problems.mnist_cnn.figures import (
    error_chart,
    penalty_chart,
    rate_chart,
    split_chart,
)
from overparam.lab.problems.mnist_cnn.jobs import CnnJob, load_curves, paper_penalty_job
from overparam.lab.problems.mnist_cnn.study import (
    AUTHORS_LOSS,
    AUTHORS_STEPS,
    SCALES,
    VARIANTS,
    CnnStudy,
)
from overparam.lab.problems.mnist_cnn.summary import (
    against_alone,
    differences,
    penalty_majority,
    seed_values,
    steps_to,
    tuned,
)
from overparam.lab.report.page import Section, html_table

# Two numbers within 10 % of each other look the same on the paper's axis.
_SAME = 0.1
_LEVELS = (1.0, 0.5, 0.2, 0.1, 0.05)
_PAIR = {"product": "product", "plain": "original"}
_TEST_ERROR = "test error at the end"


@dataclass(frozen=True)
class CnnResult:
    """The stored curves of the network.

    Attributes:
        study: the settings; the claims are about its first learning rate.
        curves: the training curves.
        alone: the penalty descended alone, without data, at the size of the study.
        paper_alone: the same at the paper's size.
        tested: number of images behind each test error.
    """

    study: CnnStudy
    curves: pl.DataFrame
    alone: pl.DataFrame
    paper_alone: pl.DataFrame
    tested: int


def load_result(study: CnnStudy, jobs: Sequence[CnnJob], test_images: int) -> CnnResult | None:
    """The curves that the jobs of a study have stored, or None if a job is not finished.

    Args:
        study: the settings.
        jobs: the jobs, from :func:`overparam.lab.problems.mnist_cnn.jobs.cnn_jobs`.
        test_images: number of test images in the data.

    Raises:
        ValueError: a file is damaged.
    """
    if not all(job.finished() for job in jobs):
        return None
    own = [job for job in jobs if job.study == study]
    return CnnResult(
        study,
        load_curves([job for job in own if job.variant]),
        load_curves([job for job in own if not job.variant]),
        load_curves([paper_penalty_job(study, jobs[0].path)]),
        min(study.evaluated or test_images, test_images),
    )


def report(result: CnnResult) -> ExperimentReport:
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


def _acceleration(result: CnnResult) -> Claim:
    def compare(quantity: str, what: str, product: str, plain: str) -> Evidence:
        first, second = (_value(result, name, quantity) for name in (product, plain))
        return order("product", first, "original", second, what)

    evidence = [
        compare(quantity, what, "product", "plain")
        for quantity, what in (
            ("loss", "batch loss at the end (cross-entropy plus penalty, as the authors plot)"),
            ("mean_cross_entropy", "cross-entropy, mean over the run"),
            ("cross_entropy", "cross-entropy at the end"),
        )
    ]
    first, second = (_value(result, name, "test_error") for name in _PAIR)
    evidence.append(
        order_of_shares("product", first, "original", second, _TEST_ERROR, result.tested)
    )
    pair = ("product_unpenalized", "plain_unpenalized")
    if set(pair) <= set(result.study.variants):
        what = "cross-entropy without penalty, mean over the run"
        evidence.append(compare("mean_cross_entropy", what, *pair))
    return Claim(
        "Replacing each dense weight by a product of two makes the MNIST network train faster.",
        f"Batch loss after {AUTHORS_STEPS:,} steps: original {AUTHORS_LOSS['plain']:g}, "
        f"overparameterized {AUTHORS_LOSS['product']:g}.",
        tuple(evidence),
        "The batch loss contains the L2 penalty, which says nothing about how well the network "
        "fits. " + _rate_remark(result.study) + _size_remark(result.study),
    )


def _is_penalty(result: CnnResult) -> Claim:
    evidence = []
    ratios = against_alone(result.curves, result.alone)
    majorities = penalty_majority(result.curves)
    for name in AUTHORS_LOSS:
        label = VARIANTS[name].label
        last = interval(ratios.filter(pl.col("variant") == name)["last"].to_list())
        text = f"{label}: penalty after training over penalty without data"
        evidence.append(within(text, last, 1 - _SAME, 1 + _SAME))
        share = _value(result, name, "penalty_share")
        evidence.append(within(f"{label}: share of the penalty in the last loss", share, 0.5, 1))
        steps = majorities.filter(pl.col("variant") == name)["share"].to_list()
        text = f"{label}: share of the steps at which the penalty is most of the loss"
        evidence.append(within(text, interval(steps), 0.5, 1))
    gaps = differences(result.curves, "product", "plain")
    ends = gaps.filter(pl.col("step") == gaps["step"].max())
    share = interval((ends["penalty"] / ends["loss"]).to_list())
    text = "Share of the penalty in the difference between the last losses"
    evidence.append(within(text, share, 1 - _SAME, 1 + _SAME))
    evidence += _against_authors(result)
    return Claim(
        "The two curves of the paper's figure are the L2 penalty, not the fit.",
        "Not considered; a question of ours.",
        tuple(evidence),
        "Once the penalty has become small, what is left is the cross-entropy. "
        + _size_remark(result.study),
    )


def _against_authors(result: CnnResult) -> list[Evidence]:
    """The penalty alone and the trained loss at the paper's size, against the authors' values."""
    found = []
    table = result.paper_alone
    last = table.filter(pl.col("step") == table["step"].max())
    for name, theirs in AUTHORS_LOSS.items():
        label = VARIANTS[name].label
        ratio = interval((last.filter(pl.col("variant") == name)["penalty"] / theirs).to_list())
        text = f"{label}: penalty alone at the paper's size over the paper's {theirs:g}"
        found.append(within(text, ratio, 1 - _SAME, 1 + _SAME))
        if _is_papers(result.study):
            loss = [value / theirs for value in _values(result, name, "loss")]
            text = f"{label}: trained batch loss over the paper's {theirs:g}"
            found.append(within(text, interval(loss), 0.5, 2))
    return found


def _tuned(result: CnnResult) -> Claim:
    best = {row["variant"]: row for row in tuned(result.curves).to_dicts()}
    product, plain = (f"{name} at {best[key]['rate']:g}" for key, name in _PAIR.items())
    losses, errors = (
        [interval(seed_values(result.curves, key, quantity, best[key]["rate"])) for key in _PAIR]
        for quantity in ("mean_cross_entropy", "test_error")
    )
    orders = (
        order(product, losses[0], plain, losses[1], "cross-entropy, mean over the run"),
        order_of_shares(product, errors[0], plain, errors[1], _TEST_ERROR, result.tested),
    )
    at_edge = (best["product"]["edge"], best["plain"]["edge"])
    evidence = tuple(undecided_at_edge(found, (product, plain), at_edge) for found in orders)
    remark = (
        "Each network is at the learning rate with its lowest validation error, out of the same "
        "learning rates."
    )
    if edges := [VARIANTS[key].label for key, row in best.items() if row["edge"]]:
        remark += f" The best one is the smallest or the largest tried for: {', '.join(edges)}."
    return Claim(
        "The product also trains faster with the learning rate tuned for each network.",
        "Not shown: one learning rate for both.",
        evidence,
        remark,
    )


def _last_table(result: CnnResult) -> str:
    quantities = {
        "cross_entropy": "Cross-entropy",
        "penalty": "Penalty",
        "loss": "Sum",
        "batch_loss": "Sum, last batch alone",
        "test_error": "Test error, %",
    }
    rows = []
    for name in result.study.variants:
        cells = [str(_value(result, name, quantity)) for quantity in list(quantities)[:-1]]
        errors = interval([100 * value for value in _values(result, name, "test_error")])
        rows.append([VARIANTS[name].label, *cells, str(errors)])
    note = (
        f"<p class='note'>After {result.study.steps:,} steps; median over seeds and range. The "
        "sum on the last batch alone is what the tutorial prints; it is computed after the step on "
        "that batch.</p>"
    )
    return note + html_table(("Network", *quantities.values()), rows)


def _steps_table(result: CnnResult) -> str:
    rows = []
    for name in result.study.variants:
        cells = []
        for level in _LEVELS:
            reached = steps_to(result.curves, "cross_entropy", level)
            steps = reached.filter(pl.col("variant") == name)["steps"].to_list()
            known = [step for step in steps if step is not None]
            cells.append(_steps(known, len(steps)))
        rows.append([VARIANTS[name].label, *cells])
    header = ("Network", *(f"cross-entropy ≤ {level:g}" for level in _LEVELS))
    return (
        "<p class='note'>Steps until the mean cross-entropy since the previous record first "
        "reaches a level, range over seeds.</p>" + html_table(header, rows)
    )


def _steps(known: list[int], seeds: int) -> str:
    if len(known) < seeds:
        return f"{len(known)} of {seeds} seeds" if known else "not reached"
    low, high = min(known), max(known)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _values(result: CnnResult, variant: str, quantity: str) -> list[float]:
    return seed_values(result.curves, variant, quantity, result.study.rates[0])


def _value(result: CnnResult, variant: str, quantity: str) -> Interval:
    return interval(_values(result, variant, quantity))


def _is_papers(study: CnnStudy) -> bool:
    paper = SCALES["paper"]
    same = (study.shape, study.steps, study.data) == (paper.shape, paper.steps, paper.data)
    return same and study.rates[0] == paper.rates[0]


def _rate_remark(study: CnnStudy) -> str:
    if len(study.rates) == 1:
        return f"Only at the authors' learning rate, {study.rates[0]:g}: not tuned. "
    return ""


def _size_remark(study: CnnStudy) -> str:
    if _is_papers(study):
        return "At the authors' size and horizon."
    paper = SCALES["paper"]
    return (
        f"A smaller run on {study.data}: images of {study.side} x {study.side}, "
        f"{study.channels[0]} and {study.channels[1]} channels, {study.hidden} hidden units, "
        f"{study.steps:,} steps; the authors' has {paper.side} x {paper.side}, "
        f"{paper.channels[0]} and {paper.channels[1]}, {paper.hidden}, {paper.steps:,}. The "
        "penalty alone needs no data and is run at their full size."
    )
