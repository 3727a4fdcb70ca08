"""What overparameterizing a model would do: a report, made before anything changes."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from overparam.factors.initialize import INITIALIZATIONS
from overparam.factors.layout import STRATEGIES, Layout, chain_fits, make_layout
from overparam.layers.choice import Choice
from overparam.layers.select import Selected, Selection, Skipped, Targets
from overparam.layers.table import PLAIN, WeightRow, WeightTable, weight_row
from overparam.reparam.carry import misfit


@dataclass(frozen=True)
class PlanEntry:
    """One weight that becomes a product.

    Attributes:
        selected: the parameter and its places.
        layout: shapes of the factors.
        init: word for their first values.
        std: standard deviation for near_zero.
        note: where the plan departs from what was asked for.
    """

    selected: Selected
    layout: Layout
    init: str
    std: float
    note: str = ""

    @property
    def name(self) -> str:
        """Full name of the weight."""
        return self.selected.name

    @property
    def parameters_before(self) -> int:
        """Entries of the weight."""
        return math.prod(self.layout.shape)

    @property
    def parameters_after(self) -> int:
        """Entries of the factors."""
        return sum(math.prod(shape) for shape in self.layout.shapes)

    @property
    def flops_per_step(self) -> int:
        """Operations of the product in one training step, forward and backward.

        The backward pass of each matrix product is two more of the same size. A tied weight is
        formed at each of its places.
        """
        return 3 * self.layout.product_flops * len(self.selected.sites)


@dataclass(frozen=True)
class Plan:
    """What would be chosen and skipped, with parameter counts and cost; ``print(plan)`` shows it.

    The cost of a product does not depend on the batch: with many tokens or pixels in a step it is
    small beside the layer itself. For seconds see :func:`overparam.reparam.predict_step_cost`.
    """

    entries: tuple[PlanEntry, ...]
    selection: Selection

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """The parameters that stay as they are, with reasons."""
        return self.selection.skipped

    @property
    def parameters_before(self) -> int:
        """Entries of all chosen weights."""
        return sum(entry.parameters_before for entry in self.entries)

    @property
    def parameters_after(self) -> int:
        """Entries of all factors."""
        return sum(entry.parameters_after for entry in self.entries)

    @property
    def flops_per_step(self) -> int:
        """Operations of all products in one training step."""
        return sum(entry.flops_per_step for entry in self.entries)

    def table(self) -> WeightTable:
        """Every parameter, how it is read, what becomes of it, and why."""
        planned = {id(entry.selected): entry for entry in self.entries}
        rows: list[WeightRow] = []
        for chosen in self.selection.entries:
            entry = planned.get(id(chosen))
            shape = chosen.view.shape if chosen.view is not None else chosen.shape
            if entry is None:
                view = chosen.view
                rows.append(weight_row(chosen.name, shape, view, 1, PLAIN, [chosen.reason]))
                continue
            tied = [f"also {site.name}" for site in entry.selected.sites[1:]]
            factors = " ".join("x".join(map(str, s)) for s in reversed(entry.layout.shapes))
            notes = [chosen.reason, f"{factors}, {entry.init}", *tied, entry.note]
            depth = entry.layout.depth
            rows.append(weight_row(chosen.name, shape, chosen.view, depth, "factors", notes))
        return WeightTable(rows)

    def __str__(self) -> str:
        return (
            f"{len(self.entries)} weight(s) become products: {self.parameters_before:,} -> "
            f"{self.parameters_after:,} parameters, {self.flops_per_step / 1e9:.3g} GFLOP per "
            f"step\n{self.table()}"
        )


def plan_overparameterization(
    model: nn.Module,
    depth: int = 2,
    *,
    width: int | float | Sequence[int] | None = None,
    targets: Targets | None = None,
    exclude: Targets | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    init: str = "balanced",
    strategy: str = "matrix",
    std: float = 0.01,
) -> Plan:
    """Say what :func:`overparam.overparameterize` would do with the same words.

    Returns:
        The plan; the model is not changed.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: an unknown word, a pattern that matches nothing, settings that do not fit a
            weight (the message names it).

    Example:
        >>> from torch import nn
        >>> print(plan_overparameterization(nn.Linear(4, 3), depth=2))
        1 weight(s) become products: 12 -> 21 parameters, 2.16e-07 GFLOP per step
        parameter  shape   kind    matrices    depth  rule     reason
        weight     (3, 4)  linear  1 x (3, 4)  2      factors  chosen by kind; 3x3 3x4, balanced
        bias       (3,)                               plain    it acts entry by entry
    """
    choice = Choice(targets, exclude, overrides or {})
    settings = {"depth": depth, "width": width, "init": init, "strategy": strategy, "std": std}
    for pattern, changes in choice.overrides.items():
        unknown = sorted(set(changes) - {*settings, "view"})
        if unknown:
            raise ValueError(
                f"overrides[{pattern!r}] sets {unknown}; a weight has the settings "
                f"{', '.join(settings)} and view."
            )
    for layer_settings in (settings, *choice.overrides.values()):
        _check_words(layer_settings)
    selection = choice.select(model)
    selection = Selection(tuple(_possible(entry) for entry in selection.entries))
    entries = [
        _entry(chosen, {**settings, **choice.options(choice.patterns(chosen.sites))})
        for chosen in selection.selected
    ]
    return Plan(tuple(entries), selection)


def _possible(entry: Selected | Skipped) -> Selected | Skipped:
    """The entry, skipped where its kind of tensor cannot become a product."""
    reason = misfit(entry.parameter) if isinstance(entry, Selected) else None
    if reason is None:
        return entry
    return Skipped(entry.sites, entry.parameter, entry.sites[0].view, reason, asked=True)


def _entry(selected: Selected, settings: Mapping[str, Any]) -> PlanEntry:
    """The plan for one weight with its settings."""
    strategy, note = settings["strategy"], ""
    if strategy != "matrix":
        misfit = chain_fits(selected.view, strategy)
        if misfit is not None:
            strategy, note = "matrix", f"as a matrix: {misfit}"
    try:
        layout = make_layout(selected.view, strategy, settings["depth"], settings["width"])
    except (TypeError, ValueError) as error:
        raise type(error)(f"{selected.name}: {error}") from None
    return PlanEntry(selected, layout, settings["init"], settings["std"], note)


def _check_words(settings: Mapping[str, Any]) -> None:
    for name, words in (("init", INITIALIZATIONS), ("strategy", STRATEGIES)):
        if name in settings and settings[name] not in words:
            raise ValueError(f"{name}={settings[name]!r} is unknown; choose one of {words}.")


def already_wrapped(model: nn.Module) -> str | None:
    """Why a model can no longer be overparameterized in place, or None."""
    for path, module in model.named_modules():
        if isinstance(module, nn.parallel.DistributedDataParallel):
            return f"{path or 'the model'} is wrapped in DistributedDataParallel"
    return already_sharded(model)


def already_sharded(model: nn.Module) -> str | None:
    """Why the weights of a model are not whole on this process, or None."""
    # Whoever has sharded a model has imported this; the import would take half a second.
    if "torch.distributed.fsdp" in sys.modules:
        from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

        for path, module in model.named_modules():
            if isinstance(module, FSDPModule):
                return f"{path or 'the model'} is sharded by fully_shard"
            if isinstance(module, FullyShardedDataParallel):
                return f"{path or 'the model'} is wrapped in FullyShardedDataParallel"
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "placements"):
            return f"{name} is a distributed tensor"
    return None
