"""The cells of the atlas as a table, the sentences that follow from it, and the picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import polars as pl

from overparam.lab.charts.theme import BLUE, GREEN, GREY, ORANGE, PINK, SKY, SOFT, VIOLET, styled
from overparam.lab.comparison.methods import DEPTH, parse_method
from overparam.lab.comparison.names import parse_call
from overparam.lab.comparison.result import Result, decided, ratio
from overparam.lab.comparison.statistics import SpeedUp
from overparam.lab.problems.pieces import NORMS
from overparam.lab.verdicts import verdict_of

BEST, OWN = "over the best method without depth", "over the same optimizer without depth"
_WITH = {"rule": "the rule"}
_DECIDED = {"faster": True, "slower": False, "not faster": False, "too early": None}
_SCHEMA = {
    "problem": pl.String, "method": pl.String, "optimizer": pl.String, "kind": pl.String,
    "over": pl.String, "than": pl.String, "decision": pl.String, "median": pl.Float64,
    "low": pl.Float64, "high": pl.Float64, "in_seconds": pl.Float64, "smallest": pl.Float64,
    "censored": pl.Int64, "unknown": pl.Int64, "values": pl.List(pl.Float64), "lr": pl.Float64,
    "edge": pl.Boolean,
    "steps": pl.Int64, "loss": pl.Float64, "loss_than": pl.Float64, "notes": pl.String,
    "machines": pl.String, "metric": pl.String, "measured": pl.Float64, "measured_than": pl.Float64,
}  # fmt: skip


def atlas_table(results: Mapping[str, Result]) -> pl.DataFrame:
    """Two rows for each method with depth: against the best method without, and against its own.

    The first is what the protocol decides. The second is read off the same runs, at the loss that
    the optimizer without depth reached in tuning; it says what depth does to that optimizer, good
    or not.
    """
    rows = [row for name, result in results.items() for row in _rows(name, result)]
    return pl.DataFrame(rows, schema=_SCHEMA)


def _rows(problem: str, result: Result) -> list[dict[str, Any]]:
    findings, rows = result.findings, []
    metric = result.metrics[0] if result.metrics else ""
    for name in sorted(result.deep):
        method, tuned = parse_method(name), findings.tuning[name]
        own = result.over_own(name)
        compared = [(BEST, findings.baseline, findings.speed_ups[name])]
        if own is not None:
            compared.append((OWN, *own))
        for over, than, found in compared:
            seconds = [result.costs.methods[each].seconds for each in (than, name)]
            rows.append({
                "problem": problem, "method": name, "optimizer": own[0] if own else method.base,
                "kind": method.kind, "over": over, "than": than, **_numbers(found),
                "in_seconds": found.median * seconds[0] / seconds[1] if found.known else None,
                "lr": tuned.lr, "edge": tuned.edge, "steps": result.plan.horizon,
                "loss": result.final_loss(name), "loss_than": result.final_loss(than),
                "notes": "\n".join(result.stored.notes),
                "machines": "\n".join(result.stored.machines),
                "metric": metric,
                "measured": result.final_metric(name, metric) if metric else None,
                "measured_than": result.final_metric(than, metric) if metric else None,
            })  # fmt: skip
    return rows


def _numbers(found: SpeedUp) -> dict[str, Any]:
    return {
        "decision": found.decision, "median": found.median if found.known else None,
        "low": found.low, "high": found.high,
        "smallest": found.smallest, "censored": found.censored, "unknown": found.unknown,
        "values": list(found.values),
    }  # fmt: skip


def sentences(table: pl.DataFrame) -> list[str]:
    """The answer to "where does depth help?": for all cells, then for parts of them."""
    depth = pl.col("kind").is_in(DEPTH)
    best, own = (table.filter(pl.col("over") == over) for over in (BEST, OWN))
    lines = [counted("Depth", best.filter(depth), BEST)]
    for optimizer in own["optimizer"].unique(maintain_order=True):
        part = own.filter(depth, pl.col("optimizer") == optimizer)
        if len(part):
            over = f"over {optimizer} without depth"
            lines.append(counted(f"Depth with {optimizer}", part, over))
    if line := _by_norm(own):
        lines.append(line)
    amount = pl.col("method").str.extract(r"\+radial:([\d.]+)$").cast(pl.Float64)
    for what, chosen in (
        ("Random weight factorization", pl.col("kind") == "rwf"),
        ("The stretch along the weight alone (r > 1)", amount > 1),
        ("A smaller step along it (r < 1)", amount < 1),
    ):
        if len(part := own.filter(chosen)):
            lines.append(counted(what, part, "over the same optimizer"))
    if line := _unseen(best.filter(depth, pl.col("problem").str.starts_with("matrix-"))):
        lines.append(line)
    faster = best.filter(depth, pl.col("decision") == "faster")
    kept = faster.filter(pl.col("in_seconds") > 1)
    lines.append(
        f"Of the {len(faster)} cases of depth that are faster in steps than the best method "
        f"without, {len(kept)} are faster in seconds too."
    )
    return lines


def _unseen(cells: pl.DataFrame) -> str:
    """What each kind of depth does to the error of a matrix that was measured in part."""
    known = cells.filter(pl.col("measured").is_not_null()).with_columns(
        (pl.col("measured") / pl.col("measured_than")).alias("ratio")
    )
    parts = [
        f"in {(part['ratio'] < 0.95).sum()} of {len(part)} cases with "
        f"{_WITH.get(part['kind'][0], part['kind'][0])} (more than 5 % higher in "
        f"{(part['ratio'] > 1.05).sum()}, median ratio {part['ratio'].median():.2g})"
        for part in known.partition_by("kind", maintain_order=True)
    ]
    if not parts:
        return ""
    return (
        "In matrix completion the error on unseen entries, and in matrix sensing the error of the "
        "matrix, is more than 5 % lower than with the fastest method without depth "
        f"{' and '.join(parts)}."
    )


def counted(what: str, cells: pl.DataFrame, over: str) -> str:
    """One sentence with its numbers and its verdict."""
    decisions = cells["decision"].to_list()
    count = decisions.count
    verdict = verdict_of(_DECIDED[decision] for decision in decisions)
    known = cells["median"].drop_nulls()
    middle = f", median speed-up {known.median():.2f}" if len(known) else ""
    return (
        f"{what} is faster in {count('faster')} of {len(decisions)} cases, slower in "
        f"{count('slower')}, not faster in {count('not faster')}, undecided in "
        f"{count('too early')} ({over}{middle}): {verdict}."
    )


def _by_norm(own: pl.DataFrame) -> str:
    """What normalization does to the gain of the perceptrons on MNIST-1D."""
    parts = []
    for norm in NORMS:
        here = pl.col("problem").str.starts_with("mnist1d-mlp") & pl.col("problem").str.contains(
            f'norm="{norm}"', literal=True
        )
        cells = own.filter(here, pl.col("kind").is_in(DEPTH), pl.col("median").is_not_null())
        if len(cells):
            shown = ", ".join(
                f"{row['method']} {row['median']:.2f}"
                for row in cells.group_by("method", maintain_order=True)
                .agg(pl.col("median").median())
                .iter_rows(named=True)
            )
            parts.append(f"{norm}: {shown}")
    if len(parts) < 2:
        return ""
    return (
        "Median speed-ups of the perceptrons on MNIST-1D by normalization "
        f"({OWN}): {'; '.join(parts)}."
    )


def picture(table: pl.DataFrame) -> alt.TopLevelMixin:
    """A row for each problem, a dot for each method, and one panel for each comparison.

    It is narrow enough for a telephone.
    """
    problems = table["problem"].unique(maintain_order=True).to_list()
    panels = [_panel(table.filter(pl.col("over") == over), over, problems) for over in (BEST, OWN)]
    chart = alt.vconcat(*panels, spacing=22)
    return styled(chart, "Speed-up of each method with depth on each problem.")


def _panel(cells: pl.DataFrame, over: str, problems: Sequence[str]) -> alt.LayerChart:
    rows = cells.select(
        pl.col("problem").replace_strict({name: short_name(name) for name in problems}),
        *("method", "optimizer", "kind", "than", "decision"),
        *(pl.col(name).clip(0.5, 2).round_sig_figs(4) for name in ("median", "low", "high")),
        pl.col("decision").ne("too early").alias("decided"),
    )
    order = [short_name(name) for name in problems]
    scale = alt.Scale(type="log", domain=[0.48, 2.08], nice=False)
    x = alt.X("median:Q", title=f"Speed-up {over}", scale=scale, axis=_AXIS)
    y = alt.Y("problem:N", title=None, sort=order, axis=alt.Axis(labelLimit=158, grid=True))
    kinds = [kind for kind in _COLOURS if kind in set(cells["kind"])]
    colour = alt.Color(
        "kind:N",
        scale=alt.Scale(domain=kinds, range=[_COLOURS[kind] for kind in kinds]),
        legend=alt.Legend(
            title=None, orient="top", columns=4, symbolType="circle", symbolOpacity=1
        ),
    )
    shape = alt.Shape("optimizer:N", legend=alt.Legend(title=None, orient="bottom", columns=2))
    tooltip = ["problem:N", "method:N", "than:N", "median:Q", "low:Q", "high:Q", "decision:N"]
    strong = alt.condition("datum.decided", alt.value(1.0), alt.value(0.35))
    dots = (
        alt.Chart(rows)
        .mark_point(size=55, filled=True)
        .encode(x=x, y=y, color=colour, shape=shape, opacity=strong, tooltip=tooltip)
    )
    one = alt.Chart(pl.DataFrame({"one": [1.0]})).mark_rule(color=SOFT)
    line = one.encode(x=alt.X("one:Q", scale=scale))
    return alt.LayerChart(layer=[line, dots], width=155, height=alt.Step(24))


_COLOURS = {
    "factors": BLUE,
    "rule": ORANGE,
    "model": GREEN,
    "sides": SKY,
    "kernels": VIOLET,
    "rwf": PINK,
    "radial": GREY,
}
_AXIS = alt.Axis(values=[0.5, 0.7, 1, 1.4, 2], format="~g", titleLimit=330, titleAnchor="end")
CAPTION = (
    "Speed-up in steps at equal loss, median over fresh seeds; right of the line is faster. Pale: "
    "too early to say; what is not known has no dot. At 0.5 and 2 it may be a bound: no run was "
    "longer or shorter. Above, the comparison that the protocol decides; below, the same runs "
    "against their own optimizer."
)


def short_name(problem: str) -> str:
    """The name of a problem on an axis.

    Example:
        >>> short_name('mnist1d-mlp(norm="batch", depth=3)'), short_name("cnn")
        ('mnist1d-mlp batch 3', 'cnn')
    """
    word, options = parse_call(problem, "problem")
    return " ".join([word, *(str(value) for value in options.values())])


HEADER = (
    *("problem", "method", "loss", "also measured", "over the best", "in seconds"),
    "over its own optimizer",
)


def problem_lines(table: pl.DataFrame) -> list[Sequence[str]]:
    """Rows for a table on a page: every cell, whichever way it went."""
    lines = []
    for cell in table.partition_by("problem", "method", maintain_order=True):
        found = {row["over"]: row for row in cell.iter_rows(named=True)}
        best, own = found[BEST], found.get(OWN)
        also = ""
        if best["metric"]:
            also = f"{best['metric']} {best['measured']:.3g} ({best['measured_than']:.3g})"
        seconds = ratio(_speed_up(best), best["in_seconds"] or math.nan)
        numbers = (f"{best['loss']:.4g}", also, _said(best), seconds)
        name = short_name(best["problem"])
        lines.append((name, best["method"], *numbers, _said(own) if own else ""))
    return lines


def _said(row: Mapping[str, Any]) -> str:
    edge = ", lr at the edge" if row["edge"] else ""
    return f"{decided(_speed_up(row))}{edge}"


def _speed_up(row: Mapping[str, Any]) -> SpeedUp:
    names = ("median", "low", "high", "decision", "smallest", "censored", "unknown")
    return SpeedUp(tuple(row["values"]), **{name: row[name] for name in names})
