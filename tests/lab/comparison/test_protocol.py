"""The whole protocol on made-up curves; on a real problem it is benchmarks/comparison.py."""

import math

import pytest
from support.comparison_cases import play, power_law

from overparam.lab.comparison.protocol import CONTROL, Plan, compare_ladders


def plan(**options):
    starts = {"a": 0.1, "b": 0.1, "p": 0.1}
    return Plan(starts, ("a",), 200, start_loss=100.0, **options)


@pytest.mark.parametrize("noise", [0.01, 0.03])
def test_equal_methods_show_no_difference_and_a_planted_speed_up_is_found(noise):
    differ = found = 0
    for repetition in range(40):
        findings = play(plan(), power_law(repetition, noise, planted=1.2))
        differ += findings.speed_ups["b"].decision in ("faster", "slower")
        found += findings.speed_ups["p"].decision == "faster"
    assert differ <= 2  # 5 of 100
    assert found >= 32  # 80 of 100


def test_every_method_gets_the_same_trials_and_fresh_paired_seeds():
    findings = play(plan(), power_law(0, 0.01, planted=1.0))
    counts, seeds = {}, {"tuning": set(), "confirmation": set()}
    for trial in findings.outcomes:
        if trial.stream == 0:
            counts[trial.method] = counts.get(trial.method, 0) + 1
            phase = "confirmation" if trial.lr == findings.tuning[trial.method].lr else "tuning"
            seeds[phase].add(trial.seed)
    assert len(set(counts.values())) == 1
    assert counts["a"] * 200 <= plan().steps_of("a")
    assert seeds["confirmation"] == set(range(5))
    assert not seeds["tuning"] & seeds["confirmation"]


def test_a_start_far_from_the_best_rate_costs_trials_and_not_the_answer():
    """Without them, chance decides which method has the better place on a coarse grid."""
    starts = {"a": 0.001, "b": 0.004, "p": 0.002}
    for refined in (True, False):
        far = Plan(starts, ("a",), 200, start_loss=100.0, refined=refined)
        findings = play(far, power_law(0, 0.0, planted=1.2))
        worst = max(found.gap for found in findings.tuning.values())
        assert worst == pytest.approx(2**0.5) if refined else worst > 1.5
        if refined:
            assert findings.speed_ups["b"].median == pytest.approx(1.0, rel=0.01)
            assert findings.speed_ups["p"].median == pytest.approx(1.2, rel=0.02)
            counts = {len(found.losses) for found in findings.tuning.values()}
            assert counts.pop() > 8
            assert not counts  # the same for all


def test_the_speed_up_is_the_ratio_of_steps_at_equal_loss():
    findings = play(plan(), power_law(0, 0.0, planted=1.3))
    assert findings.speed_ups["p"].median == pytest.approx(1.3, rel=0.01)
    assert findings.speed_ups["b"].median == pytest.approx(1.0)
    assert findings.control.median == pytest.approx(1.0)
    assert findings.losses.keys() == {"a", "b", "p", "a" + CONTROL}


def test_a_method_that_always_fails_is_left_out_and_a_late_failure_counts_as_no_progress():
    good = power_law(0, 0.0, planted=1.0)

    def loss(trial):
        late = trial.method == "p" and trial.horizon > 200
        return math.inf if trial.method == "b" or late else good(trial)

    findings = play(plan(), loss)
    assert findings.tuning["b"].failed
    assert "b" not in findings.speed_ups
    assert findings.speed_ups["p"].median < 1


def test_without_a_baseline_nothing_is_confirmed():
    findings = play(plan(), lambda trial: math.inf)
    assert findings.baseline == ""
    assert not findings.speed_ups


def test_values_outside_of_the_ladder_are_bounds():
    base, slow = [[4.0, 2.0, 1.0]] * 5, [[9.0, 8.0, 7.0]] * 5
    found = compare_ladders((50, 100, 200), base, slow, 2.0)
    assert found.censored == 5
    assert found.median == pytest.approx(0.5)
    assert found.decision == "slower"
    assert (found.unknown, found.known) == (0, True)


@pytest.mark.parametrize("target", [0.5, 9.5])
def test_seeds_for_which_both_are_outside_on_the_same_side_decide_nothing(target):
    base, other = [[4.0, 2.0, 1.0]] * 8, [[9.0, 8.0, 7.0]] * 8
    found = compare_ladders((50, 100, 200), base, other, target)
    assert (found.censored, found.unknown, found.known) == (8, 8, False)
    assert found.decision == "too early"  # although every value is 1
    seen = [[4.0, 2.0, 0.4]] * 4 + base[:4]
    found = compare_ladders((50, 100, 200), seen, other, 0.5)
    assert (found.unknown, found.known, found.decision) == (4, True, "too early")
    assert compare_ladders((50, 100, 200), seen[:4] * 2, other, 0.5).decision == "not faster"
