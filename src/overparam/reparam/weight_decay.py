"""Weight decay that acts on the product, as it did on the weight."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from overparam.factors import decay as decay_rule
from overparam.reparam.attach import factors_of, layout_of, places

_HOOKS: weakref.WeakKeyDictionary[torch.optim.Optimizer, RemovableHandle] = (
    weakref.WeakKeyDictionary()
)


def check_decay(
    optimizer: torch.optim.Optimizer | None, on: str, *, decoupled: bool | None = None
) -> None:
    """Raise unless :func:`set_weight_decay_on` would accept these words and this optimizer.

    Raises:
        TypeError: the optimizer is a wrapper that takes no hooks.
        ValueError: an unknown word, no optimizer, or one that does not say how it decays.
    """
    decay_rule.check_word(on)
    if on == "product":
        if optimizer is None:
            raise ValueError(
                'weight_decay_on="product" needs the optimizer: pass optimizer=, or call '
                "overparam.reparam.set_weight_decay_on(model, optimizer) once it is made."
            )
        _check_hooks(optimizer)
        for group in optimizer.param_groups:
            _decoupled(optimizer, group, decoupled)


def _check_hooks(optimizer: torch.optim.Optimizer) -> None:
    """Raise where an optimizer cannot be told to do something before each step."""
    try:
        optimizer.register_step_pre_hook(lambda *_: None).remove()
        weakref.ref(optimizer)
        hash(optimizer)
    except (AttributeError, TypeError):
        kind = type(optimizer)
        raise TypeError(
            f"{kind.__module__}.{kind.__qualname__} takes no hooks before its steps, so its decay "
            "cannot be made that of the product; pass the optimizer that it wraps "
            "(for example optimizer.optimizer)."
        ) from None


def set_weight_decay_on(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    on: str = "product",
    *,
    decoupled: bool | None = None,
) -> None:
    """Say what an optimizer's ``weight_decay`` decays: each product W, or its factors.

    "factors" is what the optimizer does by itself: for balanced factors the gradient of the
    Schatten-2/N penalty ``N/2 * sum_i s_i^(2/N)``. "product" makes it the decay of W. Decoupled
    (AdamW): every factor is scaled by ``(1 - lr wd)^(1/N)``, so that W is scaled by ``1 - lr wd``.
    Coupled (SGD, Adam): the gradient of ``wd/2 ||W||^2`` at W is pulled back to the factors. Done
    by a hook before each step (after the closure, where one is given), which corrects what the
    optimizer is about to do; groups, states and schedules are untouched. After loading an optimizer
    in a new process call it again.

    Args:
        model: overparameterized.
        optimizer: holding its factors.
        on: "product" or "factors".
        decoupled: how the optimizer decays; None where it is one of torch's and says so itself.

    Raises:
        ValueError: an unknown word, or an optimizer that does not say how it decays.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from overparam.reparam import overparameterize
        >>> model = overparameterize(nn.Linear(3, 2, bias=False))
        >>> before = model.weight.detach()
        >>> optimizer = torch.optim.AdamW(model.parameters(), lr=0.5, weight_decay=1.0)
        >>> set_weight_decay_on(model, optimizer, "product")
        >>> for factor in model.parameters():
        ...     factor.grad = torch.zeros_like(factor)
        >>> optimizer.step()
        >>> torch.allclose(model.weight, before / 2)
        True
    """
    check_decay(optimizer, on, decoupled=decoupled)
    if on == "factors":
        _forget(optimizer)
        return
    model_reference = weakref.ref(model)
    ways = [_decoupled(optimizer, group, decoupled) for group in optimizer.param_groups]

    def correct(stepping: Any) -> None:
        current = model_reference()
        if current is not None:
            _correct(current, stepping, ways)

    def before_step(stepping: Any, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        if kwargs.get("closure") is not None:
            return args, {**kwargs, "closure": _then(kwargs["closure"], correct, stepping)}
        # The optimizer itself is the first argument.
        if len(args) > 1 and callable(args[1]):
            return (args[0], _then(args[1], correct, stepping), *args[2:]), kwargs
        correct(stepping)
        return None

    registered = optimizer.register_step_pre_hook(before_step)
    _forget(optimizer)
    _HOOKS[optimizer] = registered


def _forget(optimizer: torch.optim.Optimizer) -> None:
    """Take away what an earlier call has registered."""
    earlier = _HOOKS.pop(optimizer, None)
    if earlier is not None:
        earlier.remove()


def _then(
    closure: Callable[[], Any], correct: Callable[[Any], None], optimizer: Any
) -> Callable[[], Any]:
    """A closure that corrects the gradients that it has computed."""

    def corrected() -> Any:
        loss = closure()
        correct(optimizer)
        return loss

    return corrected


def _decoupled(optimizer: torch.optim.Optimizer, group: dict[str, Any], given: bool | None) -> bool:
    """Whether a group's decay scales parameters (True) or adds to gradients (False)."""
    decoupled = given if given is not None else decay_rule.is_decoupled(optimizer, group)
    if decoupled is None:
        raise ValueError(
            f"{type(optimizer).__name__} does not say how it decays weights; pass decoupled=True "
            "(parameters are scaled by 1 - lr wd, as in AdamW) or False (added to the gradient)."
        )
    return decoupled


def _correct(model: nn.Module, optimizer: torch.optim.Optimizer, ways: list[bool]) -> None:
    """Before a step: undo the decay of factors that is to come, and put in that of W."""
    # A GradScaler leaves these two to fused optimizers, which unscale or skip by themselves.
    found_inf, grad_scale = (getattr(optimizer, n, None) for n in ("found_inf", "grad_scale"))
    if found_inf is not None and bool(found_inf):
        return
    scale = 1.0 if grad_scale is None else float(grad_scale)
    number_of = {
        id(p): number
        for number, group in enumerate(optimizer.param_groups)
        for p in group["params"]
    }
    changes: list[Callable[[], None]] = []
    for held in {id(place.factors): place.factors for place in places(model)}.values():
        factors = factors_of(held)
        number = number_of.get(id(factors[0]))
        if number is None or any(factor.grad is None for factor in factors):
            continue
        group = optimizer.param_groups[number]
        decay = group.get("weight_decay", 0.0)
        if not decay:
            continue
        decoupled = ways[number] if number < len(ways) else _decoupled(optimizer, group, None)
        if decoupled:
            decay_rule.check_amount(group["lr"], decay)
            changes.append(partial(decay_rule.scale, factors, group["lr"] * decay))
        else:
            amount = scale * (-1.0 if group.get("maximize") else 1.0) * float(decay)
            changes.append(partial(decay_rule.pull, layout_of(held), factors, amount))
    # All are checked by now.
    with torch.no_grad():
        for change in changes:
            change()
