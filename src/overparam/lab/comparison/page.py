"""The page of a comparison: the answer, the evidence, the protocol."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from statistics import median

import altair as alt
import polars as pl

from overparam.lab.charts.study import rounded
from overparam.lab.charts.theme import (
    BLUE,
    GRID,
    INK,
    SOFT,
    end_labels,
    label_heights,
    labels_fit,
    line_encodings,
    log_axis,
    look_of,
    looks_apart,
    shapes,
    styled,
)
from overparam.lab.comparison.ladder import RUNGS
from overparam.lab.comparison.methods import parse_method
from overparam.lab.comparison.protocol import CONTROL
from overparam.lab.comparison.result import Result
from overparam.lab.comparison.statistics import expected_best, seeds_needed
from overparam.lab.report.page import Section, html_list, html_table, write_page

_WIDTH, _HEIGHT = 600, 340

_PROTOCOL = (
    "Equal budgets. Every method gets the same number of learning rates, and the same number of "
    "seeds for each. {search}A parabola through the rates near the best gives the rate that is "
    "used. Other options are those in the method's name, or torch's defaults. (AlgoPerf, Dahl et "
    "al. 2023; Deep Learning Tuning Playbook, Godbole et al. 2023.)",
    "One schedule for all. Linear warm-up over a tenth of the steps, then linear decay to zero. A "
    "run is judged at the end of its schedule only, on batches that are the same for every run, "
    "with the model in evaluation mode. A training loop of one's own, whose batches cannot be "
    "seen, is judged by the mean loss of the last tenth of its steps.",
    "A target fixed before the confirmation: the loss of the best method without depth in tuning.",
    "A ladder of horizons. Each method is trained with {lengths} lengths, from {least} to {most} "
    "times that of tuning, at its tuned learning rate; the steps to the target are interpolated "
    "between them. The speed-up is the ratio of steps at equal loss. (Track 3 of modded-nanogpt.)",
    "Fresh seeds, paired. The seeds of the confirmation were not used in tuning; for each of them "
    "all methods start from the same weights and see the same batches. (Bouthillier et al. 2021.)",
    "A printed rule. A method is faster if the 95 % paired bootstrap interval of its log speed-up "
    "lies above 0 and the median speed-up exceeds 5 %; slower the other way round; not faster if "
    "the interval excludes speed-ups above 5 %; otherwise it is too early to say, and the smallest "
    "effect that would have been seen in 80 % of repetitions is given. Fewer than five seeds "
    "decide nothing, and a seed for which both methods reach the target outside of the ladder, on "
    "the same side, says nothing. The interval is expanded for few seeds (Hesterberg 2015), and "
    "never narrower than Student's. (rliable, Agarwal et al. 2021.)",
    "Controls. A/A: the baseline against itself with other batches must show no difference. The "
    "radial step of the same depth is the part of depth that costs few flops, but time in Python "
    "on small models; see the costs. All methods have the same warm-up. Step sizes are matched by "
    "tuning. Failures count as no progress, and are listed.",
    "Muon. It steps on hidden matrices; vectors, embeddings and excluded heads are left to AdamW "
    "at the same learning rate.",
)
_SEARCH = (
    "The grid is extended until the best rate of each lies inside, and refined to a factor of 1.4; "
    "where one method needs more rates for that, up to twice as many, all get them. "
)


def protocol_lines(
    rungs: Sequence[float] = RUNGS, count: int = len(RUNGS), extended: bool = True
) -> list[str]:
    """How a comparison is made, rule by rule, with the sources.

    Args:
        rungs: the lengths of runs, as multiples of that of tuning.
        count: how many lengths there are.
        extended: whether the search for the learning rate went on until it was settled.
    """
    said = {
        "search": _SEARCH if extended else "",
        "lengths": count,
        "least": f"{rungs[0]:.2g}",
        "most": f"{rungs[-1]:.2g}",
    }
    return [each.format(**said) for each in _PROTOCOL]


def write_result(result: Result, path: Path) -> None:
    """Write the page of a result."""
    plan, findings = result.plan, result.findings
    compared = len(result.ranked)
    trials = max((len(found.losses) for found in findings.tuning.values()), default=0)
    sections = [
        Section("What was found", _answer(result), _speed_chart(result), _SPEED_CAPTION)
        if findings.speed_ups
        else Section("What was found", _answer(result)),
    ]
    if findings.losses:
        caption = _LADDER_CAPTION.format(len(plan.ladder))
        sections.append(Section("Loss against steps", "", _ladder_chart(result), caption))
    sections += [
        Section("Learning rates", _tuning_table(result), _rate_chart(result), _RATE_CAPTION),
        Section("Training curves", "", _curve_chart(result), _CURVE_CAPTION),
        Section("What a step costs", _cost_table(result)),
    ]
    if result.failures:
        sections.append(Section("What failed", _failures(result)))
    lines = protocol_lines(plan.rungs, len(plan.ladder), plan.extended)
    sections.append(Section("The protocol", html_list(lines)))
    write_page(
        path,
        title=f"{result.title}: does depth make training faster?",
        answer=result.sentence,
        lead=f"{len(result.costs.methods)} "
        f"methods, {trials} learning rates each, {plan.horizon:,} steps in tuning and "
        f"{plan.ladder[0]:,} to {plan.ladder[-1]:,} in the confirmation, {plan.seeds} fresh seeds, "
        f"judged by the {result.judged_by}. {compared} comparisons, each with its own 95 % "
        "interval.",
        sections=sections,
    )


_SPEED_CAPTION = (
    "Speed-up in steps at equal loss. Dots: seeds. Line: 95 % interval. Grey band: within 5 % of "
    "the baseline, which does not count as faster or slower."
)
_LADDER_CAPTION = (
    "Judged loss at the end of runs of {} lengths, median over fresh seeds. The dashed line is "
    "the target; how far apart two methods cross it is the speed-up."
)
_RATE_CAPTION = (
    "Judged loss at every learning rate that was tried, mean over the seeds of tuning. Crosses: "
    "learning rates at which a run failed or ended above its start."
)
_CURVE_CAPTION = "Training loss within the runs of tuning length, median over fresh seeds."


def _answer(result: Result) -> str:
    header, rows = result.table()
    # An interval stays on one line.
    rows = [
        [each.replace(", ", ",\u00a0") if "[" in each else each for each in row] for row in rows
    ]
    warnings = html_list(result.warnings()) if result.warnings() else ""
    target = f"Target: loss {result.findings.target:.4g}.{_advice(result)}"
    notes = "".join(f"<p class='note'>{note}</p>" for note in (*result.legend(), target))
    return html_table(header, rows) + notes + warnings


def _advice(result: Result) -> str:
    control = result.findings.control
    if control is None or set(control.values) == {1.0}:  # there are no other batches
        return ""
    logs = [math.log(value) for value in control.values]
    needed = seeds_needed(logs, math.log(1.1))
    return (
        " By the scatter of the A/A control, which is that of the batches alone, a speed-up of "
        f"10 % can be seen with {needed} seeds."
    )


def _speed_chart(result: Result) -> alt.TopLevelMixin:
    found = {name: result.findings.speed_ups[name] for name in result.ranked}
    if result.findings.control is not None:
        found[f"A/A: {result.findings.baseline}"] = result.findings.control
    order = list(found)
    dots = pl.DataFrame(
        [(name, value) for name, each in found.items() for value in each.values],
        schema={"method": pl.String, "value": pl.Float64},
        orient="row",
    )
    bars = pl.DataFrame(
        [(name, each.median, each.low, each.high) for name, each in found.items()],
        schema={"method": pl.String, "median": pl.Float64, "low": pl.Float64, "high": pl.Float64},
        orient="row",
    )
    x = alt.Scale(type="log", nice=False, padding=20)
    axis = alt.Axis(values=[0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 1.75, 2], format="~g")
    y = alt.Y("method:N", title=None, sort=order, axis=alt.Axis(labelLimit=220))
    band = alt.Chart(pl.DataFrame({"low": [1 / 1.05], "high": [1.05]})).mark_rect(
        color=GRID, opacity=0.8
    )
    layers = [
        band.encode(x=alt.X("low:Q", scale=x), x2="high:Q"),
        alt.Chart(rounded(bars))
        .mark_rule(strokeWidth=3, color=BLUE)
        .encode(
            x=alt.X("low:Q", scale=x, axis=axis, title="Speed-up in steps"),
            x2="high:Q",
            y=y,
            tooltip=["method:N", "median:Q", "low:Q", "high:Q"],
        ),
        alt.Chart(rounded(dots))
        .mark_circle(size=46, color=INK, opacity=0.75)
        .encode(x=alt.X("value:Q", scale=x), y=y, tooltip=["method:N", "value:Q"]),
    ]
    chart = alt.layer(*layers).properties(width=_WIDTH - 140, height=34 * len(order))
    about = "Speed-up of each method over the best baseline, with 95 % intervals."
    return styled(chart, about, room=200)


def _ladder_chart(result: Result) -> alt.TopLevelMixin:
    ladder = result.plan.ladder
    rows = [
        (name, steps, median(row[i] for row in losses))
        for name, losses in result.findings.losses.items()
        if not name.endswith(CONTROL)
        for i, steps in enumerate(ladder)
    ]
    table = _lines(rows, ("method", "steps", "loss"))
    target = alt.Chart(pl.DataFrame({"target": [result.findings.target]}))
    chart = alt.layer(
        *_line(table, "steps", "Steps of the run", "Judged loss", result),
        target.mark_rule(strokeDash=[4, 4], color=SOFT).encode(y="target:Q"),
    )
    sized = chart.properties(width=_WIDTH, height=_HEIGHT)
    return styled(sized, "Judged loss against the length of the run, for each method.", True)


def _rate_chart(result: Result) -> alt.TopLevelMixin:
    points = [
        (name, lr, loss)
        for name, found in result.findings.tuning.items()
        for lr, loss in found.losses.items()
    ]
    # Losses above the start would stretch the axis until nothing else can be seen.
    top = result.plan.start_loss
    worked = _lines(
        [point for point in points if math.isfinite(point[2]) and point[2] <= top],
        ("method", "lr", "loss"),
    )
    failed = pl.DataFrame(
        [(name, lr) for name, lr, loss in points if not (math.isfinite(loss) and loss <= top)],
        schema={"method": pl.String, "lr": pl.Float64},
        orient="row",
    )
    crosses = (
        alt.Chart(rounded(failed))
        .mark_point(shape="cross", angle=45, size=50, filled=True)
        .encode(x="lr:Q", y=alt.value(8), color="method:N", tooltip=["method:N", "lr:Q"])
    )
    lines = _line(worked, "lr", "Learning rate", "Judged loss", result)
    chart = alt.layer(*lines, crosses).properties(width=_WIDTH, height=_HEIGHT)
    return styled(chart, "Judged loss against the learning rate, for each method.", True)


def _curve_chart(result: Result) -> alt.TopLevelMixin:
    kept: dict[tuple[str, int], list[float]] = {}
    for trial, outcome in result.findings.outcomes.items():
        if trial.horizon == result.plan.horizon and trial.seed < result.plan.seeds:
            for step, loss in outcome.curve if trial.stream == 0 else ():
                kept.setdefault((trial.method, step), []).append(loss)
    rows = [(name, step, median(losses)) for (name, step), losses in kept.items()]
    table = _lines(rows, ("method", "step", "loss"))
    lines = _line(table, "step", "Step", "Training loss", result, points=False)
    chart = alt.layer(*lines).properties(width=_WIDTH, height=_HEIGHT)
    return styled(chart, "Training loss within a run, for each method.", True)


def _lines(rows: list, names: tuple[str, str, str]) -> pl.DataFrame:
    schema = dict(zip(names, (pl.String, pl.Float64, pl.Float64), strict=True))
    return rounded(pl.DataFrame(rows, schema=schema, orient="row"))


def _domain(table: pl.DataFrame, name: str) -> tuple[float, float]:
    values = table[name].to_list() or [1.0, 10.0]
    low, high = min(values), max(values)
    return (low, high) if low < high else (low - abs(low) / 2 - 1e-9, high + abs(high) / 2 + 1e-9)


def _up(table: pl.DataFrame, field: str, title: str) -> alt.Y:
    """The axis of losses: logarithmic where every loss is positive."""
    low, high = _domain(table, "loss")
    if low <= 0:
        return alt.Y(field, title=title).scale(zero=False, nice=False, domain=[low, high])
    air = (high / low) ** 0.04
    scale = alt.Scale(type="log", nice=False, domain=[low / air, high * air])
    return alt.Y(field, title=title, scale=scale, axis=log_axis(low / air, high * air))


def _line(
    table: pl.DataFrame, x: str, across: str, up: str, result: Result, points: bool = True
) -> list[alt.Chart]:
    """Layers of lines and perhaps points, named at their ends where the names fit."""
    looks = looks_apart({name: look_of(name) for name in result.costs.methods})
    optimizers = {parse_method(name).plain_name: name for name in looks}
    known = {name: parse_method(name).plain_name for name in looks}
    table = table.with_columns(pl.col("method").replace_strict(known).alias("optimizer"))
    direct = labels_fit(len(looks), _HEIGHT)
    drawn = line_encodings(looks, None if direct else alt.Legend(title=None), "method")
    ends = _domain(table, x)
    highlight = alt.selection_point(fields=["method"])
    scale = alt.Scale(type="log", nice=False, domain=list(ends))
    base = alt.Chart(table).encode(
        x=alt.X(f"{x}:Q", title=across, scale=scale, axis=log_axis(*ends)),
        y=_up(table, "loss:Q", up),
        color=drawn["color"],
        opacity=alt.condition(highlight, alt.value(1.0), alt.value(0.12)),
        tooltip=["method:N", f"{x}:Q", "loss:Q"],
    )
    layers = [
        base.mark_line()
        .encode(strokeDash=drawn["strokeDash"], strokeWidth=drawn["strokeWidth"])
        .add_params(highlight)
    ]
    if points:
        marks = base.mark_point(size=48, filled=True)
        layers.append(marks.encode(shape=shapes(optimizers)) if len(optimizers) > 1 else marks)
    if direct and len(table):
        last = table.sort(x).group_by("method", maintain_order=True).last()
        low, high = _domain(table, "loss")
        heights = label_heights(
            dict(last.select("method", "loss").iter_rows()), (low, high), _HEIGHT, low > 0
        )
        layers.append(end_labels(heights, x, ends[1], "loss", looks, "method"))
    return layers


def _tuning_table(result: Result) -> str:
    """The learning rate of each method, and what tuning costs: the expected best of k."""
    tuning = result.findings.tuning
    ks = [k for k in (1, 2, 4, 8, 16) if k <= result.plan.trials]
    rows = []
    for name, found in tuning.items():
        start = result.plan.start_loss
        losses = [loss if math.isfinite(loss) else start for loss in found.losses.values()]
        expected = expected_best(losses)
        edge = " (edge)" if found.edge else ""
        rows.append([name, f"{found.lr:.3g}{edge}", *(f"{expected[k - 1]:.4g}" for k in ks)])
    header = ["method", "learning rate", *(f"best of {k}" for k in ks)]
    note = (
        "<p class='note'>Best of k: the expected lowest loss of k trials drawn from those that "
        "were made (Dodge et al. 2019); how much it falls is what tuning is worth.</p>"
    )
    return html_table(header, rows) + note


def _cost_table(result: Result) -> str:
    rows = []
    for name, cost in result.costs.methods.items():
        if cost.failure:
            continue
        shares = [f"{1000 * cost.seconds:.3g} ms", f"{cost.flops:.3g}"]
        kept = [f"{cost.parameters:,}", f"{cost.state:,}"]
        measured = (result.final_metric(name, metric) for metric in result.metrics)
        shown = ("" if math.isnan(value) else f"{value:.4g}" for value in measured)
        rows.append([name, *shares, *kept, *shown])
    where = escape(result.stored.machines[0]) if result.stored.machines else "this machine"
    header = ["method", "seconds", "flops", "parameters", "state", *result.metrics]
    note = (
        f"<p class='note'>Of one step: seconds as measured, methods in turns, on {where}; flops of "
        "matrix products and convolutions (decompositions are not counted). Parameters of the "
        "model; numbers that the optimizer keeps beside them, factors included.</p>"
    )
    return html_table(header, rows) + note


def _failures(result: Result) -> str:
    rows = [
        [name, f"{failed} of {runs}" if runs else "could not start", escape(why)]
        for name, why, failed, runs in result.failures
    ]
    return html_table(["method", "runs", "what happened"], rows)
