from collections import Counter

import polars as pl
import pytest

from overparam.data import load, standardize
from overparam.lab.paper import second_order, timing
from overparam.lab.paper.second_order import (
    BFGS,
    NEWTON,
    load_or_compute_baseline,
    second_order_curves,
)
from overparam.lab.paper.timing import seconds_per_iteration
from overparam.lab.prepare import prepare_study
from overparam.lab.store import StudyDirectory
from overparam.lab.study import Study
from overparam.lab.training.objective import PowerLoss
from overparam.lab.training.optimum import find_optimum


@pytest.mark.parametrize("power", [2.0, 4.0])
def test_both_methods_end_at_the_optimum(power):
    data = standardize(load("diabetes"))
    optimum = find_optimum(data.features, data.targets, power).loss
    curves, seconds = second_order_curves(data, power)
    start = float(data.targets.abs().pow(power).mean())
    for method in (NEWTON, BFGS):
        curve = curves.filter(pl.col("method") == method)
        assert curve["step"].to_list() == list(range(len(curve)))
        assert curve["loss"][0] == pytest.approx(start, rel=1e-12)
        assert curve["loss"][-1] == pytest.approx(optimum, rel=1e-8)
        assert (curve["loss"].diff().drop_nulls() <= 1e-12).all()
        assert seconds[method] > 0


def test_several_outputs_have_no_newton_curve():
    curves, _ = second_order_curves(standardize(load("linnerud")), 4.0)
    assert set(curves["method"]) == {BFGS}


def test_every_method_is_timed():
    methods = ("gd", "rule:2", "adam")
    data = standardize(load("linnerud"))
    found = seconds_per_iteration(Study("linnerud", methods=methods), data, methods)
    assert set(found) == set(methods)
    assert all(value > 0 for value in found.values())


def test_the_clock_sees_training_alone(monkeypatch):
    calls = Counter()
    for name in ("loss", "gradient"):
        plain = getattr(PowerLoss, name)
        monkeypatch.setattr(
            PowerLoss, name, lambda *a, _n=name, _f=plain, **k: calls.update([_n]) or _f(*a, **k)
        )
    # A study this short would end before the clock is stopped.
    study = Study("linnerud", methods=("gd",), iterations=10)
    seconds_per_iteration(study, standardize(load("linnerud")), ["gd"])
    rounds = timing._ROUNDS
    assert calls["gradient"] == rounds * (timing._WARM_UP + timing._STEPS)
    assert calls["loss"] == 2 * rounds  # at the steps 0 and 1 of the warm-up


def test_a_baseline_is_computed_once_and_again_for_other_data(tmp_path, monkeypatch):
    def prepared(data):
        study = Study(data=data, methods=("gd",), iterations=10)
        return prepare_study(study, load(data), StudyDirectory(tmp_path / data))

    first = load_or_compute_baseline(tmp_path / "floor-l4", [prepared("diabetes")])
    assert set(first[1]) == {"gd", NEWTON, BFGS}
    other = load_or_compute_baseline(tmp_path / "floor-l4", [prepared("linnerud")])
    assert set(other[1]) == {"gd", BFGS}
    monkeypatch.setattr(second_order, "second_order_curves", None)
    again = load_or_compute_baseline(tmp_path / "floor-l4", [prepared("linnerud")])
    assert again[0].equals(other[0])
    assert again[1] == other[1]
