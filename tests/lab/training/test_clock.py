import math

import pytest
import torch

from overparam.lab.study import Study
from overparam.lab.training.clock import Clock
from overparam.lab.training.updates import UPDATES

CORRECTIONS = UPDATES["adam"].corrections
CPU = torch.device("cpu")


def clock_of(study, corrections=None):
    return Clock(study, corrections, torch.float64, CPU)


@pytest.mark.parametrize("at_once", [1, 7, 60])
def test_numbers_are_those_of_the_schedule_and_of_adam(at_once):
    study = Study(iterations=120, warm_up=50)
    clock, found = clock_of(study, CORRECTIONS), []
    while len(found) < study.iterations:
        found += clock.next(at_once)
    for step, numbers in enumerate(found[: study.iterations]):
        assert float(numbers.rate) == min(1.0, (step + 1) / 50)
        assert float(numbers.factor) == 1 / (1 - 0.9 ** (step + 1))
        assert float(numbers.divisor) == math.sqrt(1 - 0.999 ** (step + 1))


def test_it_goes_on_from_any_step():
    study = Study(iterations=120, warm_up=50)
    clock, late = clock_of(study, CORRECTIONS), clock_of(study, CORRECTIONS)
    clock.next(31)
    late.set(31)
    assert clock.next(3) == late.next(3)


def test_the_table_ends_where_nothing_changes():
    constant = clock_of(Study(iterations=10**6))
    assert len(constant._table) == 1
    assert constant.next(2) == [(1.0, 1.0, 1.0)] * 2
    adam = clock_of(Study(iterations=10**6), CORRECTIONS)
    assert 36_000 < len(adam._table) < 40_000
    adam.set(10**6)
    assert adam.next(1) == [(1.0, 1.0, 1.0)]


@pytest.mark.parametrize("warm_up", [0, 1, 50])
def test_a_cosine_goes_down_to_zero(warm_up):
    study = Study(iterations=120, warm_up=warm_up, schedule="cosine")
    found = [float(numbers.rate) for numbers in clock_of(study).next(122)]
    assert found[warm_up] == max(found) == 1
    between = (1 + math.cos(35 * math.pi / (120 - warm_up))) / 2
    assert found[warm_up + 35] == pytest.approx(between, rel=1e-15)
    assert found[119] < 0.001
    assert found[120:] == [0, 0]
