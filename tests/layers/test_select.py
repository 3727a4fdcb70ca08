"""Which parameters the words choose, and the reasons for the others."""

from collections.abc import Callable

import pytest
import torch
from support.unusual_layers import Tied
from torch import nn

from overparam.layers.select import Targets, select_parameters


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(4, 4)
        self.v_proj = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.conv = nn.Conv1d(4, 4, 3)
        self.attention = nn.MultiheadAttention(4, 2)
        self.position = nn.Parameter(torch.ones(1, 6, 4))


def _model() -> nn.Module:
    return nn.ModuleDict({"layers": nn.ModuleList([Block(), Block()]), "out": nn.Linear(4, 2)})


LINEAR = ["q_proj.weight", "v_proj.weight", "attention.in_proj_weight", "attention.out_proj.weight"]
BLOCK = ["q_proj.weight", "v_proj.weight", "conv.weight", "attention.out_proj.weight"]
ALL_LINEAR = [f"layers.{n}.{name}" for n in (0, 1) for name in LINEAR] + ["out.weight"]


@pytest.mark.parametrize(
    ("targets", "exclude", "expected"),
    [
        ("all-linear", None, ALL_LINEAR),
        # "attention" names that module alone; its projection of outputs is another module.
        ("all-linear", ["attention", "out"], [n for n in ALL_LINEAR if "_proj.w" in n]),
        (["q_proj"], None, ["layers.0.q_proj.weight", "layers.1.q_proj.weight"]),
        (["layers.1"], ["attention", "position"], [f"layers.1.{name}" for name in BLOCK]),
        (["0.conv.weight", "out"], None, ["layers.0.conv.weight", "out.weight"]),
        (r".*\.(q|v)_proj", r"layers\.0\..*", ["layers.1.q_proj.weight", "layers.1.v_proj.weight"]),
        (
            lambda name, module: isinstance(module, nn.Conv1d),
            ["layers.0.conv"],
            ["layers.1.conv.weight"],
        ),
        (["position"], None, ["layers.0.position", "layers.1.position"]),
    ],
)
def test_words(targets: Targets, exclude: Targets | None, expected: list[str]) -> None:
    chosen = {entry.name for entry in select_parameters(_model(), targets, exclude).selected}
    assert chosen == set(expected)


def test_every_parameter_is_reported_once() -> None:
    model = _model()
    selection = select_parameters(model, "all")
    names = [entry.name for entry in (*selection.selected, *selection.skipped)]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())


def _frozen() -> nn.Module:
    return nn.Linear(3, 2).requires_grad_(False)


@pytest.mark.parametrize(
    ("make", "targets", "reason"),
    [
        (lambda: nn.LayerNorm(3), "all", "acts entry by entry"),
        (lambda: nn.BatchNorm2d(3), "all", "acts entry by entry"),
        (_frozen, "all", "frozen"),
        (lambda: nn.Embedding(4, 3, sparse=True), "all", "sparse"),
        (lambda: nn.Embedding(4, 3, max_norm=1.0), "all", "max_norm"),
        (lambda: nn.LazyLinear(3), "all", "no shape yet"),
        (lambda: nn.Embedding(0, 3), "all", "empty"),
        (lambda: Block(), "all", "token or a position"),
        (
            lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)),
            "all",
            "already parametrized",
        ),
        (Tied, "all-linear", "tied to embed.weight, which the targets leave out"),
    ],
)
def test_reasons(make: Callable[[], nn.Module], targets: Targets, reason: str) -> None:
    skipped = select_parameters(make(), targets).skipped
    assert any(reason in skip.reason for skip in skipped), [skip.reason for skip in skipped]


def test_frozen_weights_can_be_named() -> None:
    assert len(select_parameters(_frozen(), ["weight"]).selected) == 1


def test_entrywise_tensors_are_chosen_by_their_full_name_alone() -> None:
    model = _model()
    (entry,) = select_parameters(model, ["out.bias"]).selected
    assert (entry.view.batch, entry.view.rows, entry.view.columns) == (1, 1, 2)
    (entry,) = select_parameters(nn.LayerNorm((3, 4)), ["weight"]).selected
    assert (entry.view.rows, entry.view.columns) == (3, 4)
    for targets in (["bias"], ["out"], "out|out.bias", lambda name, module: True):
        names = [entry.name for entry in select_parameters(model, targets).selected]
        assert "out.bias" not in names


def test_integer_and_complex_tensors_are_skipped() -> None:
    module = nn.Module()
    module.complex = nn.Parameter(torch.zeros(2, 2, dtype=torch.complex64))
    module.integer = nn.Parameter(torch.zeros(2, 2, dtype=torch.int64), requires_grad=False)
    reasons = [skip.reason for skip in select_parameters(module, "all").skipped]
    assert all("not a real floating-point one" in reason for reason in reasons)
    assert len(reasons) == 2


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_scripted_modules_are_skipped() -> None:
    model = nn.Sequential(nn.Linear(3, 3), torch.jit.script(nn.Linear(3, 2)))
    selection = select_parameters(model, "all")
    assert [entry.name for entry in selection.selected] == ["0.weight"]
    assert any("before torch.jit.script" in skip.reason for skip in selection.skipped)


def test_ties_are_chosen_as_one() -> None:
    (entry,) = select_parameters(Tied(), "all").selected
    assert [site.name for site in entry.sites] == ["embed.weight", "head.weight"]


@pytest.mark.parametrize(
    ("targets", "exclude", "message"),
    [
        (["q_porj"], None, r"targets='q_porj' matches no module.*q_proj"),
        ("q_proj", None, "matches no module"),
        ("(", None, "is not a regular expression"),
        ("all", ["nothing"], "exclude='nothing' matches no module"),
        ("all", "all", "would leave nothing"),
    ],
)
def test_unmatched_words_are_errors(targets: Targets, exclude: Targets, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select_parameters(_model(), targets, exclude)
