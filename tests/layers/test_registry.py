"""Layers of one's own: what all doors make of them before and after they are registered."""

import warnings
from typing import Any

import pytest
import torch
from support.doors import DOORS, OPTIMIZERS, Mixer, linear_mixer, rows
from torch import nn

from overparam import (
    Factored,
    Radial,
    collapse,
    overparameterize,
    plan_overparameterization,
    register_view,
)
from overparam.layers import MatrixView, linear_view, packed_view, parameter_view


class Special(Mixer):
    pass


def _mixer_view(layer: nn.Module, name: str) -> MatrixView | None:
    return packed_view(layer.mix.shape, 2, "mixer") if name == "mix" else None


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.filterwarnings("ignore:some matrices take the plain step")
def test_every_door_reads_a_layer_once_it_is_registered_and_not_before(door: str) -> None:
    model = nn.Sequential(Mixer(), nn.Linear(3, 3))
    row = rows(door, model)["0.mix"]
    assert (row["rule"], row["kind"], row["matrices"]) == ("plain", "unknown", "")
    assert "Mixer is not a layer that overparam knows" in row["reason"]
    assert "overparam.register_view" in row["reason"]
    assert rows(door, model)["1.weight"]["rule"] != "plain"
    register_view(Mixer, linear_mixer)
    row = rows(door, model)["0.mix"]
    assert row["rule"] != "plain"
    assert (row["kind"], row["matrices"]) == ("linear", "2 x (3, 4)")
    assert row["reason"].split("; ")[0] == "chosen by kind"
    offset = rows(door, model)["0.offset"]
    assert (offset["rule"], offset["kind"]) == ("plain", "")
    assert offset["reason"] == "it acts entry by entry"


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_optimizer_warns_once_of_layers_that_it_does_not_know(optimizer: Any) -> None:
    model = nn.Sequential(Mixer(), Mixer(), nn.Linear(3, 3))
    with pytest.warns(UserWarning, match="plain step of the inner optimizer") as caught:
        optimizer(model)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    for name in ("0.mix", "0.offset", "1.mix"):
        assert f"{name}: Mixer is not a layer that overparam knows" in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan_overparameterization(model)
        optimizer(model, targets=["0.mix", "linear"], exclude=["1", "0.offset"])
        optimizer(model, fallback="adamw")
        alone = {"radial": 1} if optimizer is Radial else {"depth": 1}
        optimizer(model, **alone)
        register_view(Mixer, _mixer_view)
        optimizer(model)


def test_an_unknown_layer_is_chosen_by_the_word_and_by_name() -> None:
    model = nn.Sequential(Mixer(), nn.Linear(3, 3))
    for targets in (["unknown"], ["mix", "offset"], "0"):
        plan = plan_overparameterization(model, targets=targets)
        assert [entry.name for entry in plan.entries] == ["0.mix", "0.offset"]
        assert [entry.selected.view.kind for entry in plan.entries] == ["unknown"] * 2


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_registered_layer_trains_as_the_layers_that_it_is_made_of(optimizer: Any) -> None:
    register_view(Mixer, linear_mixer)
    torch.manual_seed(0)
    mixer, x = Mixer().double(), torch.randn(7, 4).double()
    parts = [nn.Linear(4, 3, bias=False, dtype=torch.float64) for _ in range(2)]
    for part, weight in zip(parts, mixer.mix.detach().chunk(2), strict=True):
        part.weight.data.copy_(weight)
    options = {"granularity": "matrix"} if optimizer is not Factored else {}
    together = optimizer(mixer, 0.1, inner="sgd", **options)
    apart = optimizer(nn.ModuleList(parts), 0.1, inner="sgd", **options)
    for _ in range(5):
        together.zero_grad()
        apart.zero_grad()
        (mixer(x) - mixer.offset.detach()).square().mean().backward()
        torch.stack([part(x) for part in parts], 1).square().mean().backward()
        mixer.offset.grad = None
        together.step()
        apart.step()
    expected = torch.cat([part.weight for part in parts])
    torch.testing.assert_close(mixer.mix.detach(), expected.detach(), rtol=1e-12, atol=1e-14)


def test_overparameterize_keeps_the_function_of_a_registered_layer() -> None:
    register_view(Mixer, linear_mixer)
    mixer, x = Mixer().double(), torch.randn(7, 4).double()
    before, weight = mixer(x).detach(), mixer.mix.detach().clone()
    overparameterize(mixer, depth=3)
    names = [name for name, _ in mixer.named_parameters()]
    assert names == ["offset", *(f"parametrizations.mix.original{k}" for k in range(3))]
    torch.testing.assert_close(mixer(x).detach(), before)
    collapse(mixer)
    torch.testing.assert_close(mixer.mix.detach(), weight)


def test_a_subclass_is_read_as_its_nearest_base() -> None:
    register_view(Mixer, _mixer_view)
    view = parameter_view(Special(), "mix")
    assert view is not None
    assert (view.kind, view.batch) == ("mixer", 2)
    register_view(Special, lambda layer, name: linear_view((6, 4), "special"))
    view = parameter_view(Special(), "mix")
    assert view is not None
    assert (view.kind, view.batch) == ("special", 1)
    view = parameter_view(Mixer(), "mix")
    assert view is not None
    assert view.kind == "mixer"
    wide = type("Wide", (nn.Linear,), {})
    assert parameter_view(wide(3, 2), "weight") == linear_view((2, 3))


def test_registering_again_replaces_also_what_the_library_says() -> None:
    register_view(Mixer, _mixer_view)
    register_view(Mixer, lambda layer, name: None)
    assert parameter_view(Mixer(), "mix") is None
    layer = nn.Linear(4, 6)
    assert parameter_view(layer, "weight") == linear_view((6, 4))
    register_view(nn.Linear, lambda layer, name: packed_view(layer.weight.shape, 3, "attention"))
    view = parameter_view(layer, "weight")
    assert view is not None
    assert (view.kind, view.batch) == ("attention", 3)


def test_biases_and_lengths_are_not_asked_for() -> None:
    asked: list[str] = []

    def view(layer: nn.Module, name: str) -> None:
        asked.append(name)

    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias_k = nn.Parameter(torch.randn(3, 4))
            self.scale = nn.Parameter(torch.randn(4))
            self.kernel_g = nn.Parameter(torch.randn(3, 1))
            self.kernel_v = nn.Parameter(torch.randn(3, 4))

    register_view(Normed, view)
    for door in DOORS:
        asked.clear()
        rows(door, Normed())
        assert asked == ["kernel_v"], door


@pytest.mark.parametrize(
    ("layer", "function", "words"),
    [
        ("Mixer", _mixer_view, "layer is 'Mixer'; register a type of module"),
        (nn.Linear(1, 1), _mixer_view, "register a type of module"),
        (int, _mixer_view, "layer is <class 'int'>"),
        (Mixer, None, "function is None; give a function"),
        (Mixer, linear_view((6, 4)), "give a function"),
    ],
)
def test_what_cannot_be_registered(layer: Any, function: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        register_view(layer, function)


@pytest.mark.parametrize("door", DOORS)
def test_what_a_registered_function_may_not_return(door: str) -> None:
    register_view(Mixer, lambda layer, name: (1, 6, 4))
    with pytest.raises(TypeError, match=r"registered for Mixer returned \(1, 6, 4\) for mix"):
        rows(door, Mixer())
    register_view(Mixer, lambda layer, name: linear_view((4, 6)))
    with pytest.raises(ValueError, match=r"Mixer is for the shape \(4, 6\); mix has \(6, 4\)"):
        rows(door, Mixer())
