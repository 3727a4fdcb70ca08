"""Optimizer states, weight decay, clipping and averaging mean what they did for the weight."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from overparam.factors.layout import ChainLayout, Layout, make_layout
from overparam.factors.linearize import (
    gradient_from_factors,
    gradient_to_factors,
    variance_from_factors,
    variance_to_factors,
)
from overparam.layers.views import convolution_view, linear_view, packed_view
from overparam.reparam import (
    AveragedWeights,
    clip_grad_norm_,
    collapse,
    overparameterize,
    set_weight_decay_on,
    weight_gradients,
)
from overparam.reparam.attach import factors_of, places

LAYOUTS = [
    make_layout(linear_view((4, 6)), "matrix", 3, 5),
    make_layout(packed_view((6, 3), 2), "matrix", 2, None),
    make_layout(convolution_view((4, 3, 3, 3)), "sides", 3, None),
    make_layout(convolution_view((4, 2, 5), 2), "kernels", 2, None),
]


def _draw(layout: Layout) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(0)
    factors = [torch.randn(s, dtype=torch.float64, generator=generator) for s in layout.shapes]
    return factors, torch.randn(layout.shape, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_gradients_travel_to_factors_and_back(layout: Layout) -> None:
    factors, gradient = _draw(layout)
    pulled = gradient_to_factors(layout, factors, gradient)
    step = 1e-6
    for number, (factor, part) in enumerate(zip(factors, pulled, strict=True)):
        direction = torch.randn(factor.shape, dtype=torch.float64)
        moved = [*factors[:number], factor + step * direction, *factors[number + 1 :]]
        change = (layout.product(moved) - layout.product(factors)) / step
        torch.testing.assert_close(
            (part * direction).sum(), (change * gradient).sum(), rtol=1e-5, atol=1e-5
        )
    torch.testing.assert_close(
        gradient_from_factors(layout, factors, pulled), gradient, rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize(("rows", "columns"), [(6, 4), (4, 6), (5, 5)])
@pytest.mark.parametrize(("depth", "rank"), [(2, 4), (3, 4), (2, 2), (3, 2)])
def test_gradient_from_factors_is_the_dense_least_squares_solution(
    rows: int, columns: int, depth: int, rank: int
) -> None:
    """Against the pseudo-inverse of the whole Jacobian, also for gradients of no single G."""
    layout = make_layout(linear_view((rows, columns)), "matrix", depth, 7)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(rows, rank, dtype=torch.float64, generator=generator)
    weight = weight @ torch.randn(rank, columns, dtype=torch.float64, generator=generator)
    factors = layout.balanced(weight)
    parts = [torch.randn(s, dtype=torch.float64, generator=generator) for s in layout.shapes]
    jacobians = torch.autograd.functional.jacobian(lambda *f: layout.product(f), factors)
    dense = torch.cat([j.reshape(rows * columns, -1) for j in jacobians], dim=1)
    target = torch.cat([part.flatten() for part in parts])
    expected = torch.linalg.pinv(dense.T, rtol=1e-6) @ target
    found = gradient_from_factors(layout, factors, parts)
    torch.testing.assert_close(found.flatten(), expected, rtol=1e-6, atol=1e-8)


def test_balanced_factors_need_one_step_and_no_square_of_the_longer_side() -> None:
    """An embedding's rows squared would fill the memory; the flops tell that none is formed."""
    layout = make_layout(linear_view((3000, 4)), "matrix", 2, None)
    generator = torch.Generator().manual_seed(0)
    factors = layout.balanced(torch.randn(3000, 4, dtype=torch.float64, generator=generator))
    gradient = torch.randn(3000, 4, dtype=torch.float64, generator=generator)
    pulled = gradient_to_factors(layout, factors, gradient)
    with FlopCounterMode(display=False) as counter:
        torch.testing.assert_close(gradient_from_factors(layout, factors, pulled), gradient)
        variance_from_factors(layout, factors, [part.square() for part in pulled])
    assert counter.get_total_flops() < 3000**2 * 4


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_mean_squares_of_factor_gradients(layout: Layout) -> None:
    """Against the mean over drawn gradients with independent entries."""
    factors, seed = _draw(layout)
    variance = seed.square()
    estimate = variance_to_factors(layout, factors, variance)
    draws = 400
    totals = [torch.zeros_like(factor) for factor in factors]
    for _ in range(draws):
        noise = variance.sqrt() * torch.randn(layout.shape, dtype=torch.float64)
        for total, part in zip(totals, gradient_to_factors(layout, factors, noise), strict=True):
            total += part.square() / draws
    for part, total in zip(estimate, totals, strict=True):
        # 400 draws scatter by 7 %; 32 signs by at most 25 % for each entry.
        assert 0.8 < float(part.sum() / total.sum()) < 1.25
        assert float(((part - total).abs() / total).median()) < 0.35
    back = variance_from_factors(layout, factors, estimate)
    assert bool((back >= 0).all())
    assert 0.6 < float(back.mean() / variance.mean()) < 1.6


@pytest.mark.parametrize(
    "layout",
    [
        make_layout(linear_view((4, 6)), "matrix", 3, 5),
        make_layout(linear_view((6, 4)), "matrix", 2, None),
        make_layout(packed_view((6, 3), 2), "matrix", 2, None),
        make_layout(linear_view((4, 6)), "matrix", 1, None),
    ],
    ids=str,
)
def test_mean_squares_of_rank_one_come_back(layout: Layout) -> None:
    factors, seed = _draw(layout)
    matrices = layout.view.split(seed.square())
    variance = layout.view.join(matrices[:, :, :1] @ matrices[:, :1, :])
    back = variance_from_factors(layout, factors, variance_to_factors(layout, factors, variance))
    torch.testing.assert_close(back, variance)
    zeros = [torch.zeros_like(factor) for factor in factors]
    assert torch.equal(variance_from_factors(layout, factors, zeros), torch.zeros(layout.shape))


@pytest.mark.parametrize(
    "layout",
    [
        make_layout(convolution_view((8, 6, 3, 3)), "sides", 3, None),
        make_layout(convolution_view((8, 6, 5), 2), "kernels", 2, None),
    ],
    ids=str,
)
def test_mean_squares_of_channels_come_back_from_chains(layout: ChainLayout) -> None:
    """Channels that differ a thousandfold, to within half an order of magnitude."""
    factors = layout.balanced(_draw(layout)[1])
    generator = torch.Generator().manual_seed(1)
    rows = 10 ** (-3 * torch.rand(layout.groups, 8 // layout.groups, 1, generator=generator))
    columns = 10 ** (-3 * torch.rand(layout.groups, 1, 6, generator=generator))
    channels = (rows * columns).double().reshape(8, 6, *(1,) * (len(layout.shape) - 2))
    variance = channels.expand(layout.shape)
    back = variance_from_factors(layout, factors, variance_to_factors(layout, factors, variance))
    assert float((back / variance).log10().abs().max()) < 0.5


@pytest.mark.parametrize("seed", range(3))
def test_adam_takes_no_leap_at_either_change_on_inputs_of_all_scales(seed: int) -> None:
    torch.manual_seed(seed)
    scales = torch.logspace(-2, 1, 40, dtype=torch.float64)
    x = torch.randn(256, 40, dtype=torch.float64) * scales
    y = torch.tanh(x @ (torch.randn(40, 20, dtype=torch.float64) / scales[:, None]) / 10)
    model = nn.Sequential(nn.Linear(40, 32), nn.Tanh(), nn.Linear(32, 20)).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def losses(steps: int) -> list[float]:
        return [_step(model, optimizer, x, y) for _ in range(steps)]

    before = losses(100)
    overparameterize(model, optimizer=optimizer)
    assert max(losses(20)) < 1.02 * before[-1]
    before = losses(80)
    collapse(model, optimizer=optimizer)
    assert max(losses(20)) < 1.02 * before[-1]


def _problem() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    return model, torch.randn(8, 6, dtype=torch.float64), torch.randn(8, 3, dtype=torch.float64)


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> float:
    optimizer.zero_grad()
    loss = (model(x) - y).square().mean()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.005),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_through_both_changes(name: str) -> None:
    model, x, y = _problem()
    optimizer = OPTIMIZERS[name](model.parameters())
    losses = [_step(model, optimizer, x, y) for _ in range(20)]
    steps = [float(s["step"]) for s in optimizer.state.values() if "step" in s]
    overparameterize(model, optimizer=optimizer)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}
    assert set(map(id, optimizer.state)) == held
    if steps:
        assert all(float(state["step"]) == steps[0] for state in optimizer.state.values())
    losses += [_step(model, optimizer, x, y) for _ in range(20)]
    collapse(model, optimizer=optimizer)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()} == set(map(id, optimizer.state))
    losses += [_step(model, optimizer, x, y) for _ in range(20)]
    # No jump at either change: the loss goes on from where it was.
    assert losses[20] < 1.05 * losses[19]
    assert losses[21] < 1.2 * losses[19]
    assert losses[40] < 1.05 * losses[39]
    assert losses[41] < 1.2 * losses[39]
    assert losses[-1] < losses[0]


def test_momentum_is_the_gradient_of_factors_at_the_change_and_comes_back() -> None:
    model, x, y = _problem()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    _step(model, optimizer, x, y)
    before = [optimizer.state[p]["momentum_buffer"].clone() for p in model.parameters()]
    overparameterize(model, depth=3, optimizer=optimizer)
    collapse(model, optimizer=optimizer)
    for parameter, buffer in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(
            optimizer.state[parameter]["momentum_buffer"], buffer, rtol=1e-5, atol=1e-7
        )


def test_order_and_groups_of_the_optimizer_are_kept() -> None:
    model, x, y = _problem()
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.ndim == 2], "weight_decay": 0.1},
            {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
        ]
    )
    _step(model, optimizer, x, y)
    overparameterize(model, optimizer=optimizer)
    assert [len(group["params"]) for group in optimizer.param_groups] == [4, 2]
    collapse(model, optimizer=optimizer)
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 2]
    assert optimizer.param_groups[0]["params"][0] is model[0].weight
    assert optimizer.param_groups[0]["params"][1] is model[2].weight


def test_unknown_states_are_refused_before_anything_changes() -> None:
    model, x, y = _problem()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    _step(model, optimizer, x, y)
    for parameter in model.parameters():
        optimizer.state[parameter]["curvature"] = torch.ones_like(parameter)
    with pytest.raises(NotImplementedError, match="'curvature' has no known meaning"):
        overparameterize(model, targets=["0"], optimizer=optimizer)
    assert not list(places(model))
    _step(model, optimizer, x, y)


def test_factors_split_over_groups_are_refused() -> None:
    model, _, _ = _problem()
    overparameterize(model)
    groups = [{"params": [p]} for p in model.parameters()]
    with pytest.raises(ValueError, match="not in one group"):
        collapse(model, optimizer=torch.optim.SGD(groups, lr=0.1))
    assert list(places(model))


def _weights(model: nn.Module) -> list[Tensor]:
    return [getattr(p.module, p.attribute).detach().clone() for p in places(model)]


def _zero_gradients(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)


@pytest.mark.parametrize("depth", [2, 3])
def test_decoupled_decay_of_the_product(depth: int) -> None:
    model, _, _ = _problem()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    overparameterize(model, depth, optimizer=optimizer, weight_decay_on="product")
    before = _weights(model)
    for _ in range(2):
        _zero_gradients(model)
        optimizer.step()
    for old, new in zip(before, _weights(model), strict=True):
        torch.testing.assert_close(new, old * (1 - 0.05) ** 2)


@pytest.mark.parametrize("maximize", [False, True])
def test_coupled_decay_of_the_product_is_its_gradient(maximize: bool) -> None:
    """A step of SGD with decay on W equals a step without, on the loss plus wd/2 ||W||^2."""
    model, x, y = _problem()
    overparameterize(model, 3)
    explicit = copy.deepcopy(model)
    settings: dict[str, Any] = {"lr": 0.01, "maximize": maximize}
    optimizer = torch.optim.SGD(model.parameters(), weight_decay=0.3, **settings)
    set_weight_decay_on(model, optimizer, "product")
    _step(model, optimizer, x, y)
    other = torch.optim.SGD(explicit.parameters(), **settings)
    loss = (explicit(x) - y).square().mean()
    sign = -1 if maximize else 1
    penalty = [getattr(p.module, p.attribute) for p in places(explicit)]
    penalty += [p for n, p in explicit.named_parameters() if n.endswith("bias")]
    (loss + sign * 0.15 * sum(w.square().sum() for w in penalty)).backward()
    other.step()
    for first, second in zip(model.parameters(), explicit.parameters(), strict=True):
        torch.testing.assert_close(first, second)


def test_decay_of_factors_is_the_schatten_penalty() -> None:
    """One small step of decay on balanced factors follows the gradient of N/2 sum s^(2/N)."""
    model, _, _ = _problem()
    layer, depth, amount = model[0], 3, 1e-6
    overparameterize(layer, depth)
    (place,) = places(layer)
    factors = factors_of(place.factors)
    singular = torch.linalg.svdvals(layer.weight.detach())
    energy = sum(factor.detach().square().sum() for factor in factors) / 2
    torch.testing.assert_close(energy, depth / 2 * (singular ** (2 / depth)).sum())
    optimizer = torch.optim.SGD(layer.parameters(), lr=amount, weight_decay=1.0)
    _zero_gradients(layer)
    set_weight_decay_on(layer, optimizer, "product")
    set_weight_decay_on(layer, optimizer, "factors")
    optimizer.step()
    # Every factor shrinks by 1 - lr wd.
    now = torch.linalg.svdvals(layer.weight.detach())
    torch.testing.assert_close(now, singular * (1 - amount) ** depth)


def test_decay_needs_to_know_its_kind() -> None:
    class Foreign(torch.optim.Optimizer):
        def __init__(self, params: Any) -> None:
            super().__init__(params, {"lr": 0.1, "weight_decay": 0.1})

    model, _, _ = _problem()
    foreign = Foreign(model.parameters())
    with pytest.raises(ValueError, match="does not say how it decays"):
        overparameterize(model, optimizer=foreign, weight_decay_on="product")
    assert not list(places(model))
    overparameterize(model, optimizer=foreign)
    with pytest.raises(ValueError, match="does not say how it decays"):
        set_weight_decay_on(model, Foreign(model.parameters()))
    set_weight_decay_on(model, Foreign(model.parameters()), decoupled=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2.0, weight_decay=1.0)
    set_weight_decay_on(model, optimizer)
    _zero_gradients(model)
    with pytest.raises(ValueError, match="whole or more"):
        optimizer.step()


def test_clipping_means_the_gradient_of_the_weight() -> None:
    plain, x, y = _problem()
    model = overparameterize(copy.deepcopy(plain), depth=3)
    for candidate in (plain, model):
        (candidate(x) - y).square().mean().backward()
    expected = {name: p.grad.clone() for name, p in plain.named_parameters() if p.grad is not None}
    for name, gradient in weight_gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-8)
    total = torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.1)
    assert float(total) > 0.1
    torch.testing.assert_close(clip_grad_norm_(model, 0.1), total)
    for name, gradient in weight_gradients(model).items():
        clipped = plain.get_parameter(name).grad
        torch.testing.assert_close(gradient, clipped, rtol=1e-5, atol=1e-8)


def test_clipping_after_an_overflow_says_so() -> None:
    model, x, y = _problem()
    overparameterize(model)
    ((model(x) - y).square().mean() * torch.inf).backward()
    assert not clip_grad_norm_(model, 1.0).isfinite()
    # A factor that is lost already has no singular values to ask for.
    nn.init.constant_(model[0].parametrizations.weight.original0, torch.nan)
    assert clip_grad_norm_(model, 1.0).isnan()


def test_average_is_of_products_not_of_factors() -> None:
    model, x, y = _problem()
    overparameterize(model)
    average = AveragedWeights(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    seen = []
    for _ in range(3):
        _step(model, optimizer, x, y)
        average.update_parameters(model)
        seen.append(model[0].weight.detach().clone())
    torch.testing.assert_close(average.module[0].weight, torch.stack(seen).mean(0))
    assert list(places(model))
    assert not list(places(average))
