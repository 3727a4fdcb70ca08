"""The groups of an optimizer with an inner one: taken in, checked, and reported."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from overparam._words import warn_user
from overparam.layers.choice import Choice
from overparam.layers.entries import (
    check_whole,
    complete_views,
    is_inner_alone,
    kinds,
    names_of,
    readings,
    warn_of_unknown,
)
from overparam.layers.groups import accepts_names, expanded, without_chosen
from overparam.layers.table import PLAIN, WeightTable, weight_row
from overparam.layers.views import MatrixView
from overparam.optim.checkpointed import Checkpointed
from overparam.optim.inner import check_takes


class Grouped(Checkpointed):
    """What becomes of a group, and of each parameter in it."""

    _inner: Optimizer
    _fallback: Optimizer | None
    _choice: Choice
    _constructing = True

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; its ``"params"`` may be a module."""
        count = len(self.param_groups)
        try:
            named = accepts_names(self.param_groups)
            for group in expanded(param_group, self._choice, named=named):
                self._add(group)
            for group in self.param_groups[count:]:
                self._prepare(group)
        except BaseException:
            del self.param_groups[count:]
            raise
        if not self._constructing:
            self._enter(count)

    def _enter(self, count: int) -> None:
        """Groups from number ``count`` on have all been accepted: weights may change now."""
        self._align_views()
        for group in self.param_groups[count:]:
            self._greet(group)

    def _add(self, group: dict[str, Any]) -> None:
        """One group, split in two where a fallback takes what is not chosen."""
        if group.get("fallback"):
            if self._fallback is None:
                raise ValueError("a group asks for the fallback, and there is none; pass fallback=")
            group = {**self._fallback.defaults, **group}
        lists = {n: v for n, v in self.defaults.items() if isinstance(v, (list, dict))}
        super().add_param_group({**copy.deepcopy(lists), **group})  # each group has its own
        group = self.param_groups[-1]
        check_whole(group)
        self._check_options(group)
        complete_views(group)
        if self._fallback is not None and "fallback" not in group:
            rest = without_chosen(group, self._inner.defaults)
            if not group["params"]:
                self.param_groups.pop()
            if rest["params"]:
                self._add(rest)

    def _prepare(self, group: dict[str, Any]) -> None:
        """What a subclass makes of a new group; it may raise."""
        remedy = 'Leave them out, or pass fallback="adamw", which takes what is not chosen.'
        optimizer = self._fallback if group.get("fallback") else self._inner
        assert optimizer is not None
        tensors = [
            (name, stand_in)
            for name, (p, view, _) in zip(names_of(group, ""), readings(group), strict=True)
            for stand_in in self._shapes(p, view, group)
        ]
        check_takes(optimizer, tensors, remedy)

    def _shapes(
        self, p: Tensor, view: MatrixView | None, group: dict[str, Any]
    ) -> Iterator[Tensor]:
        """Tensors of the shapes that the inner optimizer would be given for a parameter."""
        del view, group
        yield p

    def _greet(self, group: dict[str, Any]) -> None:
        """Warnings about a new group, once it is in."""
        swaps = torch.__future__.get_swap_module_params_on_conversion()
        if not swaps and any(p.is_meta for p in group["params"]):
            warn_user(
                "the model is on the meta device, and to_empty gives it new parameters, which this "
                "optimizer does not hold: make the optimizer afterwards, or call "
                "torch.__future__.set_swap_module_params_on_conversion(True) first."
            )
        if not is_inner_alone(group):
            warn_of_unknown(group)

    def _check_options(self, group: dict[str, Any]) -> None:
        """Raise unless the options of this class are in range."""

    def routing(self) -> WeightTable:
        """What becomes of each parameter and why: print it, or iterate over its rows."""
        self._align_views()
        rows = []
        for number, group in enumerate(self.param_groups):
            names = names_of(group, f"group {number}, ")
            read = zip(names, readings(group), kinds(group), strict=True)
            for name, (p, view, reason), kind in read:
                rule, notes, matrices = PLAIN, [f"taken by {type(self._fallback).__name__}"], None
                if not group.get("fallback"):
                    rule, notes, matrices = self._row(p, view, group)
                depth, why = group.get("depth", 1), [reason, *notes]
                shape = tuple(p.shape)
                rows.append(weight_row(name, shape, view, depth, rule, why, matrices, kind))
        return WeightTable(rows)

    def _row(
        self, p: Tensor, view: MatrixView | None, group: dict[str, Any]
    ) -> tuple[str, list[str], str | None]:
        """The rule of a parameter, notes on it, and its matrices where they are not the view's."""
        raise NotImplementedError

    def __repr__(self) -> str:
        count = sum(len(group["params"]) for group in self.param_groups)
        lrs = dict.fromkeys(f"{float(group.get('lr', math.nan)):g}" for group in self.param_groups)
        inner = type(self._inner).__name__
        return f"{type(self).__name__}({count} parameters, lr={'/'.join(lrs)}, inner={inner})"
