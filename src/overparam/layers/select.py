"""Which weights of a model are chosen, in words that users know, with a reason for each.

``EndToEnd``, ``Factored``, ``Radial`` and ``overparameterize`` choose by the functions here.
Nothing here changes a model.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from overparam.layers.places import Site, places_of
from overparam.layers.views import MatrixView, flat_view, vector_view

Targets = str | Iterable[str] | Callable[[str, nn.Module], bool]

DEFAULT_KINDS = ("linear", "convolution", "attention", "recurrent", "experts", "bilinear")
"""What every door chooses by default."""
KINDS = (*DEFAULT_KINDS, "embedding", "unknown")
_GROUPS = {"all-linear": ("linear", "attention"), "all": KINDS}


@dataclass(frozen=True)
class Selected:
    """A chosen parameter.

    Attributes:
        sites: all places that share it; the first one names it.
        parameter: itself.
        view: how it is read.
        reason: why it is chosen.
    """

    sites: tuple[Site, ...]
    parameter: nn.Parameter
    view: MatrixView
    reason: str

    @property
    def name(self) -> str:
        """Full name of the first place."""
        return self.sites[0].name


@dataclass(frozen=True)
class Skipped:
    """A parameter that was not chosen, and why.

    Attributes:
        sites: all places that share it; the first one names it.
        parameter: itself.
        view: how it would be read; None where it acts entry by entry or cannot be read.
        reason: in plain words.
        asked: whether the targets ask for it all the same.
    """

    sites: tuple[Site, ...]
    parameter: nn.Parameter
    view: MatrixView | None
    reason: str
    asked: bool = False

    @property
    def name(self) -> str:
        """Full name of the first place."""
        return self.sites[0].name

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the parameter, () where it has none yet."""
        return () if is_lazy(self.parameter) else tuple(self.parameter.shape)


@dataclass(frozen=True)
class Selection:
    """What was chosen and what was skipped, each parameter of the model once, in its order."""

    entries: tuple[Selected | Skipped, ...]

    @property
    def selected(self) -> tuple[Selected, ...]:
        """The chosen parameters."""
        return tuple(entry for entry in self.entries if isinstance(entry, Selected))

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """The others."""
        return tuple(entry for entry in self.entries if isinstance(entry, Skipped))


def select_parameters(
    model: nn.Module,
    targets: Targets | None = None,
    exclude: Targets | None = None,
    views: Mapping[str, MatrixView] | None = None,
    *,
    optimizer: bool = False,
) -> Selection:
    """Choose parameters by kind, name, regular expression or function.

    A tied parameter (one tensor under several names) is chosen where all its places are chosen,
    and skipped otherwise: treating one place alone would untie it.

    Args:
        model: any module; it is not changed.
        targets: None for the default kinds ("linear", "convolution", "attention", "recurrent",
            "experts", "bilinear"). Else a word or a list of words: a kind (those and
            "embedding", "unknown", or one of your own views), ``"all-linear"`` (linear layers and
            attention), ``"all"``, or the name of a module or parameter (whole, or its last parts,
            as in PEFT's ``target_modules``). A single string that is not a kind is a regular
            expression that must match the whole name of a module or parameter. Or a function of
            parameter name and module. Kinds leave frozen parameters out; names, patterns and
            functions take what they say. A tensor that acts entry by entry (a vector, a bias, a
            scale) is chosen by its full name in a list alone: it becomes one row.
        exclude: parameters to leave out, in the same forms but for ``"all"``.
        views: views that replace those of the layers, by a regular expression that must match
            the whole name of a parameter or of its module.
        optimizer: whether the choice is for an optimizer. It may include frozen parameters, which
            may be trained later, and tensors under a parametrization, which are parameters too.

    Returns:
        The selection. A parameter that cannot be a product is skipped with the reason.

    Raises:
        TypeError: a name that is not a string, or a view that is not a MatrixView.
        ValueError: a name or a pattern that matches no parameter, a word that is both a kind and a
            name in the model, an invalid regular expression, a view for another shape.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 3), nn.Linear(3, 2))
        >>> selection = select_parameters(model, exclude=["2"])
        >>> [entry.name for entry in selection.selected]
        ['1.weight']
        >>> [(entry.name, entry.reason) for entry in selection.skipped][::3]
        [('0.weight', 'embedding: not among the targets'), ('2.bias', 'it acts entry by entry')]
    """
    for pattern, view in (views or {}).items():
        check_pattern("overrides", pattern)
        if not isinstance(view, MatrixView):
            raise TypeError(
                f"the view of overrides[{pattern!r}] is {view!r}; give an "
                "overparam.layers.MatrixView, for example packed_view(shape, 3)."
            )
    places = places_of(model, views or {})
    sites = [site for group, _ in places for site in group]
    for argument, words in (("targets", targets), ("exclude", exclude)):
        _check_words(argument, words)
    if targets is not None and not isinstance(targets, str) and not callable(targets):
        targets = tuple(targets)
    if exclude == "all":
        raise ValueError("exclude='all' would leave nothing; name kinds, modules or parameters.")
    wanted = _Wanted.of("targets", targets, sites)
    unwanted = _Wanted.of("exclude", exclude, sites) if exclude is not None else None
    in_full = targets if isinstance(targets, tuple) else ()
    starts = Counter(_start_of(parameter) for _, parameter in places)
    return Selection(
        tuple(
            _decide(
                group,
                parameter,
                wanted,
                unwanted,
                in_full,
                optimizer,
                shares_memory=(start := _start_of(parameter)) != 0 and starts[start] > 1,
            )
            for group, parameter in places
        )
    )


def _check_words(argument: str, words: object) -> None:
    listed = isinstance(words, (str, Iterable)) or callable(words)
    if words is not None and (not listed or isinstance(words, type)):
        raise TypeError(
            f"{argument} is {words!r}; give a kind, a name or a list of them, a regular "
            "expression, or a function of parameter name and module."
        )


def matches(pattern: str, site: Site) -> bool:
    """Whether a regular expression matches the whole name of a parameter or of its module."""
    return any(re.fullmatch(pattern, name) for name in site.names)


def check_pattern(argument: str, pattern: str) -> None:
    """Raise unless ``pattern`` is a regular expression.

    Raises:
        ValueError: it is not.
    """
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{argument}={pattern!r} is not a regular expression: {error}.") from None


@dataclass(frozen=True)
class _Wanted:
    """What a form of targets asks for.

    Attributes:
        by_kind: kinds asked for as words.
        by_name: whether a place is asked for by name, pattern or function.
    """

    by_kind: tuple[str, ...]
    by_name: Callable[[Site], bool]

    def has(self, site: Site) -> bool:
        """Whether a place is asked for in any way."""
        return self.has_kind(site) or self.by_name(site)

    def has_kind(self, site: Site) -> bool:
        """Whether a place is asked for by a word."""
        return site.view is not None and site.view.kind in self.by_kind

    @classmethod
    def of(cls, argument: str, words: Targets | None, sites: list[Site]) -> _Wanted:
        """Understand the words of an argument, checked against the model."""
        if words is None:
            return cls(DEFAULT_KINDS, lambda site: False)
        if callable(words):
            function = words
            return cls((), lambda site: bool(function(site.name, site.module)))
        known = {site.view.kind for site in sites if site.view is not None} | set(KINDS)
        if isinstance(words, str) and words not in known and words not in _GROUPS:
            pattern = words
            check_pattern(argument, pattern)
            if not any(matches(pattern, site) for site in sites):
                raise ValueError(_unmatched(argument, pattern, sites))
            return cls((), lambda site: matches(pattern, site))
        kinds: list[str] = []
        names: list[str] = []
        for word in (words,) if isinstance(words, str) else words:
            if not isinstance(word, str):
                raise TypeError(f"{argument} holds {word!r}; kinds and names are strings.")
            if word in _GROUPS:
                kinds.extend(_GROUPS[word])
            elif word in known:
                _check_unambiguous(argument, word, sites)
                kinds.append(word)
            elif any(_named(word, site) for site in sites):
                names.append(word)
            else:
                raise ValueError(_unmatched(argument, word, sites))
        return cls(tuple(kinds), lambda site: any(_named(name, site) for name in names))


def _decide(
    sites: tuple[Site, ...],
    parameter: nn.Parameter,
    wanted: _Wanted,
    unwanted: _Wanted | None,
    in_full: tuple[str, ...],
    optimizer: bool,
    shares_memory: bool,
) -> Selected | Skipped:
    """Chosen with its view, or skipped with the reason."""
    views = [site.view or _entrywise_view(site, parameter, in_full) for site in sites]
    trained = optimizer or parameter.requires_grad
    reason = None
    if not optimizer and any(site.suffix for site in sites):
        reason = "it is already parametrized"
    elif not optimizer and shares_memory:
        reason = (
            "another parameter has the same memory, and a product has its own; tie the two first, "
            "as in head.weight = embedding.weight"
        )
    reason = reason or _impossible(sites, parameter, views)
    unasked = _unasked(sites, trained, wanted, unwanted)
    if reason is not None or unasked is not None:
        return Skipped(sites, parameter, views[0], reason or unasked or "", unasked is None)
    # An embedding tied to a layer is read as the embedding: rows that are not seen stay.
    embeddings = [view for view in views if view is not None and view.kind == "embedding"]
    view = (*embeddings, views[0])[0]
    assert view is not None  # a parameter without a view has a reason
    named = any(wanted.by_name(site) for site in sites)
    how = "chosen by name" if named else "chosen by kind"
    return Selected(sites, parameter, view, how)


def _start_of(parameter: nn.Parameter) -> int:
    """Where the entries of a plain parameter begin; 0 where it has none, or none of its own."""
    plain = type(parameter) is nn.Parameter and parameter.layout is torch.strided
    return parameter.data_ptr() if plain and parameter.numel() > 0 else 0


def _unasked(
    sites: tuple[Site, ...], trained: bool, wanted: _Wanted, unwanted: _Wanted | None
) -> str | None:
    """Why a parameter that could be a product is not asked for, or None."""
    if unwanted is not None and any(unwanted.has(site) for site in sites):
        return "excluded"
    left_out = [site for site in sites if not wanted.has(site)]
    view = sites[0].view
    if len(left_out) == len(sites):
        kind = "" if view is None else f"{view.kind}: "
        if view is not None and view.kind == "unknown" and wanted.by_kind:
            return (
                f"{type(sites[0].module).__name__} is not a layer that overparam knows; name the "
                "weight in targets, or say how it is read with overparam.register_view"
            )
        return f"{kind}not among the targets"
    if left_out:
        return f"it is tied to {left_out[0].name}, which the targets leave out; choose both places"
    if any(wanted.by_name(site) for site in sites):
        return None
    if not trained:
        return "it is frozen; name it to choose it all the same"
    if view is not None and view.kind == "unknown" and view.shape[0] == 1 and len(view.shape) == 3:
        return "it looks like a token or a position that is added; name it to choose it"
    return None


def _impossible(
    sites: tuple[Site, ...], parameter: nn.Parameter, views: list[MatrixView | None]
) -> str | None:
    """Why a parameter cannot be a product, or None."""
    if is_lazy(parameter):
        return "it has no shape yet; run the model once on an example input"
    for site in sites:
        if site.note is not None:
            return site.note
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


def _entrywise_view(
    site: Site, parameter: nn.Parameter, in_full: tuple[str, ...]
) -> MatrixView | None:
    """The reading of a tensor that acts entry by entry, where it is named in full."""
    if site.name not in in_full or is_lazy(parameter):
        return None
    shape = tuple(parameter.shape)
    return flat_view(shape, "unknown") if len(shape) > 1 else vector_view(shape)


def _check_unambiguous(argument: str, kind: str, sites: list[Site]) -> None:
    """Raise where a module of the model has the name of a kind and the two differ."""
    readable = [site for site in sites if site.view is not None]
    by_name = [site for site in readable if _named(kind, site)]
    by_kind = [site for site in readable if site.view is not None and site.view.kind == kind]
    if by_name and by_name != by_kind:
        raise ValueError(
            f"{argument}={kind!r} is a kind of weight, and also the name of {by_name[0].names[-1]} "
            "in this model. For the name write it in full, or as a regular expression such as "
            f"'.*{kind}'; for the kind give a function of name and module."
        )


def _named(name: str, site: Site) -> bool:
    """Whether ``name`` is the parameter, its module (whole or last parts), or a module around it.

    A module around it must be named in full from the root; it stands for all below it.
    """
    return any(
        full == name or full.endswith(f".{name}") for full in site.names
    ) or site.name.startswith(f"{name}.")


def _unmatched(argument: str, name: str, sites: list[Site]) -> str:
    known: set[str] = {known for site in sites for known in site.names if known}
    close = difflib.get_close_matches(name, sorted(known | set(KINDS)), n=3, cutoff=0.4)
    hint = f" Close names: {', '.join(close)}." if close else ""
    return (
        f"{argument}={name!r} matches no module and no parameter, and is not a kind of weight "
        f"({', '.join(KINDS)}).{hint} List the names with "
        "[name for name, _ in model.named_parameters()]."
    )
