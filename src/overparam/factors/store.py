"""Where the factors of an optimizer live: made, found changed, given gradients, written back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor

from overparam._fingerprint import Written, fingerprint, same_bits
from overparam._precision import state_dtype, without_autocast
from overparam._words import warn_user
from overparam.factors.layout import MatrixLayout, make_layout
from overparam.factors.product import factor_product, pulled_back
from overparam.layers.entries import names_of, readings, saved_view
from overparam.layers.views import MatrixView

State = dict[str, Any]
Weight = tuple[Tensor, MatrixLayout, dict[str, Any]]
"""A weight that has factors, their layout, and its group."""


class FactorStore:
    """The factors of weights, in ``state[p]`` from the first step on and here before it.

    (``torch.distributed.checkpoint`` makes the state of a new optimizer by a first step, but only
    where there is no state yet.)

    Args:
        states: gives the present state of the optimizer, which loading replaces.
    """

    def __init__(self, states: Callable[[], MutableMapping[Tensor, State]]) -> None:
        self._states = states
        self._start: dict[Tensor, State] = {}
        self._written = Written()
        self._rounded: dict[Tensor, tuple[Tensor, Tensor]] = {}

    def held(self, p: Tensor) -> State:
        """What holds the factors of a weight under ``"factor1"``, ...; empty where none are."""
        state = self._states().get(p, {})
        if "factor1" in state:
            return state
        return self._start.get(p) or {}

    def factors(self, p: Tensor) -> list[Tensor]:
        """``[W_1, ..., W_N]``; empty where the weight has none."""
        held = self.held(p)
        factors: list[Tensor] = []
        while (factor := held.get(f"factor{len(factors) + 1}")) is not None:
            factors.append(factor)
        return factors

    def put(self, p: Tensor, factors: Sequence[Tensor]) -> None:
        """Exchange the factors of a weight, or give it its first ones.

        Inner state in the dtype of an old factor takes that of the new one.
        """
        held = self.held(p)
        if not held:
            self._start[p] = held
        for number, each in enumerate(factors, start=1):
            old = held.get(f"factor{number}", each)
            held[f"factor{number}"] = each
            if old.dtype is each.dtype:
                continue
            for name, value in held.items():
                own = isinstance(value, Tensor) and name.startswith(prefix_of(number))
                if own and value.ndim > 0 and value.dtype is old.dtype:
                    held[name] = value.to(each.dtype)

    def move_in(self, p: Tensor) -> None:
        """Make the factors of a weight part of its state."""
        self._rounded.pop(p, None)
        if p in self._start:
            states = self._states()
            states[p] = {**self._start.pop(p), **states.get(p, {})}

    def rename(self, old: Tensor, new: Tensor) -> None:
        """Let what is kept here for a weight be that of another tensor."""
        for kept in (self._start, self._rounded):
            if old in kept:
                kept[new] = kept.pop(old)  # pyright: ignore[reportArgumentType]
        self._written.rename(old, new)

    @property
    def start(self) -> dict[Tensor, State]:
        """Factors that are not part of a state yet."""
        return dict(self._start.items())

    def reset(self, start: Mapping[Tensor, State]) -> None:
        """Begin with these factors outside of states, and look at every weight again."""
        self._start = dict(start)
        self._written = Written()

    def depths(self, group: dict[str, Any]) -> set[int]:
        """The depths that the weights of a group have been trained with."""
        if group.get("fallback"):
            return set()
        weights = [p for p, view, _ in readings(group) if view is not None and p.numel()]
        states = self._states()
        return {len(self.factors(p)) or states.get(p, {}).get("depth", 0) for p in weights} - {0}

    # Checkpoints

    def read_states(
        self, groups: Sequence[dict[str, Any]], state_dict: dict[str, Any]
    ) -> dict[Any, State]:
        """The states of a checkpoint, those of version 0.1 too, with factors as they are here.

        Raises:
            ValueError: factors of another depth, width or reading, or state of a plain optimizer.
        """
        states = {
            index: _flat(saved) if isinstance(saved, dict) else saved
            for index, saved in state_dict["state"].items()
        }
        for group, saved in zip(groups, state_dict["param_groups"], strict=True):
            layouts = {p: layout for p, layout, _ in self.weights([group])}
            places = zip(group["params"], saved["params"], names_of(group, ""), strict=False)
            for place, (p, index, name) in enumerate(places):
                given: State = states.get(index) or {}
                layout, view = layouts.get(p), saved_view(saved, place)
                wanted = [] if layout is None else list(layout.shapes)
                found = [tuple(given[each].shape) for each in factor_names(given)]
                turned = layout is not None and view is not None and view != layout.view
                if given and (wanted != found or turned):
                    raise ValueError(
                        f"the checkpoint holds factors {found} of {name}, and this optimizer has "
                        f"{wanted}: it was saved by another optimizer, or with another depth, "
                        "width or reading of the layer. Load it into an optimizer like the one "
                        "that saved it, then use collapse() and Factored.expand()."
                    )
        return states

    def settle_loaded(self, groups: Sequence[dict[str, Any]]) -> None:
        """After loading: undo the rounding of weights, and keep what is not state yet outside."""
        for p, layout, _ in self.weights(groups):
            state = self._states().get(p, {})
            if "factor1" not in state:
                continue
            if not p.is_meta:
                self.undo_rounding(p, layout)
            if not _has_inner_state(state):
                self._start[p] = self._states().pop(p)

    # Layouts

    def weights(self, groups: Sequence[dict[str, Any]]) -> list[Weight]:
        """The parameters of groups that are factored."""
        return [
            (p, self.layout(p, view, group), group)
            for group in groups
            for p, view, _ in readings(group)
            if view is not None and is_factored(p, view, group)
        ]

    def layout(self, p: Tensor, view: MatrixView, group: dict[str, Any]) -> MatrixLayout:
        """The layout by the factors held (init may have chosen its own widths), or by options."""
        factors = self.factors(p)
        if factors:
            return layout_of(view, factors)
        made = make_layout(view, "matrix", group["depth"], group["width"])
        assert isinstance(made, MatrixLayout)
        return made

    # Values

    def make(self, p: Tensor, layout: MatrixLayout, group: dict[str, Any]) -> list[Tensor]:
        """The first factors of a weight, by the initialization of its group.

        Raises:
            TypeError: factors of no real floating-point dtype are asked for.
            ValueError: the weight has no balanced factors of these widths, or an initialization of
                the user's own gives another number of factors or another shape of their product.
        """
        init, dtype = group["init"], _factor_dtype(p, group)
        if not callable(init):
            try:
                return balanced(p, layout, dtype)
            except ValueError as error:
                name = dict(zip(group["params"], names_of(group, ""), strict=True))[p]
                raise ValueError(f"{name}: {error}") from None
        matrices = _matrices_of(p.detach().to(dtype), layout.view)
        made: Any = init(matrices, group["depth"], group["width"])
        factors = [factor.detach().to(dtype, copy=True).contiguous() for factor in made]
        if len(factors) != group["depth"]:
            raise ValueError(
                f"init gave {len(factors)} factor(s) for depth {group['depth']}; return one factor "
                "per layer, from the input."
            )
        product = factor_product(factors)
        if product.shape != matrices.shape:
            raise ValueError(
                f"init gave factors whose product has shape {tuple(product.shape)} for matrices of "
                f"shape {tuple(matrices.shape)}; return one factor per layer, from the input."
            )
        return factors

    def begin(self, p: Tensor, layout: MatrixLayout, factors: Sequence[Tensor]) -> None:
        """Give a weight its first factors, and round it to their product."""
        before = fingerprint(p)
        self.put(p, factors)
        self.write((p, layout))
        self._rounded[p] = (before, fingerprint(p))

    def undo_rounding(self, p: Tensor, layout: MatrixLayout) -> None:
        """After loading: write the product where the weight was that product until :meth:`begin`.

        The usual order is to load a model, to make its optimizer, which rounds the weights, and to
        load that. A weight that is something else is left as it is.
        """
        before, after = self._rounded.get(p, (None, None))
        written = self.held(p).get("written")
        if written is None or (
            before is not None and bool(before == written) and bool(fingerprint(p) == after)
        ):  # version 0.1 did not save it, and always wrote
            self.write((p, layout))

    def write(self, *weights: tuple[Tensor, MatrixLayout]) -> None:
        """Write the products of factors to weights, rounded once to their dtype."""
        products = [self._product(p, layout) for p, layout in weights]
        if products:
            torch._foreach_copy_([p for p, _ in weights], products)  # pyright: ignore[reportPrivateImportUsage]
        for (p, _), product in zip(weights, products, strict=True):
            self.remember(p, product if product.dtype == p.dtype else None)

    def remember(self, p: Tensor, written: Tensor | None = None) -> None:
        """Note that factors and weight agree as they are now; ``written`` is a copy of it."""
        held = self.held(p)
        held.pop("written", None)  # of an earlier product; see sign
        copy = p.detach().clone() if written is None else written
        self._written.remember(p, held["factor1"], copy)

    def sign(self, groups: Sequence[dict[str, Any]]) -> None:
        """Put the fingerprints of weights as written beside their factors, to be saved."""
        for p in (p for group in groups for p in group["params"]):
            held = self.held(p)
            written = self._written.written(p, held["factor1"]) if held else None
            if written is not None:
                held["written"] = fingerprint(written)

    def adopt(
        self, weights: Sequence[Weight], names: Callable[[], Mapping[Tensor, str]]
    ) -> list[tuple[Tensor, State]]:
        """Factor again what others changed since it was written, and what has no factors yet.

        Args:
            weights: to look at.
            names: gives the names of parameters, for messages.

        Returns:
            What held the factors that were exchanged, as it was before.

        Raises:
            ValueError: a weight has no balanced factors; nothing has changed.
        """
        fresh: list[tuple[Tensor, list[Tensor]]] = []
        for p, layout, group in weights:
            if self._agrees(p, layout):
                continue
            try:
                fresh.append((p, balanced(p, layout, _factor_dtype(p, group))))
            except ValueError as error:
                raise ValueError(f"{names()[p]}: {error}") from None
        late = [p for p, _ in fresh if _has_inner_state(self.held(p))]
        if late:
            warn_user(
                f"{', '.join(names()[p] for p in late)} changed since the last step (a checkpoint, "
                "averaged weights, clamping, ...): factored again as they are now, while the state "
                "of the inner optimizer is that of the old factors. To start without it, make a "
                "new optimizer."
            )
        before = [(p, dict(self.held(p))) for p, _ in fresh]
        for p, factors in fresh:
            self.put(p, factors)
            self.remember(p)
        return before

    def _agrees(self, p: Tensor, layout: MatrixLayout) -> bool:
        """Whether a weight is the product of its factors, as far as this optimizer knows."""
        held = self.held(p)
        if not held:
            return False
        unchanged = self._written.is_unchanged(p, held["factor1"])
        if unchanged is not None:
            return unchanged
        if p.is_meta:
            return True
        if "written" in held:  # loaded
            same = bool(fingerprint(p) == held["written"].to(p.device))
        else:  # a copy of state, or factors from before an error
            same = same_bits(p, self._product(p, layout).to(p.dtype))
        if same:
            self.remember(p)
        return same

    def _product(self, p: Tensor, layout: MatrixLayout) -> Tensor:
        with without_autocast(p.device):
            return layout.product(self.factors(p))

    def pull_back(self, p: Tensor, layout: MatrixLayout, gradient: Tensor) -> None:
        """Give each factor its gradient, from that of the weight."""
        factors = self.factors(p)
        with without_autocast(p.device):
            cotangent = _matrices_of(gradient, layout.view).to(factors[0].dtype)
            gradients = pulled_back(factors, cotangent)
        for factor, each in zip(factors, gradients, strict=True):
            factor.grad = each


def without_factors(states: dict[Any, State]) -> dict[Any, State]:
    """Saved states, if none of them holds factors.

    Raises:
        ValueError: one does.
    """
    if any("factor1" in state for state in states.values() if isinstance(state, dict)):
        raise ValueError(
            "the checkpoint holds factors: it was saved by Factored. Load it into a Factored like "
            "the one that saved it; collapse() makes a plain optimizer of that."
        )
    return states


def layout_of(view: MatrixView, factors: Sequence[Tensor]) -> MatrixLayout:
    """The layout that factors have."""
    return MatrixLayout(view, tuple(factor.shape[-2] for factor in factors[:-1]))


def balanced(p: Tensor, layout: MatrixLayout, dtype: torch.dtype) -> list[Tensor]:
    """Balanced factors of a weight as it is.

    Raises:
        ValueError: the weight is not finite, or a width is too small for it.
    """
    return list(layout.balanced(p.detach().to(dtype)))


def is_factored(p: Tensor, view: MatrixView | None, group: dict[str, Any]) -> bool:
    """Whether a parameter has factors: it is chosen, and its group has a depth."""
    chosen = view is not None and not group.get("fallback")
    return chosen and group["depth"] > 1 and p.numel() > 0


def prefix_of(number: int) -> str:
    """What the names of the inner state of factor ``number`` begin with."""
    return f"factor{number}_"


def factor_names(held: Mapping[str, Any]) -> list[str]:
    """``factor1``, ``factor2``, ... as far as they go."""
    names: list[str] = []
    while f"factor{len(names) + 1}" in held:
        names.append(f"factor{len(names) + 1}")
    return names


def _has_inner_state(held: State) -> bool:
    """Whether an inner optimizer keeps anything for any factor."""
    prefixes = tuple(f"{name}_" for name in factor_names(held))
    return any(name.startswith(prefixes) for name in held)


def _flat(saved: State) -> State:
    """State of version 0.1, with lists of factors and of inner states, in today's form."""
    if "factors" not in saved:
        return saved
    if not saved["factors"]:
        return dict(saved["inner"][0]) if saved["inner"] else {}
    flat: State = {}
    for number, factor in enumerate(saved["factors"], start=1):
        flat[f"factor{number}"] = factor
        inner = saved["inner"][number - 1] if number <= len(saved["inner"]) else {}
        flat.update((prefix_of(number) + name, value) for name, value in inner.items())
    return flat


def _matrices_of(tensor: Tensor, view: MatrixView) -> Tensor:
    """The matrices of a tensor, ``(m, n)`` where there is one, ``(b, m, n)`` otherwise."""
    matrices = view.split(tensor)
    return matrices[0] if view.batch == 1 else matrices


def _factor_dtype(p: Tensor, group: dict[str, Any]) -> torch.dtype:
    dtype = state_dtype(p) if group["factor_dtype"] is None else group["factor_dtype"]
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(
            f"factor_dtype is {dtype!r}; use a real floating-point dtype, such as torch.float64."
        )
    return dtype
