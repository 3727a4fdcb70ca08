"""What stands beside the parameters of a group: read, checked, and kept by a checkpoint."""

import json
from typing import Any

import pytest
import torch
from torch import nn

from overparam.layers import linear_view, packed_view
from overparam.layers.entries import (
    check_whole,
    complete_views,
    is_chosen,
    kinds,
    readings,
    saved_view,
)


def _group(*shapes: tuple[int, ...], **options: Any) -> dict[str, Any]:
    return {"params": [nn.Parameter(torch.randn(shape)) for shape in shapes], **options}


def test_tensors_without_a_model_are_read_by_their_shape() -> None:
    group = _group((4, 3), (4,))
    complete_views(group)
    (_, matrix, why), (_, vector, why_not) = readings(group)
    assert matrix is not None
    assert (matrix.matrices, why) == ("1 x (4, 3)", "read by its shape")
    assert (vector, why_not) == (None, "it acts entry by entry")
    assert [is_chosen(entry) for entry in group["views"]] == [True, False]
    assert kinds(group) == ["by shape", ""]


def test_entries_survive_a_text_file() -> None:
    view = packed_view((6, 4), 3, "attention")
    group = _group((6, 4), views=[view])
    complete_views(group)
    loaded = {**group, "views": json.loads(json.dumps(group["views"]))}
    assert [view for _, view, _ in readings(loaded)] == [view]
    assert saved_view(loaded, 0) == view
    assert saved_view(loaded, 1) is None


def test_a_parameter_exchanged_for_one_of_another_shape_is_read_by_its_shape() -> None:
    group = _group((6, 4), views=[packed_view((6, 4), 3, "attention")])
    complete_views(group)
    group["params"][0] = nn.Parameter(torch.randn(5, 2))
    with pytest.warns(UserWarning, match=r"\(6, 4\) was exchanged for one of \(5, 2\)"):
        ((_, view, _),) = readings(group)
    assert view is not None
    assert (view.shape, view.kind) == ((5, 2), "by shape")


@pytest.mark.parametrize(
    ("group", "error", "words"),
    [
        (_group((2, 3), views=[]), ValueError, "views lists 0 entries for 1 parameters"),
        (
            _group((2, 3), views=[linear_view((3, 2))]),
            ValueError,
            r"0 has shape \(2, 3\)",
        ),
        (
            {"params": [torch.ones(2, 3, dtype=torch.int64)], "param_names": ["ids"]},
            TypeError,
            "ids has dtype torch.int64",
        ),
    ],
)
def test_views_that_do_not_fit_are_errors(
    group: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        complete_views(group)


def test_a_flat_shard_is_refused_by_name() -> None:
    group = _group((6,), param_names=["flat"])
    check_whole(group)
    group["params"][0]._fsdp_flattened = True
    with pytest.raises(ValueError, match="flat is a flat shard of FullyShardedDataParallel"):
        check_whole(group)
