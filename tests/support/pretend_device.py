"""A device that is not there: PyTorch takes it for an accelerator, the CPU does the work.

A tensor of this device wraps one of the CPU. As on a GPU, an operation that mixes it with a tensor
of the CPU that is no scalar raises, or with a generator of the CPU; only copies go from one to the
other. What it cannot show: the kernels of a GPU, which of them are missing, their rounding and
speed; fused and foreach steps of optimizers, which tensors of a subclass do not take; and scalars
of the CPU where a GPU would refuse them.

PyTorch can register one such device for the life of a process: see :func:`set_up`.
"""

from typing import Any

import torch
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves, tree_map

NAME = "pretend"
_SET_UP = "_setup_privateuseone_for_python_backend"
# Private in PyTorch, from 2.10 on.
POSSIBLE = hasattr(backend_registration, _SET_UP)
_COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}


class PretendTensor(torch.Tensor):
    """A tensor of the device, with its numbers on the CPU."""

    # No attribute in the dict of the tensor: that is the user's.
    __slots__ = ["held"]

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "PretendTensor":
        return torch.Tensor._make_wrapper_subclass(  # sizes are asked of the wrapped tensor
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(),
            dtype=held.dtype, device=f"{NAME}:0", dispatch_sizes_strides_policy="sizes",
        )  # fmt: skip

    def __init__(self, held: torch.Tensor) -> None:
        self.held = held

    def __repr__(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        return f"PretendTensor({self.held})"

    def tolist(self) -> Any:
        return self.held.tolist()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.held.__reduce_ex__(protocol)  # what is read to the CPU from a file

    @property
    def data(self) -> torch.Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        return torch.Tensor.data.__get__(self)

    @data.setter
    def data(self, value: "PretendTensor") -> None:
        torch.Tensor.data.__set__(self, value)
        self.held = value.held

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        leaves = tree_leaves((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        mixed = any(not isinstance(tensor, cls) and tensor.ndim for tensor in tensors)
        mixed |= any(isinstance(leaf, torch.Generator) for leaf in leaves)
        if mixed and func not in _COPIES:
            raise RuntimeError(f"{func} was given something of the CPU and of the device")
        here = func is not torch.ops.aten.copy_.default or isinstance(args[0], cls)
        if kwargs.get("device") is not None:
            here = kwargs["device"].type == NAME
            kwargs["device"] = torch.device("cpu")
        result = func(*tree_map(_held, args), **tree_map(_held, kwargs))
        known = {id(_held(tensor)): tensor for tensor in tensors}  # what was changed in place

        def wrapped(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            return known.get(id(value), cls(value) if here else value)

        return tree_map(wrapped, result)


def set_up() -> None:
    """Register the device; for a process of its own, since it cannot be undone."""
    getattr(backend_registration, _SET_UP)(NAME)
    library = torch.library.Library("aten", "IMPL")

    def empty(size, dtype=None, layout=None, device=None, pin_memory=None, memory_format=None):
        return PretendTensor(torch.empty(size, dtype=dtype))

    def empty_strided(size, stride, dtype=None, layout=None, device=None, pin_memory=None):
        return PretendTensor(torch.empty_strided(size, stride, dtype=dtype))

    def copy_from(source, target, non_blocking=False):
        _held(target).copy_(_held(source))
        return target

    # What is made without a tensor of the device at hand; all else goes by __torch_dispatch__.
    library.impl("empty.memory_format", empty, "PrivateUse1")
    library.impl("empty_strided", empty_strided, "PrivateUse1")
    library.impl("_copy_from", copy_from, "PrivateUse1")
    _libraries.append(library)


_libraries: list[torch.library.Library] = []  # an implementation lives as long as its library


def _held(value: Any) -> Any:
    return value.held if isinstance(value, PretendTensor) else value
