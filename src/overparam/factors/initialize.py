"""First values of the factors: from the weight (balanced) or from scratch.

A product in which two factors are zero is dead: every factor's gradient holds the other as a
coefficient, so it would stay zero for ever. Such a start is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from overparam._finite import is_finite
from overparam.factors.balance import identity_initialization, near_zero_initialization
from overparam.factors.layout import ChainLayout, Layout, MatrixLayout

_PLAIN_DISPATCH = cast("Any", Tensor).__torch_dispatch__
INITIALIZATIONS = ("balanced", "identity", "near_zero", "fresh")


def initial_factors(
    layout: Layout,
    weight: Tensor,
    init: str = "balanced",
    *,
    std: float = 0.01,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, ...]:
    """Factors to start training from, of the dtype and on the device of ``weight``.

    Args:
        layout: shapes of the factors.
        weight: of ``layout.shape``.
        init: ``"balanced"``: the product is ``weight`` (to rounding), every pair of neighbours
            balanced; hidden units beyond the narrowest are zero and stay zero. ``"identity"``:
            rectangular identities. ``"near_zero"``: entries from ``N(0, std^2)``. ``"fresh"``:
            entries from ``N(0, sigma^2)`` with sigma such that the product's expected sum of
            squares is that of ``weight``. Only the first keeps the function of the model.
        std: for near_zero.
        generator: source of random numbers, on the device of ``weight``.

    Returns:
        One tensor for each of ``layout.shapes``.

    Raises:
        TypeError: a tensor of a subclass that computes in its own way (quantized, distributed).
        ValueError: an unknown word, a hidden layer too narrow for ``weight``, a weight that is
            not finite, or a dead product.

    Example:
        >>> import torch
        >>> from overparam.factors.layout import make_layout
        >>> from overparam.layers.views import linear_view
        >>> layout = make_layout(linear_view((2, 3)), "matrix", depth=2, width=None)
        >>> factors = initial_factors(layout, torch.ones(2, 3))
        >>> torch.allclose(layout.product(factors), torch.ones(2, 3))
        True
    """
    if init not in INITIALIZATIONS:
        raise ValueError(f"init={init!r} is unknown; choose one of {INITIALIZATIONS}.")
    if cast("Any", type(weight)).__torch_dispatch__ is not _PLAIN_DISPATCH:
        raise TypeError(
            f"the weight is a {type(weight).__name__}, a tensor subclass whose meaning factors "
            "would lose; give its values as a plain tensor."
        )
    if weight.is_meta:
        raise ValueError(
            "the weight is on the meta device and has no values; materialize the model first "
            "(model.to_empty and load_state_dict)."
        )
    weight = weight.detach()
    if init == "balanced":
        _check_widths(layout)
        if not is_finite(weight):
            raise ValueError("the weight has non-finite entries; it has no balanced factorization.")
        factors = layout.balanced(weight)
    elif init == "identity":
        factors = _identity(layout, weight)
    else:
        sigma = std if init == "near_zero" else _matched_std(layout, weight)
        factors = _normal(layout, weight, sigma, generator)
    _check_alive(layout, factors, init)
    return factors


def _check_widths(layout: Layout) -> None:
    for width, least in zip(layout.widths, layout.least_widths, strict=True):
        if width < least:
            raise ValueError(
                f"a hidden width of {width} cannot hold this weight, which needs {least}; widen "
                'it, or start from init="near_zero" or "fresh".'
            )


def _check_alive(layout: Layout, factors: Sequence[Tensor], init: str) -> None:
    """Raise where two factors of one product are zero."""
    batch = layout.view.batch if isinstance(layout, MatrixLayout) else layout.groups
    flat = [factor.reshape(batch, -1) for factor in factors]
    # A sum of absolute values is zero only where all of them are.
    zero = torch.stack([torch.linalg.vector_norm(each, 1, dim=1) == 0 for each in flat])
    dead = int((zero.sum(dim=0) >= 2).sum())
    if dead:
        raise ValueError(
            f"init={init!r} makes {dead} of {batch} product(s) dead: two factors are zero (zero "
            "times zero), so that no factor ever gets a gradient. Exclude this weight, or start "
            'it from init="near_zero" or "identity".'
        )


def _normal(
    layout: Layout, weight: Tensor, std: float, generator: torch.Generator | None
) -> tuple[Tensor, ...]:
    if isinstance(layout, MatrixLayout):
        return _matrices(near_zero_initialization, layout, weight, std, generator)
    if not std >= 0:
        raise ValueError(f"std is {std!r}; a standard deviation is a number >= 0.")
    return tuple(
        std * torch.randn(shape, generator=generator, dtype=weight.dtype, device=weight.device)
        for shape in layout.shapes
    )


def _identity(layout: Layout, weight: Tensor) -> tuple[Tensor, ...]:
    if isinstance(layout, MatrixLayout):
        return _matrices(identity_initialization, layout, weight, 0.0, None)
    return tuple(_centred(shape, weight, layout) for shape in layout.shapes)


def _matrices(
    initialization: Callable[..., tuple[Tensor, ...]],
    layout: MatrixLayout,
    weight: Tensor,
    std: float,
    generator: torch.Generator | None,
) -> tuple[Tensor, ...]:
    """An initialization of linear networks, in the shapes of a layout."""
    view = layout.view
    factors = initialization(
        view.rows,
        view.columns,
        layout.depth,
        width=layout.widths,
        std=std,
        batch=(view.batch,),
        generator=generator,
        dtype=weight.dtype,
        device=weight.device,
    )
    return tuple(f.reshape(shape) for f, shape in zip(factors, layout.shapes, strict=True))


def _centred(shape: tuple[int, ...], weight: Tensor, layout: ChainLayout) -> Tensor:
    """The kernel that hands on its channels: the identity at its central tap."""
    kernel = weight.new_zeros(layout.groups, shape[0] // layout.groups, *shape[1:])
    centre = tuple((k - 1) // 2 for k in shape[2:])
    kernel[(slice(None), slice(None), slice(None), *centre)] = torch.eye(
        *kernel.shape[1:3], dtype=weight.dtype, device=weight.device
    )
    return kernel.reshape(shape)


def _matched_std(layout: Layout, weight: Tensor) -> float:
    """``sigma`` with ``E ||product||^2 = sigma^(2N) * number of paths = ||weight||^2``.

    A path is one entry from each factor; entries are independent with mean zero.
    """
    paths = math.prod(layout.widths) * weight.numel()
    if isinstance(layout, ChainLayout):
        taps = math.prod(math.prod(size) for size in layout.sizes)
        paths = paths * taps // math.prod(layout.shape[2:])
    energy = float(weight.double().square().sum())
    return (energy / paths) ** (1 / (2 * layout.depth))
