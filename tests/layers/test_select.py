"""Which parameters the words choose, and the reasons for the others."""

from collections.abc import Callable

import pytest
import torch
from support.unusual_layers import Tied
from torch import nn

from overparam.layers import linear_view, parameter_view, register_view
from overparam.layers.select import DEFAULT_KINDS, Targets, select_parameters


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


# Kinds


class Kinds(nn.Module):
    """One weight of each kind, under names that are no kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(4, 3)
        self.kernel = nn.Conv2d(4, 6, 3, groups=2)
        self.back = nn.ConvTranspose1d(4, 6, 3)
        self.heads = nn.MultiheadAttention(4, 2)
        self.memory = nn.LSTM(4, 3)
        self.cell = nn.GRUCell(4, 3)
        self.both = nn.Bilinear(3, 4, 5)
        self.table = nn.Embedding(7, 4)
        self.mine = Own()
        self.other = Other()


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(4, 3))


class Other(Own):
    """Stays unknown."""


class MyExperts(nn.Module):
    """Known by how its name ends."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.ones(3, 4, 5))


BY_KIND = {
    "linear": ["dense.weight", "heads.out_proj.weight"],
    "convolution": ["kernel.weight", "back.weight"],
    "attention": ["heads.in_proj_weight"],
    "recurrent": [
        "memory.weight_ih_l0",
        "memory.weight_hh_l0",
        "cell.weight_ih",
        "cell.weight_hh",
    ],
    "bilinear": ["both.weight"],
    "embedding": ["table.weight"],
    "unknown": ["other.w"],
    "personal": ["mine.w"],
}
ALL = [name for kind, names in BY_KIND.items() if kind != "personal" for name in names]


def _kinds() -> nn.Module:
    register_view(Own, lambda layer, name: linear_view((4, 3), "personal"))
    register_view(Other, lambda layer, name: linear_view((4, 3), "unknown"))
    return Kinds()


def _names(model: nn.Module, targets: Targets | None, exclude: Targets | None = None) -> set[str]:
    return {entry.name for entry in select_parameters(model, targets, exclude).selected}


@pytest.mark.parametrize("kind", BY_KIND)
def test_every_kind_is_a_word(kind: str) -> None:
    model = _kinds()
    assert _names(model, kind) == _names(model, [kind]) == set(BY_KIND[kind])
    assert _names(model, "all", [kind]) == set(ALL) - set(BY_KIND[kind])
    assert _names(model, "all", kind) == set(ALL) - set(BY_KIND[kind])
    for entry in select_parameters(model, kind).selected:
        assert (entry.reason, entry.view.kind) == ("chosen by kind", kind)


def test_experts_are_known_by_their_name() -> None:
    model = nn.ModuleDict({"moe": MyExperts()})
    assert _names(model, None) == _names(model, "experts") == {"moe.up"}


def test_words_for_several_kinds() -> None:
    model = _kinds()
    default = [*DEFAULT_KINDS, "unknown", "embedding"]
    assert _names(model, None) == {n for kind in DEFAULT_KINDS for n in BY_KIND.get(kind, [])}
    assert _names(model, "all") == {n for kind in default for n in BY_KIND.get(kind, [])}
    assert _names(model, "all-linear") == {*BY_KIND["linear"], *BY_KIND["attention"]}
    assert _names(model, ["recurrent", "personal", "dense"]) == {
        *BY_KIND["recurrent"],
        "mine.w",
        "dense.weight",
    }
    assert _names(model, ["all", "personal"]) == {*ALL, "mine.w"}
    assert _names(model, ["linear"], ["dense"]) == {"heads.out_proj.weight"}


def test_kinds_leave_frozen_weights_out_and_names_do_not() -> None:
    model = _kinds().requires_grad_(False)
    assert _names(model, "all") == _names(model, None) == set()
    assert _names(model, ["dense", "linear"]) == {"dense.weight"}
    chosen = select_parameters(model, "linear", optimizer=True).selected
    assert {entry.name for entry in chosen} == set(BY_KIND["linear"])


def test_a_kind_that_the_model_does_not_have_chooses_nothing() -> None:
    assert _names(nn.Linear(3, 2), "recurrent") == set()
    with pytest.raises(ValueError, match="matches no module"):
        select_parameters(nn.Linear(3, 2), "personal")


def _named_as_kinds() -> nn.Module:
    """Modules that bear the names of kinds, and are others."""
    register_view(Own, lambda layer, name: linear_view((4, 3), "personal"))
    return nn.ModuleDict(
        {
            "attention": nn.Linear(4, 4),
            "block": nn.ModuleDict({"linear": nn.Conv1d(4, 4, 3), "personal": nn.Linear(3, 3)}),
            "mine": Own(),
            "out": nn.Linear(4, 2),
        }
    )


@pytest.mark.parametrize(
    ("word", "place"),
    [
        ("attention", "attention"),
        ("linear", "block.linear"),
        ("personal", "block.personal"),
    ],
)
@pytest.mark.parametrize("argument", ["targets", "exclude"])
def test_a_word_that_is_a_kind_and_a_name_is_an_error_with_a_remedy(
    word: str, place: str, argument: str
) -> None:
    model = _named_as_kinds()
    for words in (word, [word], ["out", word]):
        with pytest.raises(
            ValueError, match=f"{argument}='{word}' is a kind.*name of {place}"
        ) as e:
            select_parameters(model, **{argument: words})
    message = str(e.value)
    assert f"'.*{word}'" in message
    # What the message says works: a regular expression for the name, a function for the kind.
    assert _names(model, f".*{word}") == {f"{place}.weight"}
    of_kind = {
        "attention": set(),
        "linear": {"attention.weight", "block.personal.weight", "out.weight"},
        "personal": {"mine.w"},
    }

    def by_kind(name: str, module: nn.Module) -> bool:
        view = parameter_view(module, name.rpartition(".")[2])
        return view is not None and view.kind == word

    assert _names(model, by_kind) == of_kind[word]


def test_a_full_name_of_two_parts_or_more_is_never_a_kind() -> None:
    model = _named_as_kinds()
    assert _names(model, ["block.linear"]) == {"block.linear.weight"}
    assert _names(model, ["attention.weight"]) == {"attention.weight"}
    assert _names(model, None, ["block.personal"]) == {
        "attention.weight",
        "block.linear.weight",
        "out.weight",
    }


def test_kinds_that_are_not_written_never_raise() -> None:
    model = _named_as_kinds()
    expected = {"attention.weight", "block.linear.weight", "block.personal.weight", "out.weight"}
    for targets in (None, "all"):
        assert _names(model, targets) == expected
    assert _names(model, "all-linear") == expected - {"block.linear.weight"}
    assert _names(model, None, "out") == expected - {"out.weight"}


def test_a_name_that_means_the_same_as_the_kind_is_no_error() -> None:
    model = nn.ModuleDict({"embedding": nn.Embedding(5, 3), "out": nn.Linear(3, 2)})
    assert _names(model, "embedding") == {"embedding.weight"}
    model["words"] = nn.Embedding(5, 3)
    with pytest.raises(ValueError, match="is a kind of weight, and also the name of embedding"):
        select_parameters(model, "embedding")


@pytest.mark.parametrize(
    ("targets", "exclude", "reason"),
    [
        (None, None, "it is tied to embed.weight, which the targets leave out"),
        ("embedding", None, "it is tied to head.weight, which the targets leave out"),
        (["head"], None, "it is tied to embed.weight, which the targets leave out"),
        (["recurrent"], None, "embedding: not among the targets"),
        ("all", ["head"], "excluded"),
        ("all", "embedding", "excluded"),
    ],
)
def test_tied_weights_need_all_their_places(
    targets: Targets | None, exclude: Targets | None, reason: str
) -> None:
    selection = select_parameters(Tied(), targets, exclude)
    assert not selection.selected
    (skipped,) = selection.skipped
    assert skipped.reason.startswith(reason)
    assert [site.name for site in skipped.sites] == ["embed.weight", "head.weight"]


@pytest.mark.parametrize("targets", ["all", ["linear", "embedding"], ["embed", "linear"], ".*"])
def test_tied_weights_are_one_entry(targets: Targets) -> None:
    for optimizer in (False, True):
        (entry,) = select_parameters(Tied(), targets, optimizer=optimizer).selected
        assert [site.path for site in entry.sites] == ["embed", "head"]


def test_places_that_read_a_tied_weight_differently_leave_it_out() -> None:
    model = nn.ModuleDict({"a": nn.Linear(4, 6, bias=False), "b": nn.GRUCell(4, 2, bias=False)})
    model["b"].weight_ih = model["a"].weight
    (skipped,) = [s for s in select_parameters(model).skipped if s.name == "a.weight"]
    assert skipped.reason == "its places read it as different matrices"


@pytest.mark.parametrize("words", [nn.Linear, 3])
@pytest.mark.parametrize("argument", ["targets", "exclude"])
def test_words_that_are_none_are_named(argument: str, words: object) -> None:
    with pytest.raises(TypeError, match=f"{argument} is .*; give a kind, a name or a list"):
        select_parameters(nn.Linear(3, 2), **{argument: words})


def test_two_parameters_in_the_same_memory_do_not_become_products() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight.data = model[0].weight.data
    chosen = {entry.name for entry in select_parameters(model).selected}
    assert chosen == {"2.weight"}
    reasons = {entry.name: entry.reason for entry in select_parameters(model).skipped}
    assert "another parameter has the same memory" in reasons["0.weight"]
    assert len(select_parameters(model, optimizer=True).selected) == 3
    model[1].weight = model[0].weight
    assert len(select_parameters(model).selected) == 2
    assert len(select_parameters(model.to("meta")).selected) == 3  # without memory
