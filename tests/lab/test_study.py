import dataclasses
import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overparam.lab.study import Study, cut_into_jobs, read_study, study_from_settings

CHANGES = {
    "data": "diabetes",
    "power": 3.0,
    "methods": ("gd", "adam"),
    "iterations": 100,
    "lowest_rate": 1e-4,
    "highest_rate": 0.1,
    "rates_per_decade": 2,
    "more_rates": (0.5,),
    "warm_up": 10,
    "schedule": "cosine",
    "seeds": (0,),
    "dtype": "float64",
    "init": "residual",
    "init_std": 0.02,
    "width": 2,
    "points": 100,
    "runs_per_job": 10,
    "device": "cuda",
}


def test_changes_cover_every_setting():
    assert set(CHANGES) == {field.name for field in dataclasses.fields(Study)}


@pytest.mark.parametrize("name", CHANGES)
def test_identity_changes_with_each_setting(name):
    changed = dataclasses.replace(Study(), **{name: CHANGES[name]})
    assert changed.identity("x") != Study().identity("x")


def test_identity_changes_with_the_data_and_with_nothing_else():
    assert Study().identity("x") != Study().identity("y")
    assert Study().identity("x") == Study().identity("x")
    assert Study(methods=("gd+rule:2.0", "gd")) == Study(methods=("rule:2", "gd"))
    # Equal studies have equal identities, however the numbers are written.
    assert Study(power=4).identity("x") == Study(power=4.0).identity("x")  # pyright: ignore
    assert Study(seeds=[0, 1]).identity("x") == Study(seeds=(0, 1)).identity("x")  # pyright: ignore


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"power": 1.5}, "power is 1.5"),
        ({"power": math.nan}, "power is nan"),
        ({"power": math.inf}, "power is inf"),
        ({"methods": ()}, r"methods is \(\)"),
        ({"methods": ("gd", "gd")}, "remove the repeated one"),
        ({"methods": ("rule:2", "gd+rule:2.0")}, "remove the repeated one"),
        ({"methods": ("adm",)}, "Did you mean 'adam'"),
        ({"seeds": ()}, r"seeds is \(\)"),
        ({"seeds": (1, 1)}, "remove the repeated one"),
        ({"seeds": (2**64,)}, "seeds is "),
        ({"iterations": 0}, "iterations is 0"),
        ({"rates_per_decade": 0}, "rates_per_decade is 0"),
        ({"width": -1}, "width is -1"),
        ({"warm_up": -1}, "warm_up is -1; use 0 for none"),
        ({"warm_up": 20_001}, "warm_up is 20001; .* at most the iterations"),
        ({"schedule": "linear"}, "schedule is 'linear'; use one of constant, cosine"),
        ({"points": 0}, "points is 0"),
        ({"runs_per_job": -1}, "runs_per_job is -1"),
        ({"lowest_rate": 0.0}, "lowest_rate is 0.0"),
        ({"lowest_rate": -1.0}, "lowest_rate is -1.0"),
        ({"lowest_rate": math.nan}, "lowest_rate is nan"),
        ({"lowest_rate": 2.0}, "highest_rate is 1.0; use at least lowest_rate"),
        ({"highest_rate": math.inf}, "highest_rate is inf"),
        (
            {"lowest_rate": 1e-300, "highest_rate": 1e300},
            "lowest_rate is 1e-300; use a value closer",
        ),
        ({"init_std": 0.0}, "init_std is 0.0"),
        ({"init_std": math.inf}, "init_std is inf"),
        ({"dtype": "float16"}, "dtype is 'float16'; use one of float64, float32"),
        ({"init": "zero"}, "init is 'zero'; use one of near_zero, identity, residual"),
        ({"more_rates": (0.1, -1.0)}, "more_rates is"),
        ({"more_rates": (math.inf,)}, "more_rates is"),
        ({"device": "gpu"}, "device is 'gpu'; use cpu, cuda"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Study(**settings)


def test_rates_of_the_default_study():
    rates = Study().rates
    assert len(rates) == 16
    assert rates[:4] == (1e-5, 2.15443e-5, 4.64159e-5, 1e-4)
    assert rates[-1] == 1.0


@settings(max_examples=100, deadline=None, derandomize=True)
@given(low=st.floats(1e-12, 1e3), decades=st.floats(0, 15), per_decade=st.integers(1, 12))
def test_rates_are_a_geometric_grid_within_the_bounds(low, decades, per_decade):
    high = low * 10**decades
    rates = Study(lowest_rate=low, highest_rate=high, rates_per_decade=per_decade).rates
    assert rates[0] == pytest.approx(low, rel=1e-5)
    assert rates[-1] <= high * (1 + 1e-5)
    ratio = 10 ** (1 / per_decade)
    assert rates[-1] * ratio > high * (1 - 1e-5)
    for first, second in itertools.pairwise(rates):
        assert second / first == pytest.approx(ratio, rel=1e-4)


def test_listed_rates_join_the_grid_in_order_and_once():
    study = Study(lowest_rate=1e-2, highest_rate=1, rates_per_decade=1, more_rates=(0.5, 0.1, 2))
    assert study.rates == (0.01, 0.1, 0.5, 1.0, 2.0)


def test_a_single_rate():
    assert Study(lowest_rate=0.1, highest_rate=0.1).rates == (0.1,)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(iterations=st.integers(1, 10**6), points=st.integers(1, 400))
def test_record_steps(iterations, points):
    steps = Study(iterations=iterations, points=points).record_steps
    assert steps[0] == 0
    assert steps[-1] == iterations
    assert all(a < b for a, b in itertools.pairwise(steps))
    assert all(type(step) is int for step in steps)
    assert len(steps) <= points + 2


@settings(max_examples=100, deadline=None, derandomize=True)
@given(size=st.integers(1, 40), seeds=st.integers(1, 3), highest=st.floats(1e-4, 1.0))
def test_jobs_cover_each_run_once_in_a_fixed_order(size, seeds, highest):
    study = Study(
        methods=("gd", "rule:2", "adam"), lowest_rate=1e-4, highest_rate=highest,
        seeds=tuple(range(seeds)), runs_per_job=size,
    )  # fmt: skip
    cut = cut_into_jobs(study)
    assert [work.number for work in cut] == list(range(len(cut)))
    assert all(len(work.runs) == size for work in cut[:-1])
    runs = [run for work in cut for run in work.runs]
    expected = [
        (name, seed, rate) for name in study.methods for seed in study.seeds for rate in study.rates
    ]
    assert [(run.method.name, run.seed, run.rate) for run in runs] == expected
    assert cut_into_jobs(study) == cut


def test_a_toml_file_gives_the_settings(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text('power = 6\nmethods = ["gd", "rule:2.0"]\nseeds = [4]\nlowest_rate = 1e-3\n')
    study = read_study(path)
    expected = Study(power=6.0, methods=("gd", "rule:2"), seeds=(4,), lowest_rate=1e-3)
    assert study == expected
    assert study.identity("x") == expected.identity("x")


def test_settings_survive_the_manifest():
    study = Study(**CHANGES)
    assert study_from_settings(dataclasses.asdict(study), "here") == study


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("power = ", "not a TOML file"),
        ("powr = 4", "unknown setting 'powr'. Did you mean 'power'?"),
        ("zzz = 4", "unknown setting 'zzz'. Known: data, power"),
        ('power = "4"', "power = '4' is not a number; write for example 4.0"),
        ("iterations = 1.5", "iterations = 1.5 is not a whole number; write for example 20000"),
        ("iterations = true", "iterations = True is not a whole number"),
        ('methods = "gd"', "methods = 'gd' is not a list; write for example ['gd', "),
        ("seeds = [0.5]", "seeds = 0.5 is not a whole number"),
        ("[power]\nx = 1", "power = {'x': 1} is not a number"),
        ("power = 1", "power is 1.0; use a finite p >= 2"),
        ("power = inf", "power is inf"),
        ('methods = ["adm"]', "Did you mean 'adam'"),
        ('dtype = "half"', "dtype is 'half'"),
    ],
)
def test_toml_errors_name_the_file_and_the_setting(tmp_path, text, message):
    path = tmp_path / "study.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"study\.toml: ") as error:
        read_study(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_a_binary_file_is_not_toml(tmp_path):
    path = tmp_path / "study.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not a TOML file"):
        read_study(path)
