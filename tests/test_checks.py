"""Bad input: every message names the value, before anything is computed."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from overparam import (
    balanced_factors,
    balanced_initialization,
    end_to_end_update,
    factor_product,
    factor_product_vjp,
    identity_initialization,
    imbalance,
    near_zero_initialization,
    preconditioner_spectrum,
    single_output_update,
)
from overparam._checks import broadcast_shape

W = torch.ones(2, 3)
BATCH = torch.ones(2, 2, 3)
PAIR = (torch.ones(4, 3), torch.ones(2, 4))
nan = math.nan

# function, arguments, error, words of the message
BAD: list[tuple[Callable[..., Any], tuple, type[Exception], str]] = [
    (end_to_end_update, ([[1.0]], W, 2), TypeError, "weight is a list"),
    (end_to_end_update, (W, W.int(), 2), TypeError, "gradient has dtype torch.int32"),
    (end_to_end_update, (W.bool(), W, 2), TypeError, "weight has dtype torch.bool"),
    (
        end_to_end_update,
        (W.to(torch.complex64), W, 2),
        TypeError,
        "weight has dtype torch.complex64",
    ),
    (end_to_end_update, (W, W.double(), 2), TypeError, "float32 and gradient torch.float64"),
    (end_to_end_update, (W, W.to("meta"), 2), ValueError, "on cpu and gradient on meta"),
    (end_to_end_update, (W[0], W[0], 2), ValueError, r"shape \(3,\); the rule needs a matrix"),
    (end_to_end_update, (W, W.mT, 2), ValueError, r"\(3, 2\) and weight \(2, 3\)"),
    (end_to_end_update, (W, W[0], 2), ValueError, r"\(3,\) and weight \(2, 3\)"),
    (end_to_end_update, (BATCH, torch.ones(5, 2, 3), 2), ValueError, r"\(5, 2, 3\) do not broad"),
    (end_to_end_update, (BATCH, BATCH, torch.ones(5)), ValueError, r"depth has shape \(5,\)"),
    (end_to_end_update, (W, W, 0.5), ValueError, "depth is 0.5"),
    (end_to_end_update, (W, W, nan), ValueError, "depth is nan"),
    (end_to_end_update, (W, W, -math.inf), ValueError, "depth is -inf"),
    (end_to_end_update, (W, W, torch.tensor([2.0, 0.25])), ValueError, "depth contains 0.25"),
    (end_to_end_update, (W, W, torch.tensor(nan)), ValueError, "depth contains nan"),
    (end_to_end_update, (W, W, "2"), TypeError, "depth is '2', a str"),
    (end_to_end_update, (W, W, True), TypeError, "depth is True, a bool"),
    (end_to_end_update, (W, W, torch.tensor(True)), TypeError, "depth has dtype torch.bool"),
    (end_to_end_update, (W, W, torch.tensor(2j)), TypeError, "depth has dtype torch.complex64"),
    (single_output_update, (W.sum(), W.sum(), 2), ValueError, r"shape \(\); the rule needs a vec"),
    (single_output_update, (W[0], W[:, 0], 2), ValueError, r"\(2,\) and weight \(3,\)"),
    (single_output_update, (W, W, torch.ones(3)), ValueError, r"depth has shape \(3,\)"),
    (single_output_update, (W, W, 0), ValueError, "depth is 0"),
    (preconditioner_spectrum, (W[0], 2), ValueError, r"weight has shape \(3,\)"),
    (preconditioner_spectrum, (W.int(), 2), TypeError, "weight has dtype torch.int32"),
    (preconditioner_spectrum, (W * nan, 2), ValueError, "weight has non-finite entries"),
    (preconditioner_spectrum, (W, 0.9), ValueError, "depth is 0.9"),
    (preconditioner_spectrum, (BATCH, torch.ones(3)), ValueError, r"depth has shape \(3,\)"),
    (balanced_factors, (W.int(), 2), TypeError, "weight has dtype torch.int32"),
    (balanced_factors, (W[0], 2), ValueError, r"weight has shape \(3,\)"),
    (balanced_factors, (W * math.inf, 2), ValueError, "weight has non-finite entries"),
    (balanced_factors, (W, 0), ValueError, "depth is 0"),
    (balanced_factors, (W, 2.0), TypeError, "depth is 2.0"),
    (balanced_factors, (W, True), TypeError, "depth is True"),
    (balanced_factors, (W, 3, [2]), ValueError, "lists 1 hidden layers; depth 3 has 2"),
    (balanced_factors, (W, 2, 1), ValueError, "width 1 is below 2"),
    (balanced_factors, (W, 3, [5, 1]), ValueError, "width 1 is below 2"),
    (balanced_factors, (W, 2, 2.5), TypeError, "width 2.5 is not an integer"),
    (balanced_factors, (W, 2, True), TypeError, "width True is not an integer"),
    (balanced_factors, (W, 3, [3, 2.5]), TypeError, "width 2.5 is not an integer"),
    (imbalance, ([],), ValueError, "factors is empty"),
    (factor_product, ([],), ValueError, "factors is empty"),
    (factor_product, ((W.int(),),), TypeError, "factor 1 has dtype torch.int32"),
    (factor_product, ((W, W[0]),), ValueError, r"factor 2 has shape \(3,\)"),
    (factor_product, ((W, W.mT.double()),), TypeError, "factor 2 has dtype torch.float64"),
    (factor_product, ((W, W),), ValueError, r"factor 2 of shape \(2, 3\) cannot follow factor 1"),
    (
        factor_product,
        ((BATCH, torch.ones(5, 3, 2)),),
        ValueError,
        r"leading dimensions \[\(2,\), \(5,\)\] of the factors",
    ),
    (factor_product_vjp, (PAIR, W.mT), ValueError, r"\(3, 2\); the product has shape \(2, 3\)"),
    (factor_product_vjp, (PAIR, W.int()), TypeError, "cotangent has dtype torch.int32"),
    (factor_product_vjp, (PAIR, W.double()), TypeError, "cotangent has dtype torch.float64"),
    (
        factor_product_vjp,
        ((BATCH, torch.ones(1, 3, 2)), W),
        ValueError,
        r"factor 2 has leading dimensions \(1,\) and factor 1 \(2,\)",
    ),
    *(
        case
        for initialize in (
            near_zero_initialization,
            balanced_initialization,
            identity_initialization,
        )
        for case in (
            (initialize, (2, 3, 0), ValueError, "depth is 0"),
            (initialize, (2, 3, 1.5), TypeError, "depth is 1.5"),
        )
    ),
]


@pytest.mark.parametrize(("function", "arguments", "error", "words"), BAD)
def test_message_names_the_value(
    function: Callable[..., Any], arguments: tuple, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        function(*arguments)


@pytest.mark.parametrize("std", [-1.0, nan])
@pytest.mark.parametrize(
    "initialize", [near_zero_initialization, balanced_initialization, identity_initialization]
)
def test_std_is_checked(initialize: Callable[..., Any], std: float) -> None:
    with pytest.raises(ValueError, match=f"std is {std}"):
        initialize(2, 3, 2, std=std)


def test_narrow_width_is_allowed_where_it_only_limits_the_rank() -> None:
    assert near_zero_initialization(2, 3, 2, width=1)[0].shape == (1, 3)
    with pytest.raises(ValueError, match="width 1 is below 2"):
        balanced_initialization(2, 3, 2, width=1)


SHAPE = st.lists(st.sampled_from([0, 1, 1, 2, 3]), max_size=3).map(tuple)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(shapes=st.lists(SHAPE, min_size=1, max_size=3))
def test_shapes_broadcast_as_torch_says(shapes: list[tuple[int, ...]]) -> None:
    try:
        expected = torch.broadcast_shapes(*shapes)
    except RuntimeError:
        with pytest.raises(RuntimeError):
            broadcast_shape(*shapes)
    else:
        assert broadcast_shape(*shapes) == expected
