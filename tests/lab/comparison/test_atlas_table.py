"""The table of the atlas, against the runs that it is made of."""

import io
from dataclasses import replace

import polars as pl
import pytest
from rich.console import Console
from support.comparison_cases import small_problem

from overparam.lab.comparison import compare
from overparam.lab.comparison.atlas_table import (
    BEST,
    OWN,
    atlas_table,
    counted,
    picture,
    problem_lines,
    sentences,
)
from overparam.lab.comparison.ladder import steps_to
from overparam.lab.comparison.result import decided

METHODS = ["sgd", "momentum", "sgd+rule:2", "momentum+factors:2", "sgd+radial:2"]


def size(model):
    return sum(float(p.square().sum()) for p in model.parameters())


@pytest.fixture(scope="module")
def result():
    return compare(
        replace(small_problem(), evaluate={"size": size}),
        methods=METHODS,
        controls=False,
        steps=12,
        trials=4,
        tuning_seeds=1,
        console=Console(file=io.StringIO()),
    )


@pytest.fixture(scope="module")
def table(result):
    names = [f'mnist1d-mlp(norm="{norm}")' for norm in ("none", "batch")]
    return atlas_table(dict.fromkeys(names, result))


def test_each_method_is_compared_with_the_best_and_with_its_own(table, result):
    one = table.filter(pl.col("problem") == 'mnist1d-mlp(norm="none")')
    assert len(one) == 6
    own = one.filter(pl.col("over") == OWN)
    assert dict(own.select("method", "than").iter_rows()) == {
        "sgd+rule:2": "sgd", "momentum+factors:2": "momentum", "sgd+radial:2": "sgd",
    }  # fmt: skip
    for row in one.filter(pl.col("over") == BEST).iter_rows(named=True):
        assert row["than"] == result.findings.baseline
        assert row["median"] == result.findings.speed_ups[row["method"]].median


def test_the_speed_up_over_its_own_optimizer_is_read_off_the_same_runs(table, result):
    row = table.row(by_predicate=(pl.col("method") == "sgd+rule:2") & (pl.col("over") == OWN)
                    & pl.col("problem").str.contains("none"), named=True)  # fmt: skip
    findings = result.findings
    target = min(findings.tuning["sgd"].losses.values())
    for seed, value in enumerate(row["values"]):
        steps = [
            steps_to(target, result.plan.ladder, findings.losses[name][seed])[0]
            for name in ("sgd", "sgd+rule:2")
        ]
        assert value == pytest.approx(steps[0] / steps[1])
    assert row["loss"] == result.final_loss("sgd+rule:2")
    seconds = [result.costs.methods[name].seconds for name in ("sgd", "sgd+rule:2")]
    assert row["in_seconds"] == pytest.approx(row["median"] * seconds[0] / seconds[1])


def test_the_sentences_carry_their_numbers(table):
    lines = sentences(table)
    assert lines[0].startswith("Depth is faster in ")
    assert " of 4 cases" in lines[0]
    assert any("by normalization" in line and "batch: " in line for line in lines)
    stretch = "The stretch along the weight alone (r > 1) is faster in"
    assert any(line.startswith(stretch) for line in lines)
    cells = pl.DataFrame({"decision": ["faster", "slower", "slower", "too early"],
                          "median": [1.2, 0.5, 0.6, 1.0]})  # fmt: skip
    assert counted("Depth", cells, "over it") == (
        "Depth is faster in 1 of 4 cases, slower in 2, not faster in 0, undecided in 1 (over it, "
        "median speed-up 0.80): mostly no."
    )


def test_what_is_not_known_is_counted_and_enters_no_median(result):
    name, speeds = "sgd+rule:2", result.findings.speed_ups
    hidden = replace(speeds[name], unknown=len(speeds[name].values), decision="too early")
    changed = replace(result, findings=replace(result.findings, speed_ups={**speeds, name: hidden}))
    table = atlas_table({'mnist1d-mlp(norm="none")': changed})
    row = table.row(by_predicate=(pl.col("method") == name) & (pl.col("over") == BEST), named=True)
    assert (row["median"], row["in_seconds"], row["unknown"]) == (None, None, 8)
    (other,) = (speeds[each] for each in result.deep if each not in (name, "sgd+radial:2"))
    assert f"median speed-up {other.median:.2f}): " in sentences(table)[0]
    assert " of 2 cases" in sentences(table)[0]
    (line,) = (line for line in problem_lines(table) if line[1] == name)
    assert line[4:6] == ("not known", "")
    assert picture(table).to_dict()
    alone = table.filter(pl.col("method") == name, pl.col("over") == BEST)
    assert counted("Depth", alone, "over it") == (
        "Depth is faster in 0 of 1 cases, slower in 0, not faster in 0, undecided in 1 (over it): "
        "too early."
    )


def test_random_weight_factorization_has_a_sentence_of_its_own_and_is_not_counted_as_depth(table):
    plain = sentences(table)
    own = table.filter(pl.col("over") == OWN).head(1)
    added = own.with_columns(method=pl.lit("sgd+rwf:1"), kind=pl.lit("rwf"))
    found = sentences(pl.concat([table, added]))
    (line,) = [line for line in found if line not in plain]
    assert line.startswith("Random weight factorization is faster in ")
    assert " of 1 cases" in line


def test_the_picture_has_every_cell(table):
    drawn = picture(table).to_dict()
    points = [row for rows in drawn["datasets"].values() for row in rows if "method" in row]
    assert len(points) == len(table)
    assert {point["problem"] for point in points} == {"mnist1d-mlp none", "mnist1d-mlp batch"}


def test_what_was_not_seen_is_counted_for_matrices(table):
    assert not [line for line in sentences(table) if "unseen" in line]
    matrices = table.with_columns(
        pl.col("problem").str.replace("mnist1d-mlp", "matrix-completion"),
        pl.lit(1.0).alias("measured_than"),
        pl.when(pl.col("method") == "sgd+rule:2").then(0.5).otherwise(1.2).alias("measured"),
    )
    (line,) = (line for line in sentences(matrices) if "unseen" in line)
    assert "in 2 of 2 cases with the rule (more than 5 % higher in 0, median ratio 0.5)" in line
    assert "in 0 of 2 cases with factors (more than 5 % higher in 2, median ratio 1.2)" in line


def test_every_cell_is_a_line_of_the_table(table, result):
    lines = problem_lines(table)
    assert len(lines) == 6
    (metric,) = result.metrics
    for name, method, loss, also, over, _, own in lines:
        found = result.findings.speed_ups[method]
        assert name.startswith("mnist1d-mlp ")
        assert loss == f"{result.final_loss(method):.4g}"
        values = (result.final_metric(each, metric) for each in (method, result.findings.baseline))
        assert also == metric + " {:.3g} ({:.3g})".format(*values)
        assert over.startswith(decided(found))
        assert "] " in own
