"""Charts of the network: cross-entropy and penalty apart, the penalty alone, errors."""

from __future__ import annotations

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
from overparam.lab.problems.mnist_cnn.study import AUTHORS_LOSS, AUTHORS_STEPS, VARIANTS
from overparam.lab.problems.mnist_cnn.summary import last_over_seeds, over_seeds, with_losses

# Black and grey for the original networks; a dash for each, as colours alone do not tell.
_LOOKS = {
    "plain": Look(BLACK),
    "plain_unpenalized": Look(GREY, (7, 3)),
    "product": Look(ORANGE, shape="diamond"),
    "product_factors": Look(BLUE, (8, 3, 2, 3), shape="square"),
    "product_unpenalized": Look(GREEN, (2, 2), shape="triangle-up"),
}
_TERMS = {"loss": "Sum: the batch loss", "penalty": "Penalty", "cross_entropy": "Cross-entropy"}
_TERM_LOOKS = (Look(BLACK), Look(ORANGE, (7, 3)), Look(BLUE, (2, 2)))
_TRAINED, _ALONE = "trained: batch loss", "penalty alone, without data"
_VARIANT_TITLE = "Network"
_STEPS = "Step"


def split_chart(curves: pl.DataFrame) -> alt.TopLevelMixin:
    """Cross-entropy, penalty and their sum against steps, one panel for each variant.

    Args:
        curves: training curves at one learning rate.
    """
    terms = [
        over_seeds(with_losses(curves), name).with_columns(term=pl.lit(label))
        for name, label in _TERMS.items()
    ]
    # A logarithmic axis cannot show a penalty of zero, and then the sum is the cross-entropy.
    none = [name for name, variant in VARIANTS.items() if variant.penalty == "none"]
    repeated = pl.col("variant").is_in(none) & (pl.col("term") == _TERMS["loss"])
    table = _labelled(pl.concat(terms)).filter((pl.col("low") > 0) & ~repeated)
    names = [name for name in VARIANTS if name in table["variant"].unique()]
    order = [VARIANTS[name].label for name in names]
    looks = dict(zip(_TERMS.values(), _TERM_LOOKS, strict=True))
    drawn = line_encodings(looks, alt.Legend(title=None, orient="bottom", columns=3), "term")
    base = alt.Chart(rounded(table)).encode(
        x=_step_axis(ticks=4),
        color=drawn["color"],
    )
    bands = base.mark_area(fillOpacity=0.2, strokeWidth=0).encode(
        y=log_y("low:Q", "Mean over batches", table, "low", "high"), y2="high:Q"
    )
    lines = base.mark_line(strokeWidth=2).encode(
        y=log_y("median:Q", "Mean over batches", table, "low", "high"),
        strokeDash=drawn["strokeDash"],
        tooltip=[
            alt.Tooltip("label:N", title=_VARIANT_TITLE),
            alt.Tooltip("term:N", title="Term"),
            alt.Tooltip("step:Q", title=_STEPS, format=","),
            alt.Tooltip("median:Q", title="Median over seeds", format=".4g"),
        ],
    )
    panels = (
        alt.layer(bands, lines)
        .properties(width=205, height=200)
        .facet(alt.Facet("label:N", title=None, sort=order), columns=3)
    )
    return styled(panels, "Cross-entropy, penalty and their sum against steps, by network.")


def penalty_chart(
    curves: pl.DataFrame, alone: pl.DataFrame, paper_alone: pl.DataFrame
) -> alt.TopLevelMixin:
    """The batch loss of every variant, and the penalty descended alone, in one figure.

    The authors' two values are shown with the penalty alone at the paper's size. For a study of
    another size this is a second panel.

    Args:
        curves: training curves at one learning rate.
        alone: the penalty alone, at the size, lr and seeds of the curves.
        paper_alone: the penalty alone, at the paper's size and lr.
    """
    names = [name for name in VARIANTS if name in curves["variant"].unique()]
    trained = over_seeds(with_losses(curves), "loss").with_columns(kind=pl.lit(_TRAINED))
    own = over_seeds(alone, "penalty").with_columns(kind=pl.lit(_ALONE))
    paper = over_seeds(paper_alone, "penalty").with_columns(kind=pl.lit(_ALONE))
    shown = pl.col("variant").is_in(names)
    first = _labelled(pl.concat([trained, own]).filter(shown & (pl.col("low") > 0)))
    second = _labelled(paper.filter(pl.col("variant").is_in(list(AUTHORS_LOSS))))
    if _same(own, paper):
        panel = alt.layer(*_lines(first, names), *_authors(first, names)).properties(
            width=660, height=420
        )
        return styled(panel, _PENALTY_DESCRIPTION)
    left = alt.layer(*_lines(second, names), *_authors(second, names)).properties(
        width=230, height=380, title="The paper's network: penalty alone"
    )
    right = alt.layer(*_lines(first, names)).properties(
        width=230, height=380, title="The smaller network of this run"
    )
    return styled(alt.hconcat(left, right, spacing=30), _PENALTY_DESCRIPTION)


_PENALTY_DESCRIPTION = (
    "Batch loss against steps for each network, the penalty descended alone, and the authors' two "
    "values."
)


def error_chart(curves: pl.DataFrame, quantity: str = "test_error") -> alt.TopLevelMixin:
    """Test (or validation) error against steps for every variant.

    Args:
        curves: training curves at one learning rate.
        quantity: ``test_error`` or ``validation_error``.
    """
    table = _labelled(over_seeds(curves, quantity)).filter(
        (pl.col("step") > 0) & (pl.col("low") > 0)
    )
    names = [name for name in VARIANTS if name in table["variant"].unique()]
    title = quantity.replace("_", " ").capitalize()
    base = alt.Chart(rounded(table)).encode(x=_step_axis(), color=_variants(names)["color"])
    shares = table["median"].to_list() or [0.01, 1.0]
    ticks = log_ticks(min(shares), max(shares))
    y = alt.Y("median:Q", title=title, axis=alt.Axis(format=".2~%", values=ticks), scale=_log())
    lines = base.mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=30, filled=True)).encode(
        y=y,
        strokeDash=_variants(names)["strokeDash"],
        tooltip=[
            alt.Tooltip("label:N", title=_VARIANT_TITLE),
            alt.Tooltip("step:Q", title=_STEPS, format=","),
            alt.Tooltip("median:Q", title=title, format=".2%"),
        ],
    )
    bands = base.mark_area(fillOpacity=0.12, strokeWidth=0).encode(y="low:Q", y2="high:Q")
    chart = alt.layer(bands, lines).properties(width=660, height=320)
    return styled(chart, f"{title} against steps, by network.")


def rate_chart(curves: pl.DataFrame) -> alt.TopLevelMixin:
    """Mean cross-entropy over the run and last test error against the learning rate.

    There is no point if the median is not finite, and no range if a seed diverged.

    Args:
        curves: training curves at several learning rates.
    """
    names = [name for name in VARIANTS if name in curves["variant"].unique()]
    titles = {
        "mean_cross_entropy": "Cross-entropy, mean over the run",
        "test_error": "Test error at the end",
    }
    table = _labelled(last_over_seeds(curves)).filter(pl.col("median").is_finite())
    whole = pl.col("high").is_finite()
    table = table.with_columns(pl.when(whole).then(end).alias(end) for end in ("low", "high"))
    rates = tuple(sorted(set(curves["rate"])))
    rates = (rates[0], rates[-1])
    panels = []
    for quantity, title in titles.items():
        mine = table.filter(pl.col("quantity") == quantity)
        base = alt.Chart(rounded(mine)).encode(
            x=alt.X("rate:Q", title="Learning rate", scale=_log(), axis=log_axis(*rates)),
            color=_variants(names)["color"],
        )
        lines = base.mark_line(
            strokeWidth=2, point=alt.OverlayMarkDef(size=40, filled=True)
        ).encode(
            y=log_y("median:Q", title, mine, "median", "low", "high"),
            strokeDash=_variants(names)["strokeDash"],
            tooltip=[
                alt.Tooltip("label:N", title=_VARIANT_TITLE),
                alt.Tooltip("rate:Q", title="Learning rate", format=".3g"),
                alt.Tooltip("median:Q", title=title, format=".4g"),
                alt.Tooltip("diverged:Q", title="Seeds that diverged"),
            ],
        )
        ranges = base.mark_rule(strokeWidth=1.5).encode(y="low:Q", y2="high:Q")
        panels.append(alt.layer(ranges, lines).properties(width=320, height=300))
    description = "Mean cross-entropy and test error against the learning rate, by network."
    return styled(alt.hconcat(*panels, spacing=30), description)


def _lines(table: pl.DataFrame, names: list[str]) -> tuple[alt.Chart, alt.Chart]:
    """Solid lines for training, dashed lines for the penalty alone, with bands over seeds."""
    base = alt.Chart(rounded(table)).encode(x=_step_axis(), color=_variants(names)["color"])
    bands = base.mark_area(fillOpacity=0.15, strokeWidth=0).encode(
        y=_loss_axis("low:Q", table), y2="high:Q", detail="kind:N"
    )
    lines = base.mark_line(strokeWidth=2).encode(
        y=_loss_axis("median:Q", table),
        strokeDash=alt.StrokeDash(
            "kind:N",
            scale=alt.Scale(domain=[_TRAINED, _ALONE], range=[[1, 0], [5, 4]]),
            legend=alt.Legend(title="Line"),
        ),
        tooltip=[
            alt.Tooltip("label:N", title=_VARIANT_TITLE),
            alt.Tooltip("kind:N", title="Line"),
            alt.Tooltip("step:Q", title=_STEPS, format=","),
            alt.Tooltip("median:Q", title="Loss", format=".4g"),
        ],
    )
    return bands, lines


def _authors(table: pl.DataFrame, names: list[str]) -> tuple[alt.Chart, alt.Chart]:
    rows = [
        {
            "label": VARIANTS[name].label,
            "step": AUTHORS_STEPS,
            "loss": value,
            "text": f"paper: {value:g}",
        }
        for name, value in AUTHORS_LOSS.items()
    ]
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=_step_axis(), y=_loss_axis("loss:Q", table), color=_variants(names)["color"]
    )
    points = base.mark_point(shape="diamond", size=140, filled=True, opacity=1).encode(
        tooltip=[alt.Tooltip("label:N", title=_VARIANT_TITLE), alt.Tooltip("text:N", title="Value")]
    )
    text = base.mark_text(align="right", dx=-10, dy=16, fontSize=13, fontWeight=600)
    return points, text.encode(text="text:N")


def _same(own: pl.DataFrame, paper: pl.DataFrame) -> bool:
    """Whether the penalty alone is the same in both tables, so that one panel is enough."""
    keys = ["variant", "rate", "step"]
    both = own.join(paper, on=keys, suffix="_paper")
    return len(both) == len(paper) and bool(
        both.select(
            (
                (pl.col("low") <= pl.col("median_paper"))
                & (pl.col("median_paper") <= pl.col("high"))
            ).all()
        ).item()
    )


def _labelled(table: pl.DataFrame) -> pl.DataFrame:
    labels = {name: variant.label for name, variant in VARIANTS.items()}
    return table.with_columns(pl.col("variant").replace_strict(labels).alias("label"))


def _variants(names: list[str]) -> dict[str, Any]:
    looks = {VARIANTS[name].label: _LOOKS[name] for name in names}
    return line_encodings(looks, alt.Legend(title=_VARIANT_TITLE))


def _loss_axis(field: str, table: pl.DataFrame) -> alt.Y:
    """The axis of losses, which spans the authors' values too."""
    ends = pl.DataFrame({"low": list(AUTHORS_LOSS.values()), "high": list(AUTHORS_LOSS.values())})
    return log_y(field, "Loss", pl.concat([table.select("low", "high"), ends]), "low", "high")


def _step_axis(ticks: int = 6) -> alt.X:
    return alt.X(
        "step:Q",
        title=_STEPS,
        scale=alt.Scale(nice=False),
        axis=alt.Axis(format=",d", labelOverlap=True, tickCount=ticks),
    )


def _log() -> alt.Scale:
    return alt.Scale(type="log", nice=False, padding=8)
