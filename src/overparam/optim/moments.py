"""The state of an inner optimizer, from factors to the weight and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from overparam.layers.views import MatrixView
from overparam.optim.carry import lift, lift_squares, push_forward, push_squares
from overparam.optim.factors import join_matrices, split_matrices

State = dict[str, Any]

_FIRST = ("momentum_buffer", "exp_avg")
_SECOND = ("exp_avg_sq", "max_exp_avg_sq")


def collapse_state(
    states: Sequence[State], factors: Sequence[Tensor], p: Tensor, view: MatrixView
) -> State:
    """The state for the weight, from those of its factors.

    Args:
        states: of the factors; empty ones before the first step.
        factors: ``W_1, ..., W_N``.
        p: the weight.
        view: its matrices.

    Raises:
        NotImplementedError: a tensor of unknown meaning.
    """
    result: State = {}
    for name, value in states[0].items():
        if not _is_moment(name, value):
            result[name] = _copy(value)
            continue
        moments = [state[name] for state in states]
        push = push_forward if name in _FIRST else push_squares
        result[name] = join_matrices(push(factors, moments), view).to(p.dtype).contiguous()
    return result


def expand_state(state: State, factors: Sequence[Tensor], view: MatrixView) -> list[State]:
    """The states for the factors, from that of the weight.

    Args:
        state: of the weight; empty before the first step.
        factors: ``W_1, ..., W_N``, balanced.
        view: the matrices of the weight.

    Raises:
        NotImplementedError: a tensor of unknown meaning.
    """
    results: list[State] = [{} for _ in factors]
    matrices = {
        name: split_matrices(value, view).to(factors[0].dtype)
        for name, value in state.items()
        if _is_moment(name, value)
    }
    lifted = {name: lift(factors, matrices[name]) for name in matrices if name in _FIRST}
    first = next(iter(lifted), None)
    for name, value in state.items():
        if name not in matrices:
            parts = [_copy(value) for _ in factors]
        elif name in lifted:
            parts = lifted[name]
        elif first is None:
            raise NotImplementedError(f"the state {name!r} comes without a first moment.")
        else:
            parts = lift_squares(factors, matrices[name], matrices[first], lifted[first])
        for result, part in zip(results, parts, strict=True):
            result[name] = part
    return results


def _is_moment(name: str, value: Any) -> bool:
    """Whether a state is a tensor of the weight's shape: known ones only."""
    if not isinstance(value, Tensor) or value.ndim == 0:
        return False
    if name not in _FIRST + _SECOND:
        raise NotImplementedError(
            f"the state {name!r} has no known meaning for a product of factors; known are "
            f"{', '.join(_FIRST + _SECOND)}. Start the new optimizer without state instead."
        )
    return True


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else value
