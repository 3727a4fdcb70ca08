"""Does depth accelerate the paper's convolutional network, or its penalty?"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from overparam.lab.paper.chapter import Chapter
from overparam.lab.paper.measurements import Interval, interval
from overparam.lab.paper.verdict import (
    Claim,
    Finding,
    order,
    order_of_shares,
    unless_at_edge,
    within,
)
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
    gap,
    penalty_majority,
    seed_values,
    steps_to,
    tuned,
)
from overparam.lab.report.page import Section, html_table

# Within a tenth two numbers are the same to the eye on the paper's axis.
_SAME = 0.1
_LEVELS = (1.0, 0.5, 0.2, 0.1, 0.05)
_PAIR = {"product": "product", "plain": "original"}
_TEST_ERROR = "test error at the end"


@dataclass(frozen=True)
class CnnResult:
    """What was measured on the network.

    Attributes:
        study: the settings; the first learning rate is the one that the claims are about.
        curves: of training.
        alone: the penalty integrated alone, at the size of the study.
        paper_alone: the same at the paper's size.
        tested: images that test errors were counted on.
    """

    study: CnnStudy
    curves: pl.DataFrame
    alone: pl.DataFrame
    paper_alone: pl.DataFrame
    tested: int


def load_result(study: CnnStudy, jobs: Sequence[CnnJob], test_images: int) -> CnnResult | None:
    """What the jobs of a study have stored, or None where one of them is not finished.

    Args:
        study: the settings.
        jobs: as :func:`overparam.lab.problems.mnist_cnn.jobs.cnn_jobs` gives them.
        test_images: how many the data have.

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


def chapter(result: CnnResult) -> Chapter:
    """The claims and sections of the network."""
    at_rate = pl.col("rate") == result.study.rates[0]
    curves, alone = result.curves.filter(at_rate), result.alone.filter(at_rate)
    one = dataclasses.replace(result, curves=curves, alone=alone)
    claims = [_acceleration(one), _is_penalty(one)]
    sections = [
        Section(
            "Batch loss, and the penalty alone",
            chart=penalty_chart(curves, alone, result.paper_alone),
            caption="Full: cross-entropy plus penalty while training. Dashed: the penalty "
            "descended by itself, without data, from the same weights. Diamonds: the batch loss "
            "in the paper's figure after 8,600 steps, read by eye. Line = median over seeds that "
            "have not diverged, band = smallest to largest.",
        ),
        Section(
            "Cross-entropy and penalty apart",
            _last_table(one) + _steps_table(one),
            split_chart(curves),
            "Cross-entropy with dropout, each batch before its own step, mean since the point "
            "before. Line = median over seeds that have not diverged.",
        ),
        Section("Test error", chart=error_chart(curves)),
    ]
    if len(result.study.rates) > 1:
        claims.append(_tuned(result))
        sections.append(
            Section(
                "The network at several learning rates",
                chart=rate_chart(result.curves),
                caption="Median over seeds, smallest to largest. No range where a seed diverged, "
                "no point where half of them or more did.",
            )
        )
    return Chapter("The convolutional network on MNIST", tuple(claims), tuple(sections))


def _acceleration(result: CnnResult) -> Claim:
    findings = []
    for quantity, what in (
        ("loss", "batch loss at the end (cross-entropy plus penalty, as the authors plot)"),
        ("mean_cross_entropy", "cross-entropy, mean over the run"),
        ("cross_entropy", "cross-entropy at the end"),
    ):
        first, second = (_value(result, name, quantity) for name in _PAIR)
        findings.append(order("product", first, "original", second, what))
    first, second = (_value(result, name, "test_error") for name in _PAIR)
    findings.append(
        order_of_shares("product", first, "original", second, _TEST_ERROR, result.tested)
    )
    pair = ("product_unpenalized", "plain_unpenalized")
    if set(pair) <= set(result.study.variants):
        first, second = (_value(result, name, "mean_cross_entropy") for name in pair)
        what = "cross-entropy without penalty, mean over the run"
        findings.append(order("product", first, "original", second, what))
    return Claim(
        "Replacing each dense weight by a product of two makes the MNIST network train faster.",
        f"Batch loss after {AUTHORS_STEPS:,} steps: original {AUTHORS_LOSS['plain']:g}, "
        f"overparameterized {AUTHORS_LOSS['product']:g}.",
        tuple(findings),
        "The batch loss holds the L2 penalty, which says nothing of how well the network fits. "
        + _rate_remark(result.study)
        + _size_remark(result.study),
    )


def _is_penalty(result: CnnResult) -> Claim:
    findings = []
    ratios = against_alone(result.curves, result.alone)
    majorities = penalty_majority(result.curves)
    for name in AUTHORS_LOSS:
        label = VARIANTS[name].label
        last = interval(ratios.filter(pl.col("variant") == name)["last"].to_list())
        text = f"{label}: penalty after training over penalty without data"
        findings.append(within(text, last, 1 - _SAME, 1 + _SAME))
        share = _value(result, name, "penalty_share")
        findings.append(within(f"{label}: share of the penalty in the last loss", share, 0.5, 1))
        steps = majorities.filter(pl.col("variant") == name)["share"].to_list()
        text = f"{label}: share of the steps at which the penalty is most of the loss"
        findings.append(within(text, interval(steps), 0.5, 1))
    gaps = gap(result.curves, "product", "plain")
    ends = gaps.filter(pl.col("step") == gaps["step"].max())
    share = interval((ends["penalty"] / ends["loss"]).to_list())
    text = "Share of the penalty in the difference of the last losses"
    findings.append(within(text, share, 1 - _SAME, 1 + _SAME))
    findings += _against_authors(result)
    return Claim(
        "The two curves of the paper's figure are the L2 penalty, not the fit.",
        "Not considered; a question of ours.",
        tuple(findings),
        "Where the penalty has fallen far, the cross-entropy is what is left. "
        + _size_remark(result.study),
    )


def _against_authors(result: CnnResult) -> list[Finding]:
    """The penalty alone at the paper's size, and what trained there, against their two values."""
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
    findings = tuple(unless_at_edge(found, (product, plain), at_edge) for found in orders)
    remark = "The rate of each is the one with the lowest validation error, over the same rates."
    if edges := [VARIANTS[key].label for key, row in best.items() if row["edge"]]:
        remark += f" It lies at the edge of the rates tried for: {', '.join(edges)}."
    return Claim(
        "The product trains faster with the learning rate tuned for each network too.",
        "Not shown: one learning rate for both.",
        findings,
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
        "sum on the last batch alone is what the tutorial prints: after the step on that batch."
        "</p>"
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
        "<p class='note'>Steps until the mean cross-entropy between two records is first at or "
        "below a level, range over seeds.</p>" + html_table(header, rows)
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
        return f"At the authors' learning rate, {study.rates[0]:g}, alone: not tuned. "
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
        "penalty alone at their size needs no data and is not cut."
    )
