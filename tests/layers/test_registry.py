"""Layers of one's own: what all doors make of them before and after they are registered."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from overparam import (
    EndToEnd,
    Factored,
    Radial,
    collapse,
    overparameterize,
    plan_overparameterization,
    register_view,
)
from overparam.layers import (
    MatrixView,
    linear_view,
    packed_view,
    parameter_view,
    transposed_linear_view,
)
from overparam.layers.table import WeightTable

OPTIMIZERS = (EndToEnd, Factored, Radial)
DOORS: dict[str, Callable[[nn.Module], WeightTable]] = {
    "EndToEnd": lambda model: EndToEnd(model).routing(),
    "Factored": lambda model: Factored(model).routing(),
    "Radial": lambda model: Radial(model).routing(),
    "plan": lambda model: plan_overparameterization(model).table(),
}


class Mixer(nn.Module):
    """Two maps stacked in one tensor, and a table that is added."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.randn(6, 4))
        self.offset = nn.Parameter(torch.randn(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.mix.mT).unflatten(-1, (2, 3)) + self.offset


class Special(Mixer):
    pass


def _mixer_view(layer: nn.Module, name: str) -> MatrixView | None:
    return packed_view(layer.mix.shape, 2, "mixer") if name == "mix" else None


def _linear_mixer(layer: nn.Module, name: str) -> MatrixView | None:
    """Of a kind that is chosen by default."""
    return packed_view(layer.mix.shape, 2, "linear") if name == "mix" else None


def _rows(door: str, model: nn.Module) -> dict[str, dict[str, Any]]:
    return {row["parameter"]: row for row in DOORS[door](model)}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.filterwarnings("ignore:some matrices take the plain step")
def test_every_door_reads_a_layer_once_it_is_registered_and_not_before(door: str) -> None:
    model = nn.Sequential(Mixer(), nn.Linear(3, 3))
    row = _rows(door, model)["0.mix"]
    assert (row["rule"], row["kind"], row["matrices"]) == ("plain", "unknown", "")
    assert "Mixer is not a layer that overparam knows" in row["reason"]
    assert "overparam.register_view" in row["reason"]
    assert _rows(door, model)["1.weight"]["rule"] != "plain"
    register_view(Mixer, _linear_mixer)
    row = _rows(door, model)["0.mix"]
    assert row["rule"] != "plain"
    assert (row["kind"], row["matrices"]) == ("linear", "2 x (3, 4)")
    assert row["reason"].split("; ")[0] == "chosen by kind"
    offset = _rows(door, model)["0.offset"]
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
    register_view(Mixer, _linear_mixer)
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
    register_view(Mixer, _linear_mixer)
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
        _rows(door, Normed())
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
        _rows(door, Mixer())
    register_view(Mixer, lambda layer, name: linear_view((4, 6)))
    with pytest.raises(ValueError, match=r"Mixer is for the shape \(4, 6\); mix has \(6, 4\)"):
        _rows(door, Mixer())


# Layers whose weight is computed


class Conv1D(nn.Module):
    """As in transformers: a linear layer that stores its weight as (in, out)."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.weight = nn.Parameter(torch.randn(nx, nf))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class Twice(nn.Module):
    """A parametrization whose weight has another shape than its parameter."""

    def forward(self, half: Tensor) -> Tensor:
        return torch.cat([half, -half])


class LowRank(nn.Module):
    """A parametrization with two parameters of other shapes."""

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return left @ right

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return weight[:, :2].clone(), weight[:2].clone()


class Skew(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight - weight.mT


class Noisy(nn.Module):
    """Random and counting in training, as dropout and spectral_norm are."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, weight: Tensor) -> Tensor:
        if self.training:
            self.calls += 1
            weight = weight + torch.randn_like(weight)
        return weight


def _with(module: nn.Module, parametrization: nn.Module, **options: Any) -> nn.Module:
    parametrize.register_parametrization(module, "weight", parametrization, **options)
    return module


PARAMETRIZED: dict[str, tuple[Callable[[], nn.Module], dict[str, MatrixView | None]]] = {
    "weight_norm": (
        lambda: parametrizations.weight_norm(nn.Linear(4, 6)),
        {"original0": None, "original1": linear_view((6, 4))},
    ),
    "weight_norm, grouped": (
        lambda: parametrizations.weight_norm(nn.Conv1d(4, 6, 3, groups=2)),
        {"original0": None, "original1": parameter_view(nn.Conv1d(4, 6, 3, groups=2), "weight")},
    ),
    "weight_norm, Conv1D": (
        lambda: parametrizations.weight_norm(Conv1D(6, 4)),
        {"original0": None, "original1": transposed_linear_view((4, 6))},
    ),
    "spectral_norm": (
        lambda: parametrizations.spectral_norm(nn.Linear(4, 6)),
        {"original": linear_view((6, 4))},
    ),
    "spectral_norm, Conv1D": (
        lambda: parametrizations.spectral_norm(Conv1D(6, 4)),
        {"original": transposed_linear_view((4, 6))},
    ),
    "orthogonal": (
        lambda: parametrizations.orthogonal(nn.Linear(4, 4)),
        {"original": linear_view((4, 4))},
    ),
    "one's own": (lambda: _with(nn.Linear(4, 4), Skew()), {"original": linear_view((4, 4))}),
    "random": (lambda: _with(nn.Linear(4, 6), Noisy()), {"original": linear_view((6, 4))}),
}
REFUSED: dict[str, Callable[[], nn.Module]] = {
    "another shape": lambda: _with(nn.Linear(4, 3, bias=False), Twice(), unsafe=True),
    "two tensors": lambda: _with(nn.Linear(4, 6, bias=False), LowRank()),
}


def _state(model: nn.Module) -> tuple[list[Tensor], list[Tensor], list[bool], Tensor]:
    return (
        [parameter.detach().clone() for parameter in model.parameters()],
        [buffer.clone() for buffer in model.buffers()],
        [module.training for module in model.modules()],
        torch.get_rng_state(),
    )


def _assert_same(before: Any, after: Any) -> None:
    """All but round-off in weights that Factored has factored."""
    torch.testing.assert_close(before[0], after[0], rtol=0, atol=1e-6)
    assert all(torch.equal(old, new) for old, new in zip(before[1], after[1], strict=True))
    assert before[2] == after[2]
    assert torch.equal(before[3], after[3])


@pytest.mark.parametrize("case", PARAMETRIZED)
@pytest.mark.parametrize("training", [True, False])
def test_parameters_of_a_parametrization_are_read_as_the_plain_layer(
    case: str, training: bool
) -> None:
    make, expected = PARAMETRIZED[case]
    model = make().train(training)
    list(model.modules())[-1].training = not training  # some modes are mixed: they stay so
    before = _state(model)
    tables = {door: _rows(door, model) for door in DOORS}
    for door, rows in tables.items():
        for name, view in expected.items():
            row = rows[f"parametrizations.weight.{name}"]
            assert row["kind"] == ("" if view is None else view.kind)
            if door == "plan":
                assert (row["rule"], row["matrices"]) == ("plain", "")
                assert row["reason"] == "it is already parametrized"
            elif view is None:
                assert (row["rule"], row["reason"]) == ("plain", "it acts entry by entry")
            else:
                assert row["rule"] != "plain"
                assert row["matrices"] == view.matrices
    _assert_same(before, _state(model))


@pytest.mark.parametrize("case", REFUSED)
def test_parameters_that_make_a_weight_in_their_own_way_are_refused_by_name(case: str) -> None:
    model = REFUSED[case]()
    before = _state(model)
    for door in DOORS:
        for name, row in _rows(door, model).items():
            assert name.startswith("parametrizations.weight.original")
            assert (row["rule"], row["kind"]) == ("plain", "")
            own = "the parametrization of weight computes the weight from it in its own way"
            assert row["reason"] == ("it is already parametrized" if door == "plan" else own)
    _assert_same(before, _state(model))


def test_a_registered_layer_is_read_under_a_parametrization_too() -> None:
    register_view(Mixer, _linear_mixer)
    model = Mixer()
    parametrizations.weight_norm(model, "mix")
    for door in ("EndToEnd", "Factored", "Radial"):
        rows = _rows(door, model)
        assert rows["parametrizations.mix.original1"]["matrices"] == "2 x (3, 4)"
        assert rows["parametrizations.mix.original0"]["rule"] == "plain"


def test_modes_and_buffers_stay_where_a_registered_function_fails() -> None:
    def fails(layer: nn.Module, name: str) -> MatrixView:
        raise RuntimeError("no")

    model = parametrizations.spectral_norm(Mixer(), "mix")
    register_view(Mixer, fails)
    before = _state(model)
    for door in DOORS:
        with pytest.raises(RuntimeError, match="no"):
            _rows(door, model)
    _assert_same(before, _state(model))


OLD = {
    "weight_norm": (
        lambda: nn.utils.weight_norm(nn.Linear(4, 6)),
        "weight_v",
        {"weight_g": "", "bias": ""},
        "1 x (6, 4)",
    ),
    "weight_norm, Conv1D": (
        lambda: nn.utils.weight_norm(Conv1D(6, 4)),
        "weight_v",
        {"weight_g": ""},
        "1 x (6, 4)",
    ),
    "weight_norm, grouped": (
        lambda: nn.utils.weight_norm(nn.Conv1d(4, 6, 3, groups=2)),
        "weight_v",
        {"weight_g": ""},
        "2 x (3, 6)",
    ),
    "spectral_norm": (
        lambda: nn.utils.spectral_norm(nn.Linear(4, 6)),
        "weight_orig",
        {},
        "1 x (6, 4)",
    ),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
@pytest.mark.parametrize("case", OLD)
def test_what_older_wrappers_leave_is_read_as_the_plain_layer(case: str) -> None:
    make, name, others, matrices = OLD[case]
    model = make()
    before = _state(model)
    for door in DOORS:
        rows = _rows(door, model)
        assert rows[name]["matrices"] == matrices
        for other in others:
            assert (rows[other]["rule"], rows[other]["reason"]) == (
                "plain",
                "it acts entry by entry",
            )
    _assert_same(before, _state(model))


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
def test_overparameterize_keeps_the_function_of_an_old_weight_norm() -> None:
    model, x = nn.utils.weight_norm(nn.Linear(4, 6)).double(), torch.randn(5, 4).double()
    before = model(x).detach()
    overparameterize(model, depth=2)
    torch.testing.assert_close(model(x).detach(), before)
    assert "parametrizations.weight_v.original1" in dict(model.named_parameters())


def test_conv1d_is_known_by_its_name_and_its_field() -> None:
    for kind in (Conv1D, type("Mine", (Conv1D,), {})):
        for door in DOORS:
            row = _rows(door, kind(6, 4))["weight"]
            assert (row["kind"], row["matrices"]) == ("linear", "1 x (6, 4)")
    other = type("Conv1D", (nn.Module,), {})()
    other.weight = nn.Parameter(torch.randn(4, 6))
    row = _rows("plan", other)["weight"]
    assert (row["kind"], row["rule"]) == ("unknown", "plain")
