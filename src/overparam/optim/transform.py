"""What EndToEnd, Factored and Radial share: one copy of groups and state.

The user's groups are the groups of the inner optimizer: the same dicts, in which only ``"params"``
differs while it steps. ``state[p]`` is flat, names to tensors and numbers; what the inner
optimizer keeps for a tensor lies there under its own names, with a prefix where a parameter is
trained as several tensors. (Lists and dicts that it keeps for a tensor stay what they are.) The
inner optimizer is linked to both for each step and owns nothing.
"""

from __future__ import annotations

import copy
import itertools
import numbers
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from overparam._compiled import uncompiled
from overparam._copies import Copies, copy_of, put_back
from overparam._optimizers import OF_TORCH, take_step
from overparam._precision import follows
from overparam.layers.choice import Choice
from overparam.layers.entries import check_whole, complete_views, readings
from overparam.layers.groups import Params, with_modules
from overparam.layers.shapes import view_by_shape
from overparam.layers.views import MatrixView
from overparam.optim.grouped import Grouped
from overparam.optim.inner import (
    Group,
    Inner,
    StandIn,
    State,
    make_inner,
)
from overparam.sharded import local

_BESIDE = frozenset({"params", "param_names", "views"})
_MUTABLE = (Tensor, list, dict)
# Types of most options. Every step asks, and to look a type up is quicker than isinstance.
_FIXED = frozenset({bool, int, float, str, tuple, type(None)})


class Transform(Grouped):
    """An optimizer around an inner one; see the module for who owns what."""

    is_transform = True
    _aligned: list[list[int]] | None = None
    _checked: list[Group] | None = None

    def __init__(
        self,
        params: Params,
        lr: float | Tensor | None,
        inner: Inner,
        own: dict[str, Any],
        inner_options: dict[str, Any],
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
        for each in (self._inner, self._fallback):
            self.state.update({} if each is None else each.state)
        self._constructing = False
        self._enter(0)

    @uncompiled  # options would be guards
    def _align_views(self) -> None:
        """Let views follow parameters that were put in another order.

        A parameter that was exchanged for a new one leaves its view to it.

        Raises:
            ValueError: FSDP1 has made parts of several weights of the parameters, or an option was
                changed to what cannot be trained.
        """
        for group in self.param_groups:
            check_whole(group)
        self._check_changes()
        present = [list(map(id, group["params"])) for group in self.param_groups]
        if present == self._aligned:
            return
        self._aligned = present
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

    def _check_changes(self) -> None:
        """Check the options of this class where one of them is not what it was."""
        own = {"fallback", *self.defaults} - {*self._inner.defaults, *self._structure}
        options = [{name: group.get(name) for name in own} for group in self.param_groups]
        if options == self._checked:
            return
        for number, group in enumerate(self.param_groups):
            if not group.get("fallback"):
                self._check_options(group)
            elif self._fallback is None:
                raise ValueError(f"group {number} asks for the fallback, and there is none.")
        self._checked = options

    # State

    def _stand_ins(self, p: Tensor, view: MatrixView | None, group: Group) -> list[StandIn]:
        """The tensors that the inner optimizer steps on in the place of a parameter."""
        del view
        return [StandIn(p, p, "", group)]

    def _settle(self, stand_ins: list[StandIn]) -> None:
        """Write to parameters what the inner optimizer did to the tensors in their place."""
        for each in stand_ins:
            if each.tensor is not each.p:
                each.p.copy_(each.tensor)

    @contextmanager
    def _linked(self) -> Iterator[tuple[list[Optimizer], list[StandIn]]]:
        """The inner optimizers, with groups and state for a while; the stand-ins they work on.

        Where the body raises, groups and state are as before; tensors are the body's concern.
        """
        inner = [each for each in (self._inner, self._fallback) if each is not None]
        kept = [(group, group.copy()) for group in self.param_groups]
        states: defaultdict[Any, Any] = defaultdict(dict)
        states.update((key, v) for key, v in self.state.items() if not isinstance(key, Tensor))
        items = itertools.chain(states.items(), *(options.items() for _, options in kept))
        others = (v for name, v in items if type(v) not in _FIXED and name not in _BESIDE)
        in_place = [(v, copy_of(v)) for v in others if isinstance(v, _MUTABLE)]
        stand_ins: list[StandIn] = []
        try:
            for group, options in kept:
                first = len(stand_ins)
                for p, view, _ in readings(options):
                    stand_ins += self._stand_ins(p, view, group)
                group["params"] = [each.tensor for each in stand_ins[first:]]
            states.update((each.tensor, self._working_state(each)) for each in stand_ins)
            linked: list[Optimizer] = []
            for optimizer in inner:
                chosen = optimizer is self._fallback
                groups = [g for g in self.param_groups if bool(g.get("fallback")) == chosen]
                if groups:
                    optimizer.param_groups, optimizer.state = groups, states
                    linked.append(optimizer)
            yield linked, stand_ins
        except BaseException:
            for group, options in kept:
                group.clear()
                group.update(options)
            with torch.no_grad():
                for value, copied in in_place:
                    put_back(value, copied)
            raise
        finally:
            for optimizer in inner:  # it keeps the user's groups, to look at between steps
                optimizer.state = defaultdict(dict)
        for group, options in kept:
            group["params"] = options["params"]
        for each in stand_ins:
            self._keep_inner_state(each, states.pop(each.tensor, {}))
        self.state.update((key, v) for key, v in states.items() if not isinstance(key, Tensor))

    def _working_state(self, stand_in: StandIn) -> State:
        """The inner state for a step: containers are copied, so that an error leaves the old ones.

        Where an option has made the stand-in of a half-precision parameter wide, or narrow again,
        its state follows.
        """
        tensor, state = stand_in.tensor, self._inner_state(stand_in)
        stand_in.names = tuple(state)
        for name, value in state.items():
            if isinstance(value, Tensor):
                if value.dtype is not tensor.dtype and follows(value, tensor):
                    state[name] = value.to(tensor.dtype)
            elif isinstance(value, (list, dict)):
                state[name] = copy.deepcopy(value)
        return state

    def _inner_state(self, stand_in: StandIn) -> State:
        prefix, own, state = stand_in.prefix, self._own_state, self.state.get(stand_in.p, {})
        if not prefix:
            return {name: value for name, value in state.items() if name not in own}
        return {
            name.removeprefix(prefix): value
            for name, value in state.items()
            if name.startswith(prefix) and name not in own
        }

    def _keep_inner_state(self, stand_in: StandIn, inner: State) -> None:
        if not inner and stand_in.p not in self.state:
            return
        state, prefix = self.state[stand_in.p], stand_in.prefix
        for name in stand_in.names:
            if name not in inner:
                del state[prefix + name]
        for name, value in inner.items():
            state[prefix + name] = value

    # Steps

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every parameter that has a gradient.

        Args:
            closure: reevaluates the model and returns the loss; called with gradients enabled.

        Returns:
            The loss of the closure, or None.

        Raises:
            RuntimeError: a sparse gradient of a weight that needs all of it.
            ValueError: a weight or an option that was changed to what cannot be trained.
        """
        self._align_views()
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.set_grad_enabled(bool(self.defaults.get("differentiable"))):
            self._step()
        return loss

    def _step(self) -> None:
        raise NotImplementedError

    @uncompiled  # compiled code finds the directions; the inner step is torch's own
    def _inner_step(self) -> list[StandIn]:
        """One step of the inner optimizers, all or nothing; the stand-ins that may have moved."""
        with self._linked() as (optimizers, stand_ins):
            if not optimizers:
                return []
            moving = [each for each in stand_ins if each.tensor.grad is not None]
            resting = [each for each in stand_ins if each.tensor.grad is None]
            gradients: list[tuple[Tensor, Tensor, Tensor]] = []
            of_torch = all(type(each) in OF_TORCH for each in optimizers)
            others = [] if of_torch else [(each, each.tensor._version) for each in resting]
            if not self.defaults.get("differentiable"):
                gradients = self._remember(moving if of_torch else stand_ins, optimizers[0].state)
            try:
                with self._together():
                    self._about_to_step(moving)
                    for optimizer in optimizers:
                        take_step(optimizer)
                    if not of_torch:
                        self._check_names(stand_ins, optimizers[0].state)
            except BaseException:
                for each in stand_ins:
                    each.undo()
                for p, gradient, as_it_was in gradients:
                    if not torch.equal(local(gradient), as_it_was):
                        local(gradient).copy_(as_it_was)
                    p.grad = gradient
                raise
        # Some decay what has no gradient.
        return moving + [each for each, version in others if each.tensor._version != version]

    def _check_names(self, stand_ins: list[StandIn], states: Mapping[Tensor, State]) -> None:
        """Raise where an inner optimizer keeps something under a name that is taken here."""
        for each in stand_ins:
            taken = sorted(self._own_state & states[each.tensor].keys()) if not each.prefix else []
            if taken:
                raise ValueError(
                    f"the inner optimizer keeps {taken[0]!r} in its state, which is a name of "
                    f"{type(self).__name__}'s own; use an optimizer that keeps it under another."
                )

    def _remember(
        self, stand_ins: list[StandIn], states: Mapping[Tensor, State]
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Copy what the inner optimizers may write to; parameters, gradients and copies of these.

        The copies are in the stand-ins, but for those of the user's gradients.
        """
        values = [(each.tensor, *states[each.tensor].values()) for each in stand_ins]
        written = [[local(v) for v in each if isinstance(v, Tensor)] for each in values]
        given = [(each.p, self._gradient_of_user(each)) for each in stand_ins]
        given = [(p, gradient) for p, gradient in given if gradient is not None]
        everything = itertools.chain(*written, (local(gradient) for _, gradient in given))
        copies = iter(self._copies.of(list(everything)))
        for each, own in zip(stand_ins, written, strict=True):
            each.before = list(zip(own, copies, strict=False))
        return [(*each, copy) for each, copy in zip(given, copies, strict=True)]

    def _gradient_of_user(self, stand_in: StandIn) -> Tensor | None:
        """The user's gradient where the inner optimizer is given it: some work in it."""
        return stand_in.p.grad if stand_in.tensor is stand_in.p else None

    def _together(self) -> AbstractContextManager[None]:
        """Raises on all processes what the inner step raises on one that works for the others."""
        return nullcontext()

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
        if not any(hasattr(each, word) for each in (self._inner, self._fallback)):
            return  # some trainers call train() before every step
        self._about_to_change_mode()
        with self._linked() as (optimizers, stand_ins):
            before = [each.tensor.clone() for each in stand_ins]
            for optimizer in optimizers:
                getattr(optimizer, word, lambda: None)()
        pairs = zip(stand_ins, before, strict=True)
        # What stayed is not settled: a change of modes before the first step makes no state.
        self._settle(
            [e for e, old in pairs if not e.tensor.is_meta and not torch.equal(e.tensor, old)]
        )

    def _about_to_change_mode(self) -> None:
        """What to do before the inner optimizer changes its mode."""
