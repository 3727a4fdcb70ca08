"""Charts of the MNIST network: cross-entropy and penalty apart, the penalty alone, errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt
import polars as pl

from overparam.lab.charts.study import log_y, rounded
from overparam.lab.charts.theme import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    Look,
    line_encodings,
    log_axis,
    log_ticks,
    styled,
)
from overparam.lab.paper.network_curves import last_over_seeds, over_seeds
from overparam.lab.paper.network_study import AUTHORS_LOSS, AUTHORS_STEPS, METHODS

# Black and grey for the original networks; a dash for each, as colours alone do not tell.
_LOOKS = {
    "plain": Look(BLACK),
    "plain_unpenalized": Look(GREY, (7, 3)),
    "product": Look(ORANGE, shape="diamond"),
    "product_factors": Look(BLUE, (8, 3, 2, 3), shape="square"),
    "product_unpenalized": Look(GREEN, (2, 2), shape="triangle-up"),
}
_TERMS = {
    "loss": ("Sum: the batch loss", Look(BLACK)),
    "penalty": ("Penalty", Look(ORANGE, (7, 3))),
    "cross_entropy": ("Cross-entropy", Look(BLUE, (2, 2))),
}
_POINT = alt.OverlayMarkDef(size=30, filled=True)
_ACROSS = {"step": "Step", "rate": "Learning rate"}
_TRAINED, _ALONE = "trained: batch loss", "penalty alone, without data"


def split_chart(curves: pl.DataFrame) -> alt.TopLevelMixin:
    """Cross-entropy, penalty and their sum against steps, one panel for each method.

    Args:
        curves: at one learning rate.
    """
    terms = [
        over_seeds(curves, name).with_columns(term=pl.lit(label))
        for name, (label, _) in _TERMS.items()
    ]
    # A logarithmic axis cannot show a penalty of zero, and then the sum is the cross-entropy.
    free = [name for name, method in METHODS.items() if method.penalty == "none"]
    repeated = pl.col("method").is_in(free) & (pl.col("term") == _TERMS["loss"][0])
    table = _labelled(pl.concat(terms)).filter((pl.col("low") > 0) & ~repeated)
    drawn = line_encodings(
        dict(_TERMS.values()), alt.Legend(title=None, orient="bottom", columns=3), "term"
    )
    y = log_y("median:Q", "Mean over batches", table, "low", "high")
    panel = _lines(table, _steps(4), y, drawn, "term").properties(width=205, height=200)
    labels = [METHODS[name].label for name in _names(table)]
    panels = panel.facet(alt.Facet("label:N", title=None, sort=labels), columns=3)
    return styled(panels, "Cross-entropy, penalty and their sum against steps, by network.")


def penalty_chart(
    curves: pl.DataFrame, alone: pl.DataFrame, paper_alone: pl.DataFrame | None
) -> alt.TopLevelMixin:
    """The batch loss of every method, and the penalty descended alone, with the authors' values.

    Args:
        curves: at one learning rate.
        alone: the penalty alone, at the size, lr and seeds of the curves.
        paper_alone: the same at the paper's size, for a panel of its own; None if that is the size
            of the curves.
    """
    names, own = _names(curves), _penalties(alone)
    trained = over_seeds(curves, "loss").with_columns(kind=pl.lit(_TRAINED))
    both = _labelled(pl.concat([trained, own]).filter(pl.col("low") > 0))
    about = "Batch loss against steps for each network, the penalty descended alone, and the "
    about += "authors' two values."
    if paper_alone is None:
        panel = _losses(both, names) + _authors(both, names)
        return styled(panel.properties(width=660, height=420), about)
    paper = _labelled(_penalties(paper_alone.filter(pl.col("method").is_in(list(AUTHORS_LOSS)))))
    left = _losses(paper, names) + _authors(paper, names)
    titles = ("The paper's network: penalty alone", "The smaller network of this run")
    panels = (
        panel.properties(width=230, height=380, title=title)
        for panel, title in zip((left, _losses(both, names)), titles, strict=True)
    )
    return styled(alt.hconcat(*panels, spacing=30), about)


def error_chart(curves: pl.DataFrame) -> alt.TopLevelMixin:
    """The test error against steps for every method, at one learning rate."""
    table = _labelled(over_seeds(curves, "test_error")).filter(pl.col("low") > 0)
    shares = table["median"].to_list() or [0.01, 1.0]
    axis = alt.Axis(format=".2~%", values=log_ticks(min(shares), max(shares)))
    y = alt.Y("median:Q", title="Test error", axis=axis, scale=_log())
    chart = _lines(table, _steps(), y, _drawn(_names(table)), points=True)
    return styled(chart.properties(width=660, height=320), "Test error against steps, by network.")


def rate_chart(curves: pl.DataFrame) -> alt.TopLevelMixin:
    """Mean cross-entropy over the run and last test error against the learning rate.

    There is no point if the median is not finite, and no range if a seed diverged.
    """
    titles = {
        "mean_cross_entropy": "Cross-entropy, mean over the run",
        "test_error": "Test error at the end",
    }
    table = _labelled(last_over_seeds(curves)).filter(pl.col("median").is_finite())
    whole = pl.col("high").is_finite()
    table = table.with_columns(pl.when(whole).then(end).alias(end) for end in ("low", "high"))
    rates = sorted(set(curves["rate"]))
    x = alt.X("rate:Q", title="Learning rate", scale=_log(), axis=log_axis(rates[0], rates[-1]))
    panels = []
    for quantity, title in titles.items():
        mine = table.filter(pl.col("quantity") == quantity)
        y = log_y("median:Q", title, mine, "median", "low", "high")
        lines = _lines(mine, x, y, _drawn(_names(curves)), points=True)
        panels.append(lines.properties(width=320, height=300))
    about = "Mean cross-entropy and test error against the learning rate, by network."
    return styled(alt.hconcat(*panels, spacing=30), about)


def _lines(
    table: pl.DataFrame,
    x: alt.X,
    y: alt.Y,
    drawn: Mapping[str, Any],
    detail: str = "label",
    points: bool = False,
) -> alt.LayerChart:
    """Lines of medians with bands over seeds."""
    across = "step" if "step" in table.columns else "rate"
    tips = [
        alt.Tooltip("label:N", title="Network"),
        *([alt.Tooltip(f"{detail}:N", title="Line")] if detail != "label" else []),
        alt.Tooltip(f"{across}:Q", title=_ACROSS[across], format=","),
        alt.Tooltip("median:Q", title="Median over seeds", format=".4g"),
    ]
    base = alt.Chart(rounded(table)).encode(x=x, color=drawn["color"], detail=f"{detail}:N")
    bands = base.mark_area(fillOpacity=0.15, strokeWidth=0).encode(y="low:Q", y2="high:Q")
    lines = base.mark_line(strokeWidth=2, point=_POINT if points else alt.Undefined)
    drawn_lines = lines.encode(y=y, strokeDash=drawn["strokeDash"], tooltip=tips)
    return alt.LayerChart(layer=[bands, drawn_lines])


def _penalties(alone: pl.DataFrame) -> pl.DataFrame:
    return over_seeds(alone, "penalty").with_columns(kind=pl.lit(_ALONE))


def _losses(table: pl.DataFrame, names: list[str]) -> alt.LayerChart:
    """Solid lines for training, dashed lines for the penalty alone."""
    scale = alt.Scale(domain=[_TRAINED, _ALONE], range=[[1, 0], [5, 4]])
    dash = alt.StrokeDash("kind:N", scale=scale, legend=alt.Legend(title="Line"))
    drawn = {**_drawn(names), "strokeDash": dash}
    return _lines(table, _steps(), _loss(table), drawn, "kind")


def _authors(table: pl.DataFrame, names: list[str]) -> alt.LayerChart:
    rows = [
        {"label": METHODS[n].label, "step": AUTHORS_STEPS, "median": loss, "text": f"paper: {loss}"}
        for n, loss in AUTHORS_LOSS.items()
    ]
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=_steps(), y=_loss(table), color=_drawn(names)["color"]
    )
    points = base.mark_point(shape="diamond", size=140, filled=True, opacity=1)
    text = base.mark_text(align="right", dx=-10, dy=16, fontSize=13, fontWeight=600)
    points = points.encode(tooltip=["label:N", "text:N"])
    return alt.LayerChart(layer=[points, text.encode(text="text:N")])


def _names(table: pl.DataFrame) -> list[str]:
    return [name for name in METHODS if name in table["method"].unique()]


def _labelled(table: pl.DataFrame) -> pl.DataFrame:
    labels = {name: method.label for name, method in METHODS.items()}
    return table.with_columns(pl.col("method").replace_strict(labels).alias("label"))


def _drawn(names: list[str]) -> dict[str, Any]:
    looks = {METHODS[name].label: _LOOKS[name] for name in names}
    return line_encodings(looks, alt.Legend(title="Network"))


def _loss(table: pl.DataFrame) -> alt.Y:
    """The axis of losses, which spans the authors' values too."""
    theirs = list(AUTHORS_LOSS.values())
    both = pl.concat([table.select("low", "high"), pl.DataFrame({"low": theirs, "high": theirs})])
    return log_y("median:Q", "Loss", both, "low", "high")


def _steps(ticks: int = 6) -> alt.X:
    axis = alt.Axis(format=",d", labelOverlap=True, tickCount=ticks)
    return alt.X("step:Q", title="Step", scale=alt.Scale(nice=False), axis=axis)


def _log() -> alt.Scale:
    return alt.Scale(type="log", nice=False, padding=8)
