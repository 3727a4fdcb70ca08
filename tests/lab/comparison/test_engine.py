import dataclasses
import io
import json
import math
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from support.comparison_cases import linear, small_problem, squared
from torch import nn

import overparam.lab
from overparam.lab.cluster import claimed
from overparam.lab.comparison import compare, engine, plans, rounds
from overparam.lab.comparison.budget import seconds_of
from overparam.lab.comparison.costs import measure
from overparam.lab.comparison.trial import TrialJob
from overparam.lab.verdicts import Verdict

QUIET = Console(file=io.StringIO())
SMALL = {
    "methods": ["sgd", "sgd+rule:2"],
    "controls": False,
    "steps": 12,
    "trials": 4,
    "tuning_seeds": 1,
    "seeds": 5,
    "console": QUIET,
}


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (folder / "trials").iterdir()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("compared")
    compare(small_problem(), directory=path, **SMALL)
    return path


@pytest.fixture(scope="module")
def result(folder):
    return compare(small_problem(), directory=folder, **SMALL)


def test_one_sentence_first_that_carries_its_number(result):
    text = str(result)
    assert re.match(r"(Yes|No|Too early to say)\. .*speed-up .*\d", text.splitlines()[0])
    assert result.verdict in Verdict
    assert "A/A: sgd, other batches" in text


def test_the_front_door():
    assert overparam.lab.compare is compare


def test_the_page_answers_in_its_first_line_and_has_the_protocol(result, tmp_path):
    page = result.save(tmp_path / "report.html").read_text(encoding="utf-8")
    assert "does depth make training faster?</h1>" in page
    assert f'<p class="answer">{result.sentence}</p>' in page
    for word in ("Bouthillier", "A/A", "Hesterberg", "AlgoPerf", "modded-nanogpt"):
        assert word in page
    assert page.count("vegaEmbed(") >= 1


def test_finished_runs_are_not_trained_again(folder, monkeypatch):
    monkeypatch.setattr(TrialJob, "train", None)
    compare(small_problem(), directory=folder, **SMALL)


def test_what_the_first_version_began_is_finished_by_its_rules(tmp_path, monkeypatch):
    with monkeypatch.context() as older:
        older.setattr(engine, "_FORMAT", 2)
        begun = compare(small_problem(), directory=tmp_path, **SMALL)
    with monkeypatch.context() as patched:
        patched.setattr(TrialJob, "train", None)
        read = compare(small_problem(), directory=tmp_path, **SMALL)
    assert read.findings == begun.findings
    assert not read.plan.refined
    gaps = [found.gap for found in read.findings.tuning.values()]
    assert any(gap > 1.5 for gap in gaps)
    rough = any(2.1 < gap < math.inf for gap in gaps)
    assert ("is known only roughly" in str(read)) is rough
    with pytest.raises(ValueError, match="holds another comparison"):
        compare(small_problem(), directory=tmp_path, **{**SMALL, "seeds": 6})


def test_an_interrupt_anywhere_gives_the_same_bytes(folder, result, tmp_path, monkeypatch):
    shutil.copy(folder / "plan.json", tmp_path / "plan.json")  # seconds are measured once
    train, left = TrialJob.train, 7

    def interrupted(self, stop, on_cost):
        nonlocal left
        left -= 1
        if left < 0:
            left = 11
            raise KeyboardInterrupt
        return train(self, stop, on_cost)

    monkeypatch.setattr(TrialJob, "train", interrupted)
    stops = 0
    while True:
        try:
            again = compare(small_problem(), directory=tmp_path, **SMALL)
            break
        except KeyboardInterrupt:
            stops += 1
    assert stops >= 3
    assert contents(tmp_path) == contents(folder)
    assert str(again) == str(result)


def test_any_executor_of_pep_3148(folder, tmp_path):
    shutil.copy(folder / "plan.json", tmp_path / "plan.json")
    with ThreadPoolExecutor(1) as executor:  # two threads would share torch's generator
        compare(small_problem(), directory=tmp_path, executor=executor, **SMALL)
    assert contents(tmp_path) == contents(folder)


def test_another_machine_goes_on_with_what_one_has_begun(folder, result, tmp_path, monkeypatch):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    compare(small_problem(), directory=tmp_path, **SMALL)
    assert len(json.loads((tmp_path / "plan.json").read_text())["machines"]) == 1
    gone = next((tmp_path / "trials").iterdir())
    gone.unlink()
    monkeypatch.setattr(plans, "machine", lambda: "64 cores of another kind, torch 9")
    nudged = torch.tensor(1.0 + 1e-6)  # another processor may round differently
    built = small_problem(build=lambda: _scaled(linear(), nudged))
    again = compare(built, directory=tmp_path, **SMALL)
    assert gone.exists()
    warning = next(line for line in again.warnings() if "several machines" in line)
    assert warning.endswith("; 64 cores of another kind, torch 9.")
    assert "several machines" not in str(result)


def _scaled(model, factor):
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(factor)
    return model


def test_another_comparison_in_the_same_folder_is_refused(folder):
    before = (folder / "plan.json").read_bytes()
    for change in ({"seeds": 6}, {"methods": ["sgd", "sgd+rule:3"]}):
        with pytest.raises(ValueError, match="holds another comparison"):
            compare(small_problem(), directory=folder, **{**SMALL, **change})
    with pytest.raises(ValueError, match="holds another comparison"):
        compare(small_problem(build=lambda: nn.Linear(6, 2, False)), directory=folder, **SMALL)
    assert (folder / "plan.json").read_bytes() == before


def test_a_loss_that_was_changed_is_another_comparison(folder, tmp_path):
    changed = {"loss": lambda model, batch: 2 * squared(model, batch)}
    measured = {"evaluate": {"size": lambda model: 1.0}}
    for change in (changed, measured):
        with pytest.raises(ValueError, match="holds another comparison"):
            compare(small_problem(**change), directory=folder, **SMALL)
    # Plans that were begun before it was looked at go on.
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    plan = json.loads((tmp_path / "plan.json").read_text())
    del plan["settings"]["measured"]
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    assert plans.stored_budget(tmp_path) is None
    compare(small_problem(), directory=tmp_path, **SMALL)


def test_a_script_that_was_changed_is_read_again(tmp_path):
    script, losses = tmp_path / "changing.py", []
    for scale in (1.0, 100.0):
        script.write_text(
            "from support.comparison_cases import small_problem, squared\n"
            f"problem = small_problem(loss=lambda *given: {scale} * squared(*given))\n"
        )
        found = compare(str(script), **SMALL)
        losses.append((found.costs.start_loss, found.final_loss("sgd")))
    assert losses[1] == pytest.approx([100 * loss for loss in losses[0]], rel=0.5)


def test_batches_may_have_tensors_of_any_kind():
    complex_one, sparse = torch.ones(3, dtype=torch.cfloat), torch.eye(3).to_sparse()
    seen = {plans.fingerprint(small_problem(batches=[(each,)])) for each in (complex_one, sparse)}
    assert len(seen) == 2


def test_a_method_that_fails_is_shown_and_the_others_go_on():
    methods = ["sgd", "muon", "lbfgs", "sgd+radial:2"]
    result = compare(small_problem(), **{**SMALL, "methods": methods})
    assert {row[0] for row in result.failures} == {"lbfgs"}
    assert "lbfgs could not be trained: TypeError" in str(result)
    assert set(result.ranked) | {result.findings.baseline} == {"sgd", "muon", "sgd+radial:2"}


def test_the_radial_step_of_the_same_depth_is_a_control():
    with pytest.raises(ValueError, match="at least 2"):
        compare(small_problem(), seeds=1)
    result = compare(small_problem(), **{**SMALL, "controls": True, "seeds": 2})
    assert "sgd+radial:2" in result.costs.methods
    assert "decide nothing" in str(result)


def test_a_budget_sets_the_length_of_the_runs(tmp_path, monkeypatch):
    def on_a_quiet_machine(*arguments):
        costs = measure(*arguments)
        methods = {
            name: dataclasses.replace(cost, seconds=2e-4) for name, cost in costs.methods.items()
        }
        return dataclasses.replace(costs, methods=methods, judging=1e-3, busy=1.0)

    monkeypatch.setattr(plans, "measure", on_a_quiet_machine)
    for module in (engine, plans, rounds):  # nor does the time that this machine takes count
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: 0.0))
    given = {**SMALL, "steps": None, "budget": "4s"}
    result = compare(build=linear, loss=squared, data=small_problem().batches, **given)
    assert result.plan.horizon >= 20
    shorter = compare(small_problem(steps=50), directory=tmp_path, **given)
    assert shorter.plan.ladder[-1] <= 50
    assert json.loads((tmp_path / "plan.json").read_text())["horizon"] == shorter.plan.horizon


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": "soon"}, "budget is 'soon'"),
        ({"budget": "0.001s", "steps": None}, "0 steps for each run"),
        ({"methods": ["sgd+rule:2"]}, "add one without depth to compare with, such as 'sgd'"),
        ({"trials": 2}, "trials is 2; use at least 3"),
        ({"steps": 1}, "steps is 1"),
        ({"methods": "sgd"}, r"give a list of names: \['sgd'\]"),
        ({"data": [1]}, "give a problem, or its parts, not both"),
    ],
)
def test_a_setting_that_cannot_be_used_gets_a_remedy(options, message):
    with pytest.raises(ValueError, match=message):
        compare(small_problem(), **{**SMALL, **options})
    with pytest.raises(ValueError, match="give build, loss and data"):
        compare()


def test_every_run_needs_a_model_of_its_own():
    model = linear()
    with pytest.raises(ValueError, match="build returns the same model each time"):
        compare(small_problem(build=lambda: model), **SMALL)


def test_functions_that_cannot_be_sent_to_processes_get_a_remedy():
    with pytest.raises(ValueError, match=r"cannot be sent to other processes.*workers=0"):
        compare(small_problem(build=lambda: linear()), workers=1, **SMALL)


def test_no_baseline_can_be_trained():
    def loss(model, batch):
        raise RuntimeError("shapes do not match")

    with pytest.raises(
        ValueError, match=r"without depth can be trained.*sgd: RuntimeError: shapes"
    ):
        compare(small_problem(loss=loss), **SMALL)


def test_budgets_in_words():
    assert seconds_of("2h") == 7200
    assert torch.is_grad_enabled()


def test_a_directory_at_work_is_refused(tmp_path):
    with claimed(tmp_path), pytest.raises(ValueError, match="is at work in"):
        compare(small_problem(), directory=tmp_path, **SMALL)
