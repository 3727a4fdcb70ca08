import math

import numpy as np
import pytest

from overparam.lab.comparison.search import FIRST, is_coarse, next_rung, rate, tuned


def search(loss, trials=8):
    found = {rung: loss(rung) for rung in FIRST}
    while len(found) < trials:
        rung = next_rung(found)
        assert rung not in found
        found[rung] = loss(rung)
    return tuned(1.0, found)


@pytest.mark.parametrize("best", [-11.0, -3.2, 0.0, 1.7, 9.4])
def test_the_best_rate_is_found_inside_of_those_tried_wherever_it_is(best):
    found = search(lambda rung: (rung - best) ** 2, trials=10)
    assert not found.edge
    assert 2 * math.log2(found.lr) == pytest.approx(best, abs=1)


def test_a_parabola_is_found_exactly_once_the_grid_is_fine():
    found = search(lambda rung: 3 + 0.1 * (rung - 0.6) ** 2)
    assert 2 * math.log2(found.lr) == pytest.approx(0.6, abs=1e-4)


def test_divergence_above_the_best_rate():
    found = search(lambda rung: math.inf if rung > 1 else -rung, trials=9)
    assert found.lr == rate(1.0, 1)
    assert not found.edge
    assert math.inf in found.losses.values()


def test_when_everything_diverges_smaller_rates_are_tried():
    found = search(lambda rung: math.inf)
    assert found.failed
    assert min(found.losses) < rate(1.0, -30)
    late = search(lambda rung: math.inf if rung > -25 else abs(rung + 30), trials=12)
    assert not late.failed


def test_an_edge_is_reported():
    assert search(lambda rung: -rung).edge


@pytest.mark.parametrize("best", [-11.0, -3.2, 0.0, 1.7, 9.4])
def test_the_grid_is_fine_after_few_more_trials_wherever_the_best_is(best):
    found = {rung: (rung - best) ** 2 for rung in FIRST}
    while is_coarse(found):
        found[rung] = ((rung := next_rung(found)) - best) ** 2
    assert len(found) <= 9
    assert tuned(1.0, found).gap == pytest.approx(2**0.5)
    assert abs(min(found, key=lambda rung: found[rung]) - best) <= 0.5


def test_a_coarse_grid_is_reported():
    assert search(lambda rung: (rung - 8) ** 2, trials=6).gap == pytest.approx(4)
    assert search(lambda rung: -rung).gap == math.inf
    assert is_coarse({})
    assert is_coarse({-4: 1.0, 0: math.inf, 4: math.inf})


def test_noise_moves_the_rate_little():
    source = np.random.default_rng(0)
    rungs = []
    for _ in range(50):
        found = search(lambda rung: 1 + 0.05 * (rung / 2) ** 2 + 0.02 * source.normal())
        rungs.append(2 * math.log2(found.lr))
    assert np.std(rungs) < 1.2
