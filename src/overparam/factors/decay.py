"""Weight decay of a product, where an optimizer is about to decay its factors.

An optimizer decays what it steps on. For N balanced factors that is the gradient of
``N/2 * sum_i s_i^(2/N)`` in the singular values s of W: a Schatten-2/N penalty (the nuclear norm
for N = 2), which favours low rank; not the decay of W. The functions here correct factors or
gradients before a step, so that what follows is the decay of W.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from overparam.factors.layout import Layout
from overparam.factors.linearize import gradient_to_factors

WORDS = ("factors", "product")
# Optimizers of torch that add weight_decay * parameter to the gradient, and that scale parameters.
_COUPLED = (torch.optim.SGD, torch.optim.Adagrad, torch.optim.RMSprop, torch.optim.Adadelta)
_DECOUPLED = tuple(
    getattr(torch.optim, name)
    for name in ("AdamW", "Adafactor", "Muon")
    if hasattr(torch.optim, name)
)


def check_word(word: str) -> None:
    """Raise unless ``weight_decay_on`` is one of the two words.

    Raises:
        ValueError: it is not.
    """
    if word not in WORDS:
        raise ValueError(f"weight_decay_on={word!r} is unknown; use one of {', '.join(WORDS)}.")


def is_decoupled(optimizer: Optimizer, group: dict[str, Any]) -> bool | None:
    """Whether a group's weight decay scales parameters (True) or adds to gradients (False).

    None where the optimizer does not say. A group without decay counts as False.
    """
    if "decoupled_weight_decay" in group:
        return bool(group["decoupled_weight_decay"])
    if isinstance(optimizer, _DECOUPLED):
        return True
    if isinstance(optimizer, _COUPLED) or not group.get("weight_decay"):
        return False
    return None


def start_of_step(optimizer: Optimizer, group: dict[str, Any], before: Tensor) -> Tensor:
    """Where the step itself starts: decoupled decay has moved the weight along itself already.

    Args:
        optimizer: which made the step.
        group: of the weight.
        before: the weight before the step.
    """
    if not is_decoupled(optimizer, group):
        return before
    return before * (1 - group["lr"] * group.get("weight_decay", 0))


def check_known(optimizer: Optimizer, decoupled: bool | None) -> None:
    """Raise where an optimizer does not say how it decays.

    Raises:
        ValueError: it does not.
    """
    if decoupled is None:
        raise ValueError(
            f"{type(optimizer).__name__} does not say how it decays weights, so its decay cannot "
            'be made that of the product; use weight_decay_on="factors".'
        )


def check_scales(optimizer: Optimizer, group: dict[str, Any]) -> None:
    """Raise where decay may be part of the gradient, which the rule changes on both sides.

    Raises:
        ValueError: it is.
    """
    if group.get("weight_decay") and not is_decoupled(optimizer, group):
        raise ValueError(
            f"weight_decay is {group['weight_decay']!r} and {type(optimizer).__name__} is not known"
            " to scale the weight by it; with both_sides=True the rule would act on it. Use AdamW, "
            "Adafactor or Muon inside, or weight_decay=0."
        )


def check_amount(lr: float | Tensor, weight_decay: float) -> None:
    """Raise where a product would decay by the whole or more.

    A learning rate on an accelerator is not read: the host would wait for it.

    Raises:
        ValueError: ``lr * weight_decay`` is 1 or more.
    """
    if isinstance(lr, Tensor) and lr.device.type != "cpu":
        return
    amount = float(lr) * float(weight_decay)
    if not amount < 1:
        raise ValueError(
            f"lr * weight_decay is {amount:g}; the product cannot decay by the whole or more: "
            'lower one of them, or use weight_decay_on="factors".'
        )


def scale(factors: Sequence[Tensor], amount: float | Tensor) -> None:
    """Scale factors so that a decoupled decay, which is to follow, is that of the product.

    The optimizer multiplies each factor by ``1 - lr wd``; after ``(1 - lr wd)^(1/N - 1)`` the
    product has been multiplied by ``1 - lr wd``.

    Args:
        factors: changed in place.
        amount: ``lr * weight_decay``, below 1.
    """
    if isinstance(amount, Tensor):
        # Torch takes a number of one entry from the CPU for any device where it has no dimension.
        amount = amount.reshape(())
    for factor in factors:
        factor.mul_((1 - amount) ** (1 / len(factors) - 1))


def pull(layout: Layout, factors: Sequence[Tensor], weight_decay: float) -> None:
    """Change gradients so that a coupled decay, which is to follow, is that of the product.

    The optimizer adds ``wd * factor`` to each gradient; what is wanted is ``wd * J^T W``, the
    gradient of ``wd/2 ||W||^2`` at the factors.

    Args:
        layout: of the factors.
        factors: with their gradients, which are changed in place.
        weight_decay: of the optimizer, negative where it maximizes.
    """
    values = [factor.detach() for factor in factors]
    wanted = gradient_to_factors(layout, values, layout.product(values))
    for factor, each in zip(factors, wanted, strict=True):
        assert factor.grad is not None  # checked by the caller
        factor.grad.add_(each - factor.detach(), alpha=weight_decay)
