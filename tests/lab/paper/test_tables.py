"""The numbers in tables and charts, on curves with known distances."""

import re

import polars as pl
import pytest
from support.reproduce_curves import OPTIMUM, STUDIES, best_rate, depths, study_result

from overparam.lab.paper import controls, initialization, tuned
from overparam.lab.paper.scale import PAPER_RATES
from overparam.lab.paper.tables import grid_table, horizon_table, series

# Seeds at 0.4 and 0.6, 0.2 and 0.3, 0.1 and 0.15.
KNOWN = {
    "1 layer": "0.5 [0.4, 0.6]",
    "2 layers": "0.25 [0.2, 0.3]",
    "3 layers": "0.125 [0.1, 0.15]",
}


def known(name):
    return study_result(name, depths(0.4, 0.2, 0.1), spread=1.5)


def rows_of(html):
    """The cells of every row of every table, including the header."""
    rows = re.findall("<tr>(.*?)</tr>", html)
    return [re.findall("<t[dh][^>]*>(.*?)</t[dh]>", row) for row in rows]


def test_distances_stand_beside_those_of_the_authors():
    made = tuned.report({name: known(name) for name in ("l2-tuned", "l4-tuned")})
    sections = {section.heading: section for section in made.sections}
    for loss, theirs in (
        ("L2", ("2.7e-3", "3.6e-3", "4.1e-3")),
        ("L4", ("3.7e-2", "1.7e-2", "6e-3")),
    ):
        rows = rows_of(sections[f"{loss}, tuned"].body_html)
        assert rows[0][1:] == ["Distance here, 100 iterations", "Authors&#x27; figure, 1,000,000"]
        assert [row[1] for row in rows[1:]] == [
            *KNOWN.values(),
            KNOWN["2 layers"],
            KNOWN["3 layers"],
        ]
        assert [row[2] for row in rows[1:4]] == list(theirs)
    # At step 0 all are equal; after that, the deeper one is lower.
    assert (
        "this order at 3 of 4 shorter horizons (10; 20; 50 iterations), each" in made.claims[1].why
    )
    assert "this order at 0 of 4 shorter horizons, each" in made.claims[0].why


def test_shorter_horizons_have_the_last_distance_recorded_before_them():
    # Geometric: halfway, the distances are the square roots of the last ones, 0.4 and 0.6.
    made = study_result("l4-tuned", depths(0.16, 0.25, 0.25), spread=2.25)
    header, plain = rows_of(horizon_table(made, ["gd"]))
    assert header[1:] == [f"{n} iterations" for n in (1, 10, 20, 50, 100)]
    tenth = f"{(0.16**0.1 + 0.36**0.1) / 2:.3g} [{0.16**0.1:.3g}, {0.36**0.1:.3g}]"
    assert plain[1:] == ["1", tenth, tenth, "0.5 [0.4, 0.6]", "0.26 [0.16, 0.36]"]


@pytest.mark.parametrize("name", ["l2-tuned", "l4-tuned"])
def test_the_grid_table_has_both_grids_and_their_quotient(name):
    rate = best_rate(STUDIES[name])
    # Of the three lrs in the curves, the paper's grid has at most the best one and 1e-4.
    coarse, factor = (KNOWN["1 layer"], "1.00") if rate in PAPER_RATES else ("1 [0.8, 1.2]", "2.00")
    row = rows_of(grid_table(known(name), ["gd"]))[1]
    assert row == ["Gradient descent", f"{rate:.3g}", KNOWN["1 layer"], coarse, factor]
    zero = study_result(name, depths(1e-7, 0.2, 0.1))
    assert rows_of(grid_table(zero, ["gd"]))[1][2:] == ["0", "0", "-"]


def test_lines_of_a_chart_are_distances_over_seeds():
    line = series(known("l4-tuned"), "factors:2", "2 layers").sort("step")
    assert line["label"].unique().to_list() == ["2 layers"]
    assert line["rate"].unique().to_list() == [best_rate(STUDIES["l4-tuned"])]
    assert line["low"].to_list() == pytest.approx([0.2 ** (step / 100) for step in line["step"]])
    assert line["high"].to_list() == pytest.approx([0.3 ** (step / 100) for step in line["step"]])
    assert line["median"][-1] == pytest.approx(0.25)


def test_tables_of_the_initialization():
    near = study_result("l4-near-zero", {"gd": 0.4, "factors:4": 0.2, "factors:8": 0.1}, spread=1.5)
    residual = study_result("l4-residual", {"factors:4": 0.1, "factors:8": 0.2}, spread=1.5)
    made = initialization.report({"l4-near-zero": near, "l4-residual": residual})
    rows = rows_of(made.sections[0].body_html)
    assert [row[1] for row in rows[1:6]] == [
        *KNOWN.values(), KNOWN["3 layers"], KNOWN["2 layers"],
    ]  # fmt: skip
    best = [f"{best_rate(STUDIES[n]):.3g}" for n in ["l4-near-zero"] * 3 + ["l4-residual"] * 2]
    assert [row[2] for row in rows[7:]] == best
    assert "Learning rates were tried up to 1." in made.claims[0].why
    lost = (pl.col("rate") == 1) & (pl.col("method") == "factors:4")
    curves = near.curves.with_columns(diverged_at=pl.when(lost).then(pl.lit(60, pl.Int64)))
    near = type(near)(near.study, curves, OPTIMUM)
    made = initialization.report({"l4-near-zero": near, "l4-residual": residual})
    assert (
        "At learning rates from 1 on, no seed of 4 layers ends below its start."
        in made.claims[0].why
    )


def test_controls_are_listed_from_the_lowest_distance_on():
    ends = {"momentum": 0.04, "nesterov": 0.08, "normalized": 0.16, "loss_scaled": 1.6, "adam": 0.8}
    results = {}
    for loss in ("l2", "l4"):
        results[f"{loss}-tuned"] = known(f"{loss}-tuned")
        results[f"{loss}-controls"] = study_result(f"{loss}-controls", ends, spread=1.5)
        adaptive = {"adagrad": 0.24, "adadelta": 0.32}
        results[f"{loss}-adaptive"] = study_result(f"{loss}-adaptive", adaptive, spread=1.5)
    bfgs = pl.DataFrame({"method": ["BFGS"], "step": [0], "loss": [1.25]})
    made = controls.report(results, {"l2": bfgs, "l4": bfgs}, {})
    rows = rows_of(made.sections[0].body_html)[1:]
    assert rows[0] == ["Heavy ball", "0.05 [0.04, 0.06]"]
    assert ["AdaDelta", "0.4 [0.32, 0.48]"] in rows
    medians = [float(row[1].split()[0]) for row in rows]
    assert medians == sorted(medians)
    assert len(rows) == 5 + 2 + 5
    # With several outputs Newton has no curve, so it has no row (rather than "not reached").
    names = [row[0] for row in rows_of(made.sections[2].body_html)]
    assert [name for name in names if "baseline" in name] == ["BFGS (second-order baseline)"]
