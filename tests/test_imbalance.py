"""Products found in models and optimizers, and their distance from balance."""

import itertools

import pytest
import torch
from support.unusual_layers import LAYERS, Layer, outputs
from torch import Tensor, nn

from overparam import Factored, imbalance, overparameterize, plan_overparameterization
from overparam.factors.layout import ChainLayout, Layout
from overparam.reparam.attach import factors_of, places


def linear(outputs: int, inputs: int, bias: bool = False) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=bias, dtype=torch.float64)


def gap(low: Tensor, high: Tensor) -> Tensor:
    """The distance of one pair, entry by entry."""
    total = torch.zeros((), dtype=low.dtype)
    for a, b in itertools.product(range(len(low)), repeat=2):
        entry = (high[:, a] * high[:, b]).sum() - (low[a] * low[b]).sum()
        total = total + entry**2
    return total.sqrt()


def pairs_of(layers: list[nn.Linear]) -> Tensor:
    weights = [layer.weight.detach() for layer in layers]
    return torch.stack([gap(low, high) for low, high in itertools.pairwise(weights)])


def test_a_sequential_of_linear_layers_is_one_product() -> None:
    layers = [linear(4, 3), linear(5, 4), linear(2, 5)]
    (name,), (gaps,) = zip(*imbalance(nn.Sequential(*layers)).items(), strict=True)
    assert name == "0.weight -> 1.weight -> 2.weight"
    torch.testing.assert_close(gaps, pairs_of(layers))
    assert not gaps.requires_grad


def test_factors_in_a_parameter_list_are_factors() -> None:
    layers = [linear(4, 3), linear(2, 4)]
    found = imbalance(nn.ParameterList([layer.weight for layer in layers]))
    torch.testing.assert_close(found.detach(), pairs_of(layers))


def test_a_repeated_layer_counts_wherever_it_acts() -> None:
    shared, last = linear(3, 3), linear(2, 3)
    found = imbalance(nn.Sequential(shared, shared, last))
    assert list(found) == ["0.weight -> 1.weight -> 2.weight"]
    expected = pairs_of([shared, shared, last])
    torch.testing.assert_close(*found.values(), expected)
    assert expected.min() > 0


class Block(nn.Module):
    """Reads its parts in an order that only its forward pass knows."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.second, self.inner, self.first = linear(3, 3), inner, linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.inner(self.first(x)))


class Residual(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


def test_only_what_is_known_to_follow_each_other_is_a_product() -> None:
    model = nn.Sequential(
        nn.Sequential(linear(3, 3), nn.Identity(), linear(3, 3)),  # nested: 0.0, 0.2
        linear(3, 3, bias=True),  # 1: the bias comes after it, and ends the run
        linear(3, 3),  # 2: alone
        nn.ReLU(),
        linear(3, 3),  # 4: alone, the block follows
        Block(nn.Sequential(linear(3, 3), linear(3, 3))),  # 5.inner
        Residual(linear(3, 3), linear(3, 3)),  # 6: not a plain sequence to the outside or inside
        linear(3, 3),
        nn.utils.parametrizations.orthogonal(linear(3, 3)),  # 8: not free to move
        linear(3, 3),
    )
    assert list(imbalance(model)) == [
        "0.0.weight -> 0.2.weight -> 1.weight",
        "5.inner.0.weight -> 5.inner.1.weight",
    ]


def as_kernel(layout: Layout, factor: Tensor, groups: int) -> Tensor:
    """A factor as (groups, out, in, taps), whatever it leaves out."""
    factor = factor.detach()
    if isinstance(layout, ChainLayout):
        return factor.unflatten(0, (groups, -1)).flatten(3)
    return (factor if groups > 1 else factor[None])[..., None]


@pytest.mark.parametrize("strategy", ["matrix", "sides", "kernels"])
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_every_weight_that_is_a_product_is_found(layer: Layer, strategy: str) -> None:
    model = layer.make()
    settings = {"depth": 3, "targets": "all", "strategy": strategy, "init": "fresh"}
    plan = plan_overparameterization(model, **settings)
    overparameterize(model, **settings)
    found = imbalance(model)
    assert list(found) == [entry.name for entry in plan.entries if entry.layout.depth > 1]
    held = {place.name: place for place in places(model)}
    for name, gaps in found.items():
        groups = len(gaps) if gaps.ndim > 1 else 1
        layout, factors = held[name].layout, factors_of(held[name].factors)
        kernels = [as_kernel(layout, factor, groups) for factor in factors]
        sizes = []
        for low, high in itertools.pairwise(kernels):
            below = torch.einsum("gaik,gbik->gab", low, low)
            above = torch.einsum("goak,gobk->gab", high, high)
            sizes.append((above - below).square().sum((1, 2)).sqrt())
        torch.testing.assert_close(gaps.reshape(groups, -1), torch.stack(sizes, -1))
        assert gaps.min() > 0


def change_in_a_step(model: nn.Module, x: Tensor, lr: float) -> Tensor:
    """The largest change of a distance in one step of gradient descent, which is undone."""
    before, start = imbalance(model), [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr)
    optimizer.zero_grad()
    sum(output.pow(3).mean() for output in outputs(model, x)).backward()
    optimizer.step()
    after = imbalance(model)
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), start, strict=True):
            parameter.copy_(value)
    return torch.cat([(after[name] - before[name]).flatten() for name in before]).abs().max()


@pytest.mark.parametrize("strategy", ["matrix", "sides", "kernels"])
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_a_step_of_training_moves_it_by_the_square_of_the_rate(layer: Layer, strategy: str) -> None:
    torch.manual_seed(0)
    model, x = layer.make().double(), layer.inputs()
    x = x.double() if x.is_floating_point() else x
    overparameterize(model, 2, targets="all", strategy=strategy, init="fresh")
    coarse, fine = (change_in_a_step(model, x, lr) for lr in (1e-3, 5e-4))
    assert coarse > 0
    assert 3.8 < coarse / fine < 4.2


def test_layers_and_their_factors_are_one_product_and_training_conserves_it() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(linear(4, 3), linear(2, 4, bias=True)), torch.ones(1, 3).double()
    overparameterize(model, 2, init="fresh")
    (name,) = imbalance(model)
    assert name == "0.weight -> 1.weight"
    factors = [factor.detach() for place in places(model) for factor in factors_of(place.factors)]
    expected = [gap(low, high) for low, high in itertools.pairwise(factors)]
    torch.testing.assert_close(imbalance(model)[name], torch.stack(expected))
    coarse, fine = (change_in_a_step(model, x, lr) for lr in (1e-3, 5e-4))
    assert 3.8 < coarse / fine < 4.2


def test_training_does_not_conserve_the_distance_of_a_shared_layer() -> None:
    torch.manual_seed(0)
    shared = linear(3, 3)
    model, x = nn.Sequential(shared, shared), torch.randn(5, 3).double()
    coarse, fine = (change_in_a_step(model, x, lr) for lr in (1e-3, 5e-4))
    assert 1.9 < coarse / fine < 2.1


def test_a_bias_between_two_products_parts_them() -> None:
    model = overparameterize(nn.Sequential(linear(4, 3, bias=True), linear(2, 4)), 3)
    found = imbalance(model)
    assert {name: tuple(gaps.shape) for name, gaps in found.items()} == {
        "0.weight": (2,),
        "1.weight": (2,),
    }
    assert max(float(gaps.max()) for gaps in found.values()) < 1e-12


def test_a_further_parametrization_parts_them_too() -> None:
    model = overparameterize(nn.Sequential(linear(3, 3), linear(3, 3)), 2)
    nn.utils.parametrizations.orthogonal(model[1])
    assert list(imbalance(model)) == ["0.weight", "1.weight"]


def test_factors_of_an_optimizer() -> None:
    model = nn.Sequential(linear(4, 3, bias=True), nn.ReLU(), linear(2, 4))
    optimizer = Factored(
        model,
        inner=torch.optim.SGD,
        depth=3,
        lr=0.1,
        init=lambda w, n, _: (w, *[torch.eye(len(w)).double()] * (n - 1)),
    )
    found = imbalance(optimizer)
    assert list(found) == ["0.weight", "2.weight"]
    for name, gaps in found.items():
        factors = optimizer.factors(model.get_parameter(name))
        expected = [gap(low, high) for low, high in itertools.pairwise(factors)]
        torch.testing.assert_close(gaps, torch.stack(expected))
        assert gaps[0] > 0.1
    unnamed = Factored([model[0].weight], inner=torch.optim.SGD, depth=2, lr=0.1)
    assert list(imbalance(unnamed)) == ["group 0, parameter 0"]


@pytest.mark.parametrize(
    ("of", "error", "message"),
    [
        (nn.Linear(2, 2, bias=False), ValueError, "Linear holds no product of two factors"),
        (nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), ValueError, "no bias between them"),
        (nn.Sequential(nn.LazyLinear(2, bias=False)), ValueError, "no product"),
        (Block(nn.ReLU()), ValueError, r"imbalance\(\[first.weight, second.weight\]\)"),
        (overparameterize(nn.Linear(2, 2), 1), ValueError, "no product"),
        (
            nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(2, 2, bias=False)),
            ValueError,
            "cannot follow",
        ),
        (Factored(nn.Linear(2, 2), depth=1), ValueError, "factors no weight"),
        (torch.optim.SGD(nn.Linear(2, 2).parameters()), TypeError, "meaning for a SGD"),
        ([], ValueError, "factors is empty"),
    ],
)
def test_what_holds_no_product_is_refused(of, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        imbalance(of)
