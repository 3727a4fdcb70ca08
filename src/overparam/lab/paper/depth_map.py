"""Where does depth help if everything is tuned? A map over data, powers, optimizers and depths."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

import altair as alt
import polars as pl

from overparam.lab.charts.theme import INK, speed_colour, styled
from overparam.lab.methods import OPTIMIZERS, parse_method
from overparam.lab.paper.claims import Claim, Evidence
from overparam.lab.paper.distances import Interval, is_near_start, speed_up
from overparam.lab.paper.late_phase import LAWFUL, how_often_right
from overparam.lab.paper.results import ExperimentReport, StudyResult
from overparam.lab.paper.studies import MAP_OPTIMIZERS, MAP_POWERS
from overparam.lab.report.page import Section, html_table
from overparam.lab.study import Study
from overparam.lab.summary import tuned

_FASTER, _SLOWER, _OPEN = "faster", "slower", "not decided"


def report(results: Mapping[str, StudyResult]) -> ExperimentReport:
    """The claims and the sections of the map, from every study whose name begins with ``map-``."""
    cells = [result for name, result in results.items() if name.startswith("map-")]
    table = depth_table(cells)
    study = cells[0].study
    iterations, seeds = study.iterations, len(study.seeds)
    return ExperimentReport(
        "Beyond the paper: where depth helps",
        tuple(_claim(table, optimizer) for optimizer in MAP_OPTIMIZERS),
        (
            Section(
                "The map",
                "<p>How many times fewer iterations each depth needs than the same optimizer on "
                f"the plain weight: {iterations:,} iterations, {seeds} seeds, both at the best of "
                f"their learning rates, {_grids(cells)}. "
                "If depth ends lower, this is the length of the run divided by the iterations that "
                "depth takes to reach the final loss of the plain weight. If depth ends higher, it "
                f"is the inverse for the plain weight: below 1, and 1/{iterations:,} for a depth "
                "that does not leave its start. If the two end within 10 % of each other, "
                "iterations are counted to 10 % above the higher end; if both reach a millionth of "
                "the first distance, to that distance.</p>"
                "<p>Every cell is shown. A cell without a dot is decided: every seed is faster, or "
                f"every seed is slower, by a factor of more than {_grid_step(study):.3g}, the step "
                "of the grid (a best learning rate between two that were tried can change a cell "
                "by this much), and the best learning rate of the slower one is neither the "
                "smallest nor the largest tried. By chance, the seeds alone would all fall on the "
                f"same side of 1 in {2 ** (1 - seeds):.0%} of the cells.</p>"
                f"<p>{how_often_right(table)}</p>",
                map_chart(table),
                "Blue: depth is faster. Orange: depth is slower. Dot: not decided. Hover for "
                "intervals. Rule: the end-to-end rule. Factors: an explicit product, as in the "
                "optimizer Factored.",
            ),
            Section("The map in numbers", _numbers(table)),
        ),
    )


def depth_table(results: list[StudyResult]) -> pl.DataFrame:
    """One row per data set, power, optimizer and depth.

    Columns: ``data, power, optimizer, depth`` (a label), ``speed_up, low, high``, ``outcome``,
    ``waits`` (whether a seed of the depth has not left its start), ``edge`` (whether the best lr
    of one of the two is the smallest or the largest tried) and ``predicted`` (the speed-up of
    gradient descent by the law of the late phase, null where it does not speak).
    """
    rows = []
    for result in results:
        edges = {row["method"]: row["edge"] for row in tuned(result.curves).to_dicts()}
        for name in result.study.methods:
            method = parse_method(name)
            if method.depth_kind == "plain":
                continue
            found = speed_up(result.curves, result.optimum, name, method.optimizer)
            at_edge = edges[name], edges[method.optimizer]
            lawful = method.optimizer in LAWFUL
            rows.append(
                {
                    "data": result.study.data,
                    "power": result.study.power,
                    "optimizer": OPTIMIZERS[method.optimizer].label,
                    "depth": f"{method.depth_kind} {method.depth:g}",
                    "speed_up": found.median,
                    "low": found.low,
                    "high": found.high,
                    "outcome": _outcome(found, _grid_step(result.study), *at_edge),
                    "waits": is_near_start(result.curves, result.optimum, name),
                    "edge": any(at_edge),
                    "predicted": result.predict(method.depth) if lawful else None,
                }
            )
    return pl.DataFrame(rows, schema_overrides={"predicted": pl.Float64})


def _grids(results: list[StudyResult]) -> str:
    """The learning rates for each power, which are the same for all data sets."""
    studies = {result.study.power: result.study for result in results}
    return ", ".join(
        f"{len(study.rates)} from {study.rates[0]:.2g} to {study.rates[-1]:.2g} at p = {power:g}"
        for power, study in sorted(studies.items())
    )


def _grid_step(study: Study) -> float:
    """The factor between two neighbouring learning rates."""
    return 10 ** (1 / study.rates_per_decade)


def _outcome(found: Interval, least: float, depth_at_edge: bool, plain_at_edge: bool) -> str:
    """Decided if the factor exceeds ``least`` and a wider grid cannot help the slower one."""
    if found.low > least and not plain_at_edge:
        return _FASTER
    return _SLOWER if found.high < 1 / least and not depth_at_edge else _OPEN


def _claim(table: pl.DataFrame, optimizer: str) -> Claim:
    name = OPTIMIZERS[optimizer].label
    cells = table.filter(pl.col("optimizer") == name)
    evidence, counts = [], Counter(cells["outcome"])
    for outcome, agrees in ((_FASTER, True), (_SLOWER, False), (_OPEN, None)):
        found = cells.filter(pl.col("outcome") == outcome)
        if len(found):
            powers = ", ".join(
                f"p = {power:g}: {(found['power'] == power).sum()}" for power in MAP_POWERS
            )
            text = f"{outcome.capitalize()} in {len(found)} of {len(cells)} cells ({powers})"
            if found["waits"].any():
                text += f"; in {found['waits'].sum()} of them a seed of depth is near its start"
            evidence.append(Evidence(f"{text}.", agrees))
    return Claim(
        f"{name} is faster with depth than without, if both are tuned.",
        "Not asked; a question of ours.",
        tuple(evidence),
        "This is at one horizon: a depth that is still near its start is slower. The map shows "
        "which cells are faster.",
        counts=(counts[_FASTER], counts[_SLOWER], counts[_OPEN]),
        words=("faster in {} of {} cells", "slower in {}"),
    )


def map_chart(table: pl.DataFrame) -> alt.TopLevelMixin:
    """A tile per cell; a panel per data set, optimizers one below the other."""
    shown = table.with_columns(
        pl.format("{}, p = {}", "optimizer", pl.col("power").cast(pl.Int64)).alias("row"),
        pl.col("speed_up", "low", "high").clip(0, 1e6).round_sig_figs(3),
    ).sort("power", maintain_order=True)
    depths = list(dict.fromkeys(table["depth"]))
    optimizers = list(dict.fromkeys(table["optimizer"]))
    powers = sorted(set(table["power"]))
    rows = [f"{name}, p = {power:g}" for name in optimizers for power in powers]
    base = alt.Chart(shown).encode(
        x=alt.X("depth:N", sort=depths, title=None, axis=alt.Axis(labelAngle=-60)),
        y=alt.Y("row:N", sort=rows, title=None, axis=alt.Axis(labelLimit=200)),
        tooltip=[
            alt.Tooltip("data:N", title="Data"),
            alt.Tooltip("row:N", title="Optimizer"),
            alt.Tooltip("depth:N", title="Depth"),
            alt.Tooltip("speed_up:Q", title="Speed-up"),
            alt.Tooltip("low:Q", title="Lowest seed"),
            alt.Tooltip("high:Q", title="Highest seed"),
            alt.Tooltip("waits:N", title="Still near its start"),
            alt.Tooltip("edge:N", title="Best lr at the edge"),
        ],
    )
    tiles = base.mark_rect(stroke="transparent").encode(color=speed_colour("speed_up"))
    dots = base.mark_point(color=INK, size=14, filled=True).transform_filter(
        alt.datum.outcome == _OPEN
    )
    panel = alt.layer(tiles, dots, data=shown).properties(width=190, height=20 * len(rows))
    data = list(dict.fromkeys(table["data"]))
    # Names of rows at each panel, because a narrow page shows the panels below each other.
    chart = panel.facet(alt.Facet("data:N", title=None, sort=data), columns=2)
    about = "Speed-up by depth over data sets, powers and optimizers, as tiles."
    return styled(chart, about, room=170)


def _numbers(table: pl.DataFrame) -> str:
    depths = list(dict.fromkeys(table["depth"]))
    rows, classes = [], {}
    for name, cells in table.group_by(["data", "optimizer", "power"], maintain_order=True):
        for j, outcome in enumerate(cells["outcome"], start=3):
            if outcome == _FASTER:
                classes[len(rows), j] = "best"
        data, optimizer, power = name
        rows.append([str(data), str(optimizer), f"{power:g}", *map(_factor, cells.to_dicts())])
    note = (
        "<p class='note'>Median and range over seeds; then what the law of the late phase "
        "predicts for gradient descent. Bold: decided, faster. In "
        f"{table['edge'].sum()} of {len(table)} cells a best lr lies at the edge of the grid.</p>"
    )
    return note + html_table(["Data", "Optimizer", "p", *depths], rows, classes)


def _factor(cell: dict[str, object]) -> str:
    """A speed-up for people; 0 and infinity mean that one side diverges at every lr."""
    if cell["speed_up"] == 0:
        return "depth diverges"
    if cell["speed_up"] == math.inf:
        return "only depth trains"
    law = "" if cell["predicted"] is None else f", law {cell['predicted']:.3g}"
    return f"{cell['speed_up']:.3g} [{cell['low']:.3g}, {cell['high']:.3g}]{law}"
