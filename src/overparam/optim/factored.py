"""Factored: any optimizer on factors that live outside the model."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from overparam.layers.views import MatrixView
from overparam.optim.factored_options import (
    OWN,
    SHAPE,
    arguments,
    check_decay,
    check_held,
    check_inner,
    check_options,
    copied,
    named,
)
from overparam.optim.factors import Initialization, make_factors, pull_back, write_product
from overparam.optim.groups import (
    Params,
    accepts_names,
    complete_options,
    complete_views,
    expand_module,
    group_views,
    parameter_names,
    same_matrices,
    views_of,
    warn_of_zeros,
    with_modules,
)
from overparam.optim.loading import fits, load_exactly, take_over
from overparam.optim.moments import collapse_state, expand_state


class Factored(Optimizer):
    """Train each weight matrix as a product of factors, with any optimizer on the factors.

    The model keeps its weights: the loss sees factors only through their product, so their
    gradients follow from ``W.grad`` by the vector-Jacobian product. Each step maps the gradient
    to the factors, lets the inner optimizer step on them, and writes the product back to the
    weight. Bit for bit the run of a network with explicit factors; the forward pass, its
    checkpoints and its communication stay those of the plain model. Source: Arora, Cohen, Hazan
    (2018), section 4.

    Vectors and scalars, and groups with ``depth=1``, go to the inner optimizer as they are.
    Layouts are those of :class:`EndToEnd`: give the model itself where it has grouped
    convolutions or packed projections.

    **Learning rate** is that of the factors: scheduled in ``param_groups`` as usual, handed to
    the inner optimizer before each step, with every other option of it.

    **Weight decay.** Decay of N balanced factors is a Schatten-2/N penalty on the product
    (nuclear norm at N = 2), not decay of W. With ``weight_decay_on="product"`` the product decays
    by ``1 - lr * weight_decay`` (each factor by its N-th root) and the inner optimizer is given
    none for factors; with ``"factors"`` the inner optimizer decays the factors in its own way.

    **State.** ``state[p]`` holds ``"factors"`` and ``"inner"``, the inner optimizer's state for
    each; ``state_dict`` is complete, and loading it writes the products back. If you change the
    weights yourself, call :meth:`refactor`. A weight that has no gradient is not written, and a
    frozen one (``requires_grad=False``) stays bit for bit; it has factors all the same, for the
    day it is trained: leave it out of the groups to save their memory.

    **What is not checked.** As in the optimizers of torch a non-finite gradient spoils the
    factors: let ``GradScaler`` or your loop skip such a step. A zero weight stays zero, with a
    warning. A learning rate tensor on an accelerator is not read: ``lr * weight_decay`` above 1
    gives NaN there, an error elsewhere.

    Args:
        params: a model, or parameters, named parameters, or groups, as for :class:`EndToEnd`.
        inner: class of the optimizer of the factors, or a function of groups and options.
        depth: ``N``, an integer of at least 1; it cannot change during a run, but
            :meth:`collapse` and :meth:`expand` change it.
        width: hidden width, see :func:`overparam.balanced_factors`.
        init: "balanced": factor the present weights, which stay the same up to rounding. Or a
            function ``(matrices, depth, width) -> factors``, whose product replaces the weights.
        weight_decay_on: see above.
        factor_dtype: of the factors; by default float32 for half-precision weights.
        **inner_options: of the inner optimizer: ``lr``, ``momentum``, ``weight_decay``, ...

    Raises:
        TypeError: a parameter is not of a real floating-point dtype, depth is no integer, or the
            inner optimizer calls the model by itself (LBFGS).
        ValueError: an option out of range, a width too small for a weight, or
            ``differentiable=True`` for the inner optimizer.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(3, 2)
        >>> optimizer = Factored(model, torch.optim.SGD, depth=2, lr=0.1, momentum=0.9)
        >>> model(torch.ones(1, 3)).sum().backward()
        >>> optimizer.step()
        >>> [tuple(factor.shape) for factor in optimizer.state[model.weight]["factors"]]
        [(2, 3), (2, 2)]
    """

    def __init__(
        self,
        params: Params,
        inner: Callable[..., Optimizer] = torch.optim.AdamW,
        depth: int = 2,
        width: int | Sequence[int] | None = None,
        init: str | Initialization = "balanced",
        weight_decay_on: str = "product",
        factor_dtype: torch.dtype | None = None,
        **inner_options: Any,
    ) -> None:
        own = {
            "depth": depth,
            "width": width,
            "init": init,
            "weight_decay_on": weight_decay_on,
            "factor_dtype": factor_dtype,
        }
        check_options(own)
        # One throw-away parameter: the inner optimizer checks its options, and tells its defaults.
        self._inner = inner([torch.zeros(1, 1)], **inner_options)
        check_inner(self._inner)
        self._inner.param_groups.clear()
        super().__init__(with_modules(params), {**self._inner.defaults, **own})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; its ``"params"`` may be a module. Factors are made here."""
        super().add_param_group(expand_module(param_group, named=accepts_names(self.param_groups)))
        group = self.param_groups[-1]
        try:
            check_options(group)
            complete_views(group)
            # Frozen weights stay what they are, whatever the initialization of the others.
            depth, width, dtype = (group[name] for name in ("depth", "width", "factor_dtype"))
            inits = {True: group["init"], False: "balanced"}
            made = {
                p: make_factors(p, view, depth, width, inits[p.requires_grad], dtype)
                for p, view in _matrices(group)
            }
        except Exception:
            self.param_groups.pop()
            raise
        if callable(group["init"]):
            group["init"] = "custom"  # a state_dict holds no functions
        factors = [factor for each in made.values() for factor in each]
        options = self._inner_options(group)
        self._inner.add_param_group({**options, "params": factors})
        plain = [p for p in group["params"] if p not in made]
        self._inner.add_param_group({**options, "params": plain})
        for p in group["params"]:
            stepped = made.get(p, [p])
            # The inner states are shared, not copied: this state is always complete.
            inner = [self._inner.state[each] for each in stepped]
            self.state[p] = {"factors": made.get(p, []), "inner": inner}
        for p, view in _matrices(group):
            if p.requires_grad:
                write_product(p, view, made[p])
        names = parameter_names(self.param_groups)
        # A product with two factors of zeros has no gradient in any factor.
        stuck = [p for p, factors in made.items() if sum(map(_is_zero, factors)) > 1]
        warn_of_zeros([names[p] for p in stuck], "give init")

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Step on the factors and write the products back.

        Args:
            closure: reevaluates the model and returns the loss; called with gradients enabled.

        Returns:
            The loss of the closure, or None.

        Raises:
            ValueError: ``lr * weight_decay`` above 1 with decay of the product, or another depth
                than that of the factors; nothing has changed.
        """
        self._check_groups()
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            for number, group in enumerate(self.param_groups):
                self._share_options(number, group)
                for p, view in _matrices(group):
                    pull_back(p, view, self.state[p]["factors"])
                    self._decay_product(p, group)
            self._inner.step()
            for group in self.param_groups:
                for p, view in _matrices(group):
                    factors = self.state[p]["factors"]
                    if p.grad is not None:  # others have not moved
                        write_product(p, view, factors)
                    for factor in factors:
                        factor.grad = None
        return loss

    def refactor(self) -> None:
        """Balance the factors of the present weights, after you changed them.

        The inner state stays as it is.

        Raises:
            ValueError: the depth of a group is not that of its factors, or the hidden widths of
                your ``init`` are too small for the weight; nothing has changed.
        """
        self._check_groups()
        matrices = [pair for group in self.param_groups for pair in _matrices(group)]
        fresh = [self._balanced(p, view) for p, view in matrices]
        for (p, view), factors in zip(matrices, fresh, strict=True):
            self._replace(p, factors)
            if p.requires_grad:
                write_product(p, view, factors)

    def collapse(self) -> Optimizer:
        """A plain inner optimizer on the weights themselves, to go on with.

        First moments follow the differential of the product, so the weights keep their velocity;
        second moments follow its squares, see :mod:`overparam.optim.carry`. Learning rates are
        taken over as they are: the end-to-end preconditioner no longer scales the steps.

        Raises:
            NotImplementedError: the inner optimizer has state of an unknown kind.
        """
        # What schedulers and users keep in a group, initial_lr for one, goes along.
        groups = [
            {**copied({name: group[name] for name in group if name not in OWN}), **named(group)}
            for group in self.param_groups
        ]
        plain = type(self._inner)(groups, **arguments(self._inner))
        with torch.no_grad():
            for group in self.param_groups:
                for p, view in zip(group["params"], group_views(group), strict=True):
                    factors, states = self.state[p]["factors"], self.state[p]["inner"]
                    # By the factors held: the depth of a group may have been changed since.
                    if factors and view is not None:
                        plain.state[p] = collapse_state(states, factors, p, view)
                    else:
                        plain.state[p] = copy.deepcopy(self._inner.state[p])
        return plain

    @classmethod
    def expand(
        cls,
        optimizer: Optimizer,
        depth: int = 2,
        model: nn.Module | None = None,
        **options: Any,
    ) -> Factored:
        """Go on from a plain optimizer with factors, keeping the velocity of every weight.

        Undoes :meth:`collapse`: first moments become the smallest velocities of balanced factors
        with the same velocity of the product. Where a weight is rank-deficient, balanced factors
        cannot leave its null spaces: the part of the velocity from null space to null space is
        lost, and the weight goes on without it.

        Args:
            optimizer: whose class, options and state the inner optimizer takes over.
            depth: ``N``.
            model: tells grouped convolutions and packed projections, which the shapes of bare
                parameters do not.
            **options: of this class or of the inner optimizer, to replace those taken over, in
                every group.

        Raises:
            NotImplementedError: the optimizer has state of an unknown kind.
        """
        # A scheduler starts from the initial_lr of a group where it has one.
        start = copied({"initial_lr": options["lr"]}) if "lr" in options else {}
        groups = [
            {**copied(group), **(start if "initial_lr" in group else {}), **options, **named(group)}
            for group in optimizer.param_groups
        ]
        if model is not None:
            for group, plain in zip(groups, optimizer.param_groups, strict=True):
                group["views"] = views_of(model, plain["params"])
        options = {**arguments(optimizer), **options}
        factored = cls(groups, type(optimizer), depth, **options)
        with torch.no_grad():
            for group in factored.param_groups:
                for p, view in zip(group["params"], group_views(group), strict=True):
                    old, factors = optimizer.state.get(p, {}), factored.state[p]["factors"]
                    new = expand_state(old, factors, view) if factors and view else [old]
                    for inner, each in zip(factored.state[p]["inner"], new, strict=True):
                        inner.update(copy.deepcopy(each))
        return factored

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load factors and inner state bit for bit, and write the products to the weights.

        Depth, width and the reading of the layers stay those of this optimizer. State that does
        not fit them (of a plain optimizer, another depth or width) is not loaded: the weights
        stay as they are and are factored anew, the inner state stays as by :meth:`refactor`, and
        a warning names the parameters. Frozen weights are not written.
        """
        present, lost = dict(self.state), []

        def restore(
            group: dict[str, Any], then: dict[str, Any], saved: list[dict[str, Any]]
        ) -> None:
            own, views = group_views(group), group_views(then if "views" in then else group)
            factored = dict(_matrices(group))
            for p, view, old_view, old in zip(group["params"], own, views, saved, strict=True):
                state = self.state[p] = present[p]
                if fits(state["factors"], old) and (
                    p not in factored or same_matrices(view, old_view)
                ):
                    take_over(p, state, old, group)
                    if p in factored and p.requires_grad:
                        write_product(p, factored[p], state["factors"])
                    continue
                if p in factored:
                    self._replace(p, self._balanced(p, factored[p]))
                if old:
                    lost.append(p)

        load_exactly(self, super().load_state_dict, state_dict, restore, keep=SHAPE)
        # Where optimizers of torch complete state of older versions, a step as a number say.
        inner = self._inner
        inner.__setstate__({"state": inner.state, "param_groups": inner.param_groups})
        if lost:
            names = parameter_names(self.param_groups)
            warnings.warn(
                f"the saved state of {', '.join(names[p] for p in lost)} is not that of the "
                "factors here (saved by another optimizer, or with another depth, width or "
                "reading of the layer) and was not loaded; weights were factored as they are. To "
                "go on with the momentum, load it into an optimizer like the one that saved it, "
                "then use collapse() and Factored.expand().",
                stacklevel=2,
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_inner": self._inner}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            complete_options(group, self.defaults)

    def _inner_options(self, group: dict[str, Any]) -> dict[str, Any]:
        return {name: group[name] for name in self._inner.defaults}

    def _share_options(self, number: int, group: dict[str, Any]) -> None:
        """Hand the options of a group to the inner optimizer's two groups for it."""
        factors, plain = self._inner.param_groups[2 * number : 2 * number + 2]
        options = self._inner_options(group)
        plain.update(options)
        factors.update(options)
        if group["weight_decay_on"] == "product" and "weight_decay" in options:
            factors["weight_decay"] = 0

    def _decay_product(self, p: Tensor, group: dict[str, Any]) -> None:
        """``W <- (1 - lr * weight_decay) W``, shared equally by the factors."""
        decay = group.get("weight_decay", 0)
        if group["weight_decay_on"] != "product" or decay == 0 or p.grad is None:
            return
        factors, lr = self.state[p]["factors"], group["lr"]
        # Torch takes a rate of one entry from the CPU for any device where it has no dimension.
        lr = lr.reshape(()) if isinstance(lr, Tensor) else lr
        for factor in factors:
            factor.mul_((1 - lr * decay) ** (1 / len(factors)))

    def _balanced(self, p: Tensor, view: MatrixView) -> list[Tensor]:
        """Balanced factors of the weight as it is, of the shapes of its present ones."""
        held = self.state[p]["factors"]
        widths = [factor.shape[-2] for factor in held[:-1]]  # init may have chosen its own
        return make_factors(p, view, len(held), widths, "balanced", held[0].dtype)

    def _replace(self, p: Tensor, factors: list[Tensor]) -> None:
        for old, new in zip(self.state[p]["factors"], factors, strict=True):
            old.copy_(new)

    def _check_groups(self) -> None:
        for number, group in enumerate(self.param_groups):
            views = zip(group["params"], group_views(group), strict=True)
            held = {len(self.state[p]["factors"]) for p, view in views if view and p.numel()}
            check_held(number, group["depth"], held)
            check_decay(group)


def _matrices(group: dict[str, Any]) -> Iterator[tuple[Tensor, MatrixView]]:
    """The parameters of a group that are factored, with their matrices."""
    for p, view in zip(group["params"], group_views(group), strict=True):
        if view is not None and group["depth"] > 1 and p.numel() > 0:
            yield p, view


def _is_zero(tensor: Tensor) -> bool:
    return not tensor.is_meta and not bool(tensor.any())
