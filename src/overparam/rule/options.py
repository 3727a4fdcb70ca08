"""The options that choose a member of the rule's family: checked, and as the fast rule takes them.

They are those of :class:`overparam.EndToEnd`, where their docstring is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping
from typing import Any

from overparam._checks import plain_depth, plain_number, plain_numbers
from overparam.rule.unbalanced import check_imbalance


def check_member(options: MutableMapping[str, Any]) -> None:
    """Turn numbers of any kind into plain ones, and raise unless the options fit together.

    Args:
        options: ``depth``, ``imbalance``, ``singular_value_floor``, ``normalize``,
            ``both_sides`` and, where there is one, ``differentiable``.

    Raises:
        TypeError: depth or imbalance is not a number, nor a sequence of numbers.
        ValueError: a value out of range, or two options that exclude each other.
    """
    depth = options["depth"] = plain_depth(options["depth"])
    given = plain_numbers(options["imbalance"])
    floor = plain_number(options["singular_value_floor"])
    options.update(imbalance=given, singular_value_floor=floor)
    differentiable, normalize = options.get("differentiable"), options["normalize"]
    if not hasattr(floor, "__float__") or not 0 <= floor < math.inf:
        raise ValueError(f"singular_value_floor is {floor!r}; use a number of at least 0.")
    # At depth 1 all others are without effect: groups override the depth alone.
    if depth != 1 and check_imbalance(given, depth) and floor > 0:
        raise ValueError(
            f"imbalance is {given} and singular_value_floor {floor}; set one of them only: with an "
            "imbalance null directions move without a floor."
        )
    if normalize not in (True, False, "metric"):
        raise ValueError(f'normalize is {normalize!r}; use True, False or "metric".')
    if options["both_sides"] and (normalize == "metric" or differentiable):
        raise ValueError(
            f"both_sides is {options['both_sides']}, which has neither "
            'normalize="metric" nor differentiable=True; set only one.'
        )
    if differentiable and floor > 0:
        raise ValueError("differentiable=True has no singular_value_floor; set only one.")


def fast_options(options: Mapping[str, Any], transposed: bool) -> dict[str, Any]:
    """What :func:`overparam.rule.fast.update_in_basis` and ``update_of_rows`` take.

    Args:
        options: checked.
        transposed: whether the weight is ``W^T``: its factors come in the opposite order.
    """
    offsets = check_imbalance(options["imbalance"], options["depth"])
    return {
        "floor": float(options["singular_value_floor"]),
        "normalize": bool(options["normalize"]) and options["normalize"] != "metric",
        "offsets": offsets[::-1] if transposed else offsets,
        "root": bool(options["both_sides"]),
    }


def moves_zeros(options: Mapping[str, Any]) -> bool:
    """Whether all eigenvalues of the preconditioner are positive, at ``W = 0`` too.

    With a floor they are, and with offsets of which a single one is the smallest.
    """
    offsets = check_imbalance(options["imbalance"], options["depth"])
    return options["singular_value_floor"] > 0 or offsets.count(0.0) == 1


def member_words(options: Mapping[str, Any]) -> list[str]:
    """What is unusual about the member, for reports."""
    words = []
    if check_imbalance(options["imbalance"], options["depth"]):
        words.append(f"imbalance {options['imbalance']}")
    if options["normalize"] == "metric":
        words.append("of length 1 in the metric of depth")
    if options["both_sides"]:
        words.append("half before the inner step, half after")
    return words
