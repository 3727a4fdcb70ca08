"""One model at all four doors: each reads, chooses and explains in the same words."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from overparam import EndToEnd, Factored, Radial, plan_overparameterization, register_view
from overparam.layers import MatrixView, convolution_view, expert_view, linear_view, packed_view

Row = tuple[tuple[int, ...], str, bool, str, str]


class Stencils(nn.Module):
    """A layer of the user's: several small maps in one tensor, and a gate for each."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Parameter(torch.randn(4, 2, 3))
        self.gates = nn.Parameter(torch.randn(4, 2))


class Everything(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(7, 4)
        self.conv = nn.Conv2d(4, 6, 3, groups=2)
        self.mixed = nn.MultiheadAttention(4, 2)
        self.memory = nn.LSTM(4, 3)
        self.norm = nn.LayerNorm((2, 4))
        self.own = Stencils()
        self.out = nn.Linear(4, 2, bias=False)


def _stencils(layer: nn.Module, name: str) -> MatrixView | None:
    return expert_view(layer.maps.shape, "stencil") if name == "maps" else None


def _model() -> nn.Module:
    torch.manual_seed(0)
    register_view(Stencils, _stencils)
    return Everything()


# An embedding is a matrix at the other doors; rows are what EndToEnd alone adds.
DOORS: dict[str, Callable[..., Any]] = {
    "plan": lambda model, **words: plan_overparameterization(model, **words).table(),
    "EndToEnd": lambda model, **words: EndToEnd(model, granularity="matrix", **words).routing(),
    "Factored": lambda model, **words: Factored(model, **words).routing(),
    "Radial": lambda model, **words: Radial(model, **words).routing(),
}


def _rows(door: str, model: nn.Module, **words: Any) -> dict[str, Row]:
    return {
        row["parameter"]: (
            row["shape"],
            row["kind"],
            row["rule"] != "plain",
            row["matrices"],
            row["reason"].split("; ")[0],
        )
        for row in DOORS[door](model, **words)
    }


# What the model holds: shape, kind, matrices.
MATRICES = {
    "words.weight": ((7, 4), "embedding", "1 x (7, 4)"),
    "conv.weight": ((6, 2, 3, 3), "convolution", "2 x (3, 18)"),
    "mixed.in_proj_weight": ((12, 4), "attention", "3 x (4, 4)"),
    "mixed.out_proj.weight": ((4, 4), "linear", "1 x (4, 4)"),
    "memory.weight_ih_l0": ((12, 4), "recurrent", "4 x (3, 4)"),
    "memory.weight_hh_l0": ((12, 3), "recurrent", "4 x (3, 3)"),
    "own.maps": ((4, 2, 3), "stencil", "4 x (2, 3)"),
    "out.weight": ((2, 4), "linear", "1 x (2, 4)"),
}
ENTRYWISE = {
    "conv.bias": (6,),
    "mixed.in_proj_bias": (12,),
    "mixed.out_proj.bias": (4,),
    "memory.bias_ih_l0": (12,),
    "memory.bias_hh_l0": (12,),
    "norm.weight": (2, 4),
    "norm.bias": (2, 4),
    "own.gates": (4, 2),
}
DEFAULT = {name for name, (_, kind, _) in MATRICES.items() if kind not in ("embedding", "stencil")}
SQUARE = MatrixView("mine", (4, 4), 2, 2, 4)

# Words, what they choose, how that is called, and readings that are not those of the layers.
CASES: dict[str, tuple[dict[str, Any], set[str], str, dict[str, MatrixView]]] = {
    "default": ({}, DEFAULT, "chosen by kind", {}),
    "kinds": (
        {"targets": ["linear", "embedding"]},
        {"words.weight", "mixed.out_proj.weight", "out.weight"},
        "chosen by kind",
        {},
    ),
    "a kind of the user's": ({"targets": "stencil"}, {"own.maps"}, "chosen by kind", {}),
    "all": ({"targets": "all"}, DEFAULT | {"words.weight"}, "chosen by kind", {}),
    "all-linear": (
        {"targets": "all-linear"},
        {"mixed.in_proj_weight", "mixed.out_proj.weight", "out.weight"},
        "chosen by kind",
        {},
    ),
    "exclude": (
        {"exclude": ["out", "memory", "attention"]},
        {"conv.weight", "mixed.out_proj.weight"},
        "chosen by kind",
        {},
    ),
    "names": (
        {"targets": ["own", "weight_ih_l0"]},
        {"own.maps", "memory.weight_ih_l0"},
        "chosen by name",
        {},
    ),
    "a regular expression": (
        {"targets": r".*\.weight(_hh_l0)?"},
        {
            "words.weight",
            "conv.weight",
            "mixed.out_proj.weight",
            "memory.weight_hh_l0",
            "out.weight",
        },
        "chosen by name",
        {},
    ),
    "a function": (
        {"targets": lambda name, module: isinstance(module, nn.Conv2d)},
        {"conv.weight"},
        "chosen by name",
        {},
    ),
    "a view by name": (
        {"overrides": {"own.maps": {"view": convolution_view((4, 2, 3), 2)}}},
        DEFAULT | {"own.maps"},
        "chosen by kind",
        {"own.maps": convolution_view((4, 2, 3), 2)},
    ),
    "views by module": (
        {
            "overrides": {
                "mixed|conv": {"view": packed_view((12, 4), 2, "linear")},
                r".*out_proj": {"view": SQUARE},
            },
        },
        DEFAULT - {"mixed.out_proj.weight"},
        "chosen by kind",
        {"mixed.in_proj_weight": packed_view((12, 4), 2, "linear"),
         "mixed.out_proj.weight": SQUARE},
    ),
}  # fmt: skip


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("case", [name for name in CASES if name != "views by module"])
def test_every_door_reads_and_chooses_alike(case: str, door: str) -> None:
    words, chosen, how, views = CASES[case]
    model = _model()
    rows = _rows(door, model, **words)
    assert rows.keys() == dict(model.named_parameters()).keys()
    for name, shape in ENTRYWISE.items():
        assert rows[name] == (shape, "", False, "", "it acts entry by entry")
    for name, (shape, kind, matrices) in MATRICES.items():
        if name in views:
            kind, matrices = views[name].kind, views[name].matrices
        if name in chosen:
            assert rows[name] == (shape, kind, True, matrices, how)
        else:
            *facts, reason = rows[name]
            assert facts == [shape, kind, False, ""]
            assert reason in ("excluded", f"{kind}: not among the targets")


@pytest.mark.parametrize("case", CASES)
def test_the_doors_agree(case: str) -> None:
    words, *_ = CASES[case]
    if case == "views by module":
        words = {**words, "targets": ["linear", "mine"]}
    first, *others = (_rows(door, _model(), **words) for door in DOORS)
    for rows in others:
        assert rows == first


@pytest.mark.parametrize("door", DOORS)
def test_views_by_module_are_for_the_parameters_of_their_shape(door: str) -> None:
    words, _, _, views = CASES["views by module"]
    rows = _rows(door, _model(), targets=["linear", "mine", "convolution"], **words)
    for name, view in views.items():
        assert rows[name][1:4] == (view.kind, True, view.matrices)
    assert rows["mixed.in_proj_bias"][1:4] == ("", False, "")
    assert rows["conv.weight"][1:4] == ("convolution", True, "2 x (3, 18)")


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("overrides", "error", "words"),
    [
        ({"out.weight": {"view": linear_view((4, 2))}}, ValueError, r"\(4, 2\); out.weight has"),
        ({"out": {"view": linear_view((4, 2))}}, ValueError, r"\(4, 2\); out.weight has \(2, 4\)"),
        ({"out": {"view": (1, 2, 4)}}, TypeError, r"overrides\['out'\] is \(1, 2, 4\); give an"),
        ({"(": {"view": linear_view((2, 4))}}, ValueError, "is not a regular expression"),
        ({"(": {}}, ValueError, "is not a regular expression"),
        ({"nothing": {}}, ValueError, r"overrides\['nothing'\] matches no"),
    ],
)
def test_views_and_patterns_that_do_not_fit(
    door: str, overrides: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        _rows(door, _model(), overrides=overrides)


@pytest.mark.filterwarnings("ignore:some matrices take the plain step")
def test_the_doors_agree_on_an_unknown_layer() -> None:
    first, *others = (_rows(door, Everything()) for door in DOORS)
    for rows in others:
        assert rows == first
    for name in ("own.maps", "own.gates"):
        assert first[name][1:] == (
            "unknown",
            False,
            "",
            "Stencils is not a layer that overparam knows",
        )


def test_an_embedding_is_rows_for_end_to_end_unless_told_otherwise() -> None:
    optimizer = EndToEnd(_model(), targets="embedding")
    row = next(row for row in optimizer.routing() if row["parameter"] == "words.weight")
    assert (row["rule"], row["matrices"]) == ("row", "7 x (4,)")
