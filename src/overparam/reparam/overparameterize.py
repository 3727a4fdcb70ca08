"""Replace weights of a model by products of factors, in place."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.utils import parametrize

from overparam.factors.initialize import initial_factors
from overparam.factors.transport import state_to_factors
from overparam.layers.select import Selected, Targets
from overparam.reparam.attach import attach, attach_tied, factors_of, held_at
from overparam.reparam.carry import gradients_for_factors, warn_of_hooks
from overparam.reparam.collapse import make_recognizable
from overparam.reparam.optimizer_state import GroupOrder, check_optimizer, exchange
from overparam.reparam.plan import (
    Plan,
    PlanEntry,
    already_wrapped,
    plan_overparameterization,
)
from overparam.reparam.progress import progress_bar
from overparam.reparam.swap import all_or_nothing
from overparam.reparam.weight_decay import check_decay, set_weight_decay_on

_Model = TypeVar("_Model", bound=nn.Module)


def overparameterize(
    model: _Model,
    depth: int = 2,
    *,
    width: int | float | Sequence[int] | None = None,
    targets: Targets | None = None,
    exclude: Targets | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    init: str = "balanced",
    strategy: str = "matrix",
    std: float = 0.01,
    generator: torch.Generator | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    weight_decay_on: str = "factors",
    progress: bool = True,
) -> _Model:
    """Replace weights by products of ``depth`` factors, which are trained in their place.

    Call it before the optimizer is made, or pass the optimizer; before DistributedDataParallel
    or ``fully_shard``; before or after ``torch.compile``. :func:`overparam.collapse` goes back.
    ``print(plan_overparameterization(model, ...))`` shows beforehand what it will do.

    The product is formed again at each use (once for each forward pass of attention and recurrent
    layers), in float32 or better with autocast off, and cast once to the dtype of the factors.
    (``torch.set_float32_matmul_precision`` lowers it as it lowers any product in float32.)

    **Writing.** Assign a tensor to set a weight (``layer.weight = value``); it is factored into
    balanced factors. Assign an ``nn.Parameter`` and it takes the place of the product, as in a
    plain layer; assign the weight of another product (``head.weight = embedding.weight``) and the
    two are tied. Whatever would write into the value of a product (``layer.weight.mul_(2)``,
    ``nn.init``, ``reset_parameters``) raises an error; do that inside :func:`overparam.collapsed`.
    ``torch.func.functional_call`` takes the plain names and leaves the factors alone.

    **What belongs to a weight.** An accumulated gradient, ``requires_grad``, the memory format and
    attributes go along, both ways. Hooks do not: a warning names them. Tensor subclasses are
    skipped.

    **Resuming.** A checkpoint of the factors (``model.state_dict()``) resumes training exactly. A
    plain one loads too, but into new balanced factors, which do not fit an optimizer's old state.
    Whole models cannot be pickled while they hold products: save the state_dict, or save inside
    :func:`overparam.collapsed`.

    **Weight decay.** An optimizer decays what it is given. On N balanced factors that is the
    gradient of ``N/2 * sum_i s_i^(2/N)`` for the singular values s of W: a Schatten-2/N penalty
    (the nuclear norm for N = 2), which favours low rank; not the usual decay of W. For the latter
    pass ``weight_decay_on="product"`` with the optimizer, or call
    :func:`overparam.reparam.set_weight_decay_on` when it is made.

    Args:
        model: changed in place.
        depth: number of factors.
        width: hidden width: None for the narrowest that holds any weight, an integer, a ratio of
            that (a float), or a list. With the initialization 'balanced', units beyond the
            narrowest start at zero and stay there.
        targets: which weights: a kind or a list of kinds, ``"all"``, names, a regular expression
            or a function; by default those of linear, convolution, attention, recurrent, expert
            and bilinear layers; see :func:`overparam.layers.select.select_parameters`.
        exclude: weights to leave out.
        overrides: settings (depth, width, init, strategy, std) by regular expression that must
            match the whole name of a weight or of its module; later ones win.
        init: ``"balanced"`` keeps the function of the model; ``"identity"``, ``"near_zero"`` and
            ``"fresh"`` start from new values; see :func:`overparam.reparam.initial_factors`.
        strategy: for convolutions: ``"matrix"`` (out, in * k...), ``"sides"`` (1x1, kxk, 1x1) or
            ``"kernels"`` (a sequence of 3x3). The last two set the depth. Always one kernel in
            the forward pass. Weights that a strategy does not fit become matrices.
        std: of near_zero.
        generator: for random starts.
        optimizer: an optimizer of the model's parameters; the factors take their places, with
            state.
        weight_decay_on: ``"factors"`` or ``"product"``.
        progress: show a bar if standard error is a terminal and this takes more than 5 s.

    Returns:
        The model.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: nothing chosen, an unknown word, a setting that does not fit a weight, a dead
            product; the message names the weight. Nothing has changed then.
        RuntimeError: the model is already wrapped for distributed training.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = overparameterize(nn.Linear(3, 2), depth=2)
        >>> [name for name, _ in model.named_parameters()]
        ['bias', 'parametrizations.weight.original0', 'parametrizations.weight.original1']
    """
    wrapped = already_wrapped(model)
    if wrapped is not None:
        raise RuntimeError(
            f"{wrapped}; overparameterize the plain model first and wrap it afterwards."
        )
    check_decay(optimizer, weight_decay_on)
    plan = plan_overparameterization(
        model,
        depth,
        width=width,
        targets=targets,
        exclude=exclude,
        overrides=overrides,
        init=init,
        strategy=strategy,
        std=std,
    )
    states: list[list[dict[str, Any]]] = [[] for _ in plan.entries]
    entries = sum(entry.selected.parameter.numel() for entry in plan.entries)
    total = entries * (1 if optimizer is None else 2)
    with progress_bar("Factoring weights", total, shown=progress) as advance:
        starts = _starts(plan, generator, advance)
        if optimizer is not None:
            check_optimizer(optimizer, [entry.selected.parameter for entry in plan.entries])
            for state, entry, factors in zip(states, plan.entries, starts, strict=True):
                parameter = entry.selected.parameter
                known = optimizer.state.get(parameter, {})
                state += state_to_factors(entry.layout, factors, known)
                advance(parameter.numel())
        gradients = [
            gradients_for_factors(entry.layout, factors, entry.selected.parameter.grad)
            for entry, factors in zip(plan.entries, starts, strict=True)
        ]
    warn_of_hooks(
        ((entry.name, entry.selected.parameter) for entry in plan.entries),
        "a product of factors takes the weight's place, and the weight has no gradient of its own",
    )
    # From here on the model changes.
    owners = [site.module for entry in plan.entries for site in entry.selected.sites]
    with all_or_nothing(owners, optimizer):
        order = None if optimizer is None else GroupOrder.of(optimizer, model)
        for entry, start, parts, state in zip(plan.entries, starts, gradients, states, strict=True):
            factors = _replace(entry, start)
            for factor, part in zip(factors, parts, strict=True):
                factor.grad = part
            if optimizer is not None:
                exchange(optimizer, [entry.selected.parameter], factors, state)
        if optimizer is not None and order is not None:
            order.restore(optimizer, model)
        if optimizer is not None and weight_decay_on == "product":
            set_weight_decay_on(model, optimizer, weight_decay_on)
        _watch_ties_with_biases(model, plan)
    return model


def _replace(entry: PlanEntry, start: tuple[torch.Tensor, ...]) -> list[nn.Parameter]:
    """Put a product at every place of one parameter; the factors."""
    first, *others = entry.selected.sites
    attach(first.module, first.attribute, entry.layout, start)
    held = held_at(first.module, first.attribute)
    for site in others:
        attach_tied(site.module, site.attribute, held)
    for site in entry.selected.sites:
        make_recognizable(site.module)
    return factors_of(held)


def _watch_ties_with_biases(model: nn.Module, plan: Plan) -> None:
    """Let methods of transformers refuse that would look for the plain name of a product.

    They do so, and stop half-way, where a model ties a bias beside a weight, as BERT does.
    """
    for path, module in model.named_modules():
        ties = getattr(module, "_tied_weights_keys", None)
        if not isinstance(ties, dict) or not any(key.endswith("bias") for key in ties):
            continue
        tied = {f"{path}.{name}" if path else name for pair in ties.items() for name in pair}
        sites = [site for entry in plan.entries for site in entry.selected.sites]
        for site in [site for site in sites if site.name in tied][:1]:
            for method in ("resize_token_embeddings", "tie_weights"):
                refusing = functools.partial(_unless_product, module, method, site.module)
                setattr(module, method, refusing)


def _unless_product(model: Any, method: str, owner: nn.Module, *args: Any, **options: Any) -> Any:
    if parametrize.is_parametrized(owner, "weight"):
        raise RuntimeError(
            f"{method}: {type(model).__name__} ties a product and a bias, and transformers would "
            "stop half-way, since it looks for the plain name; collapse(model) first, or leave "
            "the embeddings and the head out with exclude=."
        )
    return getattr(type(model), method)(model, *args, **options)


def _starts(
    plan: Plan, generator: torch.Generator | None, advance: Callable[[float], None]
) -> list[tuple[torch.Tensor, ...]]:
    """The first factors of every entry; all are made before anything changes."""
    if not plan.entries:
        reasons = "; ".join(f"{skip.name}: {skip.reason}" for skip in plan.skipped[:5])
        raise ValueError(
            "no weight is chosen, so there is nothing to overparameterize. "
            f"The model's parameters ({len(plan.skipped)}): {reasons or 'none'}."
        )
    starts: list[tuple[torch.Tensor, ...]] = []
    refused: list[tuple[str, Exception]] = []
    for entry in plan.entries:
        parameter = entry.selected.parameter
        try:
            factors = initial_factors(
                entry.layout, parameter, entry.init, std=entry.std, generator=generator
            )
        except (TypeError, ValueError) as error:
            refused.append((entry.name, error))
        else:
            starts.append(_keep_padding(entry.selected, factors))
        advance(parameter.numel())
    if refused:
        (name, error), *others = refused
        more = f" Refused too: {', '.join(other for other, _ in others)}." if others else ""
        raise type(error)(f"{name}: {error}{more}")
    return starts


def _keep_padding(
    selected: Selected, factors: tuple[torch.Tensor, ...]
) -> tuple[torch.Tensor, ...]:
    """Rows of an embedding that are zero for padding stay exactly zero: so do their factors.

    Such a row gets no gradient, and where its row of the last factor is zero the others cannot
    move it.
    """
    last = factors[-1]
    for site in selected.sites:
        row = getattr(site.module, "padding_idx", None)
        if row is not None and not bool(selected.parameter[row].any()):
            last = last.clone()
            last[row] = 0
    return (*factors[:-1], last)
