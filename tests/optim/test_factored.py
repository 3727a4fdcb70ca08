"""Factored against the same network with explicit factors, and expand and collapse."""

import copy

import pytest
import torch
from support.optim_cases import (
    TARGETS,
    TOKENS,
    assert_same_bits,
    mixed,
    mixed_loss,
    parameters_of,
    run,
    weight_with_gradient,
)
from torch import Tensor, nn
from torch.func import functional_call

from overparam import balanced_factors, factor_product, imbalance
from overparam.factors.balance import near_zero_initialization
from overparam.layers import select_parameters
from overparam.optim import EndToEnd, Factored

INNER = {
    "sgd": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9}),
    "nesterov": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    "adam": (torch.optim.Adam, {"lr": 0.01, "weight_decay": 0.1}),
    "adamw": (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
}


class Explicit:
    """The mixed network with every matrix as an explicit product, trained by autograd."""

    def __init__(self, model: nn.Module, depth: int) -> None:
        chosen = select_parameters(model).selected
        self.views = {entry.name: entry.view for entry in chosen}
        self.model, self.factors = model, {}
        for name, p in model.named_parameters():
            view = self.views.get(name)
            if view is None:
                self.factors[name] = [nn.Parameter(p.detach().clone())]
                continue
            factors = balanced_factors(view.split(p.detach()), depth)
            factors = [f[0] for f in factors] if view.batch == 1 else factors
            self.factors[name] = [nn.Parameter(f.contiguous()) for f in factors]

    def parameters(self) -> list[Tensor]:
        return [factor for factors in self.factors.values() for factor in factors]

    def weights(self) -> dict[str, Tensor]:
        weights = {}
        for name, factors in self.factors.items():
            view, product = self.views.get(name), factors[0]
            if view is not None:
                product = factor_product(factors)
                product = view.join(product[None] if view.batch == 1 else product)
            weights[name] = product
        return weights

    def loss(self) -> Tensor:
        output = functional_call(self.model, self.weights(), (TOKENS,))
        return nn.functional.cross_entropy(output.float(), TARGETS)


@pytest.mark.parametrize(
    ("inner", "dtype", "depth"),
    [
        (inner, dtype, 2 + (i + j) % 2)  # all pairs
        for i, inner in enumerate(INNER)
        for j, dtype in enumerate((torch.float32, torch.float64))
    ],
)
def test_a_hundred_steps_are_those_of_explicit_factors(inner, dtype, depth) -> None:
    kind, options = INNER[inner]
    model = mixed(dtype)
    explicit = Explicit(copy.deepcopy(model), depth)
    theirs = kind(explicit.parameters(), **options)
    before = parameters_of(model)
    ours = Factored(model, inner=kind, depth=depth, weight_decay_on="factors", **options)
    first = run(model, ours, 100)
    for _ in range(100):
        theirs.zero_grad()
        value = explicit.loss()
        value.backward()
        theirs.step()
    assert_same_bits(parameters_of(model), [w.detach() for w in explicit.weights().values()])
    assert torch.equal(first, value)
    assert max((a - b).abs().max() for a, b in zip(before, parameters_of(model), strict=True)) > 0.1


def test_an_inner_optimizer_of_ones_own() -> None:
    class Signs(torch.optim.Optimizer):
        def __init__(self, params, lr: float = 0.5) -> None:
            super().__init__(params, {"lr": lr})

        def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
            for group in self.param_groups:
                for p in group["params"]:
                    p.sub_(group["lr"] * p.grad.sign())

    model = mixed()
    before = mixed_loss(model)
    assert run(model, Factored(model, inner=Signs, lr=1e-3), 20) < before


def test_construction_keeps_the_function() -> None:
    model = mixed()
    before = parameters_of(model)
    optimizer = Factored(model, inner=torch.optim.SGD, depth=3, width=24)
    for old, new in zip(before, parameters_of(model), strict=True):
        torch.testing.assert_close(new, old, atol=1e-14, rtol=0)
    factors = optimizer.factors(model.head.weight)
    assert [tuple(f.shape) for f in factors] == [(24, 6), (24, 24), (3, 24)]
    assert imbalance(factors).max() < 1e-13


def test_depth_one_is_the_inner_optimizer() -> None:
    plain, wrapped = mixed(), mixed()
    run(plain, torch.optim.AdamW(plain.parameters(), lr=0.01), 5)
    run(wrapped, Factored(wrapped, inner=torch.optim.AdamW, depth=1, lr=0.01), 5)
    assert_same_bits(parameters_of(plain), parameters_of(wrapped))


def test_a_changed_lr_reaches_factors_and_vectors() -> None:
    params = [weight_with_gradient(3, 5), weight_with_gradient(5)]
    optimizer = Factored(params, inner=torch.optim.SGD, lr=0.1)
    for lr, still in ((0.1, False), (0.0, True), (torch.tensor(0.2), False)):
        optimizer.param_groups[0]["lr"] = lr
        before = [p.detach().clone() for p in params]
        optimizer.step()
        for old, p in zip(before, params, strict=True):
            assert torch.equal(old, p) == still


@pytest.mark.parametrize("depth", [2, 3])
def test_decay_on_the_product_shrinks_the_product(depth: int) -> None:
    p = weight_with_gradient(3, 5)
    before = p.detach().clone()
    p.grad.zero_()
    on = {"weight_decay": 0.1, "weight_decay_on": "product"}
    Factored([p], inner=torch.optim.AdamW, depth=depth, lr=0.5, **on).step()
    torch.testing.assert_close(p.detach(), before * 0.95)


def test_decay_by_more_than_the_whole_is_refused_before_anything_changes() -> None:
    params = [weight_with_gradient(3, 5), weight_with_gradient(5)]
    on = {"weight_decay": 2.0, "weight_decay_on": "product"}
    optimizer = Factored(params, inner=torch.optim.SGD, lr=1.0, **on)
    before = [p.detach().clone() for p in params]
    with pytest.raises(ValueError, match=r"lr \* weight_decay is 2;.*weight_decay_on"):
        optimizer.step()
    assert_same_bits(before, [p.detach() for p in params])


def test_decay_on_two_balanced_factors_is_the_nuclear_norm() -> None:
    """-d/dt W under decay of the factors is W itself at depth 2: 2 lr wd per step to first order,

    the gradient of the Schatten-1 penalty in the factors' metric: every singular value of the
    product falls by the same rate ``2 lr wd s``, and the penalty 1/2 sum |W_j|^2 is sum s.
    """
    p = weight_with_gradient(3, 5)
    singular = torch.linalg.svdvals(p.detach())
    p.grad.zero_()
    optimizer = Factored(
        [p], inner=torch.optim.AdamW, lr=1e-4, weight_decay=1.0, weight_decay_on="factors"
    )
    factors = optimizer.factors(p)
    torch.testing.assert_close(sum(f.square().sum() for f in factors) / 2, singular.sum())
    optimizer.step()
    torch.testing.assert_close(torch.linalg.svdvals(p.detach()), singular * (1 - 1e-4) ** 2)


def test_initialization_of_ones_own_replaces_the_weights() -> None:
    model = nn.Linear(4, 3)
    made = []

    def tiny(matrices: Tensor, depth: int, width: object) -> tuple[Tensor, ...]:
        made.append(near_zero_initialization(*matrices.shape, depth, width=width, std=0.5))
        return made[-1]

    optimizer = Factored(model, inner=torch.optim.SGD, depth=3, width=2, init=tiny, lr=0.1)
    torch.testing.assert_close(model.weight.detach(), factor_product(made[0]), rtol=0, atol=0)
    torch.save(optimizer.state_dict(), "/dev/null")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_factors_in_float32_under_a_half_precision_model(dtype: torch.dtype) -> None:
    """Many steps too small for the model's dtype move its weights through the factors."""
    p = weight_with_gradient(4, 6, dtype=dtype)
    p.grad.fill_(1e-3)
    optimizer = Factored([p], inner=torch.optim.SGD, lr=1e-2)
    before, exact = p.detach().clone(), weight_with_gradient(4, 6, dtype=dtype).detach().float()
    exact = nn.Parameter(exact)
    reference = Factored([exact], inner=torch.optim.SGD, lr=1e-2)
    assert optimizer.factors(p)[0].dtype == torch.float32
    for _ in range(1000):
        exact.grad = p.grad.float()
        optimizer.step()
        reference.step()
    assert torch.equal(p, exact.to(dtype))
    assert not torch.equal(p, before)


@pytest.mark.parametrize("inner", INNER)
def test_expand_and_collapse_in_the_middle_of_a_run(inner: str) -> None:
    kind, options = INNER[inner]
    model = mixed()
    plain = kind(model.parameters(), **options)
    run(model, plain, 5)
    before, first = parameters_of(model), mixed_loss(mixed())
    expanded = Factored.expand(plain, depth=3)
    for old, new in zip(before, parameters_of(model), strict=True):
        torch.testing.assert_close(new, old, atol=1e-13, rtol=0)
    for group in expanded.param_groups:
        assert group["lr"] == options["lr"]
    run(model, expanded, 5)
    collapsed = expanded.collapse()
    assert type(collapsed) is kind
    assert run(model, collapsed, 5) < first
    assert all(p.isfinite().all() for p in model.parameters())


def test_expand_reads_the_layers_of_a_model() -> None:
    model = mixed()
    plain = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    run(model, plain, 2)
    by_shape, by_layer = Factored.expand(plain), Factored.expand(plain, model=model)
    shapes = [
        [tuple(f.shape) for f in each.factors(model.conv.weight)] for each in (by_shape, by_layer)
    ]
    assert shapes == [[(4, 6), (4, 4)], [(2, 2, 6), (2, 2, 2)]]
    momentum = plain.state[model.conv.weight]["momentum_buffer"]
    back = by_layer.collapse().state[model.conv.weight]["momentum_buffer"]
    torch.testing.assert_close(back, momentum)


def test_collapse_undoes_expand_with_its_momentum() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)).double()
    plain = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x = torch.randn(7, 5, dtype=torch.float64)
    run(model, plain, 3, loss=lambda m: m(x).square().mean())
    momentum = {p: plain.state[p]["momentum_buffer"].clone() for p in model.parameters()}
    back = Factored.expand(plain, depth=3).collapse()
    for p, expected in momentum.items():
        torch.testing.assert_close(back.state[p]["momentum_buffer"], expected)


def test_state_of_unknown_meaning_is_refused() -> None:
    p = weight_with_gradient(4, 6)
    plain = torch.optim.Adadelta([p])
    plain.step()
    with pytest.raises(NotImplementedError, match=r"acc_delta.*no known meaning"):
        Factored.expand(plain)


def test_refactor_takes_over_changed_weights() -> None:
    model = mixed()
    optimizer = Factored(model, inner=torch.optim.SGD, lr=0.1)
    with torch.no_grad():
        model.head.weight.mul_(2)
    changed = model.head.weight.detach().clone()
    optimizer.refactor()
    torch.testing.assert_close(model.head.weight.detach(), changed)
    mixed_loss(model).backward()
    optimizer.step()
    assert (model.head.weight - changed).norm() < 0.5 * changed.norm()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"depth": 2.5}, TypeError, "EndToEnd"),
        ({"depth": 0}, ValueError, "depth is 0"),
        ({"width": 2}, ValueError, "parameter 0: width 2 is below 3"),
        ({"factor_dtype": torch.int32}, TypeError, "factor_dtype is torch.int32"),
        ({"factor_dtype": "float64"}, TypeError, "factor_dtype is 'float64'"),
        ({"init": lambda w, d, k: [w]}, ValueError, r"1 factor\(s\) for depth 2"),
        ({"weight_decay_on": "W"}, ValueError, "factors, product"),
        ({"init": "zeros"}, ValueError, "'balanced' or a function"),
        ({"lr": -1.0}, ValueError, "Invalid learning rate"),
        ({"inner": torch.optim.LBFGS}, TypeError, "LBFGS calls the model by itself"),
        ({"differentiable": True}, ValueError, "gradients do not flow"),
        ({"init": lambda w, d, k: [w, w]}, (ValueError), "cannot follow|product has shape"),
    ],
)
def test_errors(options, error, words) -> None:
    with pytest.raises(error, match=words):
        Factored([nn.Parameter(torch.randn(3, 4))], **options)


def test_only_a_plain_optimizer_is_expanded() -> None:
    model = nn.Linear(4, 3)
    for other in (model, EndToEnd(model), Factored(model)):
        with pytest.raises(TypeError, match=f"this is a {type(other).__name__}"):
            Factored.expand(other)
