"""Optimizer state between a weight and its factors: one meaning, whichever door it goes through."""

import copy

import pytest
import torch
from torch import Tensor, nn

from overparam import Factored, collapse, overparameterize
from overparam.factors.layout import make_layout
from overparam.factors.transport import state_to_factors, state_to_weight
from overparam.layers import convolution_view, linear_view
from overparam.reparam.attach import places

INNER = {
    "sgd": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9}),
    "adamw": (torch.optim.AdamW, {"lr": 0.01, "amsgrad": True}),
}


def problem() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(4, 6, 3, groups=2), nn.Flatten(), nn.Linear(24, 5)).double()
    return model, torch.randn(7, 4, 6, dtype=torch.float64)


def run(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x) - 1).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize("inner", INNER)
def test_both_doors_collapse_to_the_same_state(inner: str, depth: int) -> None:
    """Factors in the optimizer and factors in the model, after the same steps."""
    kind, options = INNER[inner]
    (model, x), (twin, _) = problem(), problem()
    outside = Factored(model, inner=kind, depth=depth, **options)
    overparameterize(twin, depth)
    inside = kind(twin.parameters(), **options)
    run(model, outside, x, 6)
    run(twin, inside, x, 6)
    plain = outside.collapse()
    collapse(twin, optimizer=inside)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)
        first, second = plain.state[p], inside.state[q]
        assert set(first) == set(second)
        for name, value in first.items():
            torch.testing.assert_close(value, second[name], rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize("inner", INNER)
def test_both_doors_expand_to_the_same_state(inner: str, depth: int) -> None:
    kind, options = INNER[inner]
    (model, x), (twin, _) = problem(), problem()
    plain, other = (kind(each.parameters(), **options) for each in (model, twin))
    run(model, plain, x, 6)
    run(twin, other, x, 6)
    outside = Factored.expand(plain, depth, model=model)
    overparameterize(twin, depth, optimizer=other)
    inside = {place.name: place for place in places(twin)}
    for name, p in model.named_parameters():
        if name not in inside:
            continue
        held = inside[name].factors
        for number in range(depth):
            first = outside.inner_state(p, f"factor{number + 1}_")
            second = other.state[getattr(held, f"original{number}")]
            assert set(first) == set(second)
            for key, value in first.items():
                torch.testing.assert_close(value, second[key], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("depth", [2, 3])
def test_momentum_of_factors_that_rest_is_that_of_the_weight(depth: int) -> None:
    """With lr = 0 the factors stay, and the sum of their gradients is J^T of the weight's."""
    model, x = problem()
    twin = copy.deepcopy(model)
    factored = Factored(model, inner="sgd", depth=depth, lr=0.0, momentum=0.9)
    plain = torch.optim.SGD(twin.parameters(), lr=0.0, momentum=0.9)
    for batch in x.split(2):
        run(model, factored, batch, 1)
        run(twin, plain, batch, 1)
    collapsed = factored.collapse()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        mine, theirs = (
            optimizer.state[each]["momentum_buffer"]
            for optimizer, each in ((collapsed, p), (plain, q))
        )
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("view", [linear_view((4, 6)), convolution_view((6, 2, 3), 2)])
def test_mean_squares_of_rank_one_come_back(view) -> None:
    """What Adafactor assumes of mean squares is what the estimate is exact for."""
    generator = torch.Generator().manual_seed(0)
    layout = make_layout(view, "matrix", 2, None)
    weight = torch.randn(view.shape, generator=generator, dtype=torch.float64)
    factors = layout.balanced(weight)
    rows = torch.rand(view.batch, view.rows, 1, generator=generator, dtype=torch.float64) + 0.1
    columns = torch.rand(view.batch, 1, view.columns, generator=generator, dtype=torch.float64)
    square = view.join(rows * (columns + 0.1))
    states = state_to_factors(layout, factors, {"exp_avg": weight, "exp_avg_sq": square})
    assert all((state["exp_avg_sq"] >= 0).all() for state in states)
    back = state_to_weight(layout, factors, states)
    torch.testing.assert_close(back["exp_avg_sq"], square, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(back["exp_avg"], weight, rtol=1e-8, atol=1e-10)


def test_state_of_an_unknown_kind_is_refused_by_every_door_before_anything_changes() -> None:
    model, x = problem()
    optimizer = torch.optim.Rprop(model.parameters())
    run(model, optimizer, x, 1)
    with pytest.raises(NotImplementedError, match="'prev' has no known meaning"):
        Factored.expand(optimizer, model=model)
    with pytest.raises(NotImplementedError, match="'prev' has no known meaning"):
        overparameterize(model, optimizer=optimizer)
    assert not list(places(model))
    factored = Factored(model, inner="rprop")
    run(model, factored, x, 1)
    with pytest.raises(NotImplementedError, match="'prev' has no known meaning"):
        factored.collapse()
    overparameterize(model)
    optimizer = torch.optim.Rprop(model.parameters())
    run(model, optimizer, x, 1)
    with pytest.raises(NotImplementedError, match="'prev' has no known meaning"):
        collapse(model, optimizer=optimizer)
    assert list(places(model))
    run(model, optimizer, x, 1)


def test_what_never_had_a_gradient_has_no_momentum() -> None:
    """Adam divides by the root of the mean square: round-off over nothing would be a huge step."""
    torch.manual_seed(0)
    words = nn.Embedding(9, 4)
    factored = Factored(words, inner="adamw", targets="embedding", lr=0.01)
    for _ in range(5):
        factored.zero_grad()
        words(torch.tensor([1, 2, 3, 5, 7])).square().sum().backward()
        factored.step()
    collapsed = factored.collapse()
    state, unseen = collapsed.state[words.weight], torch.tensor([0, 4, 6, 8])
    assert (state["exp_avg"][unseen] == 0).all()
    assert (state["exp_avg"][[1, 2, 3, 5, 7]] != 0).all()
    before = words.weight.detach().clone()
    collapsed.param_groups[0]["weight_decay"] = 0.0
    collapsed.step()
    assert torch.equal(words.weight.detach()[unseen], before[unseen])
