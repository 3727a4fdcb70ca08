import dataclasses

import pytest
import torch

from overparam.lab.problems.mnist_cnn.study import (
    SCALES,
    VARIANTS,
    CnnStudy,
    on_digits,
    random_source,
)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"variants": ("plain", "deep")}, r"variants is \('plain', 'deep'\); use some of plain, "),
        ({"variants": ()}, "give at least one"),
        ({"variants": ("plain", "plain")}, "each only once"),
        ({"rates": (0.1, -1.0)}, "use finite numbers above 0"),
        ({"rates": (0.1, 0.1)}, "each only once"),
        ({"seeds": (1, 1)}, r"seeds is \(1, 1\)"),
        ({"channels": (3,)}, "give two numbers"),
        ({"channels": (0, 4)}, "give two numbers"),
        ({"steps": 0}, "steps is 0; use at least 1"),
        ({"side": 0}, "side is 0"),
        ({"hidden": -1}, "hidden is -1"),
        ({"batch": 0}, "batch is 0"),
        ({"epoch": 0}, "epoch is 0"),
        ({"record_every": 0}, "record_every is 0"),
        ({"evaluate_every": 0}, "evaluate_every is 0"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"decay": 0.0}, "decay is 0.0"),
        ({"penalty": float("nan")}, "penalty is nan"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"init_std": 0.0}, "init_std is 0.0"),
        ({"held_out": 0}, "held_out is 0"),
        ({"evaluated": -1}, "evaluated is -1"),
        ({"device": "gpu"}, "device is 'gpu'; use cpu, cuda"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        CnnStudy(**settings)


def test_whole_numbers_and_lists_give_the_same_study():
    assert CnnStudy(penalty=1, rates=[1], seeds=[0]) == CnnStudy(
        penalty=1.0, rates=(1.0,), seeds=(0,)
    )


def test_the_schedule_is_the_tutorials():
    """0.01 * 0.95^epoch, where the first image of the batch decides the epoch of 55,000 images."""
    study = SCALES["paper"]
    for step in (0, 1, 858, 859, 860, 1718, 1719, 5000, 8592):
        epoch = step * 64 // 55_000
        assert study.rate_at(0.01, step) == 0.01 * 0.95**epoch
    assert study.rate_at(0.01, 859) == 0.01
    assert study.rate_at(0.01, 860) == 0.01 * 0.95
    assert study.steps == 10 * 55_000 // 64


def test_record_steps():
    study = dataclasses.replace(SCALES["tiny"], steps=45, record_every=10, evaluate_every=20)
    assert study.record_steps == (0, 1, 2, 4, 8, 10, 20, 30, 40, 45)
    assert [step for step in study.record_steps if study.evaluates(step)] == [0, 20, 40, 45]
    short = dataclasses.replace(study, steps=3, record_every=100)
    assert short.record_steps == (0, 1, 2, 3)
    assert len(SCALES["paper"].record_steps) == 94


def test_scales_have_every_variant_and_several_seeds():
    for study in SCALES.values():
        assert study.variants == tuple(VARIANTS)
        assert len(study.seeds) >= 2
    paper = SCALES["paper"]
    assert (paper.side, paper.channels, paper.hidden, paper.steps) == (28, (32, 64), 512, 8593)


def test_on_digits_changes_the_data_alone():
    replaced = on_digits(SCALES["quick"])
    assert (replaced.data, replaced.held_out) == ("digits", 200)
    assert dataclasses.replace(replaced, data="mnist", held_out=5000) == SCALES["quick"]


def test_random_sources_differ_by_purpose_and_seed_and_repeat():
    def first(seed, purpose):
        return torch.rand(3, generator=random_source(seed, purpose)).tolist()

    assert first(0, "weights") == first(0, "weights")
    others = [
        first(0, "dropout"),
        first(1, "weights"),
        first(-1, "weights"),
        first(2**32, "weights"),
    ]
    assert all(first(0, "weights") != other for other in others)
