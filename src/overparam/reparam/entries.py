"""What the entries of a checkpoint are: weights, or the factors and layouts under them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from overparam.factors.layout import Layout, decode_layout
from overparam.reparam.product import further_of

_FACTOR_KEY = re.compile(
    r"(?P<owner>(?:.*\.)?)parametrizations\.(?P<attribute>[^.]+)\."
    r"(?:original(?P<number>\d+)|(?P<index>\d+)\.(?P<inner>.+))"
)
# Modules that wrappers put into a path, at any depth: DistributedDataParallel and AveragedModel,
# torch.compile, activation checkpointing, FullyShardedDataParallel.
_WRAPPERS = ("module", "_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")


@dataclass
class Held:
    """The entries of one parametrized tensor.

    Attributes:
        factors: numbered tensors ``originalN``.
        layout: that this package wrote beside them, or None.
        further: what else is computed on top, in words.
    """

    factors: dict[int, Tensor] = field(default_factory=dict)
    layout: Layout | None = None
    further: list[str] = field(default_factory=list)


def weight_name(key: str) -> str | None:
    """The name of the weight that an entry belongs to, or None for entries of another kind.

    Example:
        >>> weight_name("head.parametrizations.weight.original0"), weight_name("head.bias")
        ('head.weight', None)
    """
    match = _FACTOR_KEY.fullmatch(key)
    return match and match["owner"] + match["attribute"]


def canonical(name: str) -> str:
    """A name without the parts that wrappers put into it.

    Example:
        >>> canonical("module.0._checkpoint_wrapped_module.weight")
        '0.weight'
    """
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def held_entries(state_dict: Mapping[str, Any]) -> dict[str, Held]:
    """Factors and layouts of every product in a checkpoint, by the name of its weight.

    Tensors of other parametrizations (weight_norm) are left out.

    Raises:
        ValueError: factors without their layout or a layout without its factors; the message
            names the entries.
    """
    found: dict[str, Held] = {}
    for key, value in state_dict.items():
        name, match = weight_name(key), _FACTOR_KEY.fullmatch(key)
        if name is None or match is None:
            continue
        held = found.setdefault(name, Held())
        if match["number"]:
            held.factors[int(match["number"])] = value
        elif match["index"] != "0":
            held.further.append(key)
        elif match["inner"] == "_extra_state" and isinstance(value, Tensor):
            held.layout = decode_layout(value)
            held.further += further_of(value)
    lost = [name for name, held in found.items() if held.layout is None and _chained(held)]
    if lost:
        raise ValueError(
            f"the factors of {listed(lost)} have no layout beside them "
            "(parametrizations.*.0._extra_state); save model.state_dict(), not only its parameters."
        )
    return {name: held for name, held in found.items() if held.layout is not None}


def in_order(name: str, held: Held) -> list[Tensor]:
    """Factors ``(W_1, ..., W_N)``, checked against their layout.

    Raises:
        ValueError: one is missing or of another shape, or another parametrization is on top.
    """
    assert held.layout is not None
    shapes = [tuple(held.factors[j].shape) for j in sorted(held.factors)]
    if shapes != list(held.layout.shapes):
        raise ValueError(
            f"the checkpoint holds factors {shapes} of {name}, its layout says "
            f"{list(held.layout.shapes)}; the file is not complete."
        )
    check_alone(name, held.further)
    return [held.factors[j] for j in sorted(held.factors)]


def check_alone(name: str, further: Sequence[str]) -> None:
    """Raise where the weight of a model is not the product itself.

    Raises:
        ValueError: something else is computed from it.
    """
    if further:
        raise ValueError(
            f"{name} has a further parametrization on top of the product ({listed(further)}); "
            "remove that one from the model first "
            "(torch.nn.utils.parametrize.remove_parametrizations)."
        )


def check_no_nesting(state_dict: Mapping[str, Any]) -> None:
    """Raise where the entries lie on a deeper level, as in a file of model and optimizer.

    Raises:
        TypeError: it is no dictionary at all.
        ValueError: they do; the message says where.
    """
    if not isinstance(state_dict, Mapping):
        raise TypeError(
            f"the checkpoint is a {type(state_dict).__name__}; pass a dictionary of tensors, as "
            "model.state_dict() gives it."
        )
    path = _path_to_factors(state_dict)
    if path:
        where = "".join(f"[{key!r}]" for key in path)
        raise ValueError(
            f"the factors are in the entry {where}, not at the top; pass checkpoint{where}."
        )


def _path_to_factors(entries: Mapping[Any, Any]) -> tuple[Any, ...]:
    """The keys that lead to the dictionary of factors, () where none lies deeper."""
    for key, value in entries.items():
        if isinstance(value, Mapping):
            if any(weight_name(str(inner)) for inner in value):
                return (key,)
            deeper = _path_to_factors(value)
            if deeper:
                return (key, *deeper)
    return ()


def listed(names: Iterable[str], most: int = 5) -> str:
    """Names for a message, not too many.

    Example:
        >>> listed("abcdefg")
        'a, b, c, d, e and 2 more'
    """
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _chained(held: Held) -> bool:
    """Whether shapes are those of factors: each one's inputs are the outputs of the one before.

    Two tensors of weight_norm (lengths, of one entry in each other direction, and directions) are
    not taken for factors.
    """
    shapes = [tuple(held.factors[j].shape) for j in sorted(held.factors)]
    if len(shapes) == 1:  # torch calls it original, not original0, where there is one alone
        return min(held.factors) == 0 and sum(size > 1 for size in shapes[0]) > 1
    if len(shapes) < 2 or len({len(shape) for shape in shapes}) > 1 or len(shapes[0]) < 2:
        return False
    first, second = shapes[:2]
    along = [a for a, b in zip(first, second, strict=True) if a != 1 or a == b]
    spread = all(a in (1, b) for a, b in zip(first, second, strict=True))
    if len(shapes) == 2 and first != second and spread and len(along) <= 1:
        return False
    pairs = list(itertools.pairwise(shapes))
    as_matrices = all(low[-2] == high[-1] and low[:-2] == high[:-2] for low, high in pairs)
    as_kernels = all(low[0] % high[1] == 0 for low, high in pairs)
    return as_matrices or (len(shapes[0]) > 2 and as_kernels)
