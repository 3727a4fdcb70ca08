"""A CUDA graph without a GPU: operations are written down as they run, and done again on request.

As in a graph, the same operations run on the same tensors: what the host decided while capturing
is decided for good, and a tensor that the host has exchanged since is not seen. Operations that
wait for the device cannot be captured and raise.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Each of them waits for the device, which is an error while a GPU captures.
WAITING = (
    "_local_scalar_dense", "item", "is_nonzero", "nonzero", "masked_select", "equal", "unique",
    "bincount", "_linalg_svd", "linalg_eigh", "_linalg_eigh", "lift_fresh",
)  # fmt: skip
# They give a tensor that shares memory with an argument, and launch nothing.
VIEWS = (
    "view", "_unsafe_view", "_reshape_alias", "slice", "split", "split_with_sizes", "expand", "t",
    "transpose", "permute", "as_strided", "unbind", "select", "alias", "detach", "unsqueeze",
    "squeeze", "empty", "empty_like", "empty_strided", "new_empty",
)  # fmt: skip


def name_of(operation: Any) -> str:
    return operation.overloadpacket.__name__


class Tape(TorchDispatchMode):
    """Writes down every operation.

    Attributes:
        operations: function, arguments, keyword arguments and result of each.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, tuple, dict, Any]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        indexed = name_of(func) in ("index", "index_put_") and any(
            isinstance(leaf, torch.Tensor) and leaf.dtype == torch.bool
            for leaf in tree_leaves(args[1])
        )
        if name_of(func) in WAITING or indexed:
            raise RuntimeError(f"{func} waits for the device")
        result = func(*args, **kwargs)
        self.operations.append((func, args, kwargs, result))
        return result

    def launches(self) -> list[str]:
        """The operations that a GPU would run a kernel for."""
        names = (name_of(func) for func, *_ in self.operations)
        return [name for name in names if name not in VIEWS]

    def replay(self) -> None:
        """Do all of it again, into the tensors of the first time."""
        for func, args, kwargs, result in self.operations:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def capture(work: Callable[[Any], None]) -> Callable[[], None]:
    """Take the place of :func:`overparam.lab.training.replay.cuda_graph`.

    A tape does the work while it writes, so the first replay is done already.
    """
    tape, done = Tape(), [True]
    with tape:
        work(None)

    def replay() -> None:
        if not done or not done.pop():
            tape.replay()

    return replay
