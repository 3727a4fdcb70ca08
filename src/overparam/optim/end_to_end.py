"""EndToEnd: an optimizer that steps along the direction of a product of N factors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from overparam import sharded
from overparam._checks import plain_number
from overparam._compiled import uncompiled
from overparam._copies import undo_unless
from overparam._precision import state_dtype
from overparam._words import warn_user
from overparam.factors import decay
from overparam.layers.choice import Choice
from overparam.layers.entries import is_inner_alone, readings
from overparam.layers.groups import Params, warn_of_zeros
from overparam.layers.route import GRANULARITIES, route_of
from overparam.layers.select import Targets
from overparam.layers.table import PLAIN
from overparam.layers.views import MatrixView
from overparam.optim.direction import Item, Write, directions, mark_finite
from overparam.optim.grouped import Row
from overparam.optim.inner import Group, Inner, StandIn, State
from overparam.optim.transform import Transform
from overparam.rule.options import check_member, member_words, moves_zeros
from overparam.rule.reference import warn_of_growth
from overparam.rule.unbalanced import Imbalance
from overparam.sharded import is_dtensor, is_zero

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_BASES = ("auto", "exact", "tracked")
_COUNTERS = {
    "skipped": "steps skipped for a non-finite gradient",
    "basis_failures": "times the old basis was kept",
}


class EndToEnd(Transform):
    r"""Train as if every weight matrix were a product of ``depth`` balanced factors.

    .. math::
        D(W, G) = \sum_{j=1}^{N} [W W^T]^{(j-1)/N} \, G \, [W^T W]^{(N-j)/N}

    replaces the gradient ``G`` of each weight, and the inner optimizer steps with it. With SGD
    inside this is the paper's update, ``W <- W - lr * D``. Source: Arora, Cohen, Hazan (2018),
    Theorem 1, for gradient descent with a small learning rate. No factors are stored: the weights,
    the forward pass and the checkpoints of the model stay as they are.

    ``momentum``, ``betas``, ``weight_decay`` and all other options are those of the inner
    optimizer and mean what they mean there. (The paper's decay of N factors is N times that of
    the weight: pass ``weight_decay=N * value``.) With ``depth=1`` the step is that of the inner
    optimizer, bit for bit.

    What each parameter gets is printed by ``print(optimizer.routing())``:

    - weights of linear, convolution, attention, recurrent, expert and bilinear layers: the rule,
      for each matrix that the layer holds. This needs the model, ``EndToEnd(model)``, or a group
      ``{"params": model.layer}``: bare tensors do not show how they are used, and a warning names
      those that could be read in several ways;
    - embeddings, where ``targets`` name them: each row as a layer with a single output, so that
      rows without gradient stay where they are;
    - vectors, scalars and everything else: the inner optimizer alone, or the ``fallback``.

    **Learning rate.** With ``normalize=True`` the direction of each matrix is divided by the
    largest eigenvalue of its preconditioner, ``N s_max^(2-2/N)``: no direction moves further than
    under plain gradient descent, and the dominant one moves just as far. With ``normalize=False``
    the rule is the paper's (for ``depth=math.inf`` the limit of the rule over N). With
    ``normalize="metric"`` it is ``D / sqrt(<G, D>)`` for each matrix: the normalized gradient in
    the metric of depth, which does not depend on the size of the gradient
    (:func:`overparam.rule.metric_normalized`).

    **Both sides.** With ``both_sides=True`` the inner optimizer is given ``P^(1/2) [G]``, for the
    preconditioner P of the rule, and its step is multiplied by ``P^(1/2)``; for plain SGD this is
    the same step. Weight decay must scale the weight, as in AdamW. ``inner="muon"`` becomes Muon in
    the metric of depth (:func:`overparam.rule.preconditioned_sign`; momentum averages
    ``P^(1/2) [G]``), which tends to Muon as ``imbalance`` grows. Whether it trains better is open.

    **Imbalance and zero weights.** For ``N > 1`` a zero weight of balanced factors is a fixed
    point and a null space stays null. With an ``imbalance``, which gradient flow conserves, both
    move. For depth 2 it is a number ``lam``, ``W_2^T W_2 - W_1 W_1^T = lam I``: the step is
    ``|lam| G`` at ``W = 0`` and tends to ``|lam|`` times gradient descent as ``lam`` grows. For
    depth N it is N offsets with a unique smallest one (:mod:`overparam.rule.unbalanced`).
    A warning names all-zero weights that cannot move. For a real depth, which has no imbalance,
    pass ``singular_value_floor``, or put the parameter in a group with ``depth=1``.
    ``depth=math.inf`` freezes the direction of each row, and the row space of each wide matrix; a
    warning says so.

    **Safety.** In groups with ``depth > 1``, a parameter whose gradient has a non-finite entry
    keeps its value and its state bit for bit, and the step is counted in ``state[p]["skipped"]``.
    (On an accelerator, where the host does not check this, such a first step begins its state with
    a gradient of zeros.)
    A decomposition that fails is tried again in float64; if that fails too, the old basis is kept
    and ``state[p]["basis_failures"]`` counts it. :meth:`routing` reports both counts. If the inner
    optimizer raises an error, weights, gradients and state are as before the step, which takes a
    copy of them. Parameters in half precision are updated in float32, in which their state is
    kept too, and rounded once a step.

    Args:
        params: a model, or parameters, named parameters, or groups; in a group ``"params"`` may
            be a module. Groups override any option below.
        lr: a number or a tensor with one element; by default that of the inner optimizer.
        depth: ``N``, a real number of at least 1, or ``math.inf``.
        inner: the optimizer that steps with ``D`` as its gradient: a class, a name such as
            ``"adamw"``, or a function of groups and options.
        imbalance: of the factors: a number for depth 2, a sequence of N numbers for depth N, in
            units of the squared singular values of a factor, ``s^(2/N)``; 0 is balance.
        granularity: "auto" as above; "matrix" for embeddings too; "row" for each row as a
            single-output layer; "tensor" for each whole parameter as one, vectors included;
            "entry" for each entry as a product of N numbers, vectors included: small steps are
            multiplicative without imbalance (exponentiated gradient), hypentropy with it; see
            :func:`overparam.rule.entrywise_update`.
        normalize, both_sides: see above.
        singular_value_floor: smallest singular value that the preconditioner sees, in units of the
            weight; an ad hoc remedy for depths that have no imbalance.
        basis: "exact" decomposes at every step; "tracked" follows the singular basis by matrix
            products alone; "auto" is exact on the CPU and tracked elsewhere.
        basis_every: number of steps from one update of the basis to the next. In between the basis
            is stale and the step cheaper; its direction is still one of descent.
        capturable: never let the host wait for the device, for CUDA graphs.
        targets: which weights of a model, see :func:`overparam.layers.select_parameters`.
        exclude: weights to leave out.
        overrides: options by regular expression that must match the whole name of a weight or of
            its module, for example ``{"head": {"depth": 1}}``.
        fallback: an optimizer for what is not chosen (vectors, embeddings, excluded heads), as
            ``inner``; by default the inner optimizer takes that too.
        fallback_options: options of the fallback, its ``lr`` among them.
        divide_among: processes that hold the same parameters and gradients, as under
            DistributedDataParallel, and divide the work: each finds the directions of some weights.
        **inner_options: options of the inner optimizer.

    Raises:
        TypeError: ``inner`` is not an optimizer, or a parameter has no real floating-point dtype.
        ValueError: an option is out of range, or parameters cannot be trained in this way.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(3, 2)
        >>> optimizer = EndToEnd(model, lr=0.1, depth=2, momentum=0.9)
        >>> model(torch.ones(1, 3)).sum().backward()
        >>> optimizer.step()
        >>> print(optimizer.routing())
        parameter  shape   kind    matrices    depth  rule    reason
        weight     (2, 3)  linear  1 x (2, 3)  2      matrix  chosen by kind
        bias       (2,)                               plain   it acts entry by entry
    """

    _own_state = frozenset({"skipped", "basis", "basis_error", "basis_failures", "basis_age"})
    _among: ProcessGroup | None = None
    _directions: Mapping[Tensor, Tensor | None] = MappingProxyType({})
    _gradients: Mapping[Tensor, Tensor | None] = MappingProxyType({})

    def __init__(
        self,
        params: Params,
        lr: float | Tensor | None = None,
        depth: float = 2.0,
        inner: Inner = torch.optim.SGD,
        *,
        imbalance: Imbalance = 0.0,
        granularity: Literal["auto", "matrix", "row", "tensor", "entry"] = "auto",
        normalize: bool | Literal["metric"] = True,
        both_sides: bool = False,
        singular_value_floor: float = 0.0,
        basis: Literal["auto", "exact", "tracked"] = "auto",
        basis_every: int = 1,
        capturable: bool = False,
        targets: Targets | None = None,
        exclude: Targets | None = None,
        overrides: Mapping[str, Mapping[str, Any]] | None = None,
        fallback: Inner | None = None,
        fallback_options: Mapping[str, Any] | None = None,
        divide_among: ProcessGroup | None = None,
        **inner_options: Any,
    ) -> None:
        self._among = divide_among
        own = {
            "depth": depth,
            "imbalance": imbalance,
            "granularity": granularity,
            "normalize": normalize,
            "both_sides": both_sides,
            "singular_value_floor": singular_value_floor,
            "basis": basis,
            "basis_every": basis_every,
            "capturable": capturable,
        }
        name = str(getattr(inner, "__name__", inner))
        if capturable and isinstance(lr, Tensor) and name.lower() == "sgd":
            # All other forms of torch's SGD read a learning rate tensor.
            inner_options = {"fused": True, **inner_options}
        choice = Choice(targets, exclude, overrides or {})
        super().__init__(params, lr, inner, own, inner_options, choice, fallback, fallback_options)

    def _step(self) -> None:
        groups = self.param_groups
        sharded.check_presence([g for g in groups if not is_inner_alone(g)], self._among)
        items = [item for group in groups for item in self._items(group)]
        whole, parts = sharded.parted(items)
        mark_finite(whole)
        sharded.mark_finite(parts)
        found: dict[Tensor, Tensor | None] = {
            item.p: None if item.finite is False else item.gradient for item in items
        }
        ruled = [item for item in items if item.route.rule != PLAIN and item.finite is not False]
        alone, shared = sharded.parted(ruled, self._among)
        later: list[Write] = []
        for stacks in (directions(alone), sharded.directions_of_shards(shared, self._among)):
            for stack, write in stacks:
                found.update(stack)
                later += [] if write is None else [write]
        moved = self._inner_step_along(found)
        for write in later:
            write()
        if any(item.group["both_sides"] for item in ruled):
            self._take_other_half(moved, ruled)
        self._settle(moved, items)

    def _take_other_half(self, moved: Sequence[StandIn], ruled: Sequence[Item]) -> None:
        """Where the rule acts on both sides, take the steps through its root at the old weights."""
        halved = {item.p: item for item in ruled if item.group["both_sides"]}
        ends: dict[Tensor, tuple[Tensor, Tensor]] = {}
        twins: list[Item] = []
        for each in moved:
            if (item := halved.get(each.p)) is not None:
                before = each.before[0][1]
                start = decay.start_of_step(self._inner, item.group, before)
                ends[before], step = (each.tensor, start), each.tensor - start
                twins.append(replace(item, p=before, gradient=step, states={before: item.state}))
        for found, _ in directions(twins, keep_bases=True):
            for before, step in found.items():
                tensor, start = ends[before]
                tensor.copy_(start + step)

    def _items(self, group: Group) -> Iterator[Item]:
        """The parameters of a group that have a gradient, where the inner one is not alone."""
        if group["depth"] == 1 or group.get("fallback"):
            return
        for p, view, _ in readings(group):
            if p.grad is None or p.numel() == 0:
                continue
            chosen = route_of(p, view, group)
            gradient = sharded.gradient_of(p) if is_dtensor(p) else p.grad
            if gradient.is_sparse:
                if chosen.rule == PLAIN:
                    continue
                if chosen.rule == "matrix":
                    raise RuntimeError(
                        f"a parameter of shape {tuple(p.shape)} has a sparse gradient, and the "
                        "matrix rule needs all of it; build the layer with sparse=False, or "
                        "leave it out of the targets."
                    )
                gradient = gradient.to_dense()
            yield Item(p, gradient.to(state_dtype(p)), self.state, chosen, group)

    @uncompiled  # torch 2.9 does not follow attributes that come and go
    def _inner_step_along(self, found: Mapping[Tensor, Tensor | None]) -> list[StandIn]:
        """The inner step along directions; those of half precision go to the stand-ins."""
        self._directions, self._gradients = found, {p: p.grad for p in found}
        try:
            for p, direction in found.items():
                if direction is None or direction.dtype == p.dtype:
                    p.grad = direction
            return self._inner_step()
        finally:
            for p, gradient in self._gradients.items():
                p.grad = gradient
            del self._directions, self._gradients

    def _gradient_of_user(self, stand_in: StandIn) -> Tensor | None:
        given = super()._gradient_of_user(stand_in)
        return given if given is self._gradients.get(stand_in.p, given) else None

    def _stand_ins(self, p: Tensor, view: MatrixView | None, group: Group) -> list[StandIn]:
        alone = group["depth"] == 1 or group.get("fallback")
        if alone or state_dtype(p) == p.dtype:
            return [StandIn(p, p)]
        wide = p.detach().to(state_dtype(p))
        gradient = self._directions.get(p, p.grad)  # sparse ones of plain parameters stay
        wide.grad = None if gradient is None else gradient.to(wide.dtype)
        return [StandIn(p, wide)]

    def _settle(self, stand_ins: list[StandIn], items: Sequence[Item] = ()) -> None:
        """Undo the step of parameters without a finite gradient, count it, and round the others."""
        finite = {item.p: item.finite for item in items if item.finite is not True}
        if finite:
            for each in stand_ins:
                if finite.get(each.p) is False:
                    each.undo()
            undo_unless(
                (keep, tensor, copy)
                for each in stand_ins
                if isinstance(keep := finite.get(each.p), Tensor)
                for tensor, copy in [*each.before, *each.begun(self.state[each.p])]
            )
        super()._settle(stand_ins)
        for item in items:
            state = self.state[item.p]
            if "skipped" not in state:
                state["skipped"] = torch.zeros((), dtype=torch.int64, device=item.p.device)
        if finite:
            for device in {p.device for p in finite}:
                here = [(p, flag) for p, flag in finite.items() if p.device == device]
                counts = [self.state[p]["skipped"] for p, _ in here]
                flags = torch.stack([torch.as_tensor(flag, device=device) for _, flag in here])
                torch._foreach_add_(counts, list((~flags).to(torch.int64).unbind()))  # pyright: ignore[reportPrivateImportUsage]

    def _understood(self, state_dict: dict[str, Any]) -> dict[Any, State]:
        """The saved state, without bases of other matrices than those of today.

        Raises:
            ValueError: momentum of version 0.1, which summed gradients, not directions.
        """
        states = {
            index: dict(saved) if isinstance(saved, dict) else saved
            for index, saved in super()._understood(state_dict).items()
        }
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            old = any(view is None or len(view) == 6 for view in saved.get("views", ()))
            for (p, view, _), index in zip(readings(group), saved["params"], strict=False):
                state = states.get(index, {})
                if old and state.pop("step", None) is not None and "momentum_buffer" in state:
                    raise ValueError(
                        "the checkpoint was saved by version 0.1, whose momentum is a sum of "
                        "gradients; here it is one of directions. Delete the entries "
                        "'momentum_buffer' of its state to start momentum from zero."
                    )
                chosen = route_of(p, view, group)
                basis = state.get("basis")
                if basis is not None and basis.shape != (chosen.batch, chosen.rows, chosen.rows):
                    for name in [name for name in state if name.startswith("basis")]:
                        del state[name]
        return states

    def _check_options(self, group: Group) -> None:
        check_member(group)
        every = group["basis_every"] = plain_number(group["basis_every"])
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"basis_every is {every!r}; use a whole number of steps, at least 1.")
        if every > 1 and group["capturable"]:
            why = "a captured step does the same each time; set basis_every=1."
            raise ValueError(f"basis_every is {every} with capturable=True: {why}")
        for name, allowed in (("granularity", GRANULARITIES), ("basis", _BASES)):
            if group[name] not in allowed:
                raise ValueError(f"{name} is {group[name]!r}; use one of {', '.join(allowed)}.")
        if group["both_sides"]:
            decay.check_scales(self._inner, group)
            if any(sharded.is_shared(p, self._among) for p in group["params"]):
                why = "several processes share these parameters; leave it out."
                raise NotImplementedError(f"both_sides=True is for one process, and {why}")

    def _reads(self, group: Group) -> bool:
        # Tensors and entries are taken as they are, known or not.
        return super()._reads(group) and group["granularity"] not in ("tensor", "entry")

    def _greet(self, groups: Sequence[Group], names: Mapping[Tensor, str]) -> None:
        super()._greet(groups, names)
        ruled = [
            (p, group)
            for group in groups
            if not group.get("fallback")
            for p, view, _ in readings(group)
            if route_of(p, view, group).rule != PLAIN
        ]
        stuck = [p for p, group in ruled if not moves_zeros(group) and not p.is_meta and is_zero(p)]
        remedy = "give imbalance (0.1 at depth 2, say) or singular_value_floor"
        warn_of_zeros([names[p] for p in stuck], remedy)
        for depth in sorted({group["depth"] for _, group in ruled if not group["normalize"]}):
            warn_of_growth(depth)
        if frozen := [names[p] for p, group in ruled if math.isinf(group["depth"])]:
            warn_user(
                "depth=inf freezes the direction of each row, and the row space of each wide "
                f"matrix: {', '.join(frozen)}. For large depth without that, give a number."
            )

    def _row(self, p: Tensor, view: MatrixView | None, group: Group) -> Row:
        chosen = route_of(p, view, group)
        rows = f"{chosen.batch * chosen.rows} x ({chosen.columns},)"
        words = [] if chosen.rule == PLAIN else member_words(group)
        notes = [chosen.note, *words, *_troubles(self.state.get(p, {}))]
        return chosen.rule, notes, rows if chosen.rule == "row" else None


def _troubles(state: State) -> Iterator[str]:
    """The failures counted in the state of a parameter, in words; reads them from the device."""
    for name, words in _COUNTERS.items():
        counts = state.get(name)
        if counts is not None and not counts.is_meta and (number := int(counts.sum())):
            yield f"{number} {words}"
