"""The bookkeeping of predicted costs; the times themselves are compared in benchmarks/."""

import pytest
import torch
from support.unusual_layers import Tied
from torch import nn

from overparam.reparam import (
    StepCost,
    plan_overparameterization,
    predict_step_cost,
    product_seconds,
)
from overparam.reparam import cost as cost_module


def test_each_layout_is_timed_once_and_each_place_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = []

    def fake_time(call, device: torch.device, seconds: float) -> float:
        call()
        timed.append((device.type, seconds))
        return 2.0

    monkeypatch.setattr(cost_module, "time_call", fake_time)
    model = nn.ModuleList([nn.Linear(3, 2), nn.Linear(3, 2), nn.Linear(3, 4), Tied()])
    plan = plan_overparameterization(model, targets="all")
    assert product_seconds(plan, seconds=0.1) == {
        "0.weight": 2.0,
        "1.weight": 2.0,
        "2.weight": 2.0,
        "3.embed.weight": 4.0,
    }
    assert timed == [("cpu", 0.1)] * 3
    cost = predict_step_cost(plan, lambda: None)
    assert (cost.plain, cost.products, cost.predicted, cost.ratio) == (2.0, 10.0, 12.0, 6.0)
    assert cost == StepCost(2.0, 10.0)


def test_timing_stops() -> None:
    calls = []
    cost_module.time_call(lambda: calls.append(None), torch.device("cpu"), seconds=0.0)
    assert 2 <= len(calls) <= 60
