"""The value of a product outside a forward pass: it reads as a tensor, and refuses to be written.

A product is formed at each use. What is written into it (``nn.init.zeros_(layer.weight)``,
``layer.weight.data.mul_(2)``) would be lost without a word; here it raises. Only
``layer.weight.data = value`` is taken, as an assignment: libraries resize embeddings by it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from overparam._words import warn_user
from overparam.reparam.product import attributes_of, factors_of, overwrite

_ITEMS = {"__setitem__", "__iadd__", "__isub__", "__imul__", "__imatmul__", "__itruediv__"}
_ITEMS |= {"__ifloordiv__", "__idiv__", "__imod__", "__ipow__", "__iand__", "__ior__", "__ixor__"}
_HARMLESS = {"requires_grad_", "share_memory_", "is_shared_"}
_GET_BASE = cast("Any", Tensor._base).__get__
_SET_DATA = cast("Any", Tensor.data).__set__
_ARRAYS = (Tensor.numpy, Tensor.__array__)
# Those that act on gradients of this tensor, which is another one at each use.
_ON_GRADIENTS = {"register_hook", "retain_grad"}
# These make something out of the whole object, class and all.
_WHOLE = {"__reduce_ex__", "__deepcopy__", "__repr__", "__format__"}


class _LikeAnyTensor(torch._C._TensorMeta):
    """Related to every tensor: ``torch.testing.assert_close(layer.weight, parameter)`` asks."""

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, Tensor)


class ProductValue(Tensor, metaclass=_LikeAnyTensor):
    """A tensor that shows the value of a product; results computed from it are plain tensors.

    What shares its memory (``.data``, ``.detach()``, a row, an array of numpy) is guarded too.
    Attributes that users set (``layer.weight.no_decay = True``) are those of the factors.

    Attributes:
        place: in words, for messages.
        held: what holds the factors; None for what merely shares the memory.
        asked_as_parameter: whether ``model.get_parameter`` asked for it, by which libraries tie
            one weight to another.
        in_forward: whether a forward pass asked for it, which goes on to compute with it.
    """

    place: str
    held: parametrize.ParametrizationList | None = None
    asked_as_parameter: bool = False
    in_forward: bool = False

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the function on plain tensors, unless it writes into a product."""
        del types
        kwargs = kwargs or {}
        target = _written(func, args, kwargs)
        if target is not None and target.held is not None and func == _SET_DATA:
            overwrite(target.held, _plain(args[1]))
            return None
        if target is not None:
            refuse(_called(func), target.place)
        with torch._C.DisableTorchFunctionSubclass():
            if func.__name__ in _WHOLE:
                args = [_plain(arg) for arg in args]
            result = func(*args, **kwargs)
            source = next((arg for arg in args if type(arg) is ProductValue), None)
            if source is None or func == _GET_BASE:
                return result
            if func.__name__ in _ON_GRADIENTS:
                _warn_of_gradients(func.__name__, source)
            if func in _ARRAYS:
                return _read_only(result, source)
            return _guard_aliases(result, source)

    def __getattr__(self, name: str) -> Any:
        """What users have set on the parameter or its factors; asked where torch has no such."""
        if self.held is not None and not name.startswith("__"):
            attributes = attributes_of(self.held)
            if name in attributes:
                return attributes[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if self.held is None or hasattr(type(self), name) or name == "place":
            super().__setattr__(name, value)
            return
        for factor in factors_of(self.held):
            setattr(factor, name, value)

    @property
    def _is_param(self) -> bool:  # pyright: ignore
        """Read by ``isinstance(value, nn.Parameter)``."""
        return self.asked_as_parameter

    @_is_param.setter
    def _is_param(self, value: bool) -> None:  # pyright: ignore
        # nn.Parameter(value) keeps the class of what it is given, and a parameter is written to.
        cast("dict[str, Any]", self.__dict__).clear()
        self.__class__ = nn.Parameter  # pyright: ignore


def refuse(what: str, place: str) -> NoReturn:
    """Raise for what would write into a product.

    Raises:
        RuntimeError: always.
    """
    raise RuntimeError(
        f"{what} would write into {place}, which is a product of factors: what is written there is "
        "lost. Assign the new value (layer.weight = value), or write inside "
        "overparam.collapsed(model)."
    )


def guarded(value: Tensor, place: str, held: parametrize.ParametrizationList | None) -> Tensor:
    """A tensor that refuses to be written, with the same memory and graph."""
    with torch._C.DisableTorchFunctionSubclass():
        result = value.as_subclass(ProductValue)
        result.place, result.held = place, held
        return result


def held_by(value: object) -> parametrize.ParametrizationList | None:
    """What holds the factors of a value that was read from a product, or None."""
    return value.held if type(value) is ProductValue else None


def plain(value: Any) -> Any:
    """A value as a plain tensor, where it is guarded."""
    with torch._C.DisableTorchFunctionSubclass():
        return _plain(value)


def _plain(value: Any) -> Any:
    return value.as_subclass(Tensor) if type(value) is ProductValue else value


def _called(func: Callable[..., Any]) -> str:
    """The name that users know a function by: an attribute for its setter."""
    own = getattr(func, "__self__", None)
    return f"setting .{own.__name__}" if func.__name__ == "__set__" and own else func.__name__


def _written(
    func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> ProductValue | None:
    """The guarded tensor that a function would write into, or None."""
    name = func.__name__
    candidates: list[Any] = []
    if name == "__set__" or name in _ITEMS:
        candidates = [args[0]]
    elif name in ("requires_grad_", "detach_"):
        # On a detached copy, as nn.Parameter makes one, it means that copy alone.
        candidates = [arg for arg in args[:1] if held_by(arg) is not None]
    elif name.endswith("_") and not name.endswith("__") and name not in _HARMLESS:
        first = args[0] if args else kwargs.get("tensor", kwargs.get("input"))
        candidates = list(first) if isinstance(first, (list, tuple)) else [first]
    out = kwargs.get("out")
    candidates += list(out) if isinstance(out, (list, tuple)) else [out]
    return next((each for each in candidates if type(each) is ProductValue), None)


def _guard_aliases(result: Any, source: ProductValue) -> Any:
    """Guard every plain tensor of a result that shares the memory of ``source``."""
    if type(result) is Tensor:
        return guarded(result, source.place, None) if _shares(result, source) else result
    if type(result) in (tuple, list):
        return type(result)(_guard_aliases(each, source) for each in result)
    return result


def _shares(result: Tensor, source: Tensor) -> bool:
    if result.layout != torch.strided or source.is_meta:
        return False
    return result.untyped_storage().data_ptr() == source.untyped_storage().data_ptr()


def _read_only(array: Any, source: Tensor) -> Any:
    """An array of numpy that refuses to be written where it shares the memory of ``source``."""
    if array.__array_interface__["data"][0] == source.data_ptr():
        array.flags.writeable = False
    return array


def _warn_of_gradients(called: str, value: ProductValue) -> None:
    if value.held is not None and not value.in_forward:
        warn_user(
            f"{called} acts on this value of {value.place} alone, a product that is formed again "
            "at each use: a later forward pass does not know of it. Use the factors "
            "(model.parameters()), or overparam.reparam.weight_gradients(model) after backward."
        )
