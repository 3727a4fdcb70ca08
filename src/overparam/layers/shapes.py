"""Tensors without a layer: what their shape tells, and what it cannot."""

from __future__ import annotations

import math
from collections.abc import Iterable

from overparam.layers.views import MatrixView, flat_view, packed_view

BY_SHAPE = "by shape"
_PACKED_ROWS = {3: "a packed projection of attention or a GRU", 4: "the gates of an LSTM"}


def view_by_shape(shape: tuple[int, ...], name: str | None = None) -> MatrixView | None:
    """The reading of a parameter whose layer is unknown, from its shape and perhaps its name.

    Example:
        >>> view_by_shape((6, 2), "attention.in_proj_weight").batch
        3
        >>> view_by_shape((6, 2)).kind
        'by shape'
    """
    if len(shape) < 2:
        return None
    if len(shape) == 2 and (name or "").endswith("in_proj_weight") and shape[0] % 3 == 0:
        return packed_view(shape, 3, "attention")
    return flat_view(shape, BY_SHAPE)


def other_reading(view: MatrixView | None, name: str | None = None) -> str | None:
    """What else a tensor without a layer may be, where the other reading has other matrices.

    Example:
        >>> other_reading(view_by_shape((8, 2, 3, 3)))
        'a grouped convolution or a batch of matrices'
        >>> other_reading(view_by_shape((6, 5))) is None
        True
    """
    if view is None or view.kind != BY_SHAPE:
        return None
    shape: tuple[int, ...] = view.shape
    if len(shape) > 2 and math.prod(shape) > max(shape):
        return "a grouped convolution or a batch of matrices"
    if any(word in (name or "") for word in ("weight_ih", "weight_hh")):
        return "the gates of a recurrent layer"
    for times, words in _PACKED_ROWS.items():
        if view.columns > 1 and view.rows == times * view.columns:
            return words
    return None


def ambiguity_warning(readings: Iterable[tuple[str, MatrixView | None]]) -> str | None:
    """A warning that names the tensors whose shape fits several readings, or None.

    Args:
        readings: names and views of parameters that came without their model.
    """
    doubtful = [
        f"{name} {view.shape} may be {other}"
        for name, view in readings
        if view is not None and (other := other_reading(view, name)) is not None
    ]
    if not doubtful:
        return None
    return (
        "the shape of a parameter does not tell all: each of these is read as one matrix (first "
        f"dimension, all others), but {'; '.join(doubtful)}. Pass the model, as in "
        "EndToEnd(model), so that its layers tell."
    )
