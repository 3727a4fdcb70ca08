"""The options of the family: made plain, checked together, and turned for transposed weights."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from overparam.rule.options import check_member, fast_options, member_words, moves_zeros


def options(**given: Any) -> dict[str, Any]:
    defaults = {"depth": 2, "imbalance": 0.0, "singular_value_floor": 0.0}
    return {**defaults, "normalize": True, "both_sides": False, **given}


def test_numbers_of_any_kind_become_plain() -> None:
    given = options(depth=np.int64(3), imbalance=[np.float32(0.5), 0, Fraction(1, 4)])
    check_member(given)
    assert (given["depth"], given["imbalance"]) == (3, (0.5, 0, 0.25))
    assert {type(each) for each in given["imbalance"]} <= {int, float}
    given = options(imbalance=np.float64(0.5))
    check_member(given)
    assert type(given["imbalance"]) is float


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"singular_value_floor": -1.0}, "singular_value_floor is -1.0; use"),
        ({"singular_value_floor": math.nan}, "singular_value_floor is nan; use"),
        ({"singular_value_floor": "0.1"}, "singular_value_floor is '0.1'; use"),
        ({"singular_value_floor": 0.1, "imbalance": 0.5}, "imbalance is 0.5 and singular_value_f"),
        ({"singular_value_floor": 0.1, "differentiable": True}, "set only one"),
        ({"imbalance": (0.0, 1.0, 2.0)}, "lists 3 offset"),
        ({"normalize": "max"}, "normalize is 'max'; use True, False or \"metric\""),
        ({"both_sides": True, "normalize": "metric"}, "both_sides is True"),
        ({"both_sides": True, "differentiable": True}, "both_sides is True"),
    ],
)
def test_bad_values_are_named_with_the_remedy(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_member(options(**given))


def test_depth_one_takes_any_imbalance() -> None:
    check_member(options(depth=1, imbalance=0.5, singular_value_floor=0.1))


def test_a_transposed_weight_has_its_factors_in_the_opposite_order() -> None:
    given = options(depth=3, imbalance=(1.0, 3.0, 2.0))
    assert fast_options(given, transposed=False)["offsets"] == (0.0, 2.0, 1.0)
    assert fast_options(given, transposed=True)["offsets"] == (1.0, 2.0, 0.0)
    for normalize, largest in ((True, True), (False, False), ("metric", False)):
        assert fast_options(options(normalize=normalize), False)["normalize"] is largest


def test_zeros_move_with_a_floor_or_a_single_smallest_offset() -> None:
    assert not moves_zeros(options())
    assert moves_zeros(options(imbalance=-0.5))
    assert moves_zeros(options(singular_value_floor=0.1))
    assert moves_zeros(options(depth=3, imbalance=(0.1, 0.0, 0.1)))
    assert not moves_zeros(options(depth=3, imbalance=(0.0, 0.0, 0.1)))


def test_reports_say_what_is_unusual() -> None:
    assert member_words(options()) == []
    assert member_words(options(imbalance=0.5, both_sides=True)) == [
        "imbalance 0.5",
        "half before the inner step, half after",
    ]
    assert member_words(options(normalize="metric")) == ["of length 1 in the metric of depth"]
