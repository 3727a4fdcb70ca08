"""Parameters under a parametrization, and where else a weight is computed from others."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from support.doors import DOORS, Mixer, linear_mixer, rows
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from overparam import overparameterize, register_view
from overparam.layers import MatrixView, linear_view, parameter_view, transposed_linear_view
from overparam.layers.places import places_of


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
    tables = {door: rows(door, model) for door in DOORS}
    for door, table in tables.items():
        for name, view in expected.items():
            row = table[f"parametrizations.weight.{name}"]
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
        for name, row in rows(door, model).items():
            assert name.startswith("parametrizations.weight.original")
            assert (row["rule"], row["kind"]) == ("plain", "")
            own = "the parametrization of weight computes the weight from it in its own way"
            assert row["reason"] == ("it is already parametrized" if door == "plan" else own)
    _assert_same(before, _state(model))


def test_a_registered_layer_is_read_under_a_parametrization_too() -> None:
    register_view(Mixer, linear_mixer)
    model = Mixer()
    parametrizations.weight_norm(model, "mix")
    for door in ("EndToEnd", "Factored", "Radial"):
        found = rows(door, model)
        assert found["parametrizations.mix.original1"]["matrices"] == "2 x (3, 4)"
        assert found["parametrizations.mix.original0"]["rule"] == "plain"


def test_modes_and_buffers_stay_where_a_registered_function_fails() -> None:
    def fails(layer: nn.Module, name: str) -> MatrixView:
        raise RuntimeError("no")

    model = parametrizations.spectral_norm(Mixer(), "mix")
    register_view(Mixer, fails)
    before = _state(model)
    for door in DOORS:
        with pytest.raises(RuntimeError, match="no"):
            rows(door, model)
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
        found = rows(door, model)
        assert found[name]["matrices"] == matrices
        for other in others:
            assert (found[other]["rule"], found[other]["reason"]) == (
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
            row = rows(door, kind(6, 4))["weight"]
            assert (row["kind"], row["matrices"]) == ("linear", "1 x (6, 4)")
    other = type("Conv1D", (nn.Module,), {})()
    other.weight = nn.Parameter(torch.randn(4, 6))
    row = rows("plan", other)["weight"]
    assert (row["kind"], row["rule"]) == ("unknown", "plain")


class Meeting(nn.Module):
    """Waits in evaluation mode, where models are read, until the other thread has trained."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.go_on = threading.Event(), threading.Event()

    def forward(self, weight: Tensor) -> Tensor:
        if not self.training:
            self.reached.set()
            assert self.go_on.wait(10)
        return weight * 2


def test_a_model_is_read_while_another_thread_trains_it() -> None:
    """Neither the modes nor torch's cache of parametrizations change, not even for a moment."""
    meeting = Meeting()
    model = _with(nn.Linear(4, 6), meeting)
    parametrizations.spectral_norm(model)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(places_of, model, {})
        assert meeting.reached.wait(10)
        assert all(module.training for module in model.modules())
        model(torch.ones(1, 4)).sum().backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        meeting.go_on.set()
        (*_, (_, last)) = reading.result()
    assert last is model.parametrizations.weight.original
    assert all(gradient is not None for gradient in gradients)
