"""The state of an optimizer on its way between a weight and its factors: one meaning, everywhere.

``Factored.collapse`` and ``expand``, ``collapse(model, optimizer=)`` and
``overparameterize(model, optimizer=)`` all carry state by the functions here. Running means of
gradients travel as gradients do: ``J^T`` takes them to the factors, least squares brings them
back. Running means of squared gradients travel as if the entries of the gradient were
uncorrelated, which is an estimate. Counters are copied. The choice was measured against carrying
running means as velocities: ``docs/transport.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from overparam.factors.layout import Layout
from overparam.factors.linearize import (
    gradient_from_factors,
    gradient_to_factors,
    variance_from_factors,
    variance_to_factors,
)

State = dict[str, Any]
Carry = Callable[..., Sequence[Tensor]]

MEANS = ("momentum_buffer", "exp_avg", "grad_avg")
SQUARES = ("exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum")


def check_states(states: Sequence[Mapping[str, Any]]) -> None:
    """Raise for state that cannot be carried: called before anything changes.

    Args:
        states: of the factors of one weight, or of one weight.

    Raises:
        NotImplementedError: a tensor of unknown meaning, or factors with different states.
    """
    for state in states:
        _check_known(state)
    if any(set(state) != set(states[0]) for state in states):
        raise NotImplementedError(
            "the factors of a weight have different optimizer states: some have stepped and some "
            "have not. Start the new optimizer without state."
        )


def _check_known(state: Mapping[str, Any]) -> None:
    if {"momentum_buffer", "square_avg"} <= set(state):
        raise NotImplementedError(
            "the momentum of RMSprop is of steps, not of gradients, and has no known meaning for a "
            "product of factors. Start the new optimizer without state."
        )
    for name, value in state.items():
        if isinstance(value, Tensor) and value.ndim > 0 and name not in (*MEANS, *SQUARES):
            raise NotImplementedError(
                f"the optimizer state {name!r} has no known meaning for a product of factors; "
                f"known are {', '.join((*MEANS, *SQUARES))}. Start the new optimizer without state."
            )


def state_to_factors(layout: Layout, factors: Sequence[Tensor], state: State) -> list[State]:
    """The states of the factors, from that of the weight.

    Args:
        layout: of the factors.
        factors: ``(W_1, ..., W_N)``.
        state: of the weight; empty before its first step.

    Raises:
        NotImplementedError: a tensor of unknown meaning.
    """
    values = [factor.detach() for factor in factors]

    def mean(value: Tensor) -> Sequence[Tensor]:
        return gradient_to_factors(layout, values, value.to(values[0].dtype))

    def square(value: Tensor) -> Sequence[Tensor]:
        return variance_to_factors(layout, values, value.to(values[0].dtype))

    return _carry([state], len(values), mean, square)


def state_to_weight(layout: Layout, factors: Sequence[Tensor], states: Sequence[State]) -> State:
    """The state of the weight, from those of its factors.

    Args:
        layout: of the factors.
        factors: ``(W_1, ..., W_N)``.
        states: of the factors; empty before their first step.

    Raises:
        NotImplementedError: a tensor of unknown meaning.
    """
    values = [factor.detach() for factor in factors]

    def mean(*parts: Tensor) -> Sequence[Tensor]:
        return (gradient_from_factors(layout, values, parts),)

    def square(*parts: Tensor) -> Sequence[Tensor]:
        return (variance_from_factors(layout, values, parts),)

    (state,) = _carry(states, 1, mean, square)
    if "exp_avg" in state and "exp_avg_sq" in state:
        # Where no gradient ever came (the row of a word that was not seen) the solution of least
        # squares is round-off, which Adam would divide by nothing.
        state["exp_avg"] = state["exp_avg"].where(state["exp_avg_sq"] > 0, 0.0)
    return state


def _carry(states: Sequence[State], count: int, mean: Carry, square: Carry) -> list[State]:
    """New states from old ones, name by name."""
    results: list[State] = [{} for _ in range(count)]
    check_states(states)
    for name, first in states[0].items():
        values = [state[name] for state in states]
        new: Sequence[Any]
        if isinstance(first, Tensor) and first.ndim > 0:
            new = (mean if name in MEANS else square)(*values)
            new = [value.contiguous() for value in new]
        else:
            new = [first.clone() if isinstance(first, Tensor) else first for _ in range(count)]
        for result, value in zip(results, new, strict=True):
            result[name] = value
    return results
