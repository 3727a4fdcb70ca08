"""The batched sweep against the same runs done one by one with torch.optim and autograd."""

import cmath
import dataclasses
import functools
import math

import pytest
import torch
from support.oracles import sum_over_factors

from overparam.factors.balance import near_zero_initialization
from overparam.lab.methods import OPTIMIZERS, parse_method
from overparam.lab.study import DTYPES, Run, Study
from overparam.lab.training.batched import Sweep
from overparam.lab.training.objective import PowerLoss

STEPS = 200
TORCH = {
    "gd": lambda p, lr: torch.optim.SGD(p, lr=lr),
    "momentum": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9),
    "nesterov": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9, nesterov=True),
    "adagrad": lambda p, lr: torch.optim.Adagrad(p, lr=lr),
    "adadelta": lambda p, lr: torch.optim.Adadelta(p, lr=lr),
    "adam": lambda p, lr: torch.optim.Adam(p, lr=lr),
    "normalized": lambda p, lr: torch.optim.SGD(p, lr=lr),
    "loss_scaled": lambda p, lr: torch.optim.SGD(p, lr=lr),
}
METHODS = (*OPTIMIZERS, "rule:2", "rule:2.5", "factors:3", "adam+factors:2")
# For each optimizer an lr so large that its run overflows within a few steps.
TOO_LARGE = 1e200


@pytest.fixture(scope="session")
def wide_data(small_data):
    """Three outputs, so a network of width 2 cannot have full rank."""
    x, y = small_data.features, small_data.targets
    return x, torch.cat((y, x[:, :1] - y, (x[:, 1:2] + 0.1 * y).sin()), dim=1)


def study_of(*methods: str, **changes) -> Study:
    given = {"power": 4.0, "dtype": "float64", "init_std": 0.3, "points": 400, "seeds": (0, 1)}
    return Study("small", methods=methods, iterations=STEPS, **(given | changes))


def sweep_of(study: Study, runs, x, y) -> Sweep:
    return Sweep(PowerLoss(x, y, study.power, DTYPES[study.dtype]), study, runs)


def trained(study: Study, runs, x, y) -> Sweep:
    sweep = sweep_of(study, runs, x, y)
    while not sweep.finished:
        sweep.advance(64)
    return sweep


class Product(torch.nn.Module):
    """A linear network of explicit layers, x -> W_N ... W_1 x."""

    def __init__(self, factors):
        super().__init__()
        self.layers = torch.nn.ModuleList()
        for factor in factors:
            rows, columns = factor.shape
            layer = torch.nn.Linear(columns, rows, bias=False, dtype=torch.float64)
            layer.weight.data.copy_(factor)
            self.layers.append(layer)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x

    def weight(self):
        product = torch.eye(self.layers[0].in_features, dtype=torch.float64)
        for layer in self.layers:
            product = layer.weight.detach() @ product
        return product


def draws(depth, seed, study, x, y):
    generator = torch.Generator().manual_seed(seed)
    factors = near_zero_initialization(
        y.shape[1], x.shape[1], depth, width=study.width or None, std=study.init_std,
        generator=generator, dtype=torch.float64,
    )  # fmt: skip
    near_identity = {"near_zero": [], "identity": factors, "residual": factors[1:]}
    for factor in near_identity[study.init]:
        factor.diagonal().add_(1)
    return factors


def scale_of_gradient(method, network, loss, x, y, power):
    """The factor on the gradient in the scaled controls, from autograd at the product."""
    if method.optimizer == "normalized":
        weight = network.weight().requires_grad_()
        error = x @ weight.T - y
        (gradient,) = torch.autograd.grad(error.abs().pow(power).sum(dim=1).mean(), weight)
        return 1 / gradient.square().sum().sqrt()
    if method.optimizer == "loss_scaled":
        return loss.detach() ** (2 / power - 1)
    return None


def start(method, seed, study, x, y) -> Product:
    depth = method.depth
    if method.depth_kind != "rule":
        return Product(draws(int(depth), seed, study, x, y))
    low = Product(draws(math.floor(depth), seed, study, x, y)).weight()
    high = Product(draws(math.ceil(depth), seed, study, x, y)).weight()
    fraction = depth - math.floor(depth)
    size = low.norm() ** (1 - fraction) * high.norm() ** fraction
    return Product([low / low.norm() * size])


def rule_direction(weight, gradient, depth):
    """The paper's formulas: Claim 2 for one output, the sum of Theorem 1 for several."""
    if weight.shape[0] == 1:
        size = weight.norm()
        unit = weight / size
        return size ** (2 - 2 / depth) * (gradient + (depth - 1) * (gradient * unit).sum() * unit)
    rank = int(torch.linalg.matrix_rank(weight, rtol=1e-9))
    return sum_over_factors(weight, gradient, int(depth), rank)


def factor(study, step):
    """A linear warm-up, and a cosine half wave behind it, as complex numbers give it."""
    if step < study.warm_up:
        return (step + 1) / study.warm_up
    if study.schedule == "constant":
        return 1.0
    turn = (step - study.warm_up) / max(1, STEPS - study.warm_up)
    return abs(1 + cmath.exp(1j * math.pi * turn)) ** 2 / 4


def one_by_one(run: Run, study: Study, x, y):
    """Losses at every step, and the first step at which a weight was not finite."""
    network = start(run.method, run.seed, study, x, y)
    optimizer = TORCH[run.method.optimizer](network.parameters(), run.rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(study, step))
    losses = []
    for step in range(STEPS + 1):
        if not network.weight().isfinite().all():
            return losses, step
        optimizer.zero_grad()
        loss = (network(x) - y).abs().pow(study.power).sum(dim=1).mean()
        loss.backward()
        losses.append(float(loss.detach()))
        scale = scale_of_gradient(run.method, network, loss, x, y, study.power)
        for parameter in network.parameters() if scale is not None else ():
            parameter.grad *= scale
        if run.method.depth_kind == "rule":
            parameter = network.layers[0].weight
            parameter.grad = rule_direction(parameter.detach(), parameter.grad, run.method.depth)
        optimizer.step()
        schedule.step()
    return losses, -1


def assert_same_as_one_by_one(study, runs, x, y, tolerance=1e-10):
    sweep = trained(study, runs, x, y)
    for i, run in enumerate(runs):
        losses, diverged_at = one_by_one(run, study, x, y)
        assert sweep.diverged_at[i] == diverged_at, run
        for j, step in enumerate(study.record_steps):
            found = float(sweep.losses[i, j])
            if step >= len(losses):
                assert math.isnan(found)
            elif losses[step] < 1e100:  # the last steps before an overflow amplify round-off
                assert found == pytest.approx(losses[step], rel=tolerance), (run, step)
    return sweep


CASES = [
    ("gd", 1, (1e-4, 1e-3)),
    ("momentum", 1, (1e-4, 1e-3)),
    ("nesterov", 1, (1e-4, 1e-3)),
    ("adagrad", 1, (1e-2, 1e-1)),
    ("adadelta", 1, (1e-1, 1.0)),
    ("adam", 1, (1e-3, 1e-1)),
    ("rule:1", 1, (1e-4, 1e-3)),
    ("rule:2", 1, (1e-4, 1e-3)),
    ("rule:2.5", 1, (1e-4, 1e-3)),
    ("factors:2", 1, (1e-4, 1e-3)),
    ("factors:3", 1, (1e-4, 1e-3)),
    ("factors:3", 4, (1e-4, 1e-3)),
    ("adam+factors:2", 1, (1e-3, 1e-1)),
    ("momentum+rule:2", 1, (1e-5, 1e-4)),
    ("normalized", 1, (1e-3, 1e-2)),
    ("normalized+factors:2", 1, (1e-3, 1e-2)),
    ("loss_scaled", 1, (1e-3, 1e-2)),
    ("loss_scaled+rule:2", 1, (1e-3, 1e-2)),
]


@pytest.mark.parametrize(("name", "width", "rates"), CASES)
def test_each_method_equals_the_same_run_with_torch_optim(small_data, name, width, rates):
    study = study_of(name, width=width)
    runs = [Run(parse_method(name), rate, seed) for seed in (0, 3) for rate in rates]
    sweep = assert_same_as_one_by_one(study, runs, small_data.features, small_data.targets)
    assert (sweep.losses[:, -1] < sweep.losses[:, 0]).all()


@pytest.mark.parametrize("init", ["identity", "residual"])
@pytest.mark.parametrize(("name", "width"), [("factors:4", 1), ("factors:3", 5), ("rule:3", 5)])
def test_other_initializations(small_data, init, name, width):
    study = study_of(name, init=init, width=width, init_std=0.01)
    runs = [Run(parse_method(name), rate, seed) for seed in (0, 3) for rate in (1e-4, 1e-3)]
    assert_same_as_one_by_one(study, runs, small_data.features, small_data.targets)


@pytest.mark.parametrize("name", ["gd", "momentum", "rule:2", "factors:3", "loss_scaled"])
def test_least_squares(small_data, name):
    """The gradient at p = 2 comes from Gram matrices."""
    study = study_of(name, power=2.0)
    runs = [Run(parse_method(name), rate, 0) for rate in (1e-3, 1e-2)]
    assert_same_as_one_by_one(study, runs, small_data.features, small_data.targets)


SCHEDULES = [(2, "constant"), (50, "constant"), (STEPS, "constant"), (0, "cosine")]


# Every method under warm-up and cosine, and some under every schedule.
@pytest.mark.parametrize(
    ("name", "warm_up", "schedule"),
    [(name, 50, "cosine") for name in (*OPTIMIZERS, "rule:2.5", "adam+factors:2")]
    + [(name, *schedule) for name in ("gd", "adam+factors:2") for schedule in SCHEDULES],
)
def test_a_schedule_is_that_of_torch(small_data, name, warm_up, schedule):
    study = study_of(name, warm_up=warm_up, schedule=schedule)
    runs = [Run(parse_method(name), rate, seed) for rate in (1e-4, 1e-3) for seed in (0, 1)]
    sweep = assert_same_as_one_by_one(study, runs, small_data.features, small_data.targets)
    without = trained(study_of(name), runs, small_data.features, small_data.targets)
    assert not torch.equal(sweep.losses[:, -1], without.losses[:, -1])


@pytest.mark.parametrize(
    ("name", "width"),
    [("gd", 1), ("rule:2", 3), ("rule:3", 2), ("factors:3", 2), ("factors:2", 3),
     ("adam+factors:2", 4), ("adagrad", 1), ("momentum+rule:2", 3)],
)  # fmt: skip
def test_several_outputs(wide_data, name, width):
    study = study_of(name, width=width)
    rate = 1e-2 if name.startswith("ada") else 1e-4
    runs = [Run(parse_method(name), rate, 0), Run(parse_method(name), 2 * rate, 1)]
    assert_same_as_one_by_one(study, runs, *wide_data)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_an_accelerator_gives_the_same_losses(small_data):
    x, y = small_data.features, small_data.targets
    runs = [Run(parse_method(name), 1e-4, 0) for name in METHODS]
    study = study_of(*METHODS)
    objective = PowerLoss(x, y, study.power, DTYPES[study.dtype], "cuda")
    sweep = Sweep(objective, study, runs)
    sweep.advance(STEPS + 1)
    assert sweep.finished
    torch.testing.assert_close(sweep.losses, trained(study, runs, x, y).losses, rtol=1e-9, atol=0)


def test_methods_in_one_sweep_do_not_disturb_each_other(small_data):
    names = list(dict.fromkeys(name for name, width, _ in CASES if width == 1))
    runs = [Run(parse_method(name), rate, 0) for name in names for rate in (1e-5, 1e-4)]
    assert_same_as_one_by_one(study_of(*names), runs, small_data.features, small_data.targets)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rule_of_depth_one_is_gradient_descent_bit_for_bit(small_data, dtype):
    losses = []
    for name in ("gd", "rule:1", "rule_normalized:1", "factors:1"):
        study = study_of(name, dtype=dtype)
        runs = [Run(parse_method(name), rate, 0) for rate in (1e-4, 1e-3, TOO_LARGE)]
        sweep = trained(study, runs, small_data.features, small_data.targets)
        losses.append(sweep.losses.numpy().tobytes())
    assert len(set(losses)) == 1


@pytest.mark.parametrize("depth", [2, 3])
def test_rule_follows_balanced_factors_the_closer_the_smaller_the_rate(small_data, depth):
    """Theorem 1 is exact for gradient flow: over a fixed time the gap is proportional to the lr."""
    x, y = small_data.features, small_data.targets
    names = (f"rule:{depth}", f"factors:{depth}")
    direction = torch.ones(1, 1, 5, dtype=torch.float64) / math.sqrt(5)
    rest = [torch.full((1, 1, 1), 0.5, dtype=torch.float64) for _ in range(depth - 1)]
    gaps = []
    for steps in (250, 500, 1000):
        study = dataclasses.replace(study_of(*names), iterations=steps, points=1)
        runs = [Run(parse_method(name), 0.02 / steps, 0) for name in names]
        sweep = sweep_of(study, runs, x, y)
        state = sweep.state_dict()
        state["blocks"][0]["parameters"] = [0.5**depth * direction]
        state["blocks"][1]["parameters"] = [0.5 * direction, *map(torch.clone, rest)]
        sweep.load_state_dict(state)
        sweep.advance(steps)
        rule, factors = sweep.weights()
        assert sweep.losses[0, -1] < 0.7 * sweep.losses[0, 0]
        gaps.append(float((rule - factors).norm() / rule.norm()))
    assert gaps[0] < 0.05
    assert gaps[0] / gaps[1] == pytest.approx(2, rel=0.1)
    assert gaps[1] / gaps[2] == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("name", METHODS)
def test_a_diverging_run_leaves_and_its_neighbours_stay_exact(small_data, name):
    rates = (1e-4, TOO_LARGE, 2e-4, TOO_LARGE, 3e-4)
    runs = [Run(parse_method(name), rate, 0) for rate in rates]
    sweep = assert_same_as_one_by_one(study_of(name), runs, small_data.features, small_data.targets)
    assert (sweep.diverged_at >= 0).tolist() == [False, True, False, True, False]


@pytest.mark.parametrize("power", [2.0, 4.0, 3.5])
@pytest.mark.parametrize("rate", [0.3, 10.0, 1e5])
def test_the_step_of_divergence_is_exact(small_data, power, rate):
    """A weight near the largest number is still finite, even where the sum of its entries is not.

    At p = 2 the weight grows by a constant factor, so 200 steps overflow only at large rates.
    """
    study = study_of("gd", "momentum", power=power)
    runs = [Run(parse_method(name), rate, 0) for name in ("gd", "momentum")]
    x, y = small_data.features, small_data.targets
    sweep = trained(study, runs, x, y)
    expected = [one_by_one(run, study, x, y)[1] for run in runs]
    assert sweep.diverged_at.tolist() == expected


def test_all_runs_may_diverge(small_data):
    study = study_of("gd")
    runs = [Run(parse_method("gd"), TOO_LARGE, seed) for seed in (0, 1)]
    sweep = trained(study, runs, small_data.features, small_data.targets)
    assert sweep.finished
    assert (sweep.diverged_at > 0).all()
    assert sweep.losses[:, 0].isfinite().all()
    assert sweep.losses[:, -1].isnan().all()


def test_initial_weights_of_the_methods_are_related_as_documented(small_data):
    x, y = small_data.features, small_data.targets
    study = study_of("gd")

    def parameters(name, width=1, seed=0):
        runs = [Run(parse_method(name), 1e-3, seed)]
        sweep = sweep_of(study_of(name, width=width), runs, x, y)
        return sweep.state_dict()["blocks"][0]["parameters"], sweep.weights()

    def weight(name, width=1, seed=0):
        return parameters(name, width, seed)[1]

    close = functools.partial(torch.testing.assert_close, rtol=1e-14, atol=0)
    plain = weight("gd")
    for name in ("adam", "momentum", "rule:1", "factors:1", "norm:1", "radial:0", "adam+radial:4"):
        assert torch.equal(weight(name), plain)
    for depth in (2, 3):
        factors, product = parameters(f"factors:{depth}")
        assert torch.equal(factors[0], plain)
        # Not bit for bit: processors add up a product of padded factors in different orders.
        close(weight(f"rule:{depth}"), product)
        close(weight(f"adam+factors:{depth}"), product)
        wide = weight(f"factors:{depth}", width=4)
        close(weight(f"rule:{depth}", width=4), wide)
    between = weight("rule:2.5")
    low, high = weight("rule:2"), weight("rule:3")
    assert float(between.norm()) == pytest.approx(float((low.norm() * high.norm()).sqrt()))
    torch.testing.assert_close(between / between.norm(), low / low.norm())
    assert not torch.equal(plain, weight("gd", seed=1))
    assert float(plain.norm()) == pytest.approx(study.init_std * math.sqrt(5), rel=0.9)


def test_float32_is_close_to_float64_and_losses_are_float64(small_data):
    names = ("gd", "rule:2", "rule:2.5", "factors:3", "adam", "adagrad")
    runs = [Run(parse_method(name), 1e-4, 0) for name in names]
    x, y = small_data.features, small_data.targets
    single = trained(study_of(*names, dtype="float32"), runs, x, y)
    double = trained(study_of(*names), runs, x, y)
    assert single.losses.dtype == torch.float64
    torch.testing.assert_close(single.losses, double.losses, rtol=1e-5, atol=0)
    assert not torch.equal(single.losses, double.losses)
