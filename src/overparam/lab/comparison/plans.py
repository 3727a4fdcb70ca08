"""What identifies a comparison, and the plan that is fixed before its first trial."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from overparam._files import write_whole
from overparam.lab.comparison.budget import affordable_steps
from overparam.lab.comparison.costs import Cost, Costs, measure
from overparam.lab.comparison.methods import Method
from overparam.lab.comparison.problem import Problem
from overparam.lab.comparison.protocol import Plan
from overparam.lab.comparison.trial import generators_kept, seed_all, seed_for

_MEASURED_SHARE = 0.03  # of the budget


def fingerprint(problem: Problem) -> str:
    """Hash of what can be seen of a problem: the start of the model and the first batch."""
    digest = hashlib.sha256()
    with generators_kept():
        seed_all(seed_for(0, "start"))
        tensors: list[Any] = [*problem.build().state_dict().values()]
        if problem.batches is not None:
            tensors.append(next(problem.stream(0)))
    for tensor in _flat(tensors):
        digest.update(str((tuple(tensor.shape), tensor.dtype)).encode())
        numbers = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        digest.update(numbers.tobytes())
    return digest.hexdigest()


def _flat(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value] if value.ndim and value.numel() else []
    if isinstance(value, Mapping):
        return [tensor for each in value.values() for tensor in _flat(each)]
    if isinstance(value, (list, tuple)):
        return [tensor for each in value for tensor in _flat(each)]
    return []


def stored_plan(
    folder: Path,
    settings: dict[str, Any],
    problem: Problem,
    methods: Sequence[Method],
    seconds: float,
    workers: int,
    overwrite: bool,
) -> tuple[Plan, Costs, str]:
    """The stored plan of this comparison, or a new one, after measuring the methods."""
    file = folder / "plan.json"
    stored = _read_plan(file, settings, overwrite)
    if stored is None:
        costs = measure(problem, [m.name for m in methods], min(5.0, _MEASURED_SHARE * seconds))
        usable = [m for m in methods if not costs.methods[m.name].failure]
        if not any(m.is_baseline for m in usable):
            reasons = {f"{name}: {cost.failure}" for name, cost in costs.methods.items()}
            raise ValueError(
                f"no method without depth can be trained. {'; '.join(sorted(reasons))}"
            )
        steps = settings["steps"] or affordable_steps(
            costs,
            [m.name for m in usable],
            seconds,
            trials=settings["trials"],
            tuning_seeds=settings["tuning_seeds"],
            seeds=settings["seeds"],
            workers=workers,
        )
        if problem.steps is not None:
            steps = min(steps, problem.steps // 2)  # the longest runs are twice as long
        plan, identity = write_plan(folder, settings, costs, methods, steps)
        return plan, costs, identity
    costs = Costs(
        {name: Cost(**stored["costs"]["methods"][name]) for name in settings["methods"]},
        stored["costs"]["start_loss"],
        stored["costs"]["judging"],
    )
    plan, identity = _plan_of(settings, costs, methods, stored["horizon"])
    return plan, costs, identity


def write_plan(
    folder: Path, settings: dict[str, Any], costs: Costs, methods: Sequence[Method], horizon: int
) -> tuple[Plan, str]:
    """Store a plan, in place of an older one; returns it with its identity."""
    stored = {"settings": settings, "horizon": horizon, "costs": dataclasses.asdict(costs)}
    write_whole(folder / "plan.json", json.dumps(stored, indent=2, sort_keys=True).encode())
    return _plan_of(settings, costs, methods, horizon)


def _plan_of(
    settings: dict[str, Any], costs: Costs, methods: Sequence[Method], horizon: int
) -> tuple[Plan, str]:
    """The plan, and the identity of everything that determines its curves."""
    usable = [m for m in methods if not costs.methods[m.name].failure]
    plan = Plan(
        {method.name: method.start for method in usable},
        tuple(method.name for method in usable if method.is_baseline),
        horizon,
        settings["trials"],
        settings["tuning_seeds"],
        settings["seeds"],
        costs.start_loss,
    )
    text = json.dumps([settings, horizon], sort_keys=True)
    return plan, hashlib.sha256(text.encode()).hexdigest()


def _read_plan(file: Path, settings: dict[str, Any], overwrite: bool) -> dict[str, Any] | None:
    if not file.exists():
        return None
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        same = stored["settings"] == settings
    except (ValueError, KeyError, TypeError):
        stored, same = {}, False
    if same:
        return stored
    if not overwrite:
        raise ValueError(
            f"{file.parent} holds another comparison; choose another directory (or --name), or "
            "pass overwrite."
        )
    return None
