"""The products of factors inside a model or an optimizer, and how far they are from balance."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import overload

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from overparam.factors import balance
from overparam.layers.groups import parameter_names
from overparam.layers.places import Site
from overparam.optim import Factored
from overparam.reparam.attach import factors_of, places

Pairs = list[tuple[Tensor, Tensor]]
"""Neighbouring factors ``(W_j, W_{j+1})`` of a product as matrices that share hidden units."""


@overload  # a ParameterList is a Module, and the first signature that fits counts
def imbalance(of: Sequence[Tensor] | nn.ParameterList) -> Tensor: ...  # pyright: ignore[reportOverlappingOverload]
@overload
def imbalance(of: nn.Module | Factored) -> dict[str, Tensor]: ...
def imbalance(of: Sequence[Tensor] | nn.Module | Factored) -> Tensor | dict[str, Tensor]:
    """Distance of neighbouring factors from balance: of given factors, a model or an optimizer.

    ``|| W_{j+1}^T W_{j+1} - W_j W_j^T ||_F`` for j = 1, ..., N-1. Source: Arora, Cohen, Hazan
    (2018), Theorem 1: gradient flow conserves the difference, gradient descent changes it by
    ``O(lr^2)`` per step. Where it is zero the product moves by the end-to-end rule. Degree 2 in
    the factors.

    Products are found in

    - a model of :func:`overparam.overparameterize`: every weight that is a product, under its
      name. Chains of convolution kernels are read as matrices that share the hidden channels, for
      which the same holds.
    - an ``nn.Sequential`` anywhere in a model: linear layers that follow each other with nothing
      between them, under their names joined by arrows. A bias ends such a run (the theorem has no
      biases between factors), and so does any other layer but ``nn.Identity``. Weights that are
      products themselves count with all their factors. A layer that occurs twice counts at both
      places; its distance is defined, but training does not conserve it.
    - a :class:`overparam.Factored` optimizer: every weight that it factors, under its name.

    Args:
        of: factors ``(W_1, ..., W_N)``, ``W_j`` of shape ``(..., d_j, d_{j-1})``, in a sequence or
            an ``nn.ParameterList``; or a model; or a ``Factored`` optimizer.

    Returns:
        For factors ``(..., N - 1)``, in their dtype. For a model or an optimizer one such tensor
        per product, by name, without a graph.

    Raises:
        TypeError: neither of the three, a factor that is not floating point, or dtypes differ.
        ValueError: no factors, two neighbours whose shapes do not fit, or a model or an optimizer
            without a product of two factors.

    Example:
        >>> import torch
        >>> from overparam import overparameterize
        >>> imbalance((torch.tensor([[3.0]]), torch.tensor([[2.0]])))
        tensor([5.])
        >>> layers = [torch.nn.Linear(2, 2, bias=False) for _ in range(3)]
        >>> for name, gaps in imbalance(torch.nn.Sequential(*layers)).items():
        ...     print(name, tuple(gaps.shape))
        0.weight -> 1.weight -> 2.weight (2,)
        >>> model = overparameterize(torch.nn.Linear(3, 2), depth=3)
        >>> bool(imbalance(model)["weight"].max() < 1e-6)
        True
    """
    if isinstance(of, nn.ParameterList):
        of = list(of)
    if isinstance(of, nn.Module):
        products = _products_in_model(of)
    elif isinstance(of, Factored):
        products = _products_in_optimizer(of)
    elif isinstance(of, Sequence):
        return balance.imbalance(of)
    else:
        raise TypeError(
            f"imbalance has no meaning for a {type(of).__name__}; pass factors (W_1, ..., W_N), a "
            "model, or an overparam.Factored optimizer."
        )
    with torch.no_grad():
        return {
            name: torch.cat([balance.imbalance(pair) for pair in pairs], dim=-1)
            for name, pairs in products.items()
        }


def _products_in_model(model: nn.Module) -> dict[str, Pairs]:
    """Neighbours in every product of a model, by the names of its weights."""
    products: dict[str, Pairs] = {}
    counted: set[int] = set()
    for run in _linear_runs(model):
        factors = [factor for site in run for factor in _factors_of_layer(site.module)]
        products[" -> ".join(site.name for site in run)] = list(itertools.pairwise(factors))
        counted.update(map(id, factors))
    for place in places(model):
        factors = factors_of(place.factors)
        if len(factors) > 1 and id(factors[0]) not in counted:  # tied places share factors
            products[place.name] = place.layout.neighbours(factors)
            counted.add(id(factors[0]))
    if not products:
        raise ValueError(
            f"{type(model).__name__} holds no product of two factors: no weight that "
            "overparameterize made, and no nn.Sequential with linear layers side by side and no "
            "bias between them. For layers that your own forward pass applies one after the other "
            "pass their weights, from the input: imbalance([first.weight, second.weight])."
        )
    return products


def _products_in_optimizer(optimizer: Factored) -> dict[str, Pairs]:
    """Neighbours in every product that an optimizer holds, by the names of the weights."""
    products: dict[str, Pairs] = {}
    for parameter, name in parameter_names(optimizer.param_groups).items():
        factors = optimizer.factors(parameter)
        if len(factors) > 1:
            products[name] = list(itertools.pairwise(factors))
    if not products:
        raise ValueError("the optimizer factors no weight: it has no matrix, or depth 1.")
    return products


def _linear_runs(model: nn.Module) -> Iterator[list[Site]]:
    """Linear layers that follow each other, two or more, in every ``nn.Sequential``."""
    inside: set[nn.Module] = set()
    for path, module in model.named_modules():
        if not _is_plainly(module, nn.Sequential) or module in inside:
            continue
        run: list[Site] = []
        for site in [*_steps(path, module, inside), None]:
            if site is not None:
                run.append(site)
            if site is None or site.module.bias is not None:
                if len(run) > 1:
                    yield run
                run = []


def _steps(path: str, module: nn.Module, inside: set[nn.Module]) -> Iterator[Site | None]:
    """What a sequential applies in order: the weights of linear layers, None for all else.

    Sequentials that are steps of another one are read here, and added to ``inside``.
    """
    for name, part in module._modules.items():
        full = f"{path}.{name}" if path else name
        if part is None or _is_plainly(part, nn.Identity):
            continue
        if _is_plainly(part, nn.Sequential):
            inside.add(part)
            yield from _steps(full, part, inside)
        elif _is_plainly(part, nn.Linear) and _factors_of_layer(part):
            yield Site(full, part, "weight")
        else:
            yield None


def _is_plainly(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module computes what its kind does: a subclass may have a forward of its own."""
    return isinstance(module, kind) and type(module).forward is kind.forward


def _factors_of_layer(layer: nn.Module) -> list[nn.Parameter]:
    """What is trained in the place of a linear layer's weight; empty where that is no product.

    A plain weight is a product of one factor. One that another parametrization computes (a
    normalization, for example) does not count.
    """
    weight = layer._parameters.get("weight")
    if weight is not None:
        return [] if is_lazy(weight) else [weight]
    found = [place for place in places(layer) if place.attribute == "weight" and not place.path]
    if not found or len(found[0].factors) > 1:
        return []
    return factors_of(found[0].factors)
