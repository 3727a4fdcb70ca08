"""The budget of a comparison: what is cut, and when."""

import dataclasses
from types import SimpleNamespace

import pytest
from support.comparison_cases import play, power_law, small_problem

from overparam.lab import executor
from overparam.lab.comparison import compare, engine, plans, rounds
from overparam.lab.comparison.budget import affordable, cuts, fitted, least, work_left
from overparam.lab.comparison.costs import Cost, Costs
from overparam.lab.comparison.protocol import Outcome, OutOfTimeError, Plan, protocol

METHODS = ["sgd", "sgd+rule:2"]
PLAN = Plan({"a": 0.1, "b": 0.1}, ("a",), 100, seeds=8, start_loss=100.0)
COSTS = Costs({"a": Cost(0.5, 0, 0, 0), "b": Cost(2.0, 0, 0, 0)}, 1.0, 0.0)


def needed(plan, tried):
    return work_left(plan, tried, COSTS)


def test_the_work_that_is_left_is_that_of_the_protocol():
    done = 0.0

    def loss(trial):
        nonlocal done
        done += trial.horizon * COSTS.methods[trial.method].seconds
        return power_law(0, 0.0, 1.0)(dataclasses.replace(trial, method="a"))

    play(PLAN, loss)
    assert done == pytest.approx(work_left(PLAN, 0, COSTS))


def test_a_plan_that_ends_in_time_is_left_alone():
    for tried in (3, 5, 8):
        assert fitted(PLAN, tried, 1e9, needed) == PLAN


def test_after_the_first_round_runs_get_shorter():
    whole = needed(PLAN, 0)
    shorter = fitted(PLAN, 3, whole / 2, needed)
    assert shorter == dataclasses.replace(PLAN, horizon=42)
    assert needed(shorter, 0) <= whole / 2
    # Where they would say nothing, the protocol is cut instead.
    little = fitted(PLAN, 3, needed(PLAN, 3) / 6, needed)
    assert little == dataclasses.replace(least(PLAN), trials=5, horizon=little.horizon)
    assert little.horizon >= 20


def test_later_the_protocol_is_cut_in_its_order():
    assert fitted(PLAN, 6, needed(least(PLAN), 6) - 1, needed).trials == 6
    rest = needed(PLAN, 8)
    no_more = fitted(PLAN, 8, rest, needed)
    assert cuts(PLAN, no_more) == [
        "To keep the budget: more learning rates, where the best is not settled, were left out."
    ]
    fewer = fitted(PLAN, 8, 0.8 * rest, needed)
    assert (fewer.seeds, fewer.rungs) == (6, PLAN.rungs)
    assert needed(fewer, 8) <= 0.8 * rest
    shortest = fitted(PLAN, 8, 0.1 * rest, needed)
    assert (shortest.seeds, len(shortest.rungs)) == (5, 3)
    assert fitted(fewer, 8, 0.8 * rest, needed) == fewer


def test_a_budget_that_does_not_allow_the_whole_protocol_gets_a_smaller_one():
    whole = affordable(PLAN, COSTS, 1e6, 1)
    assert (whole.trials, whole.seeds) == (8, 8)
    assert needed(whole, 0) <= 0.8e6
    small = affordable(PLAN, COSTS, needed(dataclasses.replace(PLAN, horizon=20), 0), 1)
    assert (small.trials, small.seeds) == (5, 5)
    busy = affordable(PLAN, dataclasses.replace(COSTS, busy=2.0), 1e6, 1)
    assert busy.horizon == pytest.approx(whole.horizon / 2, abs=1)
    with pytest.raises(ValueError, match=r"leaves 9 s for training, 0 steps.*use at least \d+ s"):
        affordable(PLAN, COSTS, 9.0, 1)


def test_the_confirmation_can_do_with_its_first_seeds():
    curves = power_law(0, 0.01, 1.3)

    def play_until(seeds):
        game = protocol(PLAN)
        asked = next(game)
        while True:
            answers = [Outcome(curves(t)) if t.seed not in seeds else None for t in asked]
            try:
                asked = game.send(answers)
            except StopIteration as end:
                return end.value

    found = play_until({5, 7})
    assert found.plan.seeds == 5
    assert [len(rows) for rows in found.losses.values()] == [5] * 3
    assert cuts(PLAN, found.plan)[-1] == "To keep the budget: 5 fresh seeds, not 8."
    with pytest.raises(OutOfTimeError, match="1 seeds were confirmed"):
        play_until({1})
    with pytest.raises(OutOfTimeError, match="in tuning"):
        play_until({1_000_001})


def test_workers_that_start_slowly_after_an_interruption_cut_nothing(tmp_path, monkeypatch):
    now, slow = 0.0, 0.0

    def loss(model, batch):
        nonlocal now
        now += 0.001
        inputs, targets = batch
        return (model(inputs) - targets).square().mean()

    def starting(jobs, workers, on_progress, **options):
        def told(cost):
            nonlocal now, slow
            on_progress(cost)
            now, slow = now + slow, 0.0

        return executor.run_jobs(jobs, workers, told, **options)

    for module in (engine, plans, rounds):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(rounds, "run_jobs", starting)
    cost = Cost(0.001, 0.0, 0, 0)
    monkeypatch.setattr(
        plans, "measure", lambda *given: Costs(dict.fromkeys(METHODS, cost), 1.0, 0.0)
    )
    given = {"methods": METHODS, "controls": False, "budget": 200.0, "steps": 20}
    whole = compare(small_problem(loss=loss), directory=tmp_path, **given)
    assert not whole.stored.notes
    trials = sorted((tmp_path / "trials").iterdir(), key=lambda file: file.stat().st_mtime_ns)
    for file in trials[7:]:  # in the middle of a round
        file.unlink()
    slow = 60.0
    again = compare(small_problem(loss=loss), directory=tmp_path, **given)
    assert slow == 0
    assert str(again) == str(whole)


@pytest.mark.parametrize("slower", [2.0, 5.0])
def test_a_machine_that_gets_slower_ends_in_time_and_the_page_says_so(
    tmp_path, monkeypatch, slower
):
    now, step = 0.0, 0.02

    def loss(model, batch):
        nonlocal now
        now += slower * step
        inputs, targets = batch
        return (model(inputs) - targets).square().mean()

    clock = SimpleNamespace(monotonic=lambda: now)
    for module in (engine, plans, rounds):
        monkeypatch.setattr(module, "time", clock)
    cost = Cost(step, 0.0, 0, 0)
    monkeypatch.setattr(
        plans, "measure", lambda *given: Costs(dict.fromkeys(METHODS, cost), 1.0, 0.0)
    )
    given = {"methods": METHODS, "controls": False, "budget": 400.0, "directory": tmp_path}
    result = compare(small_problem(loss=loss), **given)
    assert now < 400
    assert result.warnings()[0].startswith("To keep the budget: runs of ")
    assert result.warnings()[0] in result.save(tmp_path / "report.html").read_text()
    begin = now
    again = compare(small_problem(loss=loss), **given)
    assert str(again) == str(result)
    assert now - begin < 40  # nothing was trained
