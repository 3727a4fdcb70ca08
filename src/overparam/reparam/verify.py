"""What a model computes, recorded so that it can be compared before and after a change."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

# Largest difference of outputs, relative to the largest entry: kernels may be chosen by the memory
# layout of a weight.
_TOLERANCE = 1e-5

Outputs = dict[str, list[Tensor]]
"""Outputs by mode: evaluation, training."""


def first_difference(before: Outputs, after: Outputs) -> str | None:
    """Where outputs differ by more than rounding, in words, or None."""
    for mode, outputs in before.items():
        for number, (first, second) in enumerate(zip(outputs, after[mode], strict=True)):
            gap = _relative_gap(first, second)
            if not gap <= _TOLERANCE:
                return f"output {number} in {mode} mode moved by {gap:.2g} of its largest entry"
    return None


def outputs_of(
    model: nn.Module, example_inputs: Tensor | Sequence[Any] | Mapping[str, Any]
) -> Outputs:
    """What a model computes in both modes, with the same random numbers.

    Modes, buffers (running statistics) and random numbers are left as they were.
    """
    if isinstance(example_inputs, Tensor):
        example_inputs = (example_inputs,)
    return {mode: _outputs(model, example_inputs, mode) for mode in _MODES}


_MODES = ("evaluation", "training")


def _outputs(
    model: nn.Module, example_inputs: Sequence[Any] | Mapping[str, Any], mode: str
) -> list[Tensor]:
    modes = {module: module.training for module in model.modules()}
    buffers = {buffer: buffer.clone() for buffer in model.buffers()}
    try:
        model.train(mode == "training")
        with _same_random_numbers(), torch.no_grad():
            if isinstance(example_inputs, Mapping):
                output = model(**example_inputs)
            else:
                output = model(*example_inputs)
        return [leaf.clone() for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
    finally:
        with torch.no_grad():
            for buffer, value in buffers.items():
                buffer.copy_(value)
        for module, training in modes.items():
            module.training = training


@contextmanager
def _same_random_numbers() -> Iterator[None]:
    """Put back what is drawn from torch, numpy and Python, so that every pass draws the same."""
    numpy = sys.modules.get("numpy")
    python_state = random.getstate()
    numpy_state = numpy.random.get_state() if numpy is not None else None
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python_state)
        if numpy is not None:
            numpy.random.set_state(numpy_state)


def _relative_gap(first: Tensor, second: Tensor) -> float:
    """Largest difference over the largest entry; infinite where shapes or NaNs differ."""
    if first.shape != second.shape:
        return float("inf")
    if torch.equal(first, second) or first.numel() == 0:
        return 0.0
    wide, other = first.double(), second.double()
    if not torch.equal(wide.isfinite(), other.isfinite()):
        return float("inf")
    finite = wide.isfinite()
    gap = (wide - other)[finite].abs()
    size = wide[finite].abs()
    return float(gap.amax() / size.amax().clamp_min(1e-300)) if gap.numel() else 0.0
