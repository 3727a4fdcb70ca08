import dataclasses
import json
import math

import polars as pl
import pytest
import vl_convert

from overparam.data import load_images
from overparam.lab.executor import run_jobs
from overparam.lab.paper.network_charts import error_chart, penalty_chart, rate_chart, split_chart
from overparam.lab.paper.network_curves import load_curves, with_loss
from overparam.lab.paper.network_study import (
    AUTHORS_STEPS,
    METHODS,
    SCALES,
    alone_jobs,
    training_jobs,
)

STUDY = dataclasses.replace(SCALES["tiny"], rates=(0.01, 0.02))
LABELS = {method.label for method in METHODS.values()}


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs")
    training = training_jobs(STUDY, load_images("digits").fingerprint, path)
    alone = alone_jobs(STUDY, path)
    assert run_jobs([*training, *alone], workers=0)
    return load_curves(training), load_curves(alone)


def one_rate(table):
    return table.filter(pl.col("rate") == 0.01)


def spec_of(chart):
    """The specification of a chart, after drawing it; it must not contain NaN."""
    spec = chart.to_dict()
    assert "<svg" in vl_convert.vegalite_to_svg(spec)
    json.dumps(spec, allow_nan=False)
    assert spec["description"]
    return spec


def rows_of(spec):
    return [row for rows in spec["datasets"].values() for row in rows]


def test_split_chart_has_a_panel_for_every_method(tables):
    rows = rows_of(spec_of(split_chart(one_rate(tables[0]))))
    parts = {(row["label"], row["term"]) for row in rows}
    assert {label for label, _ in parts} == LABELS
    without = METHODS["plain_unpenalized"].label
    assert {part for label, part in parts if label == without} == {"Cross-entropy"}
    assert len({part for label, part in parts if label == METHODS["product"].label}) == 3
    assert all(row["median"] > 0 for row in rows)


def marks_of(panel):
    found = []
    for layer in panel["layer"]:
        found += marks_of(layer) if "layer" in layer else [layer["mark"]["type"]]
    return found


def test_penalty_chart_of_the_papers_size_is_one_panel(tables):
    curves, alone = map(one_rate, tables)
    spec = spec_of(penalty_chart(curves, alone, None))
    assert marks_of(spec) == ["area", "line", "point", "text"]
    lines = {(row["label"], row["kind"]) for row in rows_of(spec) if "kind" in row}
    assert len(lines) == len(METHODS) + 3


def test_penalty_chart_of_another_size_has_the_authors_values_apart(tables):
    curves, alone = map(one_rate, tables)
    left, right = spec_of(penalty_chart(curves, alone, alone))["hconcat"]
    assert marks_of(left) == ["area", "line", "point", "text"]
    assert marks_of(right) == ["area", "line"]
    text = json.dumps(left)
    assert "paper: 1.6" in text
    assert "paper: 0.04" in text
    assert f'"step": {AUTHORS_STEPS}' in text


def test_error_chart(tables):
    rows = rows_of(spec_of(error_chart(one_rate(tables[0]))))
    assert {row["label"] for row in rows} == LABELS
    assert {row["step"] for row in rows} == {20, 40}


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_one_lost_seed_leaves_the_others_in_every_chart(tables, value):
    curves, alone = tables
    third = curves.filter(pl.col("seed") == 0).with_columns(seed=pl.lit(2, pl.Int64))
    lost = (pl.col("method") == "product") & (pl.col("seed") == 1)
    late = lost & (pl.col("step") > 20)
    spoiled = (
        pl.when(late).then(value).otherwise(n).alias(n) for n in ("cross_entropy", "penalty")
    )
    broken = with_loss(pl.concat([curves, third]).with_columns(*spoiled)).with_columns(
        diverged_at=pl.when(lost).then(30).cast(pl.Int64)
    )
    one, label = one_rate(broken), METHODS["product"].label
    for chart in (split_chart(one), penalty_chart(one, one_rate(alone), one_rate(alone))):
        rows = rows_of(spec_of(chart))
        ends = [row for row in rows if row.get("label") == label and row["step"] == STUDY.steps]
        assert ends
        assert all(0 < row["low"] <= row["high"] < 10 for row in ends)
    spec_of(error_chart(one))
    points = [row for row in rows_of(spec_of(rate_chart(broken))) if row["label"] == label]
    assert points
    assert all((row["diverged"], row["low"], row["high"]) == (1, None, None) for row in points)


def test_rate_chart_leaves_out_what_diverged(tables):
    curves = tables[0].with_columns(
        diverged_at=pl.when((pl.col("rate") == 0.02) & (pl.col("method") == "plain")).then(3)
    )
    spec = spec_of(rate_chart(curves))
    assert len(spec["hconcat"]) == 2
    found = {(row["label"], row["rate"]) for row in rows_of(spec)}
    assert (METHODS["plain"].label, 0.01) in found
    assert (METHODS["plain"].label, 0.02) not in found
    assert (METHODS["product"].label, 0.02) in found
