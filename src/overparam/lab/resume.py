"""What every job does: continue from its checkpoint, train in chunks, stop on request."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from overparam.lab.store import read_state, write_state

_CHECKPOINT_SECONDS = 15.0


class Training(Protocol):
    """Something that trains step by step and whose state can be saved after any step."""

    step: int

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train."""
        ...

    def advance(self, steps: int) -> None:
        """Train for at most ``steps`` steps."""

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""


def train_resumably(
    training: Training,
    iterations: int,
    checkpoint: Path,
    identity: str,
    key: str,
    *,
    chunk_steps: int,
    step_cost: float,
    stop: Callable[[], bool],
    on_cost: Callable[[float], None],
) -> bool:
    """Train to the end or until asked to stop; save a checkpoint now and then, and when stopping.

    Args:
        training: what to train, at its start.
        iterations: steps of the whole training; it may finish earlier, by diverging.
        checkpoint: file of the checkpoint.
        identity: identity of the training; other checkpoints are not used.
        key: name of the training's state in the checkpoint.
        chunk_steps: steps between two calls of ``stop``.
        step_cost: cost of one step.
        stop: whether to save and return.
        on_cost: called with the cost of the steps done; first, of those done earlier.

    Returns:
        Whether the training is finished.
    """
    saved = read_state(checkpoint, {"identity", key})
    if saved is not None and saved["identity"] == identity:
        training.load_state_dict(saved[key])
    on_cost(step_cost * training.step)
    last_saved = time.monotonic()
    while not training.finished:
        before = training.step
        training.advance(chunk_steps)
        on_cost(step_cost * ((iterations if training.finished else training.step) - before))
        stopping = stop() and not training.finished
        if stopping or time.monotonic() - last_saved > _CHECKPOINT_SECONDS:
            write_state(checkpoint, {"identity": identity, key: training.state_dict()})
            last_saved = time.monotonic()
        if stopping:
            return False
    return True
