"""Trains many runs at once as one batch of tensors, whose leading dimension is the runs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from overparam.factors.balance import identity_initialization, near_zero_initialization
from overparam.factors.product import factor_product, factor_product_vjp
from overparam.lab.methods import OPTIMIZERS, Method
from overparam.lab.study import DTYPES, Run, Study
from overparam.lab.training.objective import PowerLoss
from overparam.rule.fast import update_of_rows
from overparam.rule.reference import end_to_end_update


class Sweep:
    """Trains the runs of one shard together and records their losses.

    All runs share each evaluation of the gradient, whatever their method. A run whose weight is no
    longer finite has diverged: its step is recorded and it leaves the batch. The state can be saved
    and restored between any two steps, and training continues bit for bit.

    Args:
        objective: the loss, in the dtype of the study.
        study: the settings.
        runs: the runs of the shard, ordered so that runs of the same method are adjacent.

    Attributes:
        step: number of gradient steps done.
        losses: ``(runs, record points)``, float64; NaN if not reached or diverged.
        diverged_at: ``(runs,)``, the step at which the weight was no longer finite, or -1.
    """

    def __init__(self, objective: PowerLoss, study: Study, runs: Sequence[Run]) -> None:
        self.objective = objective
        self.study = study
        self.record_steps = study.record_steps
        self.step = 0
        self.losses = torch.full((len(runs), len(self.record_steps)), math.nan).double()
        self.diverged_at = torch.full((len(runs),), -1)
        self._recorded = 0
        self._groups: list[_Group] = []
        numbered = enumerate(runs)
        for method, members in itertools.groupby(numbered, key=lambda pair: pair[1].method):
            self._groups.append(_Group(method, list(members), objective, study))

    @property
    def finished(self) -> bool:
        """Whether every run has taken all its steps or diverged."""
        return self._recorded == len(self.record_steps) or not self._active

    @property
    def _active(self) -> list[_Group]:
        return [group for group in self._groups if group.members]

    def advance(self, steps: int) -> None:
        """Train for at most ``steps`` gradient steps."""
        for _ in range(steps):
            if self.finished:
                return
            weights = self._finite_weights()
            if self.step == self.record_steps[self._recorded]:
                self._record(weights)
            if self.finished:
                return
            gradients = self.objective.gradient(weights)
            active = self._active
            sizes = [len(group.members) for group in active]
            by_group = zip(active, weights.split(sizes), gradients.split(sizes), strict=True)
            factor = self.study.warm_up_factor(self.step)
            for group, weight, gradient in by_group:
                group.descend(weight, gradient, factor)
            self.step += 1

    def weights(self) -> Tensor:
        """The end-to-end weights of the runs that have not diverged, ``(runs, m, n)``."""
        if not self._active:
            dtype = DTYPES[self.study.dtype]
            shape = (0, self.objective.outputs, self.objective.inputs)
            return torch.empty(shape, dtype=dtype, device=self.objective.device)
        return torch.cat([group.weight() for group in self._active])

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue training."""
        return {
            "step": self.step,
            "recorded": self._recorded,
            "losses": self.losses,
            "diverged_at": self.diverged_at,
            "groups": [group.state_dict() for group in self._groups],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state saved by a sweep over the same runs."""
        self.step, self._recorded = state["step"], state["recorded"]
        self.losses, self.diverged_at = state["losses"], state["diverged_at"]
        for group, saved in zip(self._groups, state["groups"], strict=True):
            group.load_state_dict(saved)

    def _finite_weights(self) -> Tensor:
        """All weights ``(runs, m, n)``, after removing the runs that have diverged."""
        weights = self.weights()
        # A single reduction, because this is done at every step.
        if math.isfinite(weights.sum().item()):
            return weights
        finite = weights.isfinite().all(dim=2).all(dim=1)
        by_group = finite.split([len(group.members) for group in self._active])
        for group, flags in zip(self._active, by_group, strict=True):
            lost = [group.members[i] for i in (~flags).nonzero().flatten().tolist()]
            self.diverged_at[lost] = self.step
            group.keep(flags)
        return weights[finite]

    def _record(self, weights: Tensor) -> None:
        active = [index for group in self._active for index in group.members]
        if active:
            self.losses[active, self._recorded] = self.objective.loss(weights).cpu()
        self._recorded += 1


class _Group:
    """The runs of one method: parameters ``(runs, ...)``, their lrs, and one optimizer for all."""

    def __init__(
        self, method: Method, members: list[tuple[int, Run]], objective: PowerLoss, study: Study
    ) -> None:
        self.method = method
        self.objective = objective
        self.members = [index for index, _ in members]
        kind: dict[str, Any] = {"dtype": DTYPES[study.dtype], "device": objective.device}
        starts = [_start(method, run.seed, objective, study) for _, run in members]
        self.parameters = [torch.stack(tensors).to(**kind) for tensors in zip(*starts, strict=True)]
        self.rates = torch.tensor([run.rate for _, run in members], **kind)[:, None, None]
        # The optimizer steps with lr 1 on shadow parameters that are zero before each step. After
        # the step they hold minus the direction, which each run scales by its own lr.
        self.shadows = [torch.zeros_like(parameter) for parameter in self.parameters]
        _, build, self.scaling = OPTIMIZERS[method.optimizer]
        self.optimizer = build(self.shadows) if build else None

    def weight(self) -> Tensor:
        """The end-to-end weights, ``(runs, m, n)``."""
        return factor_product(self.parameters) if len(self.parameters) > 1 else self.parameters[0]

    def descend(self, weight: Tensor, gradient: Tensor, factor: float) -> None:
        """Take one step with ``factor`` times the lrs, given the end-to-end weight and gradient."""
        if self.scaling is not None:
            objective = self.objective
            gradient = self.scaling(
                gradient, lambda: objective.loss(weight, exact=False), objective.power
            )
        if self.method.depth_kind == "factors":
            directions = factor_product_vjp(self.parameters, gradient)
        elif self.method.depth_kind == "plain":
            directions = (gradient,)
        else:
            directions = (self._rule(gradient),)
        if self.optimizer is None:
            for parameter, direction in zip(self.parameters, directions, strict=True):
                parameter.addcmul_(self.rates, direction, value=-factor)
            return
        for shadow, direction in zip(self.shadows, directions, strict=True):
            shadow.grad = direction
        self.optimizer.step()
        for parameter, shadow in zip(self.parameters, self.shadows, strict=True):
            parameter.addcmul_(self.rates, shadow, value=factor)
            shadow.zero_()

    def _rule(self, gradient: Tensor) -> Tensor:
        """The end-to-end update of every run."""
        weights, depth = self.parameters[0], self.method.depth
        normalize = self.method.depth_kind == "rule_normalized"
        if weights.shape[1] == 1:
            # The closed form, in the dtype of the runs, takes a fifth of the time.
            return update_of_rows(weights, gradient, depth, normalize=normalize)
        if not normalize:
            return end_to_end_update(weights, gradient, depth)
        # The rule has degree 2 - 2/N in the weight.
        largest = torch.linalg.matrix_norm(weights, ord=2, keepdim=True)
        unit = weights / largest.clamp_min(torch.finfo(weights.dtype).tiny)
        return end_to_end_update(unit, gradient, depth) / depth

    def keep(self, flags: Tensor) -> None:
        """Drop the runs whose flag is false, and their optimizer state."""
        if bool(flags.all()):
            return
        size = len(self.members)
        self.members = list(itertools.compress(self.members, flags.tolist()))
        self.rates = self.rates[flags]
        self.parameters = [parameter[flags] for parameter in self.parameters]
        for shadow in self.shadows:
            state = self.optimizer.state[shadow] if self.optimizer else {}
            for name, value in state.items():
                if isinstance(value, Tensor) and value.ndim and value.shape[0] == size:
                    state[name] = value[flags]
            shadow.grad = None
            shadow.data = shadow[flags]

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes while training."""
        return {
            "members": self.members,
            "rates": self.rates,
            "parameters": self.parameters,
            "optimizer": self.optimizer.state_dict() if self.optimizer else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        device = self.objective.device
        self.members, self.rates = state["members"], state["rates"].to(device)
        self.parameters = [parameter.to(device) for parameter in state["parameters"]]
        for shadow, parameter in zip(self.shadows, self.parameters, strict=True):
            shadow.data = torch.zeros_like(parameter)
        if self.optimizer:
            self.optimizer.load_state_dict(state["optimizer"])


def _start(method: Method, seed: int, objective: PowerLoss, study: Study) -> tuple[Tensor, ...]:
    """Initial parameters of one run, in float64.

    All methods draw their factors from a generator with the same seed, W_1 first. So, if the width
    is the number of outputs, the plain weight of a seed is the first factor of its deeper networks.
    The rule starts at the product of the factors of its depth. At a depth between two whole
    numbers, it starts in the direction of the shallower product, with a geometrically interpolated
    norm.
    """
    shallow = _factors(math.floor(method.depth), seed, objective, study)
    if method.depth_kind == "factors":
        return shallow
    product = factor_product(shallow)
    fraction = method.depth - math.floor(method.depth)
    if fraction:
        deep = factor_product(_factors(math.ceil(method.depth), seed, objective, study))
        product = product * (deep.norm() / product.norm()) ** fraction
    return (product,)


def _factors(depth: int, seed: int, objective: PowerLoss, study: Study) -> tuple[Tensor, ...]:
    draw = identity_initialization if study.init == "identity" else near_zero_initialization
    first, *others = draw(
        objective.outputs,
        objective.inputs,
        depth,
        width=study.width or None,
        std=study.init_std,
        generator=torch.Generator().manual_seed(seed),
        dtype=torch.float64,
    )
    if study.init == "residual":
        others = [factor + torch.eye(*factor.shape).to(factor) for factor in others]
    return (first, *others)
