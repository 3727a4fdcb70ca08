"""What identifies a comparison, and the plan that is fixed before its first trial."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from overparam._files import write_whole
from overparam.lab.comparison.budget import affordable, cuts
from overparam.lab.comparison.costs import Cost, Costs, measure
from overparam.lab.comparison.generators import generators_kept, seed_all, seed_for
from overparam.lab.comparison.methods import parse_method
from overparam.lab.comparison.problem import Problem
from overparam.lab.comparison.protocol import Plan
from overparam.lab.comparison.trial import evaluating

_MEASURED_SHARE = 0.03  # of the budget
_FIRST_FORMAT = 2  # its search could end on a coarse grid; what it began is finished by its rules


def fingerprint(problem: Problem) -> str:
    """Hash of what can be seen of a problem: the start of the model and the first batch.

    Of each tensor of floats only a weighted mean counts, to three digits: another processor or
    another version of torch may round differently, and the problem is the same.
    """
    digest = hashlib.sha256()
    with generators_kept():
        seed_all(seed_for(0, "start"))
        model = problem.build()
        tensors: list[Any] = [*model.state_dict().values()]
        if problem.batches is not None:
            tensors.append(next(problem.stream(0)))
        if model is problem.build():
            raise ValueError(
                f"{problem.title}: build returns the same model each time, and every run needs "
                "its own start; make the model within it: build=lambda: Net()."
            )
    for tensor in _flat(tensors):
        digest.update(str((tuple(tensor.shape), tensor.dtype)).encode())
        plain = tensor.detach().cpu().to_dense()
        numbers = (torch.view_as_real(plain) if plain.is_complex() else plain).flatten().double()
        if tensor.is_floating_point():
            weights = torch.arange(len(numbers), dtype=torch.float64).cos() + 2
            sums = (weights @ numbers, weights @ numbers.abs(), weights @ numbers.square())
            digest.update(" ".join(f"{float(each):.2e}" for each in sums).encode())
        else:
            digest.update(str(numbers.tolist()).encode())
    return digest.hexdigest()


def measured(problem: Problem) -> list[str]:
    """What is measured: the loss of the first batch at the start, to three digits, and names.

    It tells a problem from the one that it was before its loss was changed. Of a loop of one's own
    the loss cannot be seen.
    """
    shown = ""
    if problem.batches is not None and problem.loss is not None:
        with generators_kept(), suppress(Exception):  # measuring the methods tells what it is
            seed_all(seed_for(0, "start"))
            model, batch = problem.build(), next(problem.stream(0))
            with evaluating(model):
                penalty = problem.penalty(model) if problem.penalty else 0.0
                shown = f"{float((problem.loss(model, batch) + penalty).detach()):.2e}"
    return [shown, *sorted(problem.evaluate)]


def _flat(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value] if value.ndim and value.numel() else []
    if isinstance(value, Mapping):
        return [tensor for each in value.values() for tensor in _flat(each)]
    if isinstance(value, (list, tuple)):
        return [tensor for each in value for tensor in _flat(each)]
    return []


@dataclass
class PlanFile:
    """The plan of a comparison as it is stored; every change is written at once.

    Attributes:
        file: where it is stored.
        settings: what the user asked for.
        costs: of the methods.
        horizon: steps of the runs of tuning.
        cut: parts of the plan that were changed to keep the budget.
        notes: what was changed, in words.
        machines: on which it was worked.
    """

    file: Path
    settings: dict[str, Any]
    costs: Costs
    horizon: int
    cut: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    machines: list[str] = field(default_factory=list)

    @property
    def plan(self) -> Plan:
        """The plan of the methods that can be trained."""
        return replace(_plan(self.settings, self.costs, self.horizon), **self.cut)

    @property
    def identity(self) -> str:
        """Of everything that determines the curves: not of cuts, which only leave some out."""
        text = json.dumps([self.settings, self.horizon], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def change(self, plan: Plan, why: Sequence[str]) -> None:
        """Store a plan that was cut, or whose runs are shorter."""
        names = ("trials", "seeds", "rungs", "extended")
        full = _plan(self.settings, self.costs, plan.horizon)
        self.cut = {n: getattr(plan, n) for n in names if getattr(plan, n) != getattr(full, n)}
        self.horizon = plan.horizon
        self.notes += why
        self.write()

    def work_here(self) -> None:
        """Note the machine."""
        if machine() not in self.machines:
            self.machines.append(machine())
            self.write()

    def write(self) -> None:
        """Store it, in place of an older one."""
        stored = dataclasses.asdict(self)
        del stored["file"]
        write_whole(self.file, json.dumps(stored, indent=2, sort_keys=True).encode())


def stored_plan(
    folder: Path,
    settings: dict[str, Any],
    problem: Problem,
    workers: int,
    overwrite: bool,
    begin: float,
) -> PlanFile:
    """The stored plan of this comparison, or a new one, after measuring the methods.

    Args:
        folder: of the comparison.
        settings: what the user asked for.
        problem: what is trained.
        workers: processes.
        overwrite: whether to replace the plan of another comparison.
        begin: of the budget, on the clock of ``time.monotonic``.
    """
    file = folder / "plan.json"
    stored = _read_plan(file, settings, overwrite)
    if stored is not None:
        return stored
    seconds = settings["budget"]
    costs = measure(problem, settings["methods"], min(5.0, _MEASURED_SHARE * (seconds or math.inf)))
    if not any(
        parse_method(m).is_baseline for m, cost in costs.methods.items() if not cost.failure
    ):
        reasons = {f"{name}: {cost.failure}" for name, cost in costs.methods.items()}
        raise ValueError(f"no method without depth can be trained. {'; '.join(sorted(reasons))}")
    full = _plan(settings, costs, settings["steps"] or sys.maxsize)
    plan = full
    if seconds is not None:
        plan = affordable(full, costs, seconds - (time.monotonic() - begin), workers)
    steps = min(full.horizon, plan.horizon)
    if problem.steps is not None:
        steps = min(steps, problem.steps // 2)  # the longest runs are twice as long
    made = PlanFile(file, settings, costs, steps)
    made.change(replace(plan, horizon=steps), cuts(replace(full, horizon=plan.horizon), plan))
    return made


def machine() -> str:
    """This machine, and the version of torch, in a line."""
    names = [platform.processor() or platform.machine()]
    if (info := Path("/proc/cpuinfo")).exists():
        lines = info.read_text(errors="replace").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if "model name" in line] or names
    return f"{os.cpu_count()} cores of {names[0]}, torch {torch.__version__}"


def _plan(settings: dict[str, Any], costs: Costs, horizon: int) -> Plan:
    usable = [parse_method(n) for n in settings["methods"] if not costs.methods[n].failure]
    return Plan(
        {method.name: method.start for method in usable},
        tuple(method.name for method in usable if method.is_baseline),
        horizon,
        settings["trials"],
        settings["tuning_seeds"],
        settings["seeds"],
        costs.start_loss,
        refined=settings["format"] > _FIRST_FORMAT,
    )


def stored_budget(folder: Path) -> float | None:
    """The budget of the comparison in a folder, if there is one and it has one."""
    try:
        return json.loads((folder / "plan.json").read_text(encoding="utf-8"))["settings"]["budget"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _read_plan(file: Path, settings: dict[str, Any], overwrite: bool) -> PlanFile | None:
    if not file.exists():
        return None
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        # What older versions began is finished.
        readable = ({**settings, "format": _FIRST_FORMAT}, settings)
        if {"measured": settings["measured"], **stored["settings"]} in readable:
            costs = stored["costs"]
            methods = {name: Cost(**costs["methods"][name]) for name in settings["methods"]}
            stored["costs"] = Costs(**{**costs, "methods": methods})
            if "rungs" in stored["cut"]:
                stored["cut"]["rungs"] = tuple(stored["cut"]["rungs"])
            return PlanFile(file, **stored)
    except (ValueError, KeyError, TypeError):
        pass
    if not overwrite:
        raise ValueError(
            f"{file.parent} holds another comparison; choose another directory (or --name), or "
            "pass --overwrite (in Python, overwrite=True)."
        )
    return None
