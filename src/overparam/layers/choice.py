"""The user's words on the weights of a model: which, read how, and with which options."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from overparam.layers.entries import Entry, entry_of
from overparam.layers.places import Site
from overparam.layers.select import (
    Selected,
    Selection,
    Skipped,
    Targets,
    check_pattern,
    matches,
    select_parameters,
)
from overparam.layers.shapes import view_by_shape


@dataclass(frozen=True)
class Choice:
    """What all doors are given.

    Attributes:
        targets: which weights, see :func:`overparam.layers.select_parameters`.
        exclude: weights to leave out.
        overrides: options by regular expression that must match the whole name of a weight or of
            its module; later ones win. ``"view"`` is the reading of the weight.
    """

    targets: Targets | None = None
    exclude: Targets | None = None
    overrides: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    def select(self, model: nn.Module, *, optimizer: bool = False) -> Selection:
        """The weights of a model that are chosen.

        Args:
            model: is not changed.
            optimizer: whether an optimizer asks, see :func:`overparam.layers.select_parameters`;
                then overrides may be for parameters that are not chosen, too.

        Raises:
            ValueError: an override that matches nothing, or words that do not fit the model.
        """
        for pattern in self.overrides:
            check_pattern("overrides", pattern)
        views = {name: given["view"] for name, given in self.overrides.items() if "view" in given}
        chosen = select_parameters(model, self.targets, self.exclude, views, optimizer=optimizer)
        entries: Sequence[Selected | Skipped] = chosen.entries if optimizer else chosen.selected
        used = {pattern for entry in entries for pattern in self.patterns(entry.sites)}
        for pattern in self.overrides:
            if pattern not in used:
                names = ", ".join(entry.name for entry in entries[:5])
                what = "parameter" if optimizer else "chosen weight"
                raise ValueError(
                    f"overrides[{pattern!r}] matches no {what}; it must match the whole name of "
                    f"one, or of its module: {names}, ..."
                )
        return chosen

    def patterns(self, sites: Iterable[Site]) -> tuple[str, ...]:
        """The overrides for a parameter that lives at some places."""
        sites = tuple(sites)
        return tuple(p for p in self.overrides if any(matches(p, site) for site in sites))

    def options(self, patterns: Iterable[str]) -> dict[str, Any]:
        """What overrides say together, but for the views."""
        merged: dict[str, Any] = {}
        for pattern in patterns:
            merged.update(self.overrides[pattern])
        merged.pop("view", None)
        return merged

    def groups(self, group: dict[str, Any], *, named: bool) -> list[dict[str, Any]]:
        """The groups of an optimizer that a module stands for: one for each set of options.

        Args:
            group: its ``"params"`` is a module.
            named: whether parameters keep their names.

        Raises:
            ValueError: the module has no parameters, or words that do not fit it.
        """
        module: nn.Module = group["params"]
        if next(module.parameters(), None) is None:
            raise ValueError(f"{type(module).__name__} has no parameters to optimize.")
        parts: dict[tuple[str, ...], list[Selected | Skipped]] = {}
        for entry in self.select(module, optimizer=True).entries:
            if isinstance(entry, Skipped) and entry.asked and "max_norm" in entry.reason:
                raise ValueError(f"{entry.name}: {entry.reason}; leave it out of the targets.")
            parts.setdefault(self.patterns(entry.sites), []).append(entry)
        return [
            {
                **group,
                **self.options(patterns),
                "params": [(e.name, e.parameter) if named else e.parameter for e in entries],
                "views": [entry_of(entry) for entry in entries],
            }
            for patterns, entries in parts.items()
        ]

    def views(self, model: nn.Module, params: Iterable[Tensor]) -> list[Any]:
        """What stands in ``"views"`` for parameters of a model; others are read by their shape."""
        selection = self.select(model, optimizer=True)
        known: dict[Tensor, Entry] = {each.parameter: entry_of(each) for each in selection.entries}
        return [known[p] if p in known else view_by_shape(tuple(p.shape)) for p in params]
