"""Where the parameters of a model live, and how each place reads its own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from overparam.layers.registry import acts_entrywise, checked_view, parameter_view
from overparam.layers.views import MatrixView

_Module = TypeVar("_Module", bound=nn.Module)


@dataclass(frozen=True)
class Site:
    """One place of a model where a parameter lives.

    Attributes:
        path: of the module that uses the parameter, empty for the model itself.
        module: that module. Under a parametrization, the layer whose weight is computed.
        attribute: name of the weight within the module.
        suffix: what the name of the parameter has in the place of the attribute, where a
            parametrization holds it: ``"parametrizations.weight.original"``.
        view: how the parameter is read; None where it acts entry by entry.
        note: why it cannot be read, or None.
    """

    path: str
    module: nn.Module
    attribute: str
    suffix: str = ""
    view: MatrixView | None = field(default=None, compare=False)
    note: str | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """Full name of the parameter, as in ``model.named_parameters()``."""
        return _joined(self.path, self.suffix or self.attribute)

    @property
    def names(self) -> tuple[str, ...]:
        """What users may call it: the parameter, the weight that it makes, or their module."""
        return (self.name, _joined(self.path, self.attribute), self.path)


def places_of(
    model: nn.Module, views: Mapping[str, MatrixView]
) -> list[tuple[tuple[Site, ...], nn.Parameter]]:
    """Every parameter once, in the model's order, with all the places that hold it.

    Args:
        model: any module.
        views: readings that replace those of the layers, by a regular expression that must match
            the whole name of a parameter or of its module, whose parameters of the view's shape
            it is then for.

    Raises:
        ValueError: a view is for another shape than what its pattern matches.
    """
    found: dict[int, tuple[list[Site], nn.Parameter]] = {}
    for path, module in model.named_modules():
        if "parametrizations" in path.split("."):
            continue
        for site, parameter in (*_own(path, module), *_parametrized(path, module)):
            sites, _ = found.setdefault(id(parameter), ([], parameter))
            sites.append(site)
    for pattern, view in views.items():
        _read_as(pattern, view, list(found.values()))
    order = {id(parameter): number for number, parameter in enumerate(model.parameters())}
    places = [(tuple(sites), parameter) for sites, parameter in found.values()]
    return sorted(places, key=lambda place: order.get(id(place[1]), len(order)))


def parametrizations_of(module: nn.Module) -> dict[str, nn.Module]:
    """What computes the tensors of a module itself, by attribute.

    ``parametrize.is_parametrized`` also says yes to wrappers that hand on the attributes of what
    they wrap (``torch.compile``, activation checkpointing, FullyShardedDataParallel).
    """
    held = dict(module.named_children()).get("parametrizations")
    return dict(held.items()) if isinstance(held, nn.ModuleDict) else {}


def _own(path: str, module: nn.Module) -> Iterator[tuple[Site, nn.Parameter]]:
    for attribute, parameter in module._parameters.items():
        if parameter is not None:
            view = None if is_lazy(parameter) else parameter_view(module, attribute)
            yield Site(path, module, attribute, view=view), parameter


def _parametrized(path: str, module: nn.Module) -> Iterator[tuple[Site, nn.Parameter]]:
    """The tensors under a parametrization: read as the weight of the layer, where shapes agree."""
    computed = parametrizations_of(module)
    plain = _plain_twin(module, computed) if computed else module
    for attribute, held in computed.items():
        for inner, parameter in held.named_parameters():
            suffix = f"parametrizations.{attribute}.{inner}"
            view, note = _under(plain, attribute, held, inner, parameter)
            yield Site(path, module, attribute, suffix, view, note), parameter


def _under(
    plain: nn.Module, attribute: str, held: nn.Module, inner: str, parameter: nn.Parameter
) -> tuple[MatrixView | None, str | None]:
    """The view of a tensor under a parametrization, or why it has none."""
    if _is_product(held):
        return None, "it is a factor of a product that overparameterize made"
    if is_lazy(parameter):
        return None, None
    shape = tuple(parameter.shape)
    if re.fullmatch(r"original\d*", inner) and shape == tuple(getattr(plain, attribute).shape):
        if acts_entrywise(plain, attribute, shape):
            return None, None
        return checked_view(plain, attribute, shape), None
    if len(shape) < 2 or parameter.numel() == max(shape):
        return None, None  # the lengths of weight_norm, and other scales
    return None, f"the parametrization of {attribute} computes the weight from it in its own way"


def _is_product(held: nn.Module) -> bool:
    return isinstance(held, nn.ModuleList) and len(held) > 0 and hasattr(held[0], "is_product")


def _plain_twin(module: nn.Module, computed: Mapping[str, nn.Module]) -> nn.Module:
    """The layer as it would be without parametrizations, with the weights that they compute now.

    A second object, so that nothing of the model changes, not even for a moment: another thread
    may be training it. In evaluation mode, since spectral_norm would take a step in training.
    """
    twin = _twin(module)
    twin.__class__ = type(module).__bases__[0]  # which torch has put its own class over
    parameters: dict[str, nn.Parameter | None] = dict(module._parameters)
    with torch.no_grad():
        for attribute, held in computed.items():
            if not _is_product(held) and not any(map(is_lazy, held.parameters())):
                weight = _in_evaluation_mode(held)()
                parameters[attribute] = nn.Parameter(weight, requires_grad=False)
    twin.__dict__["_parameters"] = parameters
    return twin


def _twin(module: _Module) -> _Module:
    """Another object with the same attributes; ``copy.copy`` refuses parametrized modules."""
    twin = type(module).__new__(type(module))
    twin.__dict__.update(module.__dict__)
    return twin


def _in_evaluation_mode(module: _Module) -> _Module:
    """A module that computes on the same parameters and buffers, all of it in evaluation mode."""
    twin = _twin(module)
    inner = {k: child and _in_evaluation_mode(child) for k, child in module._modules.items()}
    twin.__dict__.update(training=False, _modules=inner)
    return twin


def _read_as(pattern: str, view: MatrixView, places: list[tuple[list[Site], nn.Parameter]]) -> None:
    """Replace the view of every place that a pattern matches.

    A pattern that names a module is for its parameters of the view's shape.
    """
    fits: list[tuple[list[Site], int]] = []
    misfits: dict[str, bool] = {}
    for sites, parameter in places:
        shape = () if is_lazy(parameter) else tuple(parameter.shape)
        for number, site in enumerate(sites):
            *own, of_module = (bool(re.fullmatch(pattern, name)) for name in site.names)
            if not any(own) and not of_module:
                continue
            if shape == view.shape:
                fits.append((sites, number))
            else:
                misfits[f"{site.name} has {shape}"] = any(own)
    if any(misfits.values()) or (misfits and not fits):
        raise ValueError(
            f"overrides[{pattern!r}] has a view for the shape {view.shape}; {', '.join(misfits)}."
        )
    for sites, number in fits:
        sites[number] = replace(sites[number], view=view, note=None)


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
