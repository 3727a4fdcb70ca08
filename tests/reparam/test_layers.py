"""Every kind of layer: the same function before, other weights after training, plain at the end."""

import copy

import pytest
import torch
from support.unusual_layers import LAYERS, Layer, Regression, train, values
from torch import nn

from overparam.reparam import (
    collapse,
    collapse_state_dict,
    collapsed,
    overparameterize,
)
from overparam.reparam.attach import factors_of, places

EACH = pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)


def _make(layer: Layer) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    return layer.make(), layer.inputs()


def _describe(model: nn.Module) -> list[tuple[object, ...]]:
    """What collapse must restore: types, names in order, kinds and flags."""
    modules = [(path, type(module)) for path, module in model.named_modules()]
    parameters = [(n, p.shape, p.requires_grad, type(p)) for n, p in model.named_parameters()]
    return [*modules, *parameters, *model.named_buffers(), *model.state_dict()]


@EACH
@pytest.mark.parametrize(("depth", "width"), [(2, None), (3, 1.5)])
def test_balanced_start_keeps_the_function(layer: Layer, depth: int, width: float | None) -> None:
    model, x = _make(layer)
    before, weights = values(model, x), {n: p.clone() for n, p in model.named_parameters()}
    overparameterize(model, depth, width=width, targets="all")
    for first, second in zip(before, values(model, x), strict=True):
        torch.testing.assert_close(second, first, rtol=0, atol=2e-6 * float(first.abs().max()))
    for place in places(model):
        weight = weights.get(place.name, weights.get("embed.weight"))
        assert weight is not None
        gap = (getattr(place.module, place.attribute) - weight).norm() / weight.norm()
        assert gap <= 1e-6


@EACH
def test_train_then_collapse(layer: Layer) -> None:
    model, x = _make(layer)
    described, start = _describe(model), copy.deepcopy(model.state_dict())
    overparameterize(model, targets="all")
    train(model, x)
    for place in places(model):
        assert all(factor.grad is not None for factor in factors_of(place.factors)), place.name
    trained = values(model, x)
    collapse(model, example_inputs=[x])
    assert _describe(model) == described
    assert not hasattr(model, "parametrizations")
    for first, second in zip(trained, values(model, x), strict=True):
        torch.testing.assert_close(second, first)
    moved = [k for k, v in model.state_dict().items() if not torch.equal(v, start[k])]
    assert any("weight" in key for key in moved)
    train(model, x)
    assert collapse(model) is model


@EACH
def test_collapsed_for_a_while(layer: Layer) -> None:
    model, x = _make(layer)
    described = _describe(model)
    overparameterize(model, targets="all")
    inside, factors = _describe(model), list(model.parameters())
    expected = values(model, x)
    with collapsed(model):
        assert _describe(model) == described
        for first, second in zip(expected, values(model, x), strict=True):
            torch.testing.assert_close(second, first)
    assert [row[0] for row in inside] == [row[0] for row in _describe(model)]
    assert all(a is b for a, b in zip(factors, model.parameters(), strict=True))
    for first, second in zip(expected, values(model, x), strict=True):
        assert torch.equal(first, second)


@EACH
def test_copies_are_independent(layer: Layer) -> None:
    model, x = _make(layer)
    overparameterize(model, targets="all")
    twin = copy.deepcopy(model)
    train(twin, x)
    trained = values(twin, x)
    expected = values(model, x)
    collapse(model)
    for first, second in zip(trained, values(twin, x), strict=True):
        assert torch.equal(first, second)
    collapse(twin)
    assert type(twin) is type(model)
    for first, second in zip(expected, values(model, x), strict=True):
        torch.testing.assert_close(second, first)


def test_gradients_are_those_of_an_explicit_product() -> None:
    torch.manual_seed(0)
    model, x = nn.Linear(5, 4).double(), torch.randn(3, 5, dtype=torch.float64)
    overparameterize(model, depth=3)
    factors = [p.detach().clone().requires_grad_() for p in factors_of(next(places(model)).factors)]
    model(x).square().sum().backward()
    explicit = x @ (factors[2] @ factors[1] @ factors[0]).mT + model.bias.detach()
    explicit.square().sum().backward()
    for factor, leaf in zip(factors_of(next(places(model)).factors), factors, strict=True):
        torch.testing.assert_close(factor.grad, leaf.grad)


def test_attention_blocks_and_gates_are_factored_one_by_one() -> None:
    attention, lstm = nn.MultiheadAttention(8, 2), nn.LSTM(4, 3)
    overparameterize(attention)
    overparameterize(lstm, targets="all")
    shapes = {n: tuple(p.shape) for n, p in attention.named_parameters()}
    assert shapes["parametrizations.in_proj_weight.original0"] == (3, 8, 8)
    assert tuple(lstm.parametrizations.weight_ih_l0.original0.shape) == (4, 3, 4)


def test_frozen_weights_stay_frozen_parameters() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    model[0].weight.requires_grad_(False)
    overparameterize(model, targets=["0", "1"])
    assert not any(p.requires_grad for p in model[0].parametrizations.parameters())
    collapse(model)
    assert isinstance(model[0].weight, nn.Parameter)
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True]


def test_padding_row_stays_zero() -> None:
    torch.manual_seed(0)
    model = nn.Embedding(7, 4, padding_idx=2)
    overparameterize(model, depth=3, targets="all")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.tensor([0, 2, 3])).sum().backward()
        optimizer.step()
    assert torch.equal(model.weight[2], torch.zeros(4))


def test_ties_survive_assignment_and_collapse() -> None:
    from support.unusual_layers import Tied

    model = Tied()
    overparameterize(model, targets="all")
    assert model.embed.parametrizations.weight is model.head.parametrizations.weight
    assert len(list(model.parameters())) == 2
    model.head.weight = torch.eye(7, 4)
    torch.testing.assert_close(model.embed.weight, torch.eye(7, 4))
    collapse(model)
    assert model.embed.weight is model.head.weight


def test_weights_changed_while_collapsed_are_factored_again() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    overparameterize(model)
    factors = list(model.parameters())
    with collapsed(model), torch.no_grad():
        model.weight.mul_(2)
        doubled = model.weight.clone()
    torch.testing.assert_close(model.weight, doubled)
    assert all(a is b for a, b in zip(factors, model.parameters(), strict=True))


def test_foreign_parametrizations_are_left_alone() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    nn.utils.parametrizations.weight_norm(model[0])
    overparameterize(model)
    assert [place.name for place in places(model)] == ["1.weight"]
    collapse(model)
    assert nn.utils.parametrize.is_parametrized(model[0], "weight")
    overparameterize(model)
    nn.utils.parametrizations.spectral_norm(model[1])
    with pytest.raises(RuntimeError, match=r"1\.weight has a further parametrization"):
        collapse(model)


@pytest.mark.parametrize("mode", ["evaluation", "training"])
def test_verification_failure_puts_everything_back(mode: str) -> None:
    class Spy(nn.Linear):
        """Computes something else, in one mode, once its weight is a plain parameter."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            shifted = "weight" in self._parameters and self.training == (mode == "training")
            return super().forward(x) + shifted

    model = Spy(3, 2)
    overparameterize(model)
    before = list(model.state_dict())
    with pytest.raises(RuntimeError, match=f"output 0 in {mode} mode moved"):
        collapse(model, example_inputs=[torch.ones(1, 3)])
    assert list(model.state_dict()) == before
    assert collapse(model) is model


def test_a_vector_named_in_full_becomes_one_row() -> None:
    """Against the paper's depth 2 with a scalar: w = w_1 * omega, balanced, one step by hand."""
    torch.manual_seed(0)
    model, x = Regression(), torch.randn(3, 5)
    start = model.w.detach().clone()
    overparameterize(model, targets=["w"])
    torch.testing.assert_close(model.w.detach(), start)
    omega = start.norm().sqrt()
    gradient = x.T @ (2 * x @ start)
    (x @ model.w).square().sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.01).step()
    vector = start / omega - 0.01 * omega * gradient
    scalar = omega - 0.01 * (start / omega) @ gradient
    torch.testing.assert_close(model.w.detach(), scalar * vector)
    collapse(model, example_inputs=x)
    assert [name for name, _ in model.named_parameters()] == ["w"]
    assert model.w.shape == (5,)


def _reparameterize_as_timm_does(model: nn.Module) -> None:
    """The protocol of timm's ``reparameterize_model``; the function itself is in test_timm.py."""
    for name, child in model.named_children():
        if hasattr(child, "fuse"):
            setattr(model, name, child.fuse())
        elif hasattr(child, "reparameterize"):
            child.reparameterize()
        elif hasattr(child, "switch_to_deploy"):
            child.switch_to_deploy()
        _reparameterize_as_timm_does(child)


def test_timm_finds_what_to_collapse() -> None:
    class Branches(nn.Module):
        """Two branches that a method of its own makes one."""

        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.one(x) if self.two is None else self.one(x) + self.two(x)

        def reparameterize(self) -> None:
            with torch.no_grad():
                weight, bias = self.one.weight + self.two.weight, self.one.bias + self.two.bias
                self.one = nn.Linear(4, 4)
                self.one.weight.copy_(weight)
                self.one.bias.copy_(bias)
            self.two = None

    torch.manual_seed(0)
    model, x = nn.Sequential(Branches(), nn.Sequential(nn.Linear(4, 3))), torch.randn(2, 4)
    overparameterize(model)
    expected = values(model, x)
    deployed = copy.deepcopy(model)
    _reparameterize_as_timm_does(deployed)
    assert list(deployed.state_dict()) == ["0.one.weight", "0.one.bias", "1.0.weight", "1.0.bias"]
    torch.testing.assert_close(values(deployed, x), expected)
    assert len(list(places(model))) == 3
    assert not hasattr(nn.Linear, "reparameterize")


class Shared(nn.Module):
    """One layer at two places, and parameters in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = self.first
        self.listed = nn.ParameterList([torch.randn(3, 4)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(self.second(self.first(x)), self.listed[0])


def test_shared_layers_and_parameter_lists() -> None:
    torch.manual_seed(0)
    model, x = Shared(), torch.randn(2, 4)
    described = _describe(model)
    before, plain = values(model, x), copy.deepcopy(model.state_dict())
    overparameterize(model, targets="all")
    assert sum(1 for _ in places(model)) == 2
    torch.testing.assert_close(values(model, x), before)
    assert sorted(collapse_state_dict(model.state_dict())) == sorted(plain)
    train(model, x)
    model.load_state_dict(plain)
    torch.testing.assert_close(values(model, x), before)
    collapse(model, example_inputs={"x": x})
    assert _describe(model) == described
