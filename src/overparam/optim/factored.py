"""Factored: any optimizer on factors that live outside the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from overparam._checks import plain_numbers, whole_depth
from overparam._compiled import uncompiled
from overparam.factors import decay
from overparam.factors.layout import MatrixLayout
from overparam.factors.store import (
    FactorStore,
    balanced,
    is_factored,
    layout_of,
    prefix_of,
)
from overparam.layers.choice import Choice
from overparam.layers.groups import Params, parameter_names, warn_of_zeros
from overparam.layers.select import Targets
from overparam.layers.table import PLAIN
from overparam.layers.views import MatrixView
from overparam.optim.conversion import collapse_optimizer, expand_optimizer
from overparam.optim.grouped import Row
from overparam.optim.inner import Group, Inner, StandIn, State
from overparam.optim.transform import Transform
from overparam.sharded import Ownership

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Initialization = Callable[[Tensor, int, Any], Sequence[Tensor]]


class Factored(Transform):
    """Train each weight matrix as a product of factors, with any optimizer on the factors.

    The model keeps its weights: the loss sees factors only through their product, so their
    gradients follow from ``W.grad`` by the vector-Jacobian product. Each step maps the gradient
    to the factors, lets the inner optimizer step on them, and writes the product to the weight.
    The run is bit for bit that of a network with explicit factors; the forward pass, checkpoints
    and communication stay those of the plain model. Source: Arora, Cohen, Hazan (2018), section 4.

    Which weights are factored is chosen as in :class:`EndToEnd`, and printed by
    ``print(optimizer.routing())``. Everything else, and groups with ``depth=1``, goes to the inner
    optimizer as it is, or to the ``fallback``.

    **Learning rate** and every other option are those of the inner optimizer, on the factors.

    **Weight decay.** With ``weight_decay_on="factors"`` the inner optimizer decays the factors, as
    in a network with explicit factors: for N balanced factors that is a Schatten-2/N penalty on
    the product (the nuclear norm at N = 2), not decay of W. ``"product"`` makes it the decay of W,
    see :func:`overparam.reparam.set_weight_decay_on`.

    **State.** ``state[p]`` is made at the first step and holds ``"factor1"``, ..., ``"factorN"``
    and what the inner optimizer keeps for each (``"factor1_exp_avg"``); :meth:`factors` gives the
    factors at any time. ``state_dict`` is complete. Loading it does not bring weights back: load
    the model's checkpoint too.

    **Weights that something else changes** (a checkpoint loaded later, a swap for averaged weights,
    clamping) are noticed at the next step and factored again, with a warning if the inner
    optimizer already has state for the old factors, which it keeps. Writes through ``p.data`` on
    an accelerator are not noticed, because looking would make the host wait.

    **Safety.** If the inner optimizer raises an error, weights, factors, gradients and state are
    as before the step. As in the optimizers of torch, a non-finite gradient spoils the factors:
    let ``GradScaler`` or your loop skip such a step.

    Args:
        params: a model, or parameters, named parameters, or groups, as for :class:`EndToEnd`.
        lr: learning rate; by default that of the inner optimizer.
        inner: the optimizer of the factors: a class, a name such as ``"adamw"``, or a function of
            groups and options.
        depth: ``N``, an integer of at least 1; it cannot change during a run, but
            :meth:`collapse` and :meth:`expand` change it.
        width: hidden width, see :func:`overparam.balanced_factors`.
        init: "balanced": factor the present weights, which stay the same up to rounding. Or a
            function ``(matrices, depth, width) -> factors``, whose product replaces the weights.
        weight_decay_on: "factors" or "product".
        factor_dtype: of the factors; by default float32 for half-precision weights.
        targets, exclude, overrides, fallback, fallback_options: as for :class:`EndToEnd`.
        divide_among: as for :class:`EndToEnd`; each process keeps the factors of some weights.
        **inner_options: options of the inner optimizer: ``momentum``, ``weight_decay``, ...

    Raises:
        TypeError: as for :class:`EndToEnd`; depth is not an integer.
        ValueError: as for :class:`EndToEnd`; a width is too small for a weight.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(3, 2)
        >>> optimizer = Factored(model, lr=0.1, inner="sgd", depth=2, momentum=0.9)
        >>> model(torch.ones(1, 3)).sum().backward()
        >>> optimizer.step()
        >>> [tuple(factor.shape) for factor in optimizer.factors(model.weight)]
        [(2, 3), (2, 2)]
    """

    _own_state = frozenset({"depth", "written", "factor1"})
    # What the factors are made by: it stays with them when state is loaded.
    _structure = ("views", "depth", "width", "init", "factor_dtype")

    def __init__(
        self,
        params: Params,
        lr: float | Tensor | None = None,
        inner: Inner = torch.optim.AdamW,
        depth: int = 2,
        *,
        width: int | Sequence[int] | None = None,
        init: Literal["balanced"] | Initialization = "balanced",
        weight_decay_on: Literal["factors", "product"] = "factors",
        factor_dtype: torch.dtype | None = None,
        targets: Targets | None = None,
        exclude: Targets | None = None,
        overrides: Mapping[str, Mapping[str, Any]] | None = None,
        fallback: Inner | None = None,
        fallback_options: Mapping[str, Any] | None = None,
        divide_among: ProcessGroup | None = None,
        **inner_options: Any,
    ) -> None:
        own = {
            "depth": depth,
            "width": width,
            "init": init,
            "weight_decay_on": weight_decay_on,
            "factor_dtype": factor_dtype,
        }
        if inner_options.get("differentiable"):
            raise ValueError(
                "differentiable=True: gradients do not flow through a step of Factored; train "
                "explicit factors, overparam.overparameterize, or use EndToEnd."
            )
        self.store = FactorStore(lambda: self.state)
        self._owned = Ownership(self, divide_among)
        self._made: list[tuple[Tensor, MatrixLayout, list[Tensor]]] = []
        choice = Choice(targets, exclude, overrides or {})
        super().__init__(params, lr, inner, own, inner_options, choice, fallback, fallback_options)

    def factors(self, p: Tensor) -> list[Tensor]:
        """The factors ``[W_1, ..., W_N]`` of a weight; empty where this process has none."""
        return self.store.factors(p) if self._owned.owns(p) else []

    @uncompiled  # state would be guards
    def _step(self) -> None:
        self._check_groups()
        with self._owned.stepping():
            weights = self._owned.moving_weights()
            before = self.store.adopt(weights, self._names)
            try:
                self._owned.pull_back(weights)
                moved = self._inner_step()
            except BaseException:
                for p, held in before:
                    self.store.held(p).update(held)
                raise
            finally:
                for p, _, _ in weights:
                    for factor in self.factors(p):
                        factor.grad = None
            self._settle(moved)

    def refactor(self) -> None:
        """Balance the factors of the present weights, for example to undo their drift.

        The inner state stays as it is.

        Raises:
            ValueError: the depth of a group is not that of its factors, or a weight has no
                balanced factors of the present widths; nothing has changed.
        """
        self._check_groups()
        with torch.no_grad(), self._owned.at_work():
            weights = self.store.weights(self.param_groups)
            pairs = [(p, layout) for p, layout, _ in weights if self.factors(p)]
            fresh = [balanced(p, layout, self.factors(p)[0].dtype) for p, layout in pairs]
            for (p, layout), factors in zip(pairs, fresh, strict=True):
                self.store.put(p, factors)
                if p.requires_grad:
                    self.store.write((p, layout))
                else:
                    self.store.remember(p)

    def collapse(self) -> Optimizer:
        """A plain inner optimizer on the weights themselves, to continue with.

        State is carried by :mod:`overparam.factors.transport`. Learning rates stay as they are,
        but the end-to-end preconditioner no longer scales the steps.

        Raises:
            ValueError: there is a fallback: two optimizers do not become one.
            NotImplementedError: the inner optimizer has state of an unknown kind.
        """
        if self._fallback is not None:
            raise ValueError("collapse() makes one optimizer, and this one has a fallback as well.")
        return collapse_optimizer(self)

    @classmethod
    def expand(
        cls,
        optimizer: Optimizer,
        depth: int = 2,
        model: nn.Module | None = None,
        **options: Any,
    ) -> Factored:
        """Continue from a plain optimizer with factors; undoes :meth:`collapse`.

        State is carried by :mod:`overparam.factors.transport`.

        Args:
            optimizer: whose class, options and state the inner optimizer takes over.
            depth: ``N``.
            model: shows how the layers read their weights, which the shapes of bare parameters do
                not; with it, ``targets`` and ``exclude`` may be among the options.
            **options: options of this class or of the inner optimizer that replace those taken
                over, in every group.

        Raises:
            TypeError, NotImplementedError: no plain optimizer, or state of an unknown kind.
        """
        return expand_optimizer(cls, optimizer, depth, model, options)

    def inner_state(self, p: Tensor, prefix: str) -> State:
        """What the inner optimizer keeps for a parameter, or for one of its factors."""
        return self._inner_state(StandIn(p, p, prefix))

    def _names(self) -> dict[Tensor, str]:
        return parameter_names(self.param_groups)

    # What Transform asks

    def _stand_ins(self, p: Tensor, view: MatrixView | None, group: Group) -> list[StandIn]:
        if not is_factored(p, view, group):
            return super()._stand_ins(p, view, group)
        factors = enumerate(self.factors(p), start=1)
        return [StandIn(p, factor, prefix_of(number), group, view) for number, factor in factors]

    def _together(self) -> AbstractContextManager[None]:
        return self._owned.inner_step()

    def _about_to_step(self, stand_ins: list[StandIn]) -> None:
        """Decay of the product, in the place of that of the factors."""
        decaying = [each for each in stand_ins if each.group["weight_decay_on"] == "product"]
        for factors in _by_parameter(decaying).values():
            group, view = factors[0].group, factors[0].view
            weight_decay = group.get("weight_decay", 0)
            if not weight_decay or view is None:
                continue
            tensors = [each.tensor for each in factors]
            if decay.is_decoupled(self._inner, group):
                decay.scale(tensors, group["lr"] * weight_decay)
            else:
                sign = -1.0 if group.get("maximize") else 1.0
                decay.pull(layout_of(view, tensors), tensors, sign * weight_decay)

    def _pass_on(self, word: str) -> None:
        if any(hasattr(each, word) for each in (self._inner, self._fallback)):
            with torch.no_grad(), self._owned.at_work():
                super()._pass_on(word)

    def _about_to_change_mode(self) -> None:
        """Take over what others did to weights: products are about to be written to them."""
        weights = self.store.weights(self.param_groups)
        self.store.adopt([w for w in weights if self.factors(w[0])], self._names)

    def _settle(self, stand_ins: list[StandIn]) -> None:
        """Write the products of the factors that have moved."""
        changed: list[tuple[Tensor, MatrixLayout]] = []
        for p, moved in _by_parameter(stand_ins).items():
            first = moved[0]
            if not first.prefix or first.view is None:
                self.state[p].setdefault("depth", 1)
                continue
            layout = self.store.layout(p, first.view, first.group)
            self.store.move_in(p)
            self.state[p].setdefault("depth", layout.depth)
            if not all(each.is_as_before() for each in moved):
                changed.append((p, layout))
        self._owned.write(changed)

    def _prepare(self, group: Group) -> None:
        super()._prepare(group)
        if group["weight_decay_on"] == "product" and not group.get("fallback"):
            decay.check_known(self._inner, decay.is_decoupled(self._inner, group))
        with torch.no_grad(), self._owned.admitting(group):
            self._made += [
                (p, layout, self.store.make(p, layout, group))
                for p, layout, _ in self.store.weights([group])
                if p.requires_grad and (callable(group["init"]) or not p.is_meta)
            ]
        if callable(group["init"]):
            group["init"] = "custom"  # a state_dict holds no functions

    def _enter(self, count: int) -> None:
        with torch.no_grad():
            new = {p for group in self.param_groups[count:] for p in group["params"]}
            for p, layout, factors in self._made:
                if p in new:  # others were of a group that was refused
                    self.store.begin(p, layout, factors)
            self._owned.begin(self.param_groups[count:])
        self._made = []
        super()._enter(count)

    def _greet(self, groups: Sequence[Group], names: Mapping[Tensor, str]) -> None:
        super()._greet(groups, names)
        # A product with two factors of zeros has no gradient in any factor.
        stuck = [
            names[p]
            for group in groups
            for p in group["params"]
            if sum(not f.is_meta and not bool(f.any()) for f in self.factors(p)) > 1
        ]
        warn_of_zeros(stuck, "give init")

    def _shapes(self, p: Tensor, view: MatrixView | None, group: Group) -> Iterator[Tensor]:
        if view is None or not is_factored(p, view, group):
            yield p
        else:
            yield p.new_empty((0,) * (2 if view.batch == 1 else 3))

    def _check_options(self, group: Group) -> None:
        group.update(depth=whole_depth(group["depth"]), width=plain_numbers(group["width"]))
        decay.check_word(group["weight_decay_on"])
        if not callable(group["init"]) and group["init"] not in ("balanced", "custom"):
            raise ValueError(f"init is {group['init']!r}; use 'balanced' or a function.")

    def _row(self, p: Tensor, view: MatrixView | None, group: Group) -> Row:
        if is_factored(p, view, group):
            return "factors", [], None
        return PLAIN, ["depth 1 is the inner optimizer"] * (view is not None), None

    # Checkpoints

    def state_dict(self) -> dict[str, Any]:
        """The state in torch's form, with the factors of weights that have not moved yet."""
        self.store.sign(self.param_groups)
        packed, start = super().state_dict(), self.store.start
        for index, p in enumerate(p for group in self.param_groups for p in group["params"]):
            if p in start:
                packed["state"][index] = {**start[p], **packed["state"].get(index, {})}
        return self._owned.shared(packed)

    def _understood(self, state_dict: dict[str, Any]) -> dict[Any, State]:
        states = self.store.read_states(self.param_groups, state_dict)
        return self._owned.received(state_dict["param_groups"], states)

    def _take_over(self, loaded: dict[str, Any]) -> None:
        super()._take_over(loaded)
        self.store.reset({})
        with torch.no_grad(), self._owned.at_work():
            self.store.settle_loaded(self.param_groups)

    def _dtype_of(self, p: Tensor, name: str, value: Tensor) -> torch.dtype | None:
        return value.dtype if name.startswith("factor") else super()._dtype_of(p, name, value)

    def __getstate__(self) -> dict[str, Any]:
        self._owned.check_copy()
        self.store.sign(self.param_groups)
        return {**super().__getstate__(), "_start": self.store.start}

    def __setstate__(self, state: dict[str, Any]) -> None:
        start = state.pop("_start", None) if "_start" in state else None
        super().__setstate__(state)
        if start is not None:  # a copy, or an unpickled optimizer
            self.store, self._made = FactorStore(lambda: self.state), []
            self._owned = Ownership(self)
            self.store.reset(start)

    def _check_groups(self) -> None:
        """Raise where options or gradients do not fit the factors, before anything changes."""
        for number, group in enumerate(self.param_groups):
            depth, held = group["depth"], self.store.depths(group)
            if held - {depth}:
                raise ValueError(
                    f"depth is {depth!r} in group {number}, whose weights were factored with depth "
                    f"{max(held)}: depth cannot change during a run. Set it back, or go on with "
                    f"Factored.expand(optimizer.collapse(), depth={depth!r})."
                )
            for p in group["params"]:
                if p.grad is not None and p.grad.is_sparse and self.factors(p):
                    raise RuntimeError(
                        f"{parameter_names(self.param_groups)[p]} has a sparse gradient, and its "
                        "factors need all of it; build the layer with sparse=False, or leave it "
                        "out of the targets."
                    )
            if group["weight_decay_on"] == "product":
                decay.check_amount(group.get("lr", 0), group.get("weight_decay", 0))


def _by_parameter(stand_ins: list[StandIn]) -> dict[Tensor, list[StandIn]]:
    found: dict[Tensor, list[StandIn]] = {}
    for each in stand_ins:
        found.setdefault(each.p, []).append(each)
    return found
