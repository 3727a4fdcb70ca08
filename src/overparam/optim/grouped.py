"""An optimizer with an inner one: its groups, its checkpoints and copies, its report."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from overparam._copies import Copies
from overparam._precision import HALVES
from overparam._words import warn_user
from overparam.factors.store import without_factors
from overparam.layers.choice import Choice
from overparam.layers.entries import (
    check_whole,
    complete_views,
    is_inner_alone,
    kinds,
    names_of,
    readings,
    warn_of_readings,
)
from overparam.layers.groups import (
    accepts_names,
    check_same_fallback,
    expanded,
    parameter_names,
    without_chosen,
)
from overparam.layers.table import PLAIN, WeightTable, weight_row
from overparam.layers.views import MatrixView
from overparam.optim.inner import Group, StandIn, State, check_takes
from overparam.sharded import check_layouts

Row = tuple[str, list[str], str | None]
"""The rule of a parameter, notes on it, and its matrices where they are not the view's."""


class Grouped(Optimizer):
    """What becomes of groups, of each parameter in them, and of state that is saved and loaded."""

    _own_state: ClassVar[frozenset[str]] = frozenset()
    """Names in ``state[p]`` that are not the inner optimizer's."""
    _structure: ClassVar[tuple[str, ...]] = ("views",)
    """Options that belong to this optimizer, and are not taken from a checkpoint."""
    _inner: Optimizer
    _fallback: Optimizer | None
    _choice: Choice
    _constructing = True

    def add_param_group(self, param_group: Group) -> None:
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
        self._greet(self.param_groups[count:], parameter_names(self.param_groups))

    def _add(self, group: Group) -> None:
        """One group, split in two where a fallback takes what is not chosen."""
        if group.get("fallback"):
            if self._fallback is None:
                raise ValueError("a group asks for the fallback, and there is none; pass fallback=")
            group = {**self._fallback.defaults, **group}
        lists = {n: v for n, v in self.defaults.items() if isinstance(v, (list, dict))}
        super().add_param_group({**copy.deepcopy(lists), **group})  # each group has its own
        group = self.param_groups[-1]
        check_whole(group)
        check_layouts(group)
        self._check_options(group)
        complete_views(group)
        if self._fallback is not None and "fallback" not in group:
            rest = without_chosen(group, self._inner.defaults)
            if not group["params"]:
                self.param_groups.pop()
            if rest["params"]:
                self._add(rest)

    def _prepare(self, group: Group) -> None:
        """What a subclass makes of a new group; it may raise."""
        remedy = 'Leave them out, or pass fallback="adamw", which takes what is not chosen.'
        if self._fallback is not None:
            remedy = f"Name them in exclude=, so that {type(self._fallback).__name__} takes them."
        optimizer = self._fallback if group.get("fallback") else self._inner
        assert optimizer is not None
        tensors = [
            (name, stand_in)
            for name, (p, view, _) in zip(names_of(group, ""), readings(group), strict=True)
            for stand_in in self._shapes(p, view, group)
        ]
        check_takes(optimizer, tensors, remedy)

    def _shapes(self, p: Tensor, view: MatrixView | None, group: Group) -> Iterator[Tensor]:
        """Tensors of the shapes that the inner optimizer would be given for a parameter."""
        del view, group
        yield p

    def _greet(self, groups: Sequence[Group], names: Mapping[Tensor, str]) -> None:
        """Warnings about new groups, once they are in: of each kind one for all."""
        swaps = torch.__future__.get_swap_module_params_on_conversion()
        if not swaps and any(p.is_meta for group in groups for p in group["params"]):
            warn_user(
                "the model is on the meta device, and to_empty gives it new parameters, which this "
                "optimizer does not hold: make the optimizer afterwards, or call "
                "torch.__future__.set_swap_module_params_on_conversion(True) first."
            )
        warn_of_readings([group for group in groups if self._reads(group)], names)

    def _reads(self, group: Group) -> bool:
        """Whether it matters to a group how its layers are read."""
        return not is_inner_alone(group)

    def _check_options(self, group: Group) -> None:
        """Raise unless the options of this class are in range."""

    # Checkpoints and copies

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load state bit for bit: what is kept here, and all of half precision, in its own dtype.

        Other floating state takes the dtype of its parameter, as torch loads it.

        The reading of the layers stays that of this optimizer, and options that the checkpoint
        does not have keep their present values.

        Raises:
            ValueError: the checkpoint does not fit; nothing has changed.
        """
        loaded: dict[str, Any] = {}

        def complete(_: Optimizer, given: dict[str, Any]) -> dict[str, Any]:
            self._align_views()
            loaded.update(given)
            groups = given["param_groups"]
            if len(groups) == len(self.param_groups):  # torch refuses others
                loaded["state"] = self._understood(given)
                pairs = list(zip(self.param_groups, groups, strict=True))
                check_same_fallback(pairs)
                loaded["param_groups"] = [self._completed(group, saved) for group, saved in pairs]
            return dict(loaded)

        def exactly(_: Optimizer) -> None:
            self._take_over(loaded)

        kept = {name: vars(self)[name] for name in ("state", "param_groups")}
        before = self.register_load_state_dict_pre_hook(complete)
        after = self.register_load_state_dict_post_hook(exactly, prepend=True)
        try:
            super().load_state_dict(state_dict)
        except BaseException:
            vars(self).update(kept)
            raise
        finally:
            before.remove()
            after.remove()

    def _completed(self, group: dict[str, Any], saved: dict[str, Any]) -> dict[str, Any]:
        """The options of a saved group, with those of the present one in the place of others."""
        beside = ("params", "param_names")
        now = {name: value for name, value in group.items() if name not in beside}
        return {**now, **saved, **{name: now[name] for name in self._structure if name in now}}

    def _understood(self, state_dict: dict[str, Any]) -> dict[Any, State]:
        """The saved state in today's form; raises by name where it cannot be read."""
        return without_factors(state_dict["state"])

    def _take_over(self, loaded: dict[str, Any]) -> None:
        """Undo what torch's loading does to dtypes, and let the inner optimizer complete it."""
        for group, saved in zip(self.param_groups, loaded["param_groups"], strict=True):
            on_device = bool(group.get("capturable") or group.get("fused"))
            for p, index in zip(group["params"], saved["params"], strict=True):
                saved_state = loaded["state"].get(index, {})
                for name, value in saved_state.items():
                    if isinstance(value, Tensor) and (dtype := self._dtype_of(p, name, value)):
                        stays = name.endswith("step") and not on_device
                        device = value.device if stays else p.device
                        self.state[p][name] = value.detach().to(device, dtype, copy=True)
        with self._linked() as (optimizers, _):
            for each in optimizers:  # Adagrad reads the first state, which must not be empty
                every, filled = each.state, {k: state for k, state in each.state.items() if state}
                given = {"state": defaultdict(dict, filled), "param_groups": each.param_groups}
                try:
                    each.__setstate__(given)
                except KeyError as error:
                    raise ValueError(
                        f"the checkpoint has no {error} of {type(each).__name__}: another inner "
                        "optimizer saved it. Load it into an optimizer like the one that did."
                    ) from error
                every.update(each.state)

    def _dtype_of(self, p: Tensor, name: str, value: Tensor) -> torch.dtype | None:
        """The dtype that a saved tensor gets; None for the parameter's, to which torch casts."""
        if name in self._own_state or not value.is_floating_point():
            return value.dtype
        if p.dtype not in HALVES:
            return None
        return value.dtype if value.dtype is p.dtype else torch.float32

    def __getstate__(self) -> dict[str, Any]:
        return {
            **super().__getstate__(),
            "_inner": self._inner,
            "_fallback": self._fallback,
            "_choice": Choice(),  # words for modules that are yet to come; functions do not pickle
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over state; options that an older version lacks get their defaults."""
        known = "differentiable" in state.get("defaults", vars(self).get("defaults", {}))
        super().__setstate__(state)
        if not known:  # torch adds it, and groups would gain an option on loading
            self.defaults.pop("differentiable", None)
        self._views, self._copies, self._constructing = {}, Copies(), False
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)
            if "views" not in group:
                complete_views(group)

    def _align_views(self) -> None:
        raise NotImplementedError

    def _linked(self) -> AbstractContextManager[tuple[list[Optimizer], list[StandIn]]]:
        raise NotImplementedError

    # Reports

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

    def _row(self, p: Tensor, view: MatrixView | None, group: Group) -> Row:
        raise NotImplementedError

    def __repr__(self) -> str:
        count = sum(len(group["params"]) for group in self.param_groups)
        lrs = dict.fromkeys(f"{float(group.get('lr', math.nan)):g}" for group in self.param_groups)
        inner = type(self._inner).__name__
        return f"{type(self).__name__}({count} parameters, lr={'/'.join(lrs)}, inner={inner})"
