"""The lab trains what is shipped: its batched sweep against the optimizers of the library.

Every method is the chain gradient -> engine of depth -> base optimizer; EndToEnd and Factored are
that chain around an optimizer of torch.
"""

import pytest
import torch

from overparam import EndToEnd, Factored, Radial, end_to_end_update
from overparam.data import load, standardize
from overparam.lab.methods import OPTIMIZERS, parse_method
from overparam.lab.study import Run, Study
from overparam.lab.training.batched import Sweep
from overparam.lab.training.directions import DEPTH_KINDS
from overparam.lab.training.objective import PowerLoss
from overparam.rule.metric import metric_normalized

STEPS = 300
TOLERANCE = 1e-12
INNER = {
    "gd": (torch.optim.SGD, {}),
    "momentum": (torch.optim.SGD, {"momentum": 0.9}),
    "nesterov": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "adagrad": (torch.optim.Adagrad, {}),
    "adadelta": (torch.optim.Adadelta, {}),
    "adam": (torch.optim.Adam, {}),
}
NOT_SHIPPED = {
    "normalized": "a control of the lab: no optimizer of torch divides the gradient by its norm",
    "loss_scaled": "a control of the lab: no optimizer is told the loss and its power",
}
# At its usual rate of 1, AdaDelta makes 1e-2 of a change of the start by 1e-15, in 300 steps.
RATES = {"adam": 1e-2, "adagrad": 3e-2, "adadelta": 0.1}
DEPTHS = {
    "plain": ("",),
    "rule": ("rule:2", "rule:2.5", "rule:3"),
    "rule_normalized": ("rule_normalized:2", "rule_normalized:2.5"),
    "entry": ("entry:2", "entry:2.5"),
    "factors": ("factors:2", "factors:3"),
    "radial": ("radial:0", "radial:0.5", "radial:4"),
}
NOT_SHIPPED_DEPTHS = {
    "norm": "a control of the lab: one factor of the rule without the other",
    "metric": "compared with the pure functions below",
}
NAMES = [
    f"{base}+{engine}".removesuffix("+")
    for base in INNER
    for engines in DEPTHS.values()
    for engine in engines
]


def test_every_name_is_compared_or_has_a_reason():
    assert {*INNER, *NOT_SHIPPED} == set(OPTIMIZERS)
    assert {*DEPTHS, *NOT_SHIPPED_DEPTHS} == set(DEPTH_KINDS)


def shipped(method, layer, rate, start):
    """The optimizer of a method as a user writes it."""
    inner, options = INNER[method.optimizer]
    if method.depth_kind == "plain":
        return inner(layer.parameters(), lr=rate, **options)
    if method.depth_kind == "factors":
        depth = int(method.depth)
        return Factored(layer, rate, inner, depth, init=lambda *_: start, **options)
    if method.depth_kind == "radial":
        return Radial(layer, rate, inner, radial=method.depth, **options)
    how = {"normalize": method.depth_kind == "rule_normalized"}
    if method.depth_kind == "entry":
        how["granularity"] = "entry"
    return EndToEnd(layer, rate, method.depth, inner, **how, **options)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("data", "power"), [("diabetes", 4.0), ("linnerud", 2.0)])
def test_a_run_of_the_lab_is_that_of_the_shipped_optimizer(name, data, power):
    """One output and three, to round-off at every step."""
    problem, method = standardize(load(data)), parse_method(name)
    x, y = problem.features, problem.targets
    rate = RATES.get(method.optimizer, 1e-3)
    study = Study(data, power, iterations=STEPS, points=1, dtype="float64", init_std=0.3)
    # Not alone in its batch, whose runs have rates of their own.
    runs = [Run(method, rate, 0), Run(method, rate / 2, 1)]
    sweep = Sweep(PowerLoss(x, y, power), study, runs)
    start = [each[0].clone() for each in sweep.state_dict()["blocks"][0]["parameters"]]

    layer = torch.nn.Linear(x.shape[1], y.shape[1], bias=False, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(sweep.weights()[0])
    optimizer = shipped(method, layer, rate, start)

    losses, apart = [], 0.0
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = (layer(x) - y).abs().pow(power).sum(dim=1).mean()
        loss.backward()
        losses.append(float(loss.detach()))
        optimizer.step()
        sweep.advance(1)
        found, expected = sweep.weights()[0], layer.weight.detach()
        apart = max(apart, float((found - expected).norm() / expected.norm()))
    assert losses[-1] < 0.98 * losses[0]
    assert apart <= TOLERANCE


def pure_direction(method, weight, gradient):
    """The direction of a rule by the pure functions of the library."""
    update = end_to_end_update(weight, gradient, method.depth, imbalance=method.imbalance)
    return metric_normalized(update, gradient) if method.depth_kind == "metric" else update


@pytest.mark.parametrize("base", ["gd", "momentum", "adam"])
@pytest.mark.parametrize("kind", ["rule:2,lam=1", "rule:2,lam=-0.3", "metric:2", "metric:3"])
@pytest.mark.parametrize(("data", "power"), [("diabetes", 4.0), ("linnerud", 2.0)])
def test_a_run_of_the_lab_is_that_of_the_pure_rule(base, kind, data, power):
    """The rules without an optimizer of their own, in front of one of torch."""
    problem, method = standardize(load(data)), parse_method(f"{base}+{kind}")
    x, y = problem.features, problem.targets
    rate = RATES.get(base, 1e-3)
    study = Study(data, power, iterations=STEPS, points=1, dtype="float64", init_std=0.3)
    balanced = Run(parse_method(f"{base}+rule:2"), rate, 0)
    sweep = Sweep(PowerLoss(x, y, power), study, [balanced, Run(method, rate, 0)])
    weight = torch.nn.Parameter(sweep.weights()[1].clone())
    inner, options = INNER[base]
    optimizer = inner([weight], lr=rate, **options)
    for _ in range(60):  # later Adam at this rate amplifies round-off
        (x @ weight.mT - y).abs().pow(power).sum(dim=1).mean().backward()
        with torch.no_grad():
            weight.grad = pure_direction(method, weight, weight.grad)
        optimizer.step()
        optimizer.zero_grad()
        sweep.advance(1)
        found, expected = sweep.weights()[1], weight.detach()
        assert float((found - expected).norm()) <= TOLERANCE * float(expected.norm())
