"""How the parameters of an optimizer's group are read, beside them in ``"views"``.

What was decided for each parameter is a plain tuple, which any checkpoint can hold: the reason,
then the fields of its view. Where it is trained as it is, the reason is followed by its kind, or by
nothing where it has none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

from overparam._words import warn_user
from overparam.layers.select import Selected, Skipped
from overparam.layers.shapes import ambiguity_warning, view_by_shape
from overparam.layers.views import MatrixView

ENTRYWISE = "it acts entry by entry"
_NOT_KNOWN = "is not a layer that overparam knows"  # in the reason of a Skipped
Entry = tuple[Any, ...]

# Every step reads the entries, so each view is made once. (torch.compile warns of functools.cache.)
_VIEWS: dict[Entry, MatrixView] = {}


def entry_of(chosen: Selected | Skipped) -> Entry:
    """What stands in ``"views"`` for a parameter that was selected, or skipped."""
    if isinstance(chosen, Selected):
        return (chosen.reason, *_fields(chosen.view))
    return (chosen.reason,) if chosen.view is None else (chosen.reason, chosen.view.kind)


def is_chosen(entry: Entry) -> bool:
    """Whether an entry holds the view that its parameter is trained by."""
    return len(entry) > 2


def kinds(group: dict[str, Any]) -> list[str]:
    """The kind of each parameter of a group, empty where it has none."""
    return [entry[1] if len(entry) > 1 else "" for entry in group["views"]]


def complete_views(group: dict[str, Any]) -> None:
    """Say how every parameter of a group is read, and check what was given.

    A group that came without a model is read by the shapes of its tensors.

    Raises:
        TypeError: a parameter is not of a real floating-point dtype.
        ValueError: not one view per parameter, or a view for another shape.
    """
    params, names = group["params"], names_of(group, "")
    views = group.get("views")
    if views is None:
        _check_dtypes(zip(names, params, strict=True))
        views = [view_by_shape(tuple(p.shape), name) for name, p in zip(names, params, strict=True)]
    if len(views) != len(params):
        raise ValueError(f"views lists {len(views)} entries for {len(params)} parameters.")
    entries = [_entry(view) for view in views]
    for name, p, entry in zip(names, params, entries, strict=True):
        if is_chosen(entry):
            _check_dtypes([(name, p)])
            if _view(entry).shape != tuple(p.shape):
                raise ValueError(
                    f"{name} has shape {tuple(p.shape)} and its view is for {_view(entry).shape}."
                )
    group["views"] = entries


def readings(group: dict[str, Any]) -> Iterator[tuple[Tensor, MatrixView | None, str]]:
    """Each parameter of a group with its view, None where it is trained as it is, and the reason.

    A parameter that was exchanged for one of another shape is read by its shape.
    """
    views: list[Any] = group["views"]
    if len(views) != len(group["params"]):
        group.pop("views")
        complete_views(group)
        views = group["views"]
    for place, (p, entry) in enumerate(zip(group["params"], views, strict=True)):
        if not is_chosen(entry):
            yield p, None, entry[0]
            continue
        view = _view(entry)
        if view.shape != p.shape:
            if view.batch > 1 or view.transposed:
                warn_user(
                    f"a parameter of shape {view.shape} was exchanged for one of "
                    f"{tuple(p.shape)}, which is read as one matrix (first dimension, all others) "
                    "from here on; make a new optimizer with the model if its layer says otherwise."
                )
            view = view_by_shape(tuple(p.shape))
            views[place] = entry = _entry(view)
        yield p, view, entry[0]


def check_whole(group: dict[str, Any]) -> None:
    """Raise where a parameter does not have its own shape.

    Raises:
        ValueError: FSDP1's flat parameters.
    """
    for place, p in enumerate(group["params"]):  # at every step: names only where they are needed
        if getattr(p, "_fsdp_flattened", False) or type(p).__name__ == "FlatParameter":
            raise ValueError(
                f"{names_of(group, '')[place]} is a flat shard of FullyShardedDataParallel, which "
                "holds parts of several weights: overparam cannot tell the matrices in it. Use "
                "fully_shard of torch.distributed.fsdp, or DistributedDataParallel."
            )


def warn_of_readings(groups: Iterable[dict[str, Any]], names: Mapping[Tensor, str]) -> None:
    """Warn of tensors whose shape fits several readings, and of layers that no one registered.

    Args:
        groups: whose matrices an optimizer reads.
        names: of their parameters.
    """
    read = [(names[p], view, why, g) for g in groups for p, view, why in readings(g)]
    # Tensors and entries are the same however a layer reads them.
    warning = ambiguity_warning(
        (name, view)
        for name, view, _, group in read
        if group.get("granularity") not in ("tensor", "entry")
    )
    if warning is not None:
        warn_user(warning)
    unknown = [f"{name}: {why}" for name, _, why, _ in read if _NOT_KNOWN in why]
    if unknown:
        warn_user(
            f"some matrices take the plain step of the inner optimizer. {'; '.join(unknown)}."
        )


def is_inner_alone(group: dict[str, Any]) -> bool:
    """Whether the options of a group leave every parameter to the inner optimizer."""
    return group.get("depth") == 1 or group.get("radial") == 1 or bool(group.get("fallback"))


def saved_view(group: dict[str, Any], place: int) -> MatrixView | None:
    """The view of a parameter in a group that was saved, by version 0.1 too; None if unknown."""
    views = group.get("views") or []
    entry = views[place] if place < len(views) else None
    if entry is None or not is_chosen(entry):
        return None
    return _view(entry if len(entry) == 7 else ("", *entry))


def names_of(group: dict[str, Any], prefix: str) -> list[str]:
    """A name for each parameter of a group: its own where known, else its place."""
    given = group.get("param_names") or ()
    if len(given) == len(group["params"]):  # none were put in or taken out by hand
        return list(given)
    return [f"{prefix}parameter {i}" for i in range(len(group["params"]))]


def _check_dtypes(params: Iterable[tuple[str, Tensor]]) -> None:
    for name, p in params:
        if not p.is_floating_point():
            raise TypeError(
                f"{name} has dtype {p.dtype}; the end-to-end rule needs a real floating-point "
                "parameter: leave it out of the groups."
            )


def _entry(view: Any) -> tuple[Any, ...]:
    """What stands in ``"views"`` for a view, for None, or for an entry that was saved."""
    if view is None or isinstance(view, MatrixView):
        return (ENTRYWISE if view is None else "read by its shape", *_fields(view))
    return _frozen(view)


def _fields(view: MatrixView | None) -> tuple[Any, ...]:
    return () if view is None else dataclasses.astuple(view)


def _frozen(entry: Any) -> tuple[Any, ...]:
    return tuple(tuple(each) if isinstance(each, (list, tuple)) else each for each in entry)


def _view(entry: Entry) -> MatrixView:
    try:
        known = _VIEWS.get(entry)
    except TypeError:  # lists, which checkpoints make of tuples
        entry = _frozen(entry)
        known = _VIEWS.get(entry)
    if known is None:
        known = _VIEWS[entry] = MatrixView(*entry[1:])
    return known
