"""Which parameters of a model to overparameterize, in words that users know, with reasons.

Nothing here changes a model: a selection is two lists, what was chosen and what was skipped.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from overparam.layers.views import (
    MatrixView,
    flat_view,
    is_transposed_linear,
    parameter_view,
    vector_view,
)

Targets = str | Iterable[str] | Callable[[str, nn.Module], bool]

_WORDS = ("all-linear", "all")
_PARAMETRIZED = "it is already parametrized"


@dataclass(frozen=True)
class Site:
    """One place of a model where a parameter lives.

    Attributes:
        path: of the module that owns it, empty for the model itself.
        module: the owner.
        attribute: name of the parameter within its owner.
    """

    path: str
    module: nn.Module
    attribute: str

    @property
    def name(self) -> str:
        """Full name of the parameter, as in ``model.named_parameters()``."""
        return f"{self.path}.{self.attribute}" if self.path else self.attribute


@dataclass(frozen=True)
class Selected:
    """A chosen parameter: all places that share it, the first one naming it, and its reading."""

    sites: tuple[Site, ...]
    parameter: nn.Parameter
    view: MatrixView

    @property
    def name(self) -> str:
        """Full name of the first place."""
        return self.sites[0].name


@dataclass(frozen=True)
class Skipped:
    """A parameter that was not chosen, and why."""

    name: str
    shape: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class Selection:
    """What was chosen and what was skipped, each parameter of the model once."""

    selected: tuple[Selected, ...]
    skipped: tuple[Skipped, ...]


def select_parameters(
    model: nn.Module, targets: Targets = "all-linear", exclude: Targets | None = None
) -> Selection:
    """Choose parameters by word, name, regular expression or function.

    A tied parameter (one tensor under several names) is chosen where all its places are chosen,
    and skipped otherwise: treating one place alone would untie it.

    Args:
        model: any module; it is not changed.
        targets: ``"all-linear"`` (linear layers and attention projections), ``"all"`` (every
            weight that is a matrix or a batch of matrices, also convolutions, embeddings and
            recurrent weights), another string (a regular expression that must match the whole
            name of a module or parameter), a list of names (a whole name, or its last parts, as
            in PEFT's ``target_modules``), or a function of parameter name and module. The two
            words skip frozen parameters; the others take what they name. A tensor that acts entry
            by entry (a vector, a bias, a scale) is chosen by its full name in a list alone: it
            becomes one row.
        exclude: parameters to leave out, in the same forms but for the two words.

    Returns:
        The selection. A parameter that cannot be a product is skipped with the reason.

    Raises:
        ValueError: a name or a pattern that matches no parameter, an invalid regular expression.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(4, 3), nn.Linear(3, 2))
        >>> selection = select_parameters(model, exclude=["2"])
        >>> [entry.name for entry in selection.selected]
        ['1.weight']
        >>> [(entry.name, entry.reason) for entry in selection.skipped][-2:]
        [('2.weight', 'excluded'), ('2.bias', 'it acts entry by entry')]
    """
    places = _places(model)
    if not isinstance(targets, str) and not callable(targets):
        targets = tuple(targets)
    wanted = _matcher("targets", targets, places)
    unwanted = _matcher("exclude", exclude, places) if exclude is not None else _nothing
    by_word = targets in _WORDS if isinstance(targets, str) else False
    in_full = targets if isinstance(targets, tuple) else ()
    selected: list[Selected] = []
    skipped: list[Skipped] = [
        Skipped(name, shape, _PARAMETRIZED) for name, shape in _parametrized(model)
    ]
    for sites, parameter in places:
        views = [] if is_lazy(parameter) else [_reading(site, in_full) for site in sites]
        reason = _reason_to_skip(sites, parameter, views, wanted, unwanted, by_word)
        if reason is None:
            assert views[0] is not None  # a parameter without a reading has a reason
            selected.append(Selected(sites, parameter, views[0]))
        else:
            shape = () if is_lazy(parameter) else tuple(parameter.shape)
            skipped.append(Skipped(sites[0].name, shape, reason))
    return Selection(tuple(selected), tuple(skipped))


def matches(pattern: str, site: Site) -> bool:
    """Whether a regular expression matches the whole name of a parameter or of its module."""
    return any(re.fullmatch(pattern, name) for name in (site.name, site.path))


def check_pattern(argument: str, pattern: str) -> None:
    """Raise unless ``pattern`` is a regular expression.

    Raises:
        ValueError: it is not.
    """
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{argument}={pattern!r} is no regular expression: {error}.") from None


_Matcher = Callable[[Site], bool]


def _nothing(site: Site) -> bool:
    del site
    return False


def _places(model: nn.Module) -> list[tuple[tuple[Site, ...], nn.Parameter]]:
    """Every parameter once, with all the places that hold it."""
    found: dict[int, tuple[list[Site], nn.Parameter]] = {}
    for path, module in model.named_modules():
        if _inside_parametrization(path):
            continue
        for attribute, parameter in module._parameters.items():
            if parameter is not None:
                sites, _ = found.setdefault(id(parameter), ([], parameter))
                sites.append(Site(path, module, attribute))
    return [(tuple(sites), parameter) for sites, parameter in found.values()]


def _parametrized(model: nn.Module) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the tensors that a parametrization already computes."""
    for path, module in model.named_modules():
        if not _inside_parametrization(path):
            for attribute in parametrizations_of(module):
                tensor: Tensor = getattr(module, attribute)
                yield Site(path, module, attribute).name, tuple(tensor.shape)


def parametrizations_of(module: nn.Module) -> dict[str, nn.Module]:
    """What computes the tensors of a module itself, by attribute.

    ``parametrize.is_parametrized`` also says yes to wrappers that hand on the attributes of what
    they wrap (``torch.compile``, activation checkpointing, FullyShardedDataParallel).
    """
    held = dict(module.named_children()).get("parametrizations")
    return dict(held.items()) if isinstance(held, nn.ModuleDict) else {}


def _reading(site: Site, in_full: tuple[str, ...]) -> MatrixView | None:
    """How a tensor is read as matrices; one that acts entry by entry only where named in full."""
    view = parameter_view(site.module, site.attribute)
    if view is not None or site.name not in in_full:
        return view
    shape = tuple(getattr(site.module, site.attribute).shape)
    return flat_view(shape) if len(shape) > 1 else vector_view(shape)


def _inside_parametrization(path: str) -> bool:
    return "parametrizations" in path.split(".")


def _reason_to_skip(
    sites: tuple[Site, ...],
    parameter: nn.Parameter,
    views: list[MatrixView | None],
    wanted: _Matcher,
    unwanted: _Matcher,
    by_word: bool,
) -> str | None:
    """Why a parameter is not chosen, or None."""
    impossible = _impossible(sites, parameter, views)
    if impossible is not None:
        return impossible
    if any(unwanted(site) for site in sites):
        return "excluded"
    left_out = [site for site in sites if not wanted(site)]
    if len(left_out) == len(sites):
        return "not among the targets"
    if left_out:
        return (
            f"it is tied to {left_out[0].name}, which the targets leave out; name both places "
            'or use targets="all"'
        )
    if by_word and not parameter.requires_grad:
        return "it is frozen; name it to choose it all the same"
    if by_word and _additive(views[0]):
        return "it looks like a token or a position that is added; name it to choose it"
    return None


def _impossible(
    sites: tuple[Site, ...], parameter: nn.Parameter, views: list[MatrixView | None]
) -> str | None:
    """Why a parameter cannot be a product, or None."""
    if is_lazy(parameter):
        return "it has no shape yet; run the model once on an example input"
    if any(view is None for view in views):
        return "it acts entry by entry"
    if not parameter.is_floating_point():
        return f"its dtype {parameter.dtype} is not a real floating-point one"
    if parameter.numel() == 0:
        return "it is empty"
    if len({(v.batch, v.rows, v.columns, v.transposed) for v in views if v is not None}) > 1:
        return "its places read it as different matrices"
    for site in sites:
        if getattr(site.module, "sparse", False) is True:
            return "its embedding asks for sparse gradients; set sparse=False"
        if isinstance(site.module, (nn.Embedding, nn.EmbeddingBag)) and site.module.max_norm:
            return "its embedding rescales the table in place (max_norm), which a product undoes"
        if isinstance(site.module, torch.jit.ScriptModule):
            return "its module is scripted; overparameterize before torch.jit.script"
    return None


def _additive(view: MatrixView | None) -> bool:
    """Whether a tensor of an unknown layer has a leading dimension of one: (1, length, width)."""
    return view is not None and view.kind == "experts" and view.shape[0] == 1


def _is_linear(site: Site) -> bool:
    linear = isinstance(site.module, (nn.Linear, nn.MultiheadAttention))
    return linear or is_transposed_linear(site.module)


def _matcher(
    argument: str, words: Targets, places: list[tuple[tuple[Site, ...], nn.Parameter]]
) -> _Matcher:
    """The predicate that a form of targets stands for, checked against the model."""
    sites = [site for group, _ in places for site in group]
    if isinstance(words, str) and words in _WORDS:
        if argument == "exclude":
            raise ValueError(f"exclude={words!r} would leave nothing; name modules or parameters.")
        return _is_linear if words == "all-linear" else lambda site: True
    if isinstance(words, str):
        pattern = words
        check_pattern(argument, pattern)
        if not any(matches(pattern, site) for site in sites):
            raise ValueError(_unmatched(argument, pattern, sites))
        return lambda site: matches(pattern, site)
    if callable(words):
        function = words
        return lambda site: bool(function(site.name, site.module))
    names = tuple(words)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"{argument} holds {name!r}; names are strings.")
        if not any(_named(name, site) for site in sites):
            raise ValueError(_unmatched(argument, name, sites))
    return lambda site: any(_named(name, site) for name in names)


def _named(name: str, site: Site) -> bool:
    """Whether ``name`` is the parameter, its module (whole or last parts), or a module around it.

    A module around it must be named in full from the root; it stands for all below it.
    """
    return site.name.startswith(f"{name}.") or any(
        full == name or full.endswith(f".{name}") for full in (site.name, site.path)
    )


def _unmatched(argument: str, name: str, sites: list[Site]) -> str:
    known = {site.name for site in sites} | {site.path for site in sites if site.path}
    close = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.4)
    hint = f" Close names: {', '.join(close)}." if close else ""
    return (
        f"{argument}={name!r} matches no module and no parameter.{hint} "
        "List the names with [name for name, _ in model.named_parameters()]."
    )
