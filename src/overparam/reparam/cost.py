"""What a plan costs in seconds, predicted before the model is changed.

The product of factors does not depend on the batch, so it is timed by itself, once for each
distinct layout, on the device and in the dtype of the weight. What the plan adds to a training
step is the sum over its places.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from overparam.factors.layout import Layout
from overparam.reparam.attach import Product
from overparam.reparam.plan import Plan

# Timing stops after this many rounds or seconds for each thing that is timed.
_ROUNDS = 50
_SECONDS = 0.5


@dataclass(frozen=True)
class StepCost:
    """Seconds of forward and backward in one training step.

    Attributes:
        plain: of the model as it is.
        products: that the products would add.
    """

    plain: float
    products: float

    @property
    def predicted(self) -> float:
        """Of the overparameterized model."""
        return self.plain + self.products

    @property
    def ratio(self) -> float:
        """Overparameterized over plain."""
        return self.predicted / self.plain


def predict_step_cost(
    plan: Plan, step: Callable[[], object], *, seconds: float = _SECONDS
) -> StepCost:
    """Predict the cost of a training step of the overparameterized model.

    Args:
        plan: from :func:`plan_overparameterization`; the model is still plain.
        step: runs forward and backward of the plain model once.
        seconds: longest time to spend on each thing that is timed.

    Returns:
        The measured cost of ``step`` and the measured cost of the products.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from overparam.reparam import plan_overparameterization
        >>> model, x = nn.Linear(8, 8), torch.randn(4, 8)
        >>> plan = plan_overparameterization(model)
        >>> cost = predict_step_cost(plan, lambda: model(x).sum().backward(), seconds=0.01)
        >>> cost.ratio > 1
        True
    """
    products = sum(product_seconds(plan, seconds=seconds).values())
    device = plan.entries[0].selected.parameter.device if plan.entries else torch.device("cpu")
    return StepCost(time_call(step, device, seconds), products)


def product_seconds(plan: Plan, *, seconds: float = _SECONDS) -> dict[str, float]:
    """Seconds that each weight's product adds to a training step, forward and backward, by name.

    Every distinct layout is timed once; a tied weight counts at each of its places.
    """
    known: dict[tuple[Layout, torch.dtype, torch.device], float] = {}
    result: dict[str, float] = {}
    for entry in plan.entries:
        weight = entry.selected.parameter
        key = (entry.layout, weight.dtype, weight.device)
        if key not in known:
            known[key] = time_call(product_step(*key), weight.device, seconds)
        result[entry.name] = known[key] * len(entry.selected.sites)
    return result


def time_call(call: Callable[[], object], device: torch.device, seconds: float = _SECONDS) -> float:
    """Fastest wall time of one call, after one to warm up; waits for an accelerator.

    The fastest is what other work on the machine disturbs least.
    """
    times: list[float] = []
    call()
    _wait(device)
    begin = time.perf_counter()
    while len(times) < _ROUNDS and (not times or time.perf_counter() - begin < seconds):
        start = time.perf_counter()
        call()
        _wait(device)
        times.append(time.perf_counter() - start)
    return min(times)


def product_step(layout: Layout, dtype: torch.dtype, device: torch.device) -> Callable[[], None]:
    """Forward and backward of one product, on factors of random numbers."""
    factors = [
        torch.randn(shape, dtype=dtype, device=device, requires_grad=True)
        for shape in layout.shapes
    ]
    gradient = torch.randn(layout.shape, dtype=dtype, device=device)
    product = Product(layout)

    def step() -> None:
        torch.autograd.backward(product(*factors), gradient)

    return step


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
