"""The user's words as a value: which weights, with which options and views."""

import pytest
import torch
from torch import nn

from overparam.layers import linear_view, packed_view
from overparam.layers.choice import Choice
from overparam.layers.entries import is_chosen


def _model() -> nn.ModuleDict:
    return nn.ModuleDict(
        {"body": nn.Linear(4, 6), "head": nn.Linear(6, 2), "words": nn.Embedding(5, 4)}
    )


def test_later_patterns_win_and_the_view_is_not_an_option() -> None:
    view = packed_view((6, 4), 3, "attention")
    choice = Choice(overrides={".*": {"depth": 3, "lr": 1.0}, "body": {"depth": 2, "view": view}})
    assert choice.options([".*"]) == {"depth": 3, "lr": 1.0}
    assert choice.options([".*", "body"]) == {"depth": 2, "lr": 1.0}
    body = choice.select(_model()).selected[0]
    assert (body.name, body.view) == ("body.weight", view)


def test_a_model_stands_for_one_group_for_each_set_of_options() -> None:
    model = _model()
    choice = Choice(targets="all", overrides={"head": {"depth": 4}, "words": {"lr": 0.5}})
    groups = choice.groups({"params": model, "depth": 2, "lr": 1.0}, named=True)
    found = {
        (group["depth"], group["lr"]): [name for name, _ in group["params"]] for group in groups
    }
    assert found == {
        (2, 1.0): ["body.weight", "body.bias"],
        (4, 1.0): ["head.weight", "head.bias"],
        (2, 0.5): ["words.weight"],
    }
    for group in groups:
        chosen = [is_chosen(entry) for entry in group["views"]]
        assert chosen == [name.endswith("weight") for name, _ in group["params"]]


def test_views_of_a_model_for_tensors_in_any_order() -> None:
    model, stranger = _model(), nn.Parameter(torch.randn(3, 3))
    params = [stranger, model["head"].weight, model["words"].weight]
    of_stranger, of_head, of_words = Choice().views(model, params)
    assert of_stranger is not None
    assert of_stranger.kind == "by shape"
    assert (is_chosen(of_head), is_chosen(of_words)) == (True, False)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"tail": {}}, r"overrides\['tail'\] matches no parameter; .* body.weight, body.bias"),
        ({"(": {}}, "is not a regular expression"),
        ({"head": {"view": linear_view((6, 2))}}, r"head.weight has \(2, 6\)"),
    ],
)
def test_overrides_that_fit_nothing_are_errors(overrides: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Choice(overrides=overrides).groups({"params": _model()}, named=False)


def test_a_model_without_parameters_is_an_error() -> None:
    with pytest.raises(ValueError, match="ReLU has no parameters to optimize"):
        Choice().groups({"params": nn.ReLU()}, named=False)
