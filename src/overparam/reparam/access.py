"""What happens where a weight that is a product is read, assigned or replaced.

torch's parametrization gives the module a class of its own with a property. Here that property
is exchanged for one that knows more about how modules are used:

- Attention and recurrent layers ask for a weight several times in one forward pass; the product is
  formed once for each pass and thread.
- ``torch.func.functional_call`` puts a tensor in the place of the weight for one call.
- Assigning a value, another product or an ``nn.Parameter`` are three different wishes.
- Outside forward passes the value is guarded against writing (:mod:`overparam.reparam.guard`).
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import _named_member_accessor, parametrize

from overparam.reparam import guard
from overparam.reparam.product import factors_of, held_at, holds_product
from overparam.reparam.swap import all_or_nothing, take_out

_ASKING_TWICE = (nn.MultiheadAttention, nn.RNNBase)
# In older versions frames of functional_call vanish into compiled ones (seen in 2.9).
KNOWS_CALLERS = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 13)
_SWAPPING = _named_member_accessor.swap_tensor.__code__.co_filename
_LAYERS = str(Path(nn.Linear.forward.__code__.co_filename).parent)


class _Pass:
    """One forward pass of one module in one thread, with the products formed for it."""

    def __init__(self, owner: nn.Module) -> None:
        self.owner = owner
        self.context = _context()
        self.kept: dict[str, Tensor] = {}


class _OfThisThread(threading.local):
    """Never shared: one thread may evaluate a model that another one trains.

    Attributes:
        passes: forward passes that are running, the innermost last.
        given: tensors that stand in for products during a functional call, by (id of the module,
            attribute), and by id of what holds the factors for tied places.
    """

    def __init__(self) -> None:
        self.passes: list[_Pass] = []
        self.given: dict[object, tuple[object, Tensor]] = {}


_here = _OfThisThread()
_counting = threading.Lock()


def extend_class(owner: nn.Module) -> None:
    """Give the class of a parametrized module what it needs beyond torch's property.

    The class must be the module's own.
    """
    own, base = cast("Any", type(owner)), type(owner).__bases__[0]
    for attribute, held in cast("nn.ModuleDict", owner.parametrizations).items():
        if holds_product(held):
            setattr(own, attribute, _property(attribute))
    own.register_parameter = _register_parameter
    if hasattr(base, "reset_parameters"):
        own.reset_parameters = _refuse_reset
    if isinstance(owner, _ASKING_TWICE):
        own.forward = _forward_in_a_pass(base)
    if isinstance(owner, nn.RNNBase):
        # torch's own list of weights would hold products of an earlier pass.
        owner.__dict__.pop("_flat_weights", None)
        own._flat_weights = property(_flat_weights, _ignore)
        own._update_flat_weights = _ignore
        own._replicate_for_data_parallel = nn.Module._replicate_for_data_parallel


def _refuse_reset(self: nn.Module) -> None:
    """Recurrent layers draw all that ``parameters()`` gives, factors too: another product."""
    held = cast("nn.ModuleDict", self.parametrizations)
    first = next(attribute for attribute, each in held.items() if holds_product(each))
    guard.refuse("reset_parameters", _in_words(self, first))


def _in_words(owner: nn.Module, attribute: str) -> str:
    return f"{attribute} of a {parametrize.type_before_parametrizations(owner).__name__}"


def _property(attribute: str) -> property:
    """What reading the weight does, and assigning something other than a parameter to it."""

    def read(self: Any) -> Tensor:
        held: Any = self.parametrizations[attribute]
        if held.stand_ins:
            given = _given_outside(self, attribute, held)
            if given is not None:
                return given
        if torch.compiler.is_compiling():
            return held()
        for current in reversed(_here.passes):
            if current.owner is self:
                return _kept(current, attribute, held)
        reader = sys._getframe(1).f_code
        if reader.co_filename == _SWAPPING:
            return guard.guarded(torch.empty(0), attribute, held)  # a name for what is in place
        if reader.co_name == "forward" and reader.co_filename.startswith(_LAYERS):
            return held()  # torch's own layers do not write
        value = _guarded(self, attribute, held())
        if type(value) is guard.ProductValue:
            value.asked_as_parameter = reader.co_name == "get_parameter"
            value.in_forward = reader.co_name == "forward"
        return value

    def write(self: Any, value: Any) -> None:
        (_write_outside if torch.compiler.is_compiling() else _write)(self, attribute, value)

    return property(read, write)


def _kept(current: _Pass, attribute: str, held: Callable[[], Tensor]) -> Tensor:
    """The product of this pass, formed at its first use.

    Only in the context in which the pass began. Under other modes of gradients or autocast it
    would be another tensor, and inside an activation checkpoint (which saves tensors by hooks) the
    recomputation must form as many products as the forward pass did.
    """
    if _context() != current.context:
        return held()
    if attribute not in current.kept:
        current.kept[attribute] = held()
    return current.kept[attribute]


def _context() -> tuple[object, ...]:
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        *((torch.is_autocast_enabled(k), torch.get_autocast_dtype(k)) for k in _DEVICES),
        cast("Any", torch._C)._autograd._top_saved_tensors_default_hooks(True),
    )


def _devices() -> tuple[str, ...]:
    accelerator = torch.accelerator.current_accelerator()
    return ("cpu",) if accelerator is None else ("cpu", accelerator.type)


_DEVICES = _devices()


def _guarded(owner: nn.Module, attribute: str, value: Tensor) -> Tensor:
    """A value that is read outside a forward pass; left alone where it is traced or transformed."""
    if (
        type(value) is not Tensor
        or cast("Any", torch.jit).is_tracing()
        or cast("Any", torch._C)._functorch.maybe_current_level() is not None
    ):
        return value
    return guard.guarded(value, _in_words(owner, attribute), held_at(owner, attribute))


def _write(owner: Any, attribute: str, value: Any) -> None:
    held = held_at(owner, attribute)
    if _asked_by_functional_call():
        _give(owner, attribute, held, value)
        return
    if value is None:
        _replace(owner, attribute, None)
        return
    source = guard.held_by(value)
    if source is None:
        value = guard.plain(value)
        _check_value(owner, attribute, value, like=factors_of(held)[0])
        held.right_inverse(value)
    elif source is not held:
        _tie(owner, attribute, source, value)


def _check_value(owner: nn.Module, attribute: str, value: Any, like: Tensor) -> None:
    """Raise for what is no weight of the product.

    Raises:
        TypeError: no tensor, or another dtype.
    """
    place = _in_words(owner, attribute)
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{place} is a product of factors, and a {type(value).__name__} is assigned to it; "
            "assign a tensor (its new value) or an nn.Parameter (which takes its place)."
        )
    if value.dtype != like.dtype:
        raise TypeError(
            f"{place} is a product in {like.dtype}, and a tensor in {value.dtype} is assigned to "
            f"it; assign value.to({like.dtype}). (layer.weight.data = value changes the dtype.)"
        )


def _replace(owner: nn.Module, attribute: str, parameter: nn.Parameter | None) -> None:
    """A parameter in the place of a product."""
    with all_or_nothing([owner]):
        take_out(owner, {attribute: parameter})


def _write_compiled(owner: Any, attribute: str, value: Any) -> None:
    """What compiled code asks for, where it can be told.

    Raises:
        RuntimeError: torch hides the callers of compiled code.
    """
    if not KNOWS_CALLERS:
        raise RuntimeError(
            f"{_in_words(owner, attribute)} is a product of factors, and compiled code gives it a "
            f"value: torch {torch.__version__} does not tell functional_call from an assignment "
            "there. Use torch 2.13 or newer, or keep that call out of torch.compile."
        )
    _write(owner, attribute, value)


_write_outside: Callable[[Any, str, Any], None] = torch._disable_dynamo(_write_compiled)  # pyright: ignore


def _tie(
    owner: nn.Module, attribute: str, held: parametrize.ParametrizationList, value: Tensor
) -> None:
    """Let a place share the factors of another one: ``head.weight = embedding.weight``."""
    shape = tuple(current_shape(held_at(owner, attribute)))
    if tuple(value.shape) != shape:
        raise ValueError(
            f"{attribute} is a product of shape {shape} and cannot be tied to one of shape "
            f"{tuple(value.shape)}."
        )
    owner.parametrizations[attribute] = held  # pyright: ignore


def current_shape(held: parametrize.ParametrizationList) -> tuple[int, ...]:
    """Of the weight that a list computes."""
    return cast("Any", held[0]).layout.shape


def _register_parameter(self: Any, name: str, param: nn.Parameter | None) -> None:
    """``layer.weight = nn.Parameter(...)`` puts that parameter in the place of the product.

    So it does in a plain module. Ties by assignment and torch's fusing functions need it.
    """
    held = dict(self.parametrizations.items()).get(name)
    if not holds_product(held):
        return nn.Module.register_parameter(self, name, param)
    if _asked_by_functional_call():
        return _give(self, name, held, param)
    if guard.held_by(param) is not None:
        return _write(self, name, param)
    if param is not None and not isinstance(param, nn.Parameter):
        raise TypeError(f"cannot register {type(param).__name__} as the parameter {name!r}.")
    return _replace(self, name, param)


def _asked_by_functional_call() -> bool:
    """Whether the code that swaps tensors for a functional call is among the nearest callers.

    torch offers no other sign; a compiled frame keeps the file name.
    """
    frame = sys._getframe(2)
    for _ in range(7):
        if frame is None:
            return False
        if frame.f_code.co_filename == _SWAPPING:
            return True
        frame = frame.f_back
    return False


def _give(owner: Any, attribute: str, held: Any, value: Any) -> None:
    """Let a tensor stand in for a product, or (given the product's own value) end that."""
    keys: tuple[object, ...] = ((id(owner), attribute), id(held))
    if guard.held_by(value) is held:
        ended = [_here.given.pop(key, None) for key in keys]
        if ended[0] is not None:
            with _counting:
                held.stand_ins -= 1
        return
    if keys[0] not in _here.given:
        with _counting:
            held.stand_ins += 1
    for key in keys:
        _here.given[key] = ((owner, held), value)


def _given(owner: Any, attribute: str, held: Any) -> Tensor | None:
    """What stands in for a product in this thread: given for this place, or for one tied to it."""
    for key in ((id(owner), attribute), id(held)):
        if key in _here.given:
            return _here.given[key][1]
    return None


_given_outside: Callable[[Any, str, Any], Tensor | None] = torch._disable_dynamo(_given)  # pyright: ignore


def _forward_in_a_pass(base: type) -> Callable[..., Any]:
    """The forward pass of a class, known to the reader above while it runs."""
    forward: Callable[..., Any] = cast("Any", base).forward

    def in_a_pass(self: Any, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return forward(self, *args, **kwargs)
        with _running(self):
            return forward(self, *args, **kwargs)

    return in_a_pass


@contextmanager
def _running(owner: nn.Module) -> Iterator[None]:
    _here.passes.append(_Pass(owner))
    try:
        yield
    finally:
        _here.passes.pop()


def _flat_weights(self: Any) -> list[Tensor | None]:
    """The weights of a recurrent layer, in torch's order; None before a replica has one."""
    return [getattr(self, name, None) for name in self._flat_weights_names]


def _ignore(self: Any, value: object = None) -> None:
    """Torch stores or renews the list after moving a module; it is computed here instead."""
    del self, value
