"""What EndToEnd, Factored and Radial share: one copy of groups and state.

The user's groups are the groups of the inner optimizer: the same dicts, in which only ``"params"``
differs while it steps. ``state[p]`` is flat, names to tensors and numbers; what the inner
optimizer keeps for a tensor lies there under its own names, with a prefix where a parameter is
trained as several tensors. The inner optimizer is linked to both for each step and owns nothing.
"""

from __future__ import annotations

import copy
import math
import numbers
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
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
from overparam.layers.shapes import view_by_shape
from overparam.layers.table import PLAIN, WeightTable, weight_row
from overparam.layers.views import MatrixView
from overparam.optim.checkpointed import Checkpointed
from overparam.optim.groups import Params, accepts_names, expanded, with_modules, without_chosen
from overparam.optim.inner import Inner, check_takes, linked, make_inner, take_step
from overparam.optim.stand_in import Copies, StandIn, State


class Transform(Checkpointed):
    """An optimizer around an inner one; see the module for who owns what."""

    is_transform = True
    _constructing = True

    def __init__(
        self,
        params: Params,
        lr: float | Tensor | None,
        inner: Inner,
        own: dict[str, Any],
        inner_options: dict[str, Any],
        *,
        choice: Choice,
        fallback: Inner | None,
        fallback_options: Mapping[str, Any] | None,
    ) -> None:
        if lr is not None and not isinstance(lr, (numbers.Real, Tensor)):
            raise TypeError(
                f"lr is {lr!r}; the learning rate comes second and the inner optimizer by name: "
                f"{type(self).__name__}(params, lr=0.01, inner=torch.optim.AdamW)."
            )
        rate = {} if lr is None else {"lr": lr}
        self._inner = make_inner("inner", inner, {**rate, **inner_options})
        self._fallback = None
        if fallback is not None:
            self._fallback = make_inner("fallback", fallback, dict(fallback_options or {}))
        elif fallback_options is not None:
            raise ValueError("fallback_options has no meaning without fallback; name an optimizer.")
        self._choice = choice
        self._views: dict[Tensor, Any] = {}
        self._copies = Copies()
        twice = set(self._inner.defaults) & set(own) - {"capturable"}
        if twice:
            raise ValueError(
                f"{type(self._inner).__name__} has options of the same name as "
                f"{type(self).__name__}: {', '.join(sorted(twice))}; give a function that makes it "
                "with options of other names."
            )
        super().__init__(with_modules(params), {**self._inner.defaults, **own})
        self._constructing = False
        self._enter(0)

    # Groups

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
        super().add_param_group(group)
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
        engine = self._fallback if group.get("fallback") else self._inner
        assert engine is not None
        tensors = [
            (name, stand_in)
            for name, (p, view, _) in zip(names_of(group, ""), readings(group), strict=True)
            for stand_in in self._shapes(p, view, group)
        ]
        check_takes(engine, tensors, remedy)

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

    def _align_views(self) -> None:
        """Let views follow parameters that were put in another order.

        A parameter that was exchanged for a new one leaves its view to it.
        """
        known, self._views = self._views, {}
        for group in self.param_groups:
            params, views = group["params"], group["views"]
            if len(views) == len(params):
                group["views"] = [known.get(p, view) for p, view in zip(params, views, strict=True)]
            else:  # parameters were put in or taken out
                group["views"] = [
                    known[p] if p in known else view_by_shape(tuple(p.shape)) for p in params
                ]
                complete_views(group)
            self._views.update(zip(params, group["views"], strict=False))

    # State

    def _stand_ins(
        self, p: Tensor, view: MatrixView | None, group: dict[str, Any]
    ) -> list[StandIn]:
        """The tensors that the inner optimizer steps on in the place of a parameter."""
        del view
        return [StandIn(p, p, "", group)]

    def _settle(self, stand_ins: list[StandIn]) -> None:
        """Write to parameters what the inner optimizer did to the tensors in their place."""

    @contextmanager
    def _linked(self) -> Iterator[tuple[list[Optimizer], list[StandIn]]]:
        """The inner optimizers, linked to groups and state; the stand-ins that they work on.

        Where the body raises, groups and state are as before; tensors are the body's concern.
        """
        kept = [(group, dict(group)) for group in self.param_groups]
        tensors = [v for _, options in kept for v in options.values() if isinstance(v, Tensor)]
        in_groups = [(tensor, tensor.detach().clone()) for tensor in tensors]
        states: defaultdict[Any, Any] = defaultdict(dict)
        states.update((key, v) for key, v in self.state.items() if not isinstance(key, Tensor))
        stand_ins: list[StandIn] = []
        try:
            for group, options in kept:
                made = [
                    each
                    for p, view, _ in readings(options)
                    for each in self._stand_ins(p, view, group)
                ]
                group["params"] = [each.tensor for each in made]
                states.update((each.tensor, self._working_state(each)) for each in made)
                stand_ins += made
            with ExitStack() as stack:
                yield [stack.enter_context(each) for each in self._links(states)], stand_ins
        except BaseException:
            for group, options in kept:
                group.clear()
                group.update(options)
            with torch.no_grad():
                for tensor, copy in in_groups:
                    tensor.copy_(copy)
            raise
        for group, options in kept:
            group["params"] = options["params"]
        for each in stand_ins:
            self._keep_inner_state(each, states.pop(each.tensor, {}))
        self.state.update((key, v) for key, v in states.items() if not isinstance(key, Tensor))

    def _links(self, states: defaultdict[Any, Any]) -> Iterator[Any]:
        for engine, chosen in ((self._inner, False), (self._fallback, True)):
            groups = [g for g in self.param_groups if bool(g.get("fallback")) == chosen]
            if engine is not None and groups:
                yield linked(engine, groups, states)

    def _working_state(self, stand_in: StandIn) -> State:
        """The inner state for a step: containers are copied, so that an error leaves the old ones.

        Where an option has made the stand-in of a half-precision parameter wide, or narrow again,
        its state follows.
        """
        dtype, halves = stand_in.tensor.dtype, (torch.float16, torch.bfloat16)
        state = self._inner_state(stand_in)
        for name, value in state.items():
            if isinstance(value, (list, dict)):
                state[name] = copy.deepcopy(value)
            elif (
                isinstance(value, Tensor)
                and value.shape == stand_in.tensor.shape
                and value.is_floating_point()
                and (value.dtype in halves) != (dtype in halves)
            ):
                state[name] = value.to(dtype)
        return state

    def _inner_state(self, stand_in: StandIn) -> State:
        prefix, state = stand_in.prefix, self.state.get(stand_in.p, {})
        return {
            name.removeprefix(prefix): value
            for name, value in state.items()
            if name.startswith(prefix) and name not in self._own_state
        }

    def _keep_inner_state(self, stand_in: StandIn, inner: State) -> None:
        prefix, old = stand_in.prefix, self.state.get(stand_in.p)
        if old is None and not inner:
            return
        state = self.state[stand_in.p]
        for name in [n for n in state if n.startswith(prefix) and n not in self._own_state]:
            if name.removeprefix(prefix) not in inner:
                del state[name]
        state.update((prefix + name, value) for name, value in inner.items())

    # Steps

    @torch._disable_dynamo  # pyright: ignore[reportPrivateImportUsage]
    # compiled code calls the directions; the inner step is torch's own
    def _inner_step(self) -> list[StandIn]:
        """One step of the inner optimizers, all or nothing; the stand-ins that had a gradient."""
        with self._linked() as (engines, stand_ins):
            moving = [each for each in stand_ins if each.tensor.grad is not None]
            if not self.defaults.get("differentiable"):
                self._copies.begin()
                for each in moving:
                    gradient = self._gradient_of_user(each)
                    each.remember(engines[0].state[each.tensor], gradient, self._copies)
            try:
                self._about_to_step(moving)
                for engine in engines:
                    take_step(engine)
            except BaseException:
                for each in moving:
                    each.undo()
                    for gradient, as_it_was in each.gradient:
                        each.p.grad = gradient.copy_(as_it_was)
                raise
        return moving

    def _gradient_of_user(self, stand_in: StandIn) -> Tensor | None:
        """The user's gradient where the inner optimizer is given it: some work in it."""
        return stand_in.p.grad if stand_in.tensor is stand_in.p else None

    def _about_to_step(self, stand_ins: list[StandIn]) -> None:
        """What to do to stand-ins just before the inner optimizer steps."""

    def train(self) -> None:
        """Passed on to an inner optimizer that has modes, such as those without a schedule."""
        self._pass_on("train")

    def eval(self) -> None:
        """As :meth:`train`."""
        self._pass_on("eval")

    @torch.no_grad()
    def _pass_on(self, word: str) -> None:
        if not any(hasattr(engine, word) for engine in (self._inner, self._fallback)):
            return  # some trainers call train() before every step
        self._about_to_change_mode()
        with self._linked() as (engines, stand_ins):
            before = [each.tensor.clone() for each in stand_ins]
            for engine in engines:
                getattr(engine, word, lambda: None)()
        pairs = zip(stand_ins, before, strict=True)
        # What stayed is not settled: a change of modes before the first step makes no state.
        self._settle(
            [e for e, old in pairs if not e.tensor.is_meta and not torch.equal(e.tensor, old)]
        )

    def _about_to_change_mode(self) -> None:
        """What to do before the inner optimizer changes its mode."""

    def _begin(self, closure: Callable[[], Any] | None) -> Any:
        """What every step begins with; the loss of the closure, or None."""
        self._align_views()
        if closure is None:
            return None
        with torch.enable_grad():
            return closure()

    # Reports, checkpoints, copies

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
